"""tag2mask: from image-level labels to pixel-accurate masks and a trained segmentation network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tag2mask.chain import open_chain, run
    from tag2mask.data import check_dataset, read_dataset
    from tag2mask.in_memory import localize_image
    from tag2mask.inference import predict_photos
    from tag2mask.recipe import Recipe, load_recipe
    from tag2mask.reports import write_report

_HOMES = {
    "Recipe": "recipe",
    "check_dataset": "data",
    "load_recipe": "recipe",
    "localize_image": "in_memory",
    "open_chain": "chain",
    "predict_photos": "inference",
    "read_dataset": "data",
    "run": "chain",
    "write_report": "reports",
}
__all__ = [
    "Recipe",
    "check_dataset",
    "load_recipe",
    "localize_image",
    "open_chain",
    "predict_photos",
    "read_dataset",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import tag2mask` doesn't wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tag2mask' has no attribute '{name}'")
    return getattr(import_module(f"tag2mask.{_HOMES[name]}"), name)
