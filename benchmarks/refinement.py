"""Dense CRF against pixel-adaptive refinement: mIoU and seconds an image, on simulated seeds.

    python benchmarks/refinement.py DIR [--images 40] [--seed 0]

DIR is in VOC layout (JPEGImages, SegmentationClass). The seeds are made from the true masks: averaged over
cells of 16 pixels, weakened by a smooth random field (parts that a classifier would miss), blurred and
enlarged. So the table compares the refinements with one another; it says nothing about a real classifier,
whose mistakes are of other kinds. Every method is shown at its own best threshold on these very images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tag2mask.common.seeding import seed_for
from tag2mask.data.images import decode_image
from tag2mask.data.masks import read_mask
from tag2mask.metrics import SegmentationScore
from tag2mask.refine.crf import (
    DEEPLAB_CRF,
    LABEL_CRF,
    CRFParameters,
    crf_available,
    crf_labels,
    crf_probabilities,
    map_probabilities,
)
from tag2mask.refine.pamr import pamr
from tag2mask.refine.threshold import labels_from_maps

N_CLASSES = 21
CELL = 16  # pixels; stride of the classifier whose maps are imitated
THRESHOLDS = (0.1, 0.2, 0.3, 0.4)
Refinement = Callable[[np.ndarray, np.ndarray, float], np.ndarray]  # image, maps, threshold -> rows, 0 = bg


def simulated_maps(truth: np.ndarray, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (n, H, W) in 0..1 and classes (n,) that resemble a classifier's, from a true mask."""
    classes = np.array([value - 1 for value in np.unique(truth) if value not in (0, 255)], np.int64)
    random = torch.Generator().manual_seed(seed_for(seed, name))
    one_hot = torch.from_numpy(np.stack([truth == number + 1 for number in classes])).float()[None]
    coarse = F.avg_pool2d(one_hot, CELL, ceil_mode=True)  # (1, n, h, w)
    field = F.interpolate(torch.rand(1, len(classes), 4, 4, generator=random), coarse.shape[2:], mode="bicubic")
    weakened = coarse * (0.15 + 0.85 * field.clamp(0, 1))
    blurred = F.avg_pool2d(weakened, 3, stride=1, padding=1, count_include_pad=False)
    full = F.interpolate(blurred, truth.shape, mode="bilinear", align_corners=False)[0]
    peaks = full.amax(dim=(1, 2), keepdim=True).clamp_min(1e-5)
    return (full / peaks).numpy(), classes


def nothing(image: np.ndarray, maps: np.ndarray, threshold: float) -> np.ndarray:
    """Threshold only."""
    return labels_from_maps(maps, np.arange(len(maps)), threshold)


def crf_hard(image: np.ndarray, maps: np.ndarray, threshold: float) -> np.ndarray:
    """Threshold, then dense CRF on the hard labels with RIB's parameters."""
    return crf_labels(image, nothing(image, maps, threshold), len(maps) + 1)


def crf_soft(parameters: CRFParameters) -> Refinement:
    """Dense CRF on [background, maps] as probabilities."""

    def refine(image: np.ndarray, maps: np.ndarray, threshold: float) -> np.ndarray:
        return crf_probabilities(image, map_probabilities(maps, threshold), parameters).argmax(axis=0)

    return refine


def pamr_soft(image: np.ndarray, maps: np.ndarray, threshold: float) -> np.ndarray:
    """Pixel-adaptive refinement of [background, maps] as probabilities."""
    return pamr(image, map_probabilities(maps, threshold)).argmax(axis=0)


def pamr_hard(image: np.ndarray, maps: np.ndarray, threshold: float) -> np.ndarray:
    """Threshold, then pixel-adaptive refinement of the hard labels."""
    hard = nothing(image, maps, threshold)
    return pamr(image, hard[None] == np.arange(len(maps) + 1).reshape(-1, 1, 1)).argmax(axis=0)


def methods() -> dict[str, Refinement]:
    """Return what can run here, by name."""
    chosen: dict[str, Refinement] = {"none (threshold only)": nothing}
    if crf_available():
        chosen["dense CRF, hard labels, RIB's parameters"] = crf_hard
        chosen["dense CRF, soft maps, RIB's parameters"] = crf_soft(LABEL_CRF)
        chosen["dense CRF, soft maps, DeepLab's parameters"] = crf_soft(DEEPLAB_CRF)
    else:
        print("pydensecrf2 is not installed: no rows for the dense CRF")
    return {**chosen, "PAMR, hard labels": pamr_hard, "PAMR, soft maps": pamr_soft}


def measure(refine: Refinement, folder: Path, names: list[str], seed: int) -> tuple[float, float, float]:
    """Return the best threshold, its mIoU and the mean seconds an image of one method."""
    scores = {threshold: SegmentationScore(N_CLASSES) for threshold in THRESHOLDS}
    seconds = 0.0
    for name in names:
        image = decode_image(folder / "JPEGImages" / f"{name}.jpg")
        truth = read_mask(folder / "SegmentationClass" / f"{name}.png")
        maps, classes = simulated_maps(truth, seed, name)
        values = np.concatenate([[0], classes + 1])
        for threshold, score in scores.items():
            start = time.perf_counter()
            rows = refine(image, maps, threshold)
            seconds += time.perf_counter() - start
            score.update(values[rows], truth)
    best = max(THRESHOLDS, key=lambda threshold: scores[threshold].compute().miou)
    return best, scores[best].compute().miou, seconds / len(names) / len(THRESHOLDS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    stored = sorted(path.stem for path in (options.folder / "SegmentationClass").glob("*.png"))
    names = stored[:: max(1, len(stored) // options.images)][: options.images]
    print(f"{len(names)} photos, simulated seeds, {torch.get_num_threads()} thread(s)")
    print(f"{'refinement':<44} {'threshold':>9} {'mIoU %':>7} {'s/image':>8}")
    for label, refine in methods().items():
        threshold, miou, seconds = measure(refine, options.folder, names, options.seed)
        print(f"{label:<44} {threshold:>9.2f} {100 * miou:>7.1f} {seconds:>8.3f}", flush=True)


if __name__ == "__main__":
    main()
