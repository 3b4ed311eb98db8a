"""mIoU of walked maps by background score, beside the seeds they come from: is `walk.threshold` right for these maps?

    python benchmarks/walk_threshold.py RUN DIR [--images 60] [--maps rib]

RUN is a finished run with method irn, DIR its data set. The images are a class-balanced part of those that RUN was
trained on, so a threshold that is chosen here is chosen on true masks, and has to be reported as such.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from tag2mask.common.files import read_json
from tag2mask.common.progress import track
from tag2mask.data import load_maps, read_image, read_mask
from tag2mask.metrics import ThresholdCurve
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.refine.pseudo import walk_scores
from tag2mask.refine.random_walk import random_walk
from tag2mask.runs.folder import read_manifest
from tag2mask.stages.train_boundary import load_boundary, with_mirror

THRESHOLDS = np.round(np.arange(0.05, 0.95, 0.01), 2)


def main() -> None:
    """Print both curves at every fifth threshold, and where each is best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--maps", default="rib", choices=("rib", "cam"))
    options = parser.parse_args()
    recipe = load_recipe(options.run / "recipe.yaml")
    limited = read_json(options.run / "run.json")["data"]["limited_to"]
    dataset = read_splits(recipe, options.data, limited).train.limit(options.images, recipe.seed)
    boundary, walk = options.run / f"boundary_{options.maps}", recipe.refine.walk
    network, pad_to = load_boundary(boundary), int(read_manifest(boundary, "train-boundary")["config"]["crop_size"])
    curves = {name: ThresholdCurve(len(dataset.classes) + 1, THRESHOLDS) for name in ("seed", "walk")}
    for record in track(dataset.records, total=len(dataset), description="walk"):
        assert record.mask_path is not None
        maps = load_maps(options.run / "localization" / options.maps / f"{record.id}.npz")
        truth = read_mask(record.mask_path, dataset.mask_lut)
        edge, _ = network.infer(with_mirror(read_image(record), "cpu"), pad_to=pad_to)
        start = torch.from_numpy(maps.at_stride4()) ** walk.power
        walked = random_walk(start, edge, radius=walk.radius, beta=walk.beta, times=walk.times, method=walk.method)
        curves["walk"].update(walk_scores(walked, maps.size), maps.classes, truth)
        curves["seed"].update(maps.full(), maps.classes, truth)
    results = {name: curve.compute() for name, curve in curves.items()}
    print(f"{len(dataset)} photos, {options.maps} maps; mIoU in percent")
    print(f"{'background score':>16} {'seed':>6} {'walk':>6}")
    for at in range(0, len(THRESHOLDS), 5):
        print(f"{THRESHOLDS[at]:>16.2f} " + " ".join(f"{100 * result.miou[at]:6.1f}" for result in results.values()))
    for name, result in results.items():
        best, miou = result.best()
        print(f"{name}: {100 * miou:.1f} at {best:.2f}, the best on these photos' true masks")


if __name__ == "__main__":
    main()
