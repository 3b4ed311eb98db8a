"""Scores equal the reference's to 1e-12, its COCO slip included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tag2mask.metrics import SegmentationScore
from tag2mask.refine.threshold import labels_from_maps

CASES = [("voc", 21, False), ("few", 11, False), ("ign255", 21, True)]


@pytest.fixture(scope="module")
def numbers(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "h_eval.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize(("case", "n_classes", "slip"), CASES)
def test_confusion_iou_and_mean(numbers: dict[str, np.ndarray], case: str, n_classes: int, slip: bool) -> None:
    score = SegmentationScore(n_classes, include_ignore_slip=slip)
    for index in range(3):
        truth = numbers[f"{case}_label{index}"].astype(np.int64)
        score.update(numbers[f"{case}_pred{index}"], np.where(truth < 0, 255, truth))  # -1 = ignored there
    np.testing.assert_array_equal(score.confusion, numbers[f"{case}_confusion"])
    result = score.compute()
    np.testing.assert_allclose(result.iou, numbers[f"{case}_iou"][:n_classes], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.miou, numbers[f"{case}_miou"], rtol=0, atol=1e-12)
    assert result.images == 3


def test_the_slip_costs_what_the_reference_lost(numbers: dict[str, np.ndarray]) -> None:
    mended, slipped = SegmentationScore(21), SegmentationScore(21, include_ignore_slip=True)
    for index in range(3):
        for score in (mended, slipped):
            score.update(numbers[f"ign255_pred{index}"], numbers[f"ign255_label{index}"])
    assert mended.compute().miou == pytest.approx(0.4507, abs=5e-5)
    assert slipped.compute().miou == pytest.approx(0.4082, abs=5e-5)


@pytest.mark.parametrize("threshold", [0.15, 0.3, 0.5])
def test_thresholded_maps(numbers: dict[str, np.ndarray], threshold: float) -> None:
    labels = labels_from_maps(numbers["evalcam_cams"], numbers["evalcam_keys"], threshold)
    np.testing.assert_array_equal(labels, numbers[f"evalcam_pred_{threshold}"])
