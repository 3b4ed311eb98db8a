"""Whether things are large or small in their photos: found by a short training on tags, no mask is read.

That decides which variant of a recipe suits a set. A classifier whose positions are averaged is trained for a few
epochs; then the twentieth of each photo at which its class map is strongest is erased. Where things cover a few
hundredths of a photo, they are gone with it, and the tag's score falls; where they cover much, most of them is left.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from pathlib import Path

from tag2mask.common.errors import DataError
from tag2mask.common.values import as_dict, as_list, as_number
from tag2mask.data import Dataset, image_size, limited_size
from tag2mask.data.images import LongSide, bounds_of
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import Enough
from tag2mask.recipe import AUTO, LARGE, SMALL, Recipe
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.info import TRIAL
from tag2mask.runs.log import FILE, read_epochs
from tag2mask.stages.stage import Say
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier

MEASURED = 100  # photos whose size is looked at
PHOTOS = 240  # class-balanced; two thirds are trained on
LONG_SIDE = 320  # pixels; smaller photos are enlarged, as small things don't show in them
ENOUGH = Enough(epochs=1, images=480, most=24)  # three epochs of a set of 240, more of a smaller one
# Of a tag's score with the strongest twentieth of the photo erased; below it things are small. On photos that weren't
# trained on: animals 0.91 (160 photos: 0.79, 80: 0.74), lesions on leaves 0.50 and 0.60 (160: 0.67, 80: 0.62).
LEFT = 0.70
# What a step of training costs by what is tuned: EfficientNet-Lite0, photos of 320 x 640 pixels, one core.
COST = {"all": 1.0, "late": 0.72, "head": 0.62}


def decided(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The variant that the photos of `train` ask for, where the recipe leaves it open; else the recipe as it is.

    The classifier of the trial is kept in `out`/trial, so that a run that goes on takes the same variant. Raises as
    `train_classifier`.
    """
    if recipe.variant != AUTO:
        return recipe
    learned, others = divided(train.worked_on_at((LONG_SIDE, LONG_SIDE)), recipe.seed)
    folder = out / TRIAL / LARGE
    epochs = epochs_of(learned, folder)
    if not (folder / "manifest.json").is_file():
        say(f"  trial of variants: {len(learned)} photos, {epochs} epochs, told by {len(others)} others")
    left = left_by_erasing(recipe.alternatives[LARGE], learned, others, folder, epochs, execution)
    chosen = SMALL if left < LEFT else LARGE
    say(
        f"  variant {chosen}: with the strongest twentieth of a photo erased, {100 * left:.0f} % of a tag's score is "
        f"left ({SMALL}: below {100 * LEFT:.0f} %)"
    )
    taken = recipe.alternatives[chosen]
    minutes = expected_minutes(taken, train, learned, folder, recipe.alternatives[LARGE].classifier)
    if minutes is not None:
        size = in_words(taken.data.long_side)
        say(f"  photos are worked on {size}; the classifier will train for about {max(1, round(minutes))} min")
    return taken


def divided(train: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The photos that a trial trains on, and others; of a single photo both are that one."""
    photos = train.limit(min(PHOTOS, len(train)), seed)
    learned = photos.limit(max(1, 2 * len(photos) // 3), seed)
    known = {record.id for record in learned.records}
    rest = tuple(record for record in photos.records if record.id not in known)
    return learned, dataclasses.replace(photos, records=rest or learned.records)


def left_by_erasing(
    recipe: Recipe, learned: Dataset, others: Dataset, folder: Path, epochs: int, execution: Execution
) -> float:
    """Train shortly in `folder`; what is left of a tag's score on others, 0..1, 1 where that can't be told."""
    train_classifier(
        learned,
        folder,
        shortened(recipe.classifier, epochs),
        seed=recipe.seed,
        execution=execution,
        validation=others,
        looked_at=len(others),
    )
    looks = as_dict(read_manifest(folder, "train-classifier").get("localization_criterion"))
    value = next(map(as_number, as_list(looks.get("erased"))), None)  # of the smallest share
    return 1.0 if value is None else value


def expected_minutes(
    recipe: Recipe, train: Dataset, learned: Dataset, folder: Path, tried: ClassifierConfig
) -> float | None:
    """What the classifier of `recipe` will take for `train`, by the quickest epoch of one with settings `tried`.

    Both go by their pixels and by what they tune. None where the recipe's classifier draws sizes of its own, and
    where nothing can be told.
    """
    log = folder / FILE
    rows = read_epochs(log.read_text(encoding="utf-8"))[0] if log.is_file() else []
    before = mean_pixels(learned)
    if recipe.classifier.long_sides is not None or not rows or not before:
        return None
    a_photo = min(row.seconds for row in rows) / len(learned)
    more = mean_pixels(train.worked_on_at(recipe.data.long_side)) / before
    more *= COST[recipe.classifier.tuned] / COST[tried.tuned]
    return a_photo * more * len(train) * recipe.classifier.epochs_for(len(train)) / 60


def mean_pixels(dataset: Dataset) -> float:
    """Mean number of pixels that photos are worked on with, from some of them; 0 where none can be read."""
    counts = []
    for record in dataset.records[:: max(1, len(dataset) // MEASURED)]:
        with suppress(DataError):
            height, width = limited_size(image_size(record.path), record.long_side)
            counts.append(height * width)
    return sum(counts) / len(counts) if counts else 0.0


def in_words(long_side: LongSide) -> str:
    """At what size photos are worked on."""
    least, most = bounds_of(long_side)
    if most == math.inf:
        return "at their own size"
    return f"at {least:.0f} to {most:.0f} pixels" if least else f"at {most:.0f} pixels at most"


def epochs_of(learned: Dataset, folder: Path) -> int:
    """How often a trial goes over its photos: those of the trial that is in `folder`, else as `ENOUGH` says."""
    if (folder / "manifest.json").is_file():
        begun = as_number(
            as_dict(read_manifest(folder, "train-classifier", unfinished=True).get("config")).get("epochs")
        )
        if begun is not None:
            return int(begun)
    return ENOUGH.of("auto", len(learned))


def shortened(config: ClassifierConfig, epochs: int) -> ClassifierConfig:
    """The settings of a classifier for a trial: so many epochs, photos as they are read, positions averaged.

    Averaged whatever the recipe's own training does: `LEFT` was found with the average.
    """
    return dataclasses.replace(
        config,
        epochs=epochs,
        pooling="average",
        pooling_parameter=None,
        long_side_min=None,
        long_side_max=None,
        crop_size=None,
        crop="fit",
    )
