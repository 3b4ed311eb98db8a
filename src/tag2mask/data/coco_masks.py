"""COCO's annotations as pixels: polygons, run-length codes, and one semantic mask of a whole image.

The rule for a semantic mask: crowd regions are 255 (ignored); instances lie over them, the larger ones (by their
number of pixels) first, so that smaller instances end up on top; among equal ones the later in the file wins. What no
annotation covers is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError
from tag2mask.data.records import IGNORED

OUTSIDE = 2.0  # pixels that a polygon may leave the image by; real annotations touch the border, no more
RULE = "crowd regions 255 (ignored); instances over them, smaller over larger; the rest background"

Bits = npt.NDArray[np.bool_]


class AnnotationError(DataError):
    """What is wrong with a segmentation, without the file's name; `cut` when it only leaves the image."""

    def __init__(self, message: str, cut: bool = False) -> None:
        self.cut = cut
        super().__init__(message)


def polygon_mask(points: npt.NDArray, height: int, width: int) -> Bits:
    """Return (H, W) bool: pixels whose centre lies inside the polygon `points` (n, 2) of x, y in pixels.

    Inside is by the even-odd rule; parts outside the image are cut off. Pixel (row r, column c) has its centre at
    (c + 0.5, r + 0.5), as COCO counts.
    """
    mask = np.zeros((height, width), bool)
    x, y = np.asarray(points, np.float64).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    # An edge crosses the row centres r + 0.5 in [lower end, upper end), so a shared end counts once.
    first = np.clip(np.ceil(np.minimum(y, next_y) - 0.5), 0, height).astype(np.int64)
    after = np.clip(np.ceil(np.maximum(y, next_y) - 0.5), 0, height).astype(np.int64)
    counts = after - first  # (n,) rows that each edge crosses
    total = int(counts.sum())
    if total == 0:
        return mask
    edge = np.repeat(np.arange(len(x)), counts)
    row = first[edge] + np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    slope = (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    crossing = x[edge] + (row + 0.5 - y[edge]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)  # the first centre right of the crossing
    top, left, bottom, right = int(row.min()), int(column.min()), int(row.max()) + 1, int(column.max())
    size = (bottom - top, right - left + 1)
    flips = np.bincount((row - top) * size[1] + column - left, minlength=size[0] * size[1]).reshape(size)
    mask[top:bottom, left:right] = (np.cumsum(flips, axis=1)[:, :-1] & 1).astype(bool)
    return mask


def decode_counts(text: str | bytes) -> list[int]:
    """Return the run lengths of a compressed RLE string.

    Each number is cut into groups of five bits, lowest first, one a character from 48 on; bit 5 says that another
    group follows, bit 4 of the last group is the sign. From the fourth number on, the difference to the number two
    places before is stored.
    """
    codes = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        group = code - 48
        if not 0 <= group < 64:
            raise AnnotationError(f"the run-length string holds the character {chr(code)!r}")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise AnnotationError("the run-length string ends in the middle of a number")
    return counts


def rle_mask(segmentation: dict[str, Any], height: int, width: int) -> Bits:
    """Return (H, W) bool of a run-length code {"size": [H, W], "counts": list of lengths or compressed string}.

    Runs go down the columns, outside and inside in turn. Raises AnnotationError when the size or sum doesn't fit.
    """
    if list(segmentation.get("size", ())) != [height, width]:
        raise AnnotationError(
            f"its run-length code is of size {segmentation.get('size')}, the image {height} x {width}"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = decode_counts(counts)
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise AnnotationError("its run lengths are not a list of whole numbers or a string")
    if sum(counts) != height * width:
        raise AnnotationError(f"its run lengths add up to {sum(counts)}, not {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def polygons_of(segmentation: Any) -> list[npt.NDArray]:
    """Return the polygons of a segmentation as (n, 2) arrays of x, y; AnnotationError for malformed ones."""
    if not isinstance(segmentation, list) or not segmentation:
        raise AnnotationError("its segmentation is neither polygons nor a run-length code")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
            length = len(polygon) if isinstance(polygon, list) else type(polygon).__name__
            raise AnnotationError(f"a polygon needs an even number of 6 or more coordinates, it has {length}")
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise AnnotationError("a polygon's coordinates are not numbers") from None
        if not np.isfinite(points).all():
            raise AnnotationError("a polygon's coordinates are not finite")
        polygons.append(points)
    return polygons


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Raise AnnotationError for what is malformed or leaves the image by more than `OUTSIDE` pixels."""
    if isinstance(segmentation, dict):
        rle_mask(segmentation, height, width)
        return
    for points in polygons_of(segmentation):
        low, high = points.min(axis=0), points.max(axis=0)
        if (low < -OUTSIDE).any() or high[0] > width + OUTSIDE or high[1] > height + OUTSIDE:
            raise AnnotationError(
                f"a polygon reaches from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}), "
                f"outside the image of {width} x {height} (width x height)",
                cut=True,
            )


def annotation_mask(segmentation: Any, height: int, width: int) -> Bits:
    """Return (H, W) bool of one annotation: the union of its polygons, or its run-length code."""
    if isinstance(segmentation, dict):
        return rle_mask(segmentation, height, width)
    mask = np.zeros((height, width), bool)
    for points in polygons_of(segmentation):
        mask |= polygon_mask(points, height, width)
    return mask


def semantic_mask(regions: Sequence[tuple[int, bool, Any]], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return (H, W) uint8 of an image's `regions`: (value 1..C, is crowd, segmentation) in the file's order.

    See the module's rule for overlaps. Raises AnnotationError for malformed segmentations.
    """
    mask = np.zeros((height, width), np.uint8)
    instances: list[tuple[int, int, Bits]] = []
    for value, crowd, segmentation in regions:
        covered = annotation_mask(segmentation, height, width)
        if crowd:
            mask[covered] = IGNORED
        else:
            instances.append((int(covered.sum()), value, covered))
    for _, value, covered in sorted(instances, key=lambda item: -item[0]):
        mask[covered] = value
    return mask
