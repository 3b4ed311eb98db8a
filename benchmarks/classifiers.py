"""Classifiers side by side: poolings, tuned parts and sizes, by what they tell and by where they look.

    python benchmarks/classifiers.py photos --data DIR --set variant=small \\
        --vary "classifier.tuned=all data.long_side=320" --vary "classifier.pooling=average"

Each row trains a classifier on `--limit` class-balanced training photos by the recipe, changed as its `--vary` says
(settings with spaces between; the first row has none). Tags of `--held-out` photos of val tell its average precision,
`--criterion` of them the localization criterion, which reads no mask. Seeds are plain CAM's of `--images` training
photos, as they are and through the recipe's affinity, at the threshold that is best on their true masks. Prints a
table; minutes are the training's.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import tempfile
import time
from pathlib import Path

from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution
from tag2mask.networks import CAMClassifier
from tag2mask.recipe import AUTO, Recipe, load_recipe, read_splits
from tag2mask.stages.affinity import filled_in, follow
from tag2mask.stages.criterion import localization_criterion
from tag2mask.stages.evaluate import score_maps
from tag2mask.stages.localize import localize
from tag2mask.stages.tag_scores import mean_of, tag_scores
from tag2mask.stages.train_classifier import train_classifier


def main() -> None:
    """Train, look, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a recipe's file or name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="a setting of every row")
    parser.add_argument("--vary", action="append", default=[], help="settings of one more row, spaces between")
    parser.add_argument("--limit", type=int, default=240, help="photos that are trained on")
    parser.add_argument("--images", type=int, default=100, help="of these, whose seeds are scored")
    parser.add_argument("--held-out", type=int, default=100, help="photos of val that tell the average precision")
    parser.add_argument("--criterion", type=int, default=60, help="of these, where the classifier is looked at")
    options = parser.parse_args()
    print("| | mAP, held out | criterion | CAM | with affinity | minutes |\n|---|---|---|---|---|---|")
    for changes in ["", *options.vary]:
        recipe = load_recipe(options.recipe, [*options.set, "localize.method=cam", *shlex.split(changes)])
        if recipe.variant == AUTO:
            parser.error("one variant for all rows: --set variant=small, or another that the recipe has")
        splits = read_splits(recipe, options.data, options.limit)
        if splits.val is None:
            parser.error(f"{options.data}: nothing is held out")
        held_out = splits.val.limit(options.held_out, recipe.seed)
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            classifier = train_classifier(
                splits.train, Path(folder) / "classifier", recipe.classifier, seed=recipe.seed
            )
            minutes = (time.monotonic() - started) / 60
            cells = [*told(classifier, held_out, recipe, options.criterion)]
            cells += seeds(splits.train, Path(folder), recipe, options.images)
        print(f"| {changes or 'as in the recipe'} | {' | '.join(cells)} | {minutes:.1f} |", flush=True)


def told(classifier: CAMClassifier, held_out: Dataset, recipe: Recipe, images: int) -> tuple[str, str]:
    """Mean average precision of the tags, and the criterion on so many of the photos."""
    size = recipe.classifier.long_side_max
    precision = mean_of(tag_scores(classifier, held_out, size).average_precision())
    looks = localization_criterion(classifier, held_out, size, images, recipe.seed)
    return f"{precision:.3f}", f"{looks['criterion']:.2f}" if looks else ""


def seeds(train: Dataset, folder: Path, recipe: Recipe, images: int) -> list[str]:
    """mIoU of plain CAM and of CAM by affinity, each with its interval, at their best thresholds."""
    masked = tuple(record for record in train.records if record.labels and record.mask_path is not None)
    scored = dataclasses.replace(train, records=masked).limit(images, recipe.seed)
    wanted = [record.id for record in scored.records]
    execution = Execution(processes=1, device="cpu")
    localize(
        train,
        folder / "classifier",
        folder / "localization",
        recipe.localize,
        seed=recipe.seed,
        execution=execution,
        only=wanted,
    )
    maps = [folder / "localization" / "cam"]
    affinity = filled_in(recipe.affinity, recipe.classifier)
    if affinity is not None:
        follow(train, folder / "localization", folder / "affinity", affinity, execution=execution)
        maps.append(folder / "affinity" / "cam")
    cells = []
    for where in maps:
        row = score_maps(scored, where, recipe.evaluate, split="train", seed=recipe.seed).row
        span = row["interval"]
        cells.append(f"{100 * row['miou']:.1f} [{100 * span['low']:.1f}, {100 * span['high']:.1f}]")
    return [*cells, *[""] * (2 - len(cells))]


if __name__ == "__main__":
    main()
