"""Maps by refinements on one run: {CAM, RIB} x {plain, affinity, walk} x {threshold alone, CRF, PAMR}.

    python benchmarks/grid.py RUN --data DIR [--images 480] [--maps walk]

Nothing is trained: the maps that RUN has are cut at the score that `threshold: auto` finds without masks, and
refined. Prints for each combination the mIoU on the training photos' true masks with its 95 % interval, what RIB
gains over CAM with the interval of the same photos drawn again, and seconds a photo of the refinement on one core.
`walk` is IRN's, joined with the affinity where RUN has one; it is there for maps that RUN has a boundary network of
(`comparisons: {cam_irn: {maps: cam}}` makes one for CAM).
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from tag2mask.common.files import read_json
from tag2mask.data import Dataset, read_mask
from tag2mask.engine.execution import Execution
from tag2mask.metrics import bootstrap_difference, bootstrap_miou, class_iou, confusion_matrix, mean_iou
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.refine.methods import METHODS
from tag2mask.runs.info import read_info
from tag2mask.stages.evaluate import Truth
from tag2mask.stages.refine import WALKED, RefineConfig, refine

FOLDERS = {"plain": "localization", "affinity": "affinity", "walk": "walk_{}"}


def main() -> None:
    """Refine, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the data set that the run was made of")
    parser.add_argument("--images", type=int, help="so many of the run's training photos (default: all)")
    parser.add_argument("--maps", nargs="+", choices=FOLDERS, default=[*FOLDERS], help="which rows (default: all)")
    options = parser.parse_args()
    recipe = load_recipe(options.run / "recipe.yaml")
    train = read_splits(recipe, options.data, read_info(options.run).get("data", {}).get("limited_to")).train
    masked = tuple(record for record in train.records if record.labels and record.mask_path is not None)
    photos = dataclasses.replace(train, records=masked)
    photos = photos if options.images is None else photos.limit(options.images, recipe.seed)
    print(f"{len(photos)} training photos, each cut found without masks\n")
    print("| maps | refinement | CAM | RIB | RIB - CAM | seconds a photo |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.maps:
            where = FOLDERS[name]
            there = [kind for kind in ("cam", "rib") if (options.run / where.format(kind) / kind).is_dir()]
            for method in METHODS if there else ():
                found, seconds = {}, []
                for kind in there:
                    out = Path(folder) / f"{name}_{kind}_{method}"
                    started = time.monotonic()
                    found[kind] = confusions(photos, options.run, where.format(kind), kind, method, out, recipe.seed)
                    seconds.append((time.monotonic() - started) / len(photos))
                print(f"| {name} | {method} | {row(found, recipe.seed)} | {max(seconds):.2f} |", flush=True)


def confusions(
    photos: Dataset, run: Path, maps: str, kind: str, method: str, out: Path, seed: int
) -> tuple[np.ndarray, float]:
    """Confusion matrices (N, L, L) of the pseudo-masks, and the score that maps were cut at."""
    before = WALKED if maps.startswith("walk") else ""
    config = RefineConfig(maps=kind, method=before + method, threshold="auto")
    cam = run / "localization" / "cam"
    refine(photos, run / maps, out, config, cam=cam, seed=seed, execution=Execution(processes=1, device="cpu"))
    truth = Truth.of(photos)
    found = [
        confusion_matrix(read_mask(out / "masks" / f"{record.id}.png"), truth.read(record), truth.labels)
        for record in photos.records
    ]
    return np.stack(found), float(read_json(out / "manifest.json")["threshold"])


def row(found: dict[str, tuple[np.ndarray, float]], seed: int) -> str:
    """The cells of CAM, RIB and their difference."""
    cells = []
    for kind in ("cam", "rib"):
        if kind not in found:
            cells.append("")
            continue
        counts, cut = found[kind]
        low, high = (100 * bound for bound in bootstrap_miou(counts, seed))
        cells.append(
            f"{100 * float(mean_iou(class_iou(counts.sum(axis=0)))):.1f} [{low:.1f}, {high:.1f}] at {cut:.2f}"
        )
    if len(found) == 2:
        less, more = (100 * float(b) for b in bootstrap_difference(found["rib"][0], found["cam"][0], seed))
        cells.append(f"{less:+.1f} to {more:+.1f}")
    else:
        cells.append("")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
