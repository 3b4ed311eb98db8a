"""Decoders and losses side by side: networks that learn the same pseudo-masks, scored on photos that none has seen.

    python benchmarks/segmenter.py RUN --data DIR [--vary architecture=unet] [--vary loss=symmetric,paste=0.0] ...
    python benchmarks/segmenter.py RUN --data DIR --rounds 2

RUN has pseudo-masks of its training photos. Half of these photos, class-balanced, teach each network by the run's own
settings, changed as `--vary` says; the true masks of the other half score it, with its answers free and within the
photos' tags; the run's classifier, which learned the tags of all of them, isn't asked. Nothing of val is looked at.
Prints mIoU with its 95 % interval, the paired interval of the difference to the first row, minutes of training and
MB of the network, and below the warnings that the trainings ended with.

With `--rounds` each further row learns the final masks that the network before gave its own photos, as `rounds` of a
recipe does; below the table is what each network's final masks of its own photos score.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from tag2mask.common.files import read_json
from tag2mask.data import Dataset, read_image
from tag2mask.engine.execution import Execution
from tag2mask.metrics import bootstrap_difference, bootstrap_miou, class_iou, confusion_matrix, mean_iou
from tag2mask.networks.decoders import SegmentationNetwork
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.runs.info import read_info
from tag2mask.stages.answer import answer_of_logits, combined_logits, prior_of
from tag2mask.stages.evaluate import Truth, score_masks
from tag2mask.stages.predict import predict
from tag2mask.stages.train_segmenter import train_segmenter

VARIED = (
    "architecture=fpn",
    "architecture=fpn_wide",
    "architecture=deeplabv3plus",
    "architecture=unet",
    "architecture=segformer",
    "loss=symmetric",
    "loss=generalised",
    "loss=bootstrapped",
    "loss=collision",
    "unsure_edges=2",
    "balanced=true",
)


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the data set that the run was made of")
    parser.add_argument("--vary", action="append", help="KEY=VALUE,... of the segmenter; the first row has none")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of every row, such as segmenter.epochs=8"
    )
    parser.add_argument("--rounds", type=int, default=0, help="instead: learn so often from the network's own masks")
    options = parser.parse_args()
    recipe = load_recipe(options.run / "recipe.yaml", options.set)
    limit = read_info(options.run).get("data", {}).get("limited_to")
    learned, held = halves(read_splits(recipe, options.data, limit).train, recipe.seed)
    epochs = recipe.segmenter.epochs_for(len(learned))
    print(f"{len(learned)} photos learned, {len(held)} others, seed {recipe.seed}, {epochs} epochs\n")
    print("| | mIoU | difference | within tags | difference | minutes | MB |\n|---|---|---|---|---|---|---|")
    first: list[np.ndarray] = []
    told: list[str] = []
    masks = options.run / "pseudo_masks"
    rows = [f"round {number}" for number in range(1, options.rounds + 1)] or options.vary or VARIED
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(["as in the recipe", *rows]):
            changes = [f"segmenter.{part}" for part in name.split(",") if "=" in part]
            settings = load_recipe(options.run / "recipe.yaml", [*options.set, *changes])
            started = time.monotonic()
            out = Path(folder) / str(number)
            segmenter = dataclasses.replace(settings.segmenter, tag_prior_by="features")
            network = train_segmenter(learned, masks, out, segmenter, seed=recipe.seed, execution=Execution())
            minutes = (time.monotonic() - started) / 60
            found = confusions(network, held)
            first = first or found
            cells = [
                cell for mine, base in zip(found, first, strict=True) for cell in cells_of(mine, base, recipe.seed)
            ]
            told += [f"{name}: {read_json(out / 'manifest.json')['warning'] or 'no warning'}"]
            size = (out / "weights.safetensors").stat().st_size / 1e6
            print(f"| {name} | {' | '.join(cells)} | {minutes:.1f} | {size:.1f} |", flush=True)
            if options.rounds:
                masks = Path(folder) / f"masks {number}"
                within = dataclasses.replace(settings.predict, restrict=True, negatives=True)
                predict(learned, out, masks, within, of_a_set=True, pseudo_masks=options.run / "pseudo_masks")
                row = score_masks(learned, masks / "masks", split="train", config=recipe.evaluate).row
                told += [
                    f"{name}: final masks of its own photos: mIoU {100 * row['miou']:.1f} "
                    f"[{100 * row['interval']['low']:.1f}, {100 * row['interval']['high']:.1f}]"
                ]
    print("\n" + "\n".join(told))


def halves(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The photos that are learned from, class-balanced, and of the others those that can be scored."""
    learned = dataset.limit(len(dataset) // 2, seed)
    known = {record.id for record in learned.records}
    others = (record for record in dataset.records if record.id not in known and record.mask_path is not None)
    return learned, dataclasses.replace(dataset, records=tuple(others))


def confusions(network: SegmentationNetwork, held: Dataset) -> list[np.ndarray]:
    """Confusion matrices (N, L, L) of the photos, of free answers and of answers within tags."""
    truth = Truth.of(held)
    counts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for record in held.records:
        image = read_image(record)
        true = truth.read(record)
        logits = combined_logits(network, image, (1.0,))
        prior = prior_of(network, image)
        free = answer_of_logits(logits if prior is None else logits + prior).labels
        for part, labels in zip(counts, (free, answer_of_logits(logits, record.labels).labels), strict=True):
            part.append(confusion_matrix(labels, true, truth.labels))
    return [np.stack(part) for part in counts]


def cells_of(mine: np.ndarray, base: np.ndarray, seed: int) -> tuple[str, str]:
    """mIoU with its interval, and the difference's, in points."""
    value = 100 * float(mean_iou(class_iou(mine.sum(axis=0))))
    low, high = (100 * bound for bound in bootstrap_miou(mine, seed))
    less, more = (100 * float(bound) for bound in bootstrap_difference(mine, base, seed))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]", "" if mine is base else f"{less:+.1f} to {more:+.1f}"


if __name__ == "__main__":
    main()
