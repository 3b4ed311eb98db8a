"""What suits a set of photos, found by short trainings on tags; no mask is read.

Whether things are large or small in their photos decides which variant of a recipe is taken. A classifier whose
positions are averaged is trained for a few epochs; then the twentieth of each photo at which its class map is
strongest is erased. Where things cover a few hundredths of a photo, they are gone with it, and the tag's score falls;
where they cover much, most of them is left. At what size photos are worked on is tried where a recipe names sizes or
leaves it open.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tag2mask.common.values import as_dict, as_list, as_number
from tag2mask.data import Dataset, image_sizes, limited_size
from tag2mask.data.images import LongSide, bounds_of
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import Enough
from tag2mask.networks.families import LAST_STAGE
from tag2mask.recipe import AUTO, LARGE, SMALL, Recipe
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.info import TRIAL
from tag2mask.runs.log import epochs_in
from tag2mask.stages.best_epoch import merit
from tag2mask.stages.stage import Say
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier

MEASURED = 100  # photos whose size is looked at
PHOTOS = 240  # class-balanced; two thirds are trained on
LOOKED_AT = 30  # of the others, class-balanced, that tell where a classifier of some size looks
LONG_SIDE = 320  # pixels; smaller photos are enlarged, as small things don't show in them
ENOUGH = Enough(epochs=1, images=480, most=24)  # three epochs of a set of 240, more of a smaller one
ENOUGH_OF_SIZES = Enough(epochs=1, images=320, most=24)  # two, at each size
# Of a tag's score with the strongest twentieth of the photo erased; below it things are small. On photos that weren't
# trained on: animals 0.91 (160 photos: 0.79, 80: 0.74), lesions on leaves 0.50 and 0.60 (160: 0.67, 80: 0.62).
LEFT = 0.70
TELLING = 60  # photos; of fewer a third, which tells, says little of two sizes
NOTABLY = 1.2  # larger than the lower bound of sizes: photos for which that is tried
LARGER = 1.5  # than the size that they are worked on at: photos of which that is said
# What a step of training costs by what is tuned: EfficientNet-Lite0, photos of 320 x 640 pixels, one core.
COST = {"all": 1.0, "late": 0.72, "head": 0.62}
WITHOUT_LAST = 0.45  # and what is left of it without the last stage, as measured with "late"


@dataclass(frozen=True)
class Tried:
    """What a short training at one size came to."""

    long_side: LongSide
    precision: float  # mean average precision 0..1 of tags of photos that it didn't learn
    criterion: float  # of localization, -1..1, on the same photos
    minutes: float | None  # that the run's own classifier would train for


def decided(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The variant and the size that the photos of `train` ask for, where the recipe leaves them open.

    The classifiers of the trials are kept in `out`/trial, so that a run that goes on takes the same. Raises as
    `train_classifier`.
    """
    return of_size(of_variant(recipe, train, out, execution, say), train, out, execution, say)


def of_variant(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The variant that the photos ask for, where the recipe leaves it open; else the recipe as it is."""
    if recipe.variant != AUTO:
        return recipe
    learned, others = divided(train.worked_on_at((LONG_SIDE, LONG_SIDE)), recipe.seed)
    folder = out / TRIAL / LARGE
    epochs = epochs_of(learned, folder, ENOUGH)
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
    if minutes is not None and not sizes_of(taken, train):
        say(
            f"  photos are worked on {in_words(taken.data.long_side)}; the classifier will train for {about(minutes)}"
        )
        say_of_larger(train, taken.data.long_side, say)
    return taken


def of_size(recipe: Recipe, train: Dataset, out: Path, execution: Execution, say: Say) -> Recipe:
    """The recipe at the size that suits the photos, of those that it names or leaves open; else as it is.

    At each size the recipe's own classifier is shortly trained on the same photos.
    """
    sizes = sizes_of(recipe, train)
    recipe, left_open = dataclasses.replace(recipe, sizes=None), recipe.sizes == AUTO
    if not sizes:
        return recipe
    best = best_of([at_size(recipe, size, train, out / TRIAL, execution, say) for size in sizes])
    say(f"  photos are worked on {in_words(best.long_side)}: there mAP and criterion together are highest")
    if left_open:
        say_of_larger(train, best.long_side, say)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, long_side=best.long_side))


def sizes_of(recipe: Recipe, train: Dataset) -> tuple[LongSide, ...]:
    """The sizes to try, in the order in which they are named; none where nothing is left open.

    `sizes: auto` leaves open what lies between the bounds of `data.long_side`, where the photos are larger than the
    lower one, and enough to tell.
    """
    if isinstance(recipe.sizes, tuple):
        return tuple((size, size) for size in recipe.sizes)
    if recipe.sizes is None or recipe.classifier.long_sides is not None or len(train) < TELLING:
        return ()
    least, most = bounds_of(recipe.data.long_side)
    sides = [max(limited_size(size, recipe.data.long_side)) for size in image_sizes(train.records, MEASURED)]
    if not 0 < least < most or not sides or sum(sides) / len(sides) < NOTABLY * least:
        return ()
    return (round(least), round(least)), recipe.data.long_side


def at_size(recipe: Recipe, size: LongSide, train: Dataset, trials: Path, execution: Execution, say: Say) -> Tried:
    """Train the recipe's classifier shortly on photos of this size; say and return what came of it."""
    learned, others = divided(train.worked_on_at(size), recipe.seed)
    folder = trials / "_".join(["size", *(f"{bound:.0f}" for bound in sorted(set(bounds_of(size))))])
    epochs = epochs_of(learned, folder, ENOUGH_OF_SIZES)
    if not (folder / "manifest.json").is_file():
        say(f"  trial {in_words(size)}: {len(learned)} photos, {epochs} epochs, told by {len(others)} others")
    config = dataclasses.replace(recipe.classifier, epochs=epochs)
    train_shortly(config, learned, others, folder, recipe.seed, execution, LOOKED_AT)
    manifest = read_manifest(folder, "train-classifier")
    looks = as_dict(manifest.get("localization_criterion"))
    whole = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, long_side=size))
    found = Tried(
        size,
        as_number(manifest.get("validation_map")) or 0.0,
        as_number(looks.get("criterion")) or 0.0,
        expected_minutes(whole, train, learned, folder, recipe.classifier),
    )
    cost = f"; the classifier would train for {about(found.minutes)}" if found.minutes is not None else ""
    say(f"  {in_words(size)}: mAP {found.precision:.3f}, localization criterion {found.criterion:.2f}{cost}")
    return found


def best_of(tried: Sequence[Tried]) -> Tried:
    """The one of most merit, of precision and criterion together; of equals the first."""
    return max(tried, key=lambda one: merit(one.precision, one.criterion))


def say_of_larger(train: Dataset, long_side: LongSide, say: Say) -> None:
    """Say how larger sizes are tried, where photos are made much smaller than they are."""
    most = bounds_of(long_side)[1]
    sides = [max(size) for size in image_sizes(train.records, MEASURED)]
    if sides and sum(sides) / len(sides) > LARGER * most:
        share, larger = most * len(sides) / sum(sides), round(most * math.sqrt(2))
        say(
            f"  which is {share:.2f} of their size: where things would be lost by that, try larger ones by "
            f"--set 'sizes=[{most:.0f},{larger}]' (twice the pixels take twice the time)"
        )


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
    config = shortened(recipe.classifier, epochs)
    train_shortly(config, learned, others, folder, recipe.seed, execution, len(others))
    looks = as_dict(read_manifest(folder, "train-classifier").get("localization_criterion"))
    value = next(map(as_number, as_list(looks.get("erased"))), None)  # of the smallest share
    return 1.0 if value is None else value


def train_shortly(
    config: ClassifierConfig,
    learned: Dataset,
    others: Dataset,
    folder: Path,
    seed: int,
    execution: Execution,
    looked_at: int,
) -> None:
    """Train a classifier in `folder`; the others tell its precision, and so many of them its criterion."""
    config = dataclasses.replace(config, keep="last", patience=None)
    train_classifier(learned, folder, config, seed=seed, execution=execution, validation=others, trial=looked_at)


def expected_minutes(
    recipe: Recipe, train: Dataset, learned: Dataset, folder: Path, tried: ClassifierConfig
) -> float | None:
    """What the classifier of `recipe` will take for `train`, by the quickest epoch of one with settings `tried`.

    Both go by their pixels, by what they tune and by the stages that they have. None where the recipe's classifier
    draws sizes of its own, and where nothing can be told.
    """
    rows = epochs_in(folder)
    before = mean_pixels(learned)
    if recipe.classifier.long_sides is not None or not rows or not before:
        return None
    a_photo = min(row.seconds for row in rows) / len(learned)
    more = mean_pixels(train.worked_on_at(recipe.data.long_side)) / before
    more *= cost_of(recipe.classifier) / cost_of(tried)
    return a_photo * more * len(train) * recipe.classifier.epochs_for(len(train)) / 60


def cost_of(config: ClassifierConfig) -> float:
    """What a step of this classifier's training costs, in parts of one that tunes the whole network."""
    return COST[config.tuned] * (1 if LAST_STAGE in config.stages else WITHOUT_LAST)


def mean_pixels(dataset: Dataset) -> float:
    """Mean number of pixels that photos are worked on with, from some of them; 0 where none can be read."""
    long_side = dataset.records[0].long_side if len(dataset) else None
    counts = [math.prod(limited_size(size, long_side)) for size in image_sizes(dataset.records, MEASURED)]
    return sum(counts) / len(counts) if counts else 0.0


def about(minutes: float) -> str:
    """Whole minutes, in words."""
    return f"about {max(1, round(minutes))} min"


def in_words(long_side: LongSide) -> str:
    """At what size photos are worked on."""
    least, most = bounds_of(long_side)
    if most == math.inf:
        return "at their own size"
    if least == most:
        return f"at {most:.0f} pixels"
    return f"at {least:.0f} to {most:.0f} pixels" if least else f"at {most:.0f} pixels at most"


def epochs_of(learned: Dataset, folder: Path, enough: Enough) -> int:
    """How often a trial goes over its photos: as the trial that is in `folder`, else as `enough` says."""
    if (folder / "manifest.json").is_file():
        begun = as_number(
            as_dict(read_manifest(folder, "train-classifier", unfinished=True).get("config")).get("epochs")
        )
        if begun is not None:
            return int(begun)
    return enough.of("auto", len(learned))


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
