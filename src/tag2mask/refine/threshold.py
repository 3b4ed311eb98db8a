"""From localization maps to labels by one background threshold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError

Labels = npt.NDArray[np.uint8]
Threshold = float | npt.NDArray[np.float32]  # one background score, or one for each pixel (H, W)
MAX_CLASSES = 254  # value 255 means "ignored" in a mask, 0 background


def labels_from_maps(maps: npt.NDArray, classes: npt.NDArray, threshold: Threshold) -> Labels:
    """Take the strongest class where its map exceeds `threshold`, else background.

    `maps` (n, H, W) in 0..1, `classes` (n,) 0-based class indices, `threshold` one for all or (H, W). Returns
    (H, W) uint8 with 0 = background and class index + 1. Equal to the argmax over [threshold, maps]: a tie goes to
    background, then to the earlier class. NaN counts as 0, so a map without any evidence becomes background (the
    reference turns it into its first class). n = 0 gives background everywhere.
    Raises DataError when maps and classes don't fit together.
    """
    best, value = best_class(maps, classes)
    return np.where(value > np.asarray(threshold, np.float32), best, 0).astype(np.uint8)


def best_class(maps: npt.NDArray, classes: npt.NDArray) -> tuple[Labels, npt.NDArray[np.float32]]:
    """Return the strongest class at every position and its value, whatever the threshold.

    `maps` (n, H, W), `classes` (n,) 0-based. Returns label (H, W) uint8 = class index + 1 (0 where n = 0)
    and value (H, W) float32 with NaN taken as 0.
    """
    classes = np.asarray(classes, dtype=np.int64)
    check_maps(maps, classes)
    if len(classes) == 0:
        return np.zeros(maps.shape[1:], np.uint8), np.zeros(maps.shape[1:], np.float32)
    values = np.nan_to_num(np.asarray(maps, dtype=np.float32), nan=0.0)
    winner = values.argmax(axis=0)  # (H, W) row of `classes`
    value = np.take_along_axis(values, winner[None], axis=0)[0]
    return (classes + 1).astype(np.uint8)[winner], value


def threshold_by_class(
    maps: npt.NDArray, classes: npt.NDArray, threshold: float, by_class: Mapping[int, float]
) -> Threshold:
    """The background score of the class that is strongest at each pixel: (H, W), or one where all classes share it.

    `by_class`: scores by 0-based class index; classes that it doesn't name have `threshold`.
    """
    if not any(int(index) in by_class for index in classes):
        return threshold
    table = np.full(256, threshold, np.float32)
    for index, own in by_class.items():
        table[index + 1] = own
    return table[best_class(maps, classes)[0]]


def check_maps(maps: npt.NDArray, classes: npt.NDArray) -> None:
    """Raise DataError unless `maps` is (n, H, W) with one row for each of the 0-based `classes`."""
    if maps.ndim != 3 or len(maps) != len(classes):
        raise DataError(
            f"maps of shape {tuple(maps.shape)} don't fit {len(classes)} classes; "
            "give one map (H, W) for each class, stacked as (n, H, W)"
        )
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < MAX_CLASSES:
        raise DataError(
            f"class indices {classes.tolist()} can't be stored in a mask; "
            f"they must be 0-based and below {MAX_CLASSES}"
        )


COVER_STEPS = 1000  # scores 0, 0.001 .. 1 at which cover is counted
Cover = npt.NDArray[np.float64]


def cover_by_score(maps: npt.NDArray) -> Cover:
    """Share of the positions at which any of `maps` (n, H, W), 0..1, exceeds each score k / COVER_STEPS.

    Returns (COVER_STEPS + 1,), never rising; all zeros for n = 0.
    """
    if len(maps) == 0:
        return np.zeros(COVER_STEPS + 1)
    strongest = np.nan_to_num(maps.max(axis=0).astype(np.float64), nan=0.0).ravel()
    # position with value v exceeds score k / STEPS for all k < v * STEPS
    exceeded = np.clip(np.ceil(strongest * COVER_STEPS), 0, COVER_STEPS + 1).astype(np.int64)
    counts = np.bincount(exceeded, minlength=COVER_STEPS + 2)
    return 1.0 - np.cumsum(counts)[:-1] / len(strongest)


def score_of_equal_cover(score: float, reference: Cover, own: Cover) -> float:
    """The score at which maps with the cover `own` cover as much as those with `reference` at `score`.

    Both as from `cover_by_score`, averaged over the same images. Between two scores the cover is taken as a straight
    line. Where `own` covers nothing at all, `score` itself.
    """
    scores = np.arange(COVER_STEPS + 1) / COVER_STEPS
    aim = float(np.interp(score, scores, reference))
    if own[0] <= 0:
        return score
    return float(np.interp(aim, own[::-1], scores[::-1]))


def otsu_score(cover: Cover, power: float = 1.0) -> float:
    """The score that parts values best into two groups, those with the least variance within (Otsu, 1979).

    `cover` as from `cover_by_score`: the share of positions above each score. The variance is that of the values
    raised to `power`. 0 where all values are equal.
    """
    share = np.concatenate([[1 - cover[0]], -np.diff(cover)])  # of positions whose value ends up at each score
    scores = np.arange(COVER_STEPS + 1) / COVER_STEPS
    low, sum_low = np.cumsum(share), np.cumsum(share * scores**power)
    product = low * (low[-1] - low)  # of both groups' shares
    apart = (sum_low[-1] * low / max(low[-1], 1e-12) - sum_low) ** 2
    return float(scores[np.where(product > 1e-12, apart / np.maximum(product, 1e-12), 0.0).argmax()])


def colours_explained(pixels: npt.NDArray[np.uint8], labels: Labels) -> float:
    """How much of the variance of colour lies between the labels rather than within them, 0..1.

    `pixels` (K, 3) uint8, `labels` (K,). 0 where all pixels have one colour, or one label.
    """
    colours = pixels.astype(np.float64)
    colours -= colours.mean(axis=0)
    total = float((colours**2).sum())
    if total < 1e-9:
        return 0.0
    counts = np.maximum(np.bincount(labels), 1)
    sums = np.stack([np.bincount(labels, channel) for channel in colours.T])  # (3, labels)
    return float((sums**2 / counts).sum()) / total
