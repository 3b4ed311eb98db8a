"""The steps of the chain: `STAGES` has a line for each, in the order in which a run goes through them.

A new stage is one module that ends in its `STAGE`, and one line here. Modules are loaded when they are needed, since
they bring torch and `--help` must not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tag2mask.common.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tag2mask.stages.stage import Stage

STAGES = {  # command: module, help
    "train-classifier": ("tag2mask.stages.train_classifier", "train the image classifier on image-level labels"),
    "localize": ("tag2mask.stages.localize", "compute CAM and RIB maps of the training images"),
    "affinity": ("tag2mask.stages.affinity", "average maps over the positions of a photo that look alike"),
    "confident": (
        "tag2mask.stages.confident",
        "label the pixels that maps are sure of, for the boundary network (irn)",
    ),
    "train-boundary": ("tag2mask.stages.train_boundary", "train the boundary network on confident labels (irn)"),
    "walk": ("tag2mask.stages.walk", "walk over the boundaries, and join with the maps by affinity (irn+...)"),
    "refine": ("tag2mask.stages.refine", "turn maps into pseudo-masks, and what that needs first"),
    "train-segmenter": (
        "tag2mask.stages.train_segmenter",
        "train the segmentation network on the pseudo-masks (--supervised: on true masks)",
    ),
    "predict": (
        "tag2mask.stages.predict",
        "masks of the val images, or of any --images, by a trained segmentation network",
    ),
}


def stage_named(name: str) -> Stage:
    """The stage of this name; ConfigError with the nearest one that there is."""
    if name not in STAGES:
        raise ConfigError(f"there is no stage '{name}'{did_you_mean(name, STAGES)}")
    stage: Stage = import_module(STAGES[name][0]).STAGE
    return stage


def all_stages() -> list[Stage]:
    """Every stage, in the order in which a run goes through them."""
    return [stage_named(name) for name in STAGES]
