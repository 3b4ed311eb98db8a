"""Which variant of a recipe suits a set of photos: found by short trainings on their tags, no mask is read.

How a classifier's positions are best pooled depends on how much of its photo a thing covers: where it is much, a
soft maximum lights single spots of it; where it is little, the average is content with what lies around it. Neither
tells tags much worse for that, so average precision misleads. What tells is the localization criterion: keep only
what the map points at and the tag's score should stay; erase it and the score should fall.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tag2mask.common.files import read_object
from tag2mask.common.values import as_dict, as_number
from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution
from tag2mask.recipe import AUTO, Recipe
from tag2mask.runs.info import TRIAL
from tag2mask.stages.stage import Say
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier

PHOTOS = 160  # class-balanced
LONG_SIDE = 320  # pixels at most
EPOCHS = 3


def decided(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The variant that the photos of `train` ask for, where the recipe leaves it open; else the recipe as it is.

    The classifiers that were compared are kept in `out`/trial, so that a run that goes on takes the same variant.
    Raises as `train_classifier`.
    """
    if recipe.variant != AUTO:
        return recipe
    photos = train.limit(min(PHOTOS, len(train)), recipe.seed).worked_on_at(LONG_SIDE)
    found = {name: _criterion(name, one, photos, out, execution, say) for name, one in recipe.alternatives.items()}
    chosen = max(found, key=lambda name: found[name])  # the first of equals
    figures = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    say(f"  variant {chosen}, whose maps point best at what gives a tag away ({figures}; 1 is perfect)")
    return recipe.alternatives[chosen]


def _criterion(name: str, one: Recipe, photos: Dataset, out: Path, execution: Execution, say: Say) -> float:
    """The localization criterion of a variant's classifier after a short training; -1 where there is none."""
    folder = out / TRIAL / name
    if not (folder / "weights.safetensors").is_file():
        say(f"  trial of variant {name}: {len(photos)} photos, {EPOCHS} epochs")
    train_classifier(photos, folder, shortened(one.classifier), seed=one.seed, execution=execution)
    learned = as_dict(read_object(folder / "manifest.json").get("localization_criterion"))
    value = as_number(learned.get("criterion"))
    return -1.0 if value is None else value


def shortened(config: ClassifierConfig) -> ClassifierConfig:
    """The settings of a classifier for a trial: few epochs, photos as they are read."""
    epochs = min(EPOCHS, config.epochs)
    return dataclasses.replace(
        config, epochs=epochs, long_side_min=None, long_side_max=None, crop_size=None, crop="fit"
    )
