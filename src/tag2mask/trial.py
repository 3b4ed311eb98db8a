"""Which variant of a recipe suits a set of photos: found by short trainings on their tags, no mask is read.

How a classifier's positions are best pooled depends on how much of its photo a thing covers: where it is much, a
soft maximum lights single spots of it; where it is little, the average is content with what lies around it. Both tell
tags well, so average precision misleads. What tells is the localization criterion on photos that weren't trained on:
keep only what the map points at and the tag's score should stay; erase it and the score should fall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tag2mask.common.files import read_object, write_json
from tag2mask.common.values import as_numbers
from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.recipe import AUTO, Recipe
from tag2mask.runs.info import TRIAL
from tag2mask.stages.criterion import localization_criterion
from tag2mask.stages.stage import Say
from tag2mask.stages.tag_scores import mean_of, tag_scores
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier

PHOTOS = 240  # class-balanced; two thirds are trained on
LONG_SIDE = 320  # pixels; smaller photos are enlarged, as small things don't show in them
EPOCHS = 3
CRITERION = "criterion"
FIGURES = "figures.json"  # in a variant's folder, beside its classifier


def decided(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The variant that the photos of `train` ask for, where the recipe leaves it open; else the recipe as it is.

    The classifiers that were compared and their figures are kept in `out`/trial, so that a run that goes on takes
    the same variant. Raises as `train_classifier`.
    """
    if recipe.variant != AUTO:
        return recipe
    learned, others = divided(train.worked_on_at((LONG_SIDE, LONG_SIDE)), recipe.seed)
    found = {}
    for name, one in recipe.alternatives.items():
        folder = out / TRIAL / name
        if not (folder / FIGURES).is_file():
            say(f"  trial of variant {name}: {len(learned)} photos, {EPOCHS} epochs, told by {len(others)} others")
        found[name] = figures(one, learned, others, folder, execution)
    chosen = max(found, key=lambda name: found[name].get(CRITERION, -1.0))  # the first of equals
    say(f"  variant {chosen} (on photos that weren't trained on: {'; '.join(map(_in_words, found, found.values()))})")
    return recipe.alternatives[chosen]


def divided(train: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The photos that a trial trains on, and others; of a single photo both are that one."""
    photos = train.limit(min(PHOTOS, len(train)), seed)
    learned = photos.limit(max(1, 2 * len(photos) // 3), seed)
    known = {record.id for record in learned.records}
    rest = tuple(record for record in photos.records if record.id not in known)
    return learned, dataclasses.replace(photos, records=rest or learned.records)


def figures(
    recipe: Recipe, learned: Dataset, others: Dataset, folder: Path, execution: Execution
) -> dict[str, float]:
    """Train a variant's classifier shortly in `folder`; its mean average precision and criterion on other photos."""
    classifier = train_classifier(
        learned, folder, shortened(recipe.classifier), seed=recipe.seed, execution=execution
    )
    if not (folder / FIGURES).is_file():
        classifier = classifier.float().to(resolve_device(execution.device))
        precision = mean_of(tag_scores(classifier, others, None).average_precision())
        looks = localization_criterion(classifier, others, None, len(others), recipe.seed)
        found = as_numbers({CRITERION: looks.get("criterion"), "mean average precision": precision})
        write_json(folder / FIGURES, {name: round(value, 4) for name, value in found.items()})
    return as_numbers(read_object(folder / FIGURES))


def shortened(config: ClassifierConfig) -> ClassifierConfig:
    """The settings of a classifier for a trial: few epochs, photos as they are read."""
    epochs = min(EPOCHS, config.epochs)
    return dataclasses.replace(
        config, epochs=epochs, long_side_min=None, long_side_max=None, crop_size=None, crop="fit"
    )


def _in_words(name: str, found: Mapping[str, float]) -> str:
    return f"{name}: " + (", ".join(f"{key} {value:.2f}" for key, value in found.items()) or "nothing could be told")
