"""Scores on small cases worked out by hand, against torchmetrics, and the one-pass curve against brute force."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.segmentation import MeanIoU

from tag2mask.common.errors import DataError
from tag2mask.metrics import (
    IoUBySize,
    SegmentationScore,
    ThresholdCurve,
    bootstrap_miou,
    class_iou,
    confusion_matrix,
    image_iou,
    mean_iou,
    threshold_curve,
)
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.runs.scores import SIZES

Item = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_pair(seed: int, n_classes: int = 5, size: tuple[int, int] = (13, 17)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, n_classes, size).astype(np.uint8)
    truth[random.random(size) < 0.1] = 255
    guess = np.where(random.random(size) < 0.6, truth % 255, random.integers(0, n_classes, size))
    return guess.astype(np.int64), truth


def by_hand(prediction: np.ndarray, truth: np.ndarray, n_classes: int) -> list[float]:
    known = truth != 255
    result = []
    for value in range(n_classes):
        both = ((prediction == value) & (truth == value) & known).sum()
        either = (((prediction == value) | (truth == value)) & known).sum()
        result.append(both / either if either else np.nan)
    return result


def test_small_case_by_hand() -> None:
    truth = np.array([[0, 0, 1, 255]])
    prediction = np.array([[0, 1, 1, 2]])
    score = SegmentationScore(4)
    score.update(prediction, truth)
    result = score.compute(["cat", "dog", "cow"])
    assert result.classes == ("background", "cat", "dog", "cow")
    assert result.iou[:2] == (0.5, 0.5)
    assert np.isnan(result.iou[2:]).all()  # dog only where ignored, cow nowhere
    assert result.miou == 0.5
    assert image_iou(prediction, truth, 4) == 0.5


def test_predicted_but_absent_class_counts_with_zero() -> None:
    assert image_iou(np.array([[0, 2]]), np.array([[0, 0]]), 4) == pytest.approx(0.25)


def test_everything_ignored_has_no_score() -> None:
    assert np.isnan(image_iou(np.zeros((2, 2), int), np.full((2, 2), 255), 3))
    score = SegmentationScore(3)
    assert np.isnan(score.compute().miou)


def test_set_iou_and_merge_equal_one_big_image() -> None:
    pairs = [random_pair(seed) for seed in range(4)]
    whole, first, second = SegmentationScore(5), SegmentationScore(5), SegmentationScore(5)
    for index, (prediction, truth) in enumerate(pairs):
        whole.update(prediction, truth)
        (first if index < 2 else second).update(prediction, truth)
    first.merge(second)
    expected = by_hand(np.hstack([p for p, _ in pairs]), np.hstack([t for _, t in pairs]), 5)
    for score in (whole, first):
        np.testing.assert_allclose(score.compute().iou, expected, atol=1e-15)
        assert score.compute().images == 4
    assert whole.compute().miou == pytest.approx(np.mean(expected), abs=1e-15)


def test_equals_torchmetrics_mean_iou() -> None:
    metric = MeanIoU(num_classes=5, per_class=True, input_format="index")
    prediction, truth = random_pair(7)
    kept = truth != 255
    metric.update(torch.from_numpy(prediction[kept])[None], torch.from_numpy(truth[kept].astype(np.int64))[None])
    np.testing.assert_allclose(metric.compute().numpy(), by_hand(prediction, truth, 5), atol=1e-6)
    np.testing.assert_allclose(
        class_iou(confusion_matrix(prediction, truth, 5)), by_hand(prediction, truth, 5), atol=1e-15
    )


def test_real_masks_against_plain_counting(animals_dir: Path) -> None:
    paths = sorted((animals_dir / "SegmentationClass").glob("*.png"))[:6]
    for path in paths:
        truth = np.array(Image.open(path))
        prediction = np.where(truth == 255, 0, np.roll(truth, 9, axis=1))
        prediction = np.where(prediction == 255, 0, prediction)
        np.testing.assert_allclose(
            class_iou(confusion_matrix(prediction, truth, 21)), by_hand(prediction, truth, 21), atol=1e-15
        )


def test_scores_are_plain_json() -> None:
    score = SegmentationScore(3)
    score.update(np.array([[0, 1]]), np.array([[0, 1]]))
    assert json.loads(json.dumps(score.compute(["cat", "dog"]).as_dict(), allow_nan=False)) == {
        "miou": 1.0,
        "per_class": {"background": 1.0, "cat": 1.0, "dog": None},
        "images": 1,
    }


def test_what_does_not_fit_is_named() -> None:
    score = SegmentationScore(3)
    with pytest.raises(DataError, match=r"4x5.*5x4"):
        score.update(np.zeros((4, 5), int), np.zeros((5, 4), int))
    with pytest.raises(DataError, match="prediction holds the value 255"):
        score.update(np.full((2, 2), 255), np.zeros((2, 2), int))
    with pytest.raises(DataError, match="truth holds the value 3"):
        score.update(np.zeros((2, 2), int), np.full((2, 2), 3))
    with pytest.raises(DataError, match="1 class names for 2"):
        score.compute(["cat"])
    with pytest.raises(DataError, match="merged"):
        score.merge(SegmentationScore(4))
    assert score.images == 0


# --- thresholds --------------------------------------------------------------------------------------


def items(count: int = 5) -> list[Item]:
    random = np.random.default_rng(11)
    made: list[Item] = []
    for index in range(count):
        size = (9 + index, 14)
        classes = np.sort(random.choice(4, index % 4, replace=False))  # 0 to 3 of 4 classes
        maps = np.round(random.random((len(classes), *size)), 2).astype(np.float32)  # many hit a threshold
        if len(classes) == 2:
            maps[1, :2] = np.nan
        truth = random.integers(0, 5, size).astype(np.uint8)
        truth[0] = 255
        made.append((maps, classes, truth))
    return made


@pytest.mark.parametrize("thresholds", [np.arange(0, 1.0, 0.01), [0.25], [-1.0, 0.0, 0.5, 1.0, 2.0]])
def test_curve_equals_brute_force(thresholds: np.ndarray) -> None:
    result = threshold_curve(items(), thresholds, 5)
    np.testing.assert_array_equal(result.thresholds, thresholds)
    for index, threshold in enumerate(thresholds):
        score = SegmentationScore(5)
        for maps, classes, truth in items():
            score.update(labels_from_maps(maps, classes, float(threshold)), truth)
        np.testing.assert_array_equal(result.per_class[index], score.compute().iou)
        assert result.miou[index] == score.compute().miou


def test_curve_merges_and_finds_its_best() -> None:
    grid = [0.1, 0.3, 0.5, 0.7]
    first, second = ThresholdCurve(5, grid), ThresholdCurve(5, grid)
    for index, item in enumerate(items()):
        (first if index % 2 else second).update(*item)
    first.merge(second)
    whole = threshold_curve(items(), grid, 5)
    np.testing.assert_array_equal(first.compute().per_class, whole.per_class)
    assert first.images == 5
    threshold, best = whole.best()
    assert best == whole.miou.max()
    assert threshold == grid[int(whole.miou.argmax())]


def test_curve_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="rising"):
        ThresholdCurve(5, [0.5, 0.3])
    curve = ThresholdCurve(3, [0.5])
    with pytest.raises(DataError, match=r"4x5.*5x4"):
        curve.update(np.zeros((1, 4, 5)), np.array([0]), np.zeros((5, 4), int))
    with pytest.raises(DataError, match="value 4"):
        curve.update(np.ones((1, 4, 5)), np.array([3]), np.zeros((4, 5), int))
    with pytest.raises(DataError, match="merged"):
        curve.merge(ThresholdCurve(3, [0.4]))


# --- intervals ---------------------------------------------------------------------------------------


def test_bootstrap_interval_holds_the_score_and_repeats() -> None:
    confusions = np.stack([confusion_matrix(*random_pair(seed), 5) for seed in range(30)])
    low, high = bootstrap_miou(confusions, seed=4)
    score = float(mean_iou(class_iou(confusions.sum(axis=0))))
    assert low < score < high
    assert high - low < 0.1
    assert bootstrap_miou(confusions, seed=4) == (low, high)
    assert bootstrap_miou(confusions, seed=5) != (low, high)


def test_bootstrap_of_equal_images_has_no_width() -> None:
    one = confusion_matrix(*random_pair(1), 5)
    low, high = bootstrap_miou(np.stack([one] * 8), seed=0)
    assert low == pytest.approx(high) == pytest.approx(float(mean_iou(class_iou(one))))


def test_iou_by_size_counts_each_class_of_a_photo_once() -> None:
    truth = np.zeros((10, 100), np.uint8)
    truth[0, :10] = 1  # 1 %: small, a bound belongs to the size below it
    truth[2:4, :50] = 2  # 10 %: medium
    truth[5:, :50] = 3  # 25 %: large
    answer = truth.copy()
    answer[0, 5:10] = 0  # half of it
    answer[2:4] = 0
    answer[2:4, 60:70] = 4  # isn't there
    found = IoUBySize()
    found.add(confusion_matrix(answer, truth, 5))
    assert found.as_dict() == {
        "small": {"iou": 0.5, "count": 1},
        "medium": {"iou": 0.0, "count": 1},
        "large": {"iou": 1.0, "count": 1},
    }
    other = IoUBySize()
    other.add(confusion_matrix(truth, truth, 5))
    other.add(confusion_matrix(np.zeros_like(truth), np.full_like(truth, 255), 5))  # nothing counts
    found.merge(other)
    assert found.as_dict()["medium"] == {"iou": 0.5, "count": 2}
    assert set(found.as_dict()) == set(SIZES)
    assert IoUBySize().as_dict() == {}
