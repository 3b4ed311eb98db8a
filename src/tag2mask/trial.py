"""Which variant of a recipe suits a set of photos: found by short trainings on their tags, no mask is read.

How a classifier's positions are best pooled depends on how much of its photo a thing covers: where it is much, a
soft maximum lights single spots of it; where it is little, the average is content with what lies around it. Both tell
tags well, so average precision misleads. What tells is the localization criterion on photos that weren't trained on:
keep only what the map points at and the tag's score should stay; erase it and the score should fall.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tag2mask.common.values import as_dict, as_number
from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution
from tag2mask.recipe import AUTO, Recipe
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.info import TRIAL
from tag2mask.stages.stage import Say
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier

PHOTOS = 240  # class-balanced; two thirds are trained on
LONG_SIDE = 320  # pixels; smaller photos are enlarged, as small things don't show in them
EPOCHS = 3


def decided(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The variant that the photos of `train` ask for, where the recipe leaves it open; else the recipe as it is.

    The classifiers that were compared are kept in `out`/trial, so that a run that goes on takes the same variant.
    Raises as `train_classifier`.
    """
    if recipe.variant != AUTO:
        return recipe
    learned, others = divided(train.worked_on_at((LONG_SIDE, LONG_SIDE)), recipe.seed)
    found = {}
    for name, one in recipe.alternatives.items():
        folder = out / TRIAL / name
        if not folder.is_dir():
            say(f"  trial of variant {name}: {len(learned)} photos, {EPOCHS} epochs, told by {len(others)} others")
        found[name] = criterion(one, learned, others, folder, execution)
    chosen = max(found, key=lambda name: found[name])  # the first of equals
    figures = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    say(f"  variant {chosen} (localization criterion on photos that weren't trained on: {figures}; 1 is perfect)")
    return recipe.alternatives[chosen]


def divided(train: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The photos that a trial trains on, and others; of a single photo both are that one."""
    photos = train.limit(min(PHOTOS, len(train)), seed)
    learned = photos.limit(max(1, 2 * len(photos) // 3), seed)
    known = {record.id for record in learned.records}
    rest = tuple(record for record in photos.records if record.id not in known)
    return learned, dataclasses.replace(photos, records=rest or learned.records)


def criterion(recipe: Recipe, learned: Dataset, others: Dataset, folder: Path, execution: Execution) -> float:
    """Train a variant's classifier shortly in `folder`; its localization criterion on others, or -1."""
    train_classifier(
        learned,
        folder,
        shortened(recipe.classifier),
        seed=recipe.seed,
        execution=execution,
        validation=others,
        looked_at=len(others),
    )
    found = as_dict(read_manifest(folder, "train-classifier").get("localization_criterion"))
    value = as_number(found.get("criterion"))
    return -1.0 if value is None else value


def shortened(config: ClassifierConfig) -> ClassifierConfig:
    """The settings of a classifier for a trial: few epochs, photos as they are read."""
    epochs = min(EPOCHS, config.epochs)
    return dataclasses.replace(
        config, epochs=epochs, long_side_min=None, long_side_max=None, crop_size=None, crop="fit"
    )
