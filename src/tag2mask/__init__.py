"""tag2mask: from image-level labels to pixel-accurate masks and a trained segmentation network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tag2mask.data import check_dataset, read_dataset
    from tag2mask.in_memory import localize_image
    from tag2mask.pipeline import Recipe, load_recipe, open_chain, predict_photos, run
    from tag2mask.reports import write_report

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
_HOMES = {
    "check_dataset": "data",
    "localize_image": "in_memory",
    "read_dataset": "data",
    "write_report": "reports",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import tag2mask` doesn't wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'tag2mask' has no attribute '{name}'")
    return getattr(import_module(f"tag2mask.{_HOMES.get(name, 'pipeline')}"), name)
