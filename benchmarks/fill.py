"""One click that fills what looks alike: how much of an object does it give, by frozen features and by plain colour?

    python benchmarks/fill.py RUN --data DIR [--images 50]

For each tag of class-balanced training photos of RUN the deepest point of its largest true object is clicked. What is
at least as alike to that point as a tolerance, and hangs together with it, is the answer; alike by the cosine of the
run's affinity features on up to 6400 positions, or by the distance of smoothed colours. Prints the mean IoU with the
object at the one tolerance that is best for all and at the best for each click; both are chosen on these masks, so
they are upper bounds. Needs scipy.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from scipy import ndimage

from tag2mask.data import Dataset, read_image
from tag2mask.data.maps import strided_up_size
from tag2mask.data.masks import resize_labels
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.runs.info import read_info
from tag2mask.stages.affinity import STRIDE, AffinityStageConfig, Follower, filled_in
from tag2mask.stages.evaluate import Truth

TOLERANCES = np.arange(0, 1, 0.05)
FEWEST_PIXELS = 60
SMOOTHING = 1.0  # pixels
FARTHEST = 255.0  # distance of RGB colours that counts as nothing alike


def main() -> None:
    """Click, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the data set that the run was made of")
    parser.add_argument("--images", type=int, default=50)
    options = parser.parse_args()
    recipe = load_recipe(options.run / "recipe.yaml")
    config = filled_in(recipe.affinity or AffinityStageConfig(), recipe.classifier)
    network = Follower({}, options.run, options.run, [], dataclasses.replace(config, positions=6400))
    train = read_splits(recipe, options.data, read_info(options.run).get("data", {}).get("limited_to")).train
    masked = tuple(record for record in train.records if record.labels and record.mask_path is not None)
    chosen = dataclasses.replace(train, records=masked).limit(options.images, recipe.seed)
    found: dict[str, list[list[float]]] = {"frozen features": [], "colour": []}
    for image, true, y, x in clicks(chosen):
        for name, alike in (
            ("frozen features", by_features(network, image, y, x)),
            ("colour", by_colour(image, y, x)),
        ):
            found[name].append([iou(region(alike >= tolerance, y, x), true) for tolerance in TOLERANCES])
    print(f"{len(found['colour'])} clicks on {len(chosen)} training photos\n")
    print("| alike by | one tolerance | mIoU | best for each click |\n|---|---|---|---|")
    for name, rows in found.items():
        values = np.array(rows)
        best = int(values.mean(axis=0).argmax())
        each = values.max(axis=1).mean()
        print(f"| {name} | {TOLERANCES[best]:.2f} | {100 * values.mean(axis=0)[best]:.1f} | {100 * each:.1f} |")


def clicks(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Image (H, W, 3), the object (H, W) bool, and the point y, x of it that is farthest from its edge."""
    truth = Truth.of(dataset)
    for record in dataset.records:
        image = read_image(record)
        labels = resize_labels(truth.read(record), image.shape[:2])
        for label in record.labels:
            parts, count = ndimage.label(labels == label + 1)
            if not count:
                continue
            largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
            if largest.sum() >= FEWEST_PIXELS:
                y, x = np.unravel_index(ndimage.distance_transform_edt(largest).argmax(), largest.shape)
                yield image, largest, int(y), int(x)


def by_features(network: Follower, image: np.ndarray, y: int, x: int) -> np.ndarray:
    """Cosine (H, W) of each pixel's features and those of the point."""
    looks, grid = network.looks(image)
    raised = strided_up_size((image.shape[0], image.shape[1]), STRIDE)
    row, column = y * grid[0] // raised[0], x * grid[1] // raised[1]
    alike = (looks @ looks[row * grid[1] + column]).view(1, 1, *grid)
    full = F.interpolate(alike, raised, mode="bilinear", align_corners=False)
    return full[0, 0, : image.shape[0], : image.shape[1]].numpy()


def by_colour(image: np.ndarray, y: int, x: int) -> np.ndarray:
    """1 less the distance (H, W) of each pixel's smoothed colour from the point's, 1 being the farthest."""
    smooth = ndimage.gaussian_filter(image.astype(float), (SMOOTHING, SMOOTHING, 0))
    return 1 - np.linalg.norm(smooth - smooth[y, x], axis=2) / FARTHEST


def region(mask: np.ndarray, y: int, x: int) -> np.ndarray:
    """The part of a mask that hangs together with a point; nothing where the point isn't in it."""
    parts, _ = ndimage.label(mask)
    return (parts == parts[y, x]) & mask if mask[y, x] else np.zeros_like(mask)


def iou(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((found & true).sum() / max(1, (found | true).sum()))


if __name__ == "__main__":
    main()
