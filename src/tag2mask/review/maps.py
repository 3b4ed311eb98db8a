"""Stored maps on a grid by numpy alone: the page must not wait for torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tag2mask.data.maps import EPSILON, LocalizationMaps, strided_up_size

Floats = npt.NDArray[np.float32]
RAISED = 16  # maps lie over the photo with its sides raised to multiples of this


def over_photo(maps: LocalizationMaps, grid: tuple[int, int]) -> Floats:
    """Return (n, h, w) float32 in 0..1 at a grid over the photo: scales joined, each class divided by its maximum.

    At the photo's own size these are the numbers of `LocalizationMaps.full` up to round-off.
    """
    total = np.zeros((len(maps.classes), *grid), np.float32)
    for values in maps.sums if len(maps.classes) else ():
        finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        total += interpolated(finite, grid, covered(maps.size))
    if maps.absolute:
        return np.clip(total, 0, 1)
    peak: Floats = total.max(axis=(1, 2), keepdims=True, initial=0.0)
    return total / (peak + np.float32(EPSILON))


def covered(size: tuple[int, int]) -> tuple[float, float]:
    """The parts of the sides of a grid over a raised photo that lie over the photo of `size` (H, W) itself."""
    height, width = strided_up_size(size, RAISED)
    return size[0] / height, size[1] / width


def interpolated(values: Floats, grid: tuple[int, int], parts: tuple[float, float]) -> Floats:
    """Values (n, h', w') linearly at the middles of a `grid` (h, w) over the first `parts` of them: (n, h, w)."""
    rows, columns = (_weights(values.shape[1 + axis], grid[axis], parts[axis]) for axis in (0, 1))
    return (rows @ values @ columns.T).astype(np.float32, copy=False)


def _weights(size: int, wanted: int, part: float) -> Floats:
    """Linear interpolation of the first `part` of `size` values to `wanted`, as a matrix (wanted, size)."""
    place = np.clip((np.arange(wanted) + 0.5) * part * size / wanted - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), max(size - 2, 0))
    share = (place - low).astype(np.float32)
    matrix = np.zeros((wanted, size), np.float32)
    rows = np.arange(wanted)
    matrix[rows, low] = 1 - share
    matrix[rows, np.minimum(low + 1, size - 1)] += share
    return matrix


def within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Two sides scaled so that the longer one is `side` at most; at least 1."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def sampled(mask: npt.NDArray[np.uint8], grid: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A mask (H, W) at the middles of a grid's cells: (h, w) uint8."""
    rows, columns = (((np.arange(g) + 0.5) * s / g).astype(int) for g, s in zip(grid, mask.shape, strict=True))
    return mask[rows][:, columns]
