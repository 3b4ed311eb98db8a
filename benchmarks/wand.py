"""Clicks of the review's wand on a run's final masks: how many wrong pixels does each put right?

    python benchmarks/wand.py RUN --data DIR [--images 50]

On class-balanced training photos of RUN that have a final mask, the deepest point of the largest region that the mask
has wrong is clicked, with the class that the true mask has there, three times one after another. A click that makes
more wrong than right is undone. Its reach is the one it comes with (Otsu), or the best of 32 by the true mask, as of
a person who moves the slider. Compared with the same clicks by the distance of smoothed colours. Prints the share of
wrong pixels after each click, photos averaged. Needs scipy.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from tag2mask.data import read_image, read_mask
from tag2mask.data.masks import resize_labels
from tag2mask.data.records import IGNORED
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.refine.threshold import cover_by_score, otsu_score
from tag2mask.review.alike import Alike
from tag2mask.review.subjects import open_subjects
from tag2mask.runs.info import read_info
from tag2mask.stages.evaluate import Truth

CLICKS = 3
REACHES = np.arange(0, 1, 1 / 32)
SMOOTHING = 1.0  # pixels
FARTHEST = 120.0  # distance of RGB colours that counts as nothing alike

Click = Callable[[int, int], tuple[np.ndarray, float]]  # a point's likeness (H, W), 0..1, and where it parts


def main() -> None:
    """Click, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the data set that the run was made of")
    parser.add_argument("--images", type=int, default=50)
    options = parser.parse_args()
    recipe, subjects = load_recipe(options.run / "recipe.yaml"), open_subjects(options.run)
    train = read_splits(recipe, options.data, read_info(options.run).get("data", {}).get("limited_to")).train
    there = (record for record in train.records if "masks" in subjects.photos[record.id].layers)
    masked = tuple(record for record in there if record.labels and record.mask_path is not None)
    chosen = dataclasses.replace(train, records=masked).limit(options.images, recipe.seed)
    truth, alike = Truth.of(chosen), Alike(subjects)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for record in chosen.records:
        subject = subjects.photos[record.id]
        mask = read_mask(subjects.mask_file(subject, "masks"))
        true = resize_labels(truth.read(record), mask.shape)

        def frozen(y: int, x: int, subject=subject, size=mask.shape) -> tuple[np.ndarray, float]:
            values, parting = alike.to(subject, ((y + 0.5) / size[0], (x + 0.5) / size[1]), size)
            return values / 255, parting

        colour = by_colour(read_image(dataclasses.replace(record, long_side=max(mask.shape))), mask.shape)
        for name, click in (("frozen features", frozen), ("colour", colour)):
            for reach in ("its own", "best"):
                wrong = corrected(mask, true, click, best=reach == "best")
                found.setdefault((name, reach), []).append(wrong)
    print(f"wrong pixels of {len(chosen)} training photos, percent\n")
    print(f"| alike by | reach | before | {' | '.join(f'click {n + 1}' for n in range(CLICKS))} |")
    print("|---" * (3 + CLICKS) + "|")
    for (name, reach), rows in found.items():
        print(f"| {name} | {reach} | {' | '.join(f'{100 * value:.2f}' for value in np.mean(rows, axis=0))} |")


def corrected(mask: np.ndarray, true: np.ndarray, click: Click, *, best: bool) -> list[float]:
    """Shares of wrong pixels before and after each click on a mask (H, W)."""
    counted = true != IGNORED
    wrong = [float((mask != true)[counted].mean())]
    for _ in range(CLICKS):
        point = deepest((mask != true) & counted)
        if point is not None:
            values, parting = click(*point)
            regions = (region(values >= reach, *point) for reach in (REACHES if best else [parting]))
            tries = [mask, *(np.where(filled, true[point], mask) for filled in regions)]
            mask = min(tries, key=lambda tried: int((tried != true)[counted].sum()))
        wrong.append(float((mask != true)[counted].mean()))
    return wrong


def by_colour(image: np.ndarray, size: tuple[int, ...]) -> Click:
    """Likeness by the distance of smoothed colours."""
    assert image.shape[:2] == size
    smooth = ndimage.gaussian_filter(image.astype(float), (SMOOTHING, SMOOTHING, 0))

    def click(y: int, x: int) -> tuple[np.ndarray, float]:
        values = np.clip(1 - np.linalg.norm(smooth - smooth[y, x], axis=2) / FARTHEST, 0, 1)
        return values, otsu_score(cover_by_score(values[None]))

    return click


def deepest(mask: np.ndarray) -> tuple[int, int] | None:
    """The point of the largest region that is farthest from its edge; None for an empty mask."""
    parts, count = ndimage.label(mask)
    if not count:
        return None
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), mask.shape)
    return int(y), int(x)


def region(mask: np.ndarray, y: int, x: int) -> np.ndarray:
    """The part of a mask that hangs together with a point; nothing where the point isn't in it."""
    parts, _ = ndimage.label(mask)
    return (parts == parts[y, x]) & mask if mask[y, x] else np.zeros_like(mask)


if __name__ == "__main__":
    main()
