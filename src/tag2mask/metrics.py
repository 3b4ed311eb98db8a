"""Intersection over union: of a set, of one image, and for every background threshold in one pass.

Everywhere here `n_classes` counts the values of a mask, background included (VOC: 21), and 255 in the
truth is ignored. A class that occurs neither in the truth nor in the prediction has no IoU (NaN) and is
left out of the mean; one that was predicted but is not there counts with 0, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from tag2mask.common.errors import DataError
from tag2mask.common.seeding import seed_for
from tag2mask.data.records import IGNORED
from tag2mask.refine.threshold import best_class
from tag2mask.runs.scores import SIZES

_AT_ONCE = 25  # resamples
_DRAWN = 2_000_000  # images in them, so that memory stays bounded
SLIP_VALUES = 256  # with the reference's COCO slip 255 is a class of its own

_BILLION = 10**9

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """IoU per class and their mean over a set of images, all in 0..1."""

    classes: tuple[str, ...]  # "background" first, where there is one
    iou: tuple[float, ...]  # NaN: in neither truth nor prediction
    miou: float  # mean over the classes that have an IoU; NaN without any scored pixel
    images: int

    def as_dict(self) -> dict[str, Any]:
        """Return {"miou", "per_class", "images"} fit for JSON, with None for NaN."""
        per_class = {name: _or_none(value) for name, value in zip(self.classes, self.iou, strict=True)}
        return {"miou": _or_none(self.miou), "per_class": per_class, "images": self.images}


class SegmentationScore:
    """Confusion matrix summed over images; `update`, `merge`, `compute`.

    `n_classes` counts background. With `include_ignore_slip` the ignored pixels stay in and 255 counts as
    one more class with IoU 0, as the reference does when it scores COCO; for comparison only.
    """

    def __init__(self, n_classes: int, include_ignore_slip: bool = False) -> None:
        _check_class_count(n_classes)
        self.n_classes = n_classes
        self.include_ignore_slip = include_ignore_slip
        size = SLIP_VALUES if include_ignore_slip else n_classes
        self.confusion: Counts = np.zeros((size, size), np.int64)  # rows truth, columns prediction
        self.images = 0

    def update(self, prediction: npt.NDArray, truth: npt.NDArray) -> Counts:
        """Add one image, both (H, W) integers; return its own confusion matrix.

        Raises DataError when the sizes differ or a value is outside 0..n_classes-1 (truth: or 255).
        """
        added = confusion_matrix(prediction, truth, self.n_classes, include_ignore_slip=self.include_ignore_slip)
        self.add(added)
        return added

    def add(self, confusion: npt.NDArray) -> None:
        """Add one image by its own confusion matrix."""
        self.confusion += confusion
        self.images += 1

    def merge(self, other: SegmentationScore) -> None:
        """Add the images of `other`, for example from another process."""
        if self.confusion.shape != other.confusion.shape or self.n_classes != other.n_classes:
            raise DataError(
                f"scores over {self.n_classes} and {other.n_classes} classes "
                f"(matrices of {len(self.confusion)} and {len(other.confusion)}) can't be merged; "
                "use the same classes and the same include_ignore_slip for both"
            )
        self.confusion += other.confusion
        self.images += other.images

    def compute(self, names: Sequence[str] | None = None, *, background: bool = True) -> Scores:
        """Return the scores so far; `names` are the foreground classes in order. without `background` 0 is none."""
        first = 0 if background else 1
        iou = class_iou(self.confusion)[first:]
        classes = _class_names(self.n_classes, names)[first:]
        return Scores(
            classes=classes,
            iou=tuple(float(value) for value in iou[: len(classes)]),
            miou=float(mean_iou(iou)),
            images=self.images,
        )


def confusion_matrix(
    prediction: npt.NDArray, truth: npt.NDArray, n_classes: int, *, include_ignore_slip: bool = False
) -> Counts:
    """Count the pixels of one image by truth (rows) and prediction (columns), ignoring 255 in the truth.

    Both (H, W) integers. Returns (n_classes, n_classes) int64, or (256, 256) with the slip.
    Raises DataError as `SegmentationScore.update`.
    """
    _check_pair(prediction, truth, n_classes)
    counts = multiclass_confusion_matrix(
        torch.from_numpy(prediction.astype(np.int64)),
        torch.from_numpy(truth.astype(np.int64)),
        num_classes=SLIP_VALUES if include_ignore_slip else n_classes,
        ignore_index=None if include_ignore_slip else IGNORED,
        validate_args=False,
    )
    return counts.numpy().astype(np.int64)


def class_iou(confusion: npt.NDArray) -> Floats:
    """Return the IoU of each class (..., C) from confusion matrices (..., C, C); NaN where there is none."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - hits
    return _divide(hits, union)


class IoUBySize:
    """Mean IoU of what the photos show, by how much of its photo it covers: each class of a photo counts once.

    Background is left out. What is predicted but not there belongs to no size and counts for nothing.
    """

    def __init__(self) -> None:
        self.sums: Counts = np.zeros(len(SIZES), np.int64)  # in billionths, so that no order of adding changes them
        self.counts: Counts = np.zeros(len(SIZES), np.int64)

    def add(self, confusion: npt.NDArray) -> None:
        """Add one image by its confusion matrix (L, L), rows truth; label 0 is background."""
        truth = confusion.sum(axis=1)
        there = np.flatnonzero(truth[1:]) + 1
        share = truth[there] / max(truth.sum(), 1)
        place = np.searchsorted(list(SIZES.values()), share)  # a bound belongs to the size below it
        np.add.at(self.sums, place, np.rint(class_iou(confusion)[there] * _BILLION).astype(np.int64))
        np.add.at(self.counts, place, 1)

    def merge(self, other: IoUBySize) -> None:
        """Add the images of `other`."""
        self.sums += other.sums
        self.counts += other.counts

    def as_dict(self) -> dict[str, dict[str, float | int]]:
        """Return {"small": {"iou": 0..1, "count": classes of photos}, ...} of the sizes that occur."""
        rows = zip(SIZES, self.sums, self.counts, strict=True)
        return {
            name: {"iou": float(total / count / _BILLION), "count": int(count)}
            for name, total, count in rows
            if count
        }


def mean_iou(iou: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return the mean over the last axis of the classes that have an IoU; NaN where none has."""
    known = ~np.isnan(iou)
    return _divide(np.where(known, iou, 0.0).sum(axis=-1), known.sum(axis=-1))


def image_iou(prediction: npt.NDArray, truth: npt.NDArray, n_classes: int) -> float:
    """Return one image's mean IoU over the classes in its truth or prediction; NaN if all is ignored.

    Both (H, W) integers; background is one of the classes. Raises DataError as `SegmentationScore.update`.
    """
    return float(mean_iou(class_iou(confusion_matrix(prediction, truth, n_classes))))


class CurveResult(NamedTuple):
    """mIoU against the background threshold."""

    thresholds: Floats  # (T,) rising
    miou: Floats  # (T,)
    per_class: Floats  # (T, C) IoU, background first

    def best(self) -> tuple[float, float]:
        """Return the threshold with the highest mIoU (the lowest such threshold) and that mIoU."""
        at = int(np.nanargmax(self.miou))
        return float(self.thresholds[at]), float(self.miou[at])


class ThresholdCurve:
    """mIoU of thresholded maps for many background thresholds in one pass over the images.

    The strongest class at a pixel doesn't depend on the threshold, only whether it beats it does. So each
    pixel is counted once, by (number of thresholds it beats, strongest class, truth), and every threshold's
    confusion matrix is a tail sum over the first of these. Exact, not an approximation. With `include_ignore_slip`
    the ignored pixels stay in as one more class of IoU 0, see `SegmentationScore`.
    """

    def __init__(
        self, n_classes: int, thresholds: Sequence[float] | npt.NDArray, *, include_ignore_slip: bool = False
    ) -> None:
        _check_class_count(n_classes)
        grid = np.asarray(thresholds, dtype=np.float32)  # maps are compared in float32, see labels_from_maps
        if grid.ndim != 1 or len(grid) == 0 or not bool((np.diff(grid) > 0).all()):
            raise DataError("thresholds must be a non-empty, strictly rising list of numbers")
        self.n_classes = n_classes
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        self._grid = grid
        self.include_ignore_slip = include_ignore_slip
        truths = n_classes + include_ignore_slip
        self.counts: Counts = np.zeros((len(grid) + 1, n_classes, truths), np.int64)  # beaten, class, truth
        self.images = 0

    def update(self, maps: npt.NDArray, classes: npt.NDArray, truth: npt.NDArray) -> None:
        """Add one image: `maps` (n, H, W) in 0..1, `classes` (n,) 0-based, `truth` (H, W) integers.

        Raises DataError when sizes differ or a class is out of range.
        """
        label, value = best_class(maps, classes)
        _check_pair(label, truth, self.n_classes)
        scored = np.ones(truth.shape, bool) if self.include_ignore_slip else truth != IGNORED
        beaten = np.searchsorted(self._grid, value[scored], side="left")  # thresholds below the value
        true = np.where(truth[scored] == IGNORED, self.n_classes, truth[scored]).astype(np.int64)
        flat = (beaten * self.n_classes + label[scored]) * self.counts.shape[2] + true
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        self.images += 1

    def merge(self, other: ThresholdCurve) -> None:
        """Add the images of `other`, which must have the same classes and thresholds."""
        if self.counts.shape != other.counts.shape or not np.array_equal(self._grid, other._grid):
            raise DataError("curves over different classes or thresholds can't be merged; use the same for both")
        self.counts += other.counts
        self.images += other.images

    def confusions(self) -> Counts:
        """Return the confusion matrix (rows truth, columns prediction) of every threshold: (T, C, C).

        With the slip it is (T, C + 1, C + 1), the ignored pixels last.
        """
        # Tail sums: entry t holds the pixels that beat more than t thresholds, so threshold t among them.
        beating = np.cumsum(self.counts[::-1], axis=0)[::-1][1:]  # (T, class, truth)
        confusion = beating.transpose(0, 2, 1).copy()  # (T, truth, class)
        if self.include_ignore_slip:  # a class that is never predicted
            confusion = np.concatenate([confusion, np.zeros_like(confusion[:, :, :1])], axis=2)
        truth_total = self.counts.sum(axis=(0, 1))  # (truth,)
        confusion[:, :, 0] += truth_total - confusion.sum(axis=2)  # whatever doesn't beat it is background
        return confusion

    def compute(self) -> CurveResult:
        """Return thresholds (T,), mIoU (T,) and IoU per class (T, C)."""
        per_class = class_iou(self.confusions())
        return CurveResult(self.thresholds, mean_iou(per_class), per_class)


def threshold_curve(
    items: Iterable[tuple[npt.NDArray, npt.NDArray, npt.NDArray]],
    thresholds: Sequence[float] | npt.NDArray,
    n_classes: int,
) -> CurveResult:
    """Return the mIoU for every threshold from a stream of (maps, classes, truth); see `ThresholdCurve`."""
    curve = ThresholdCurve(n_classes, thresholds)
    for maps, classes, truth in items:
        curve.update(maps, classes, truth)
    return curve.compute()


def bootstrap_miou(
    confusions: npt.NDArray, seed: int, *, repeats: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the mIoU when the images are drawn again with replacement.

    `confusions` (N, C, C), one matrix an image. The same seed gives the same interval.
    """
    if confusions.ndim != 3 or len(confusions) == 0:
        raise DataError(f"confusions have shape {confusions.shape}; give one (C, C) for each of N > 0 images")
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    union = confusions.sum(axis=1) + confusions.sum(axis=2) - hits
    return bootstrap_interval(hits, union, seed, repeats=repeats, level=level)


def bootstrap_interval(
    hits: npt.NDArray, union: npt.NDArray, seed: int, *, repeats: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the mIoU from each image's hits and union (N, C), in pixels a class.

    It says how far the score depends on which images were scored, not on the training's seed. Memory is some rows
    of N numbers; 40,504 images of 81 classes take seconds.
    """
    images = len(hits)
    if hits.shape != union.shape or hits.ndim != 2 or images == 0:
        raise DataError(f"hits {hits.shape} and union {union.shape} must both be (N, C) with N > 0")
    used = np.flatnonzero(union.any(axis=0))  # the slip has 256 columns, mostly empty
    hits, union = hits[:, used].astype(np.float64), union[:, used].astype(np.float64)
    random = np.random.default_rng(seed_for(seed, "bootstrap"))
    mious = np.empty(repeats)
    at_once = max(1, min(_AT_ONCE, _DRAWN // images))
    for start in range(0, repeats, at_once):
        rows = min(at_once, repeats - start)
        drawn = np.stack([np.bincount(random.integers(0, images, images), minlength=images) for _ in range(rows)])
        times = drawn.astype(np.float64)  # (rows, N) how often each image was drawn
        mious[start : start + rows] = mean_iou(_divide(times @ hits, times @ union))
    known = mious[~np.isnan(mious)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_difference(
    first: npt.NDArray,
    second: npt.NDArray,
    seed: int,
    *,
    figure: Callable[[npt.NDArray], npt.NDArray] | None = None,
    repeats: int = 1000,
    level: float = 0.95,
) -> tuple[npt.NDArray, npt.NDArray]:
    """Return the percentile interval of figure(first) - figure(second) when the same images are drawn for both.

    Both (N, C, C): one confusion matrix an image, in the same order. `figure` maps matrices (R, C, C) to (R,) or
    (R, K); default: the mIoU. Returns low and high, () or (K,).
    """
    if first.shape != second.shape or first.ndim != 3 or len(first) == 0:
        raise DataError(f"confusions {first.shape} and {second.shape} must both be (N, C, C) with N > 0")
    figure = figure or (lambda confusions: mean_iou(class_iou(confusions)))
    images = len(first)
    random = np.random.default_rng(seed_for(seed, "paired bootstrap"))
    drawn = random.multinomial(images, np.full(images, 1.0 / images), size=repeats).astype(np.float64)  # (R, N)

    def again(confusions: npt.NDArray) -> npt.NDArray:
        flat = confusions.reshape(images, -1).astype(np.float64)
        return figure((drawn @ flat).reshape(repeats, *confusions.shape[1:]))

    low, high = np.nanquantile(again(first) - again(second), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _divide(above: npt.NDArray, below: npt.NDArray) -> Floats:
    result = np.full(np.shape(below), np.nan)
    return np.divide(above, below, out=result, where=np.asarray(below) > 0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _class_names(n_classes: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        names = [f"class {index}" for index in range(1, n_classes)]
    if len(names) != n_classes - 1:
        raise DataError(
            f"{len(names)} class names for {n_classes - 1} foreground classes; "
            "give every class but the background, in order"
        )
    return ("background", *names)


def _check_class_count(n_classes: int) -> None:
    if not 2 <= n_classes <= IGNORED:
        raise DataError(f"n_classes is {n_classes}; it counts background and must be in 2..{IGNORED}")


def _check_pair(prediction: npt.NDArray, truth: npt.NDArray, n_classes: int) -> None:
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        raise DataError(
            f"the prediction is {_size_text(prediction)} but the truth is {_size_text(truth)} "
            "(height x width); score the prediction at the size of its truth"
        )
    _check_values("prediction", prediction, n_classes, "give unsure pixels (255) a class before scoring")
    _check_values("truth", truth[truth != IGNORED], n_classes, "translate the mask to 0..n_classes-1 and 255 first")


def _check_values(what: str, values: npt.NDArray, n_classes: int, remedy: str) -> None:
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < n_classes:
        wrong = int(values.max()) if int(values.max()) >= n_classes else int(values.min())
        raise DataError(f"the {what} holds the value {wrong}, outside 0..{n_classes - 1}; {remedy}")


def _size_text(array: npt.NDArray) -> str:
    return "x".join(str(side) for side in array.shape)
