"""Straight paths between nearby pixels: who is paired with whom, and which pixels lie between.

Ahn, Cho, Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN), CVPR 2019,
section 4. The boundary network is trained on these pairs and the random walk steps along them, so both use this
file; it needs nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import ConfigError

IntArray = npt.NDArray[np.int64]


@lru_cache(maxsize=8)
def search_paths(radius: int) -> tuple[IntArray, ...]:
    """Paths from a pixel to every neighbour nearer than `radius`, one of each pair (right and below).

    Returns one array (m, L, 2) for each number L of pixels on a path, both ends included, shortest first: `m`
    paths of (dy, dx) relative to the source, the destination first and the source last. 34 paths for radius 5,
    152 for radius 10. A path is every pixel of the bounding box less than one pixel off the straight line.
    Raises ConfigError for a radius below 2, which has no neighbours.
    """
    if radius < 2:
        raise ConfigError(f"radius {radius} reaches no neighbour; it must be 2 or more")
    by_length: dict[int, list[list[tuple[int, int]]]] = {}
    for dy, dx in _half_disc(radius):
        path = _points_on_line(dy, dx)
        by_length.setdefault(len(path), []).append(path)
    return tuple(np.array(by_length[length], np.int64) for length in sorted(by_length))


def _half_disc(radius: int) -> Iterator[tuple[int, int]]:
    yield from ((0, dx) for dx in range(1, radius))
    for dy in range(1, radius):
        yield from ((dy, dx) for dx in range(1 - radius, radius) if dy * dy + dx * dx < radius * radius)


def _points_on_line(dy: int, dx: int) -> list[tuple[int, int]]:
    rows, columns = range(dy + 1), range(min(0, dx), max(0, dx) + 1)
    length_squared = dy * dy + dx * dx
    points = [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < length_squared]
    return sorted(points, key=lambda point: -abs(point[0]) - abs(point[1]))


def destinations(radius: int) -> IntArray:
    """The neighbours (K, 2) as (dy, dx), in the order of the paths: by the number of pixels between."""
    return np.concatenate([paths[:, 0] for paths in search_paths(radius)])


def each_path(radius: int) -> Iterator[IntArray]:
    """Yield the K paths (L, 2) in the order of `destinations`."""
    for paths in search_paths(radius):
        yield from paths


def source_indices(radius: int, size: tuple[int, int]) -> IntArray:
    """Flat indices (S,) of the pixels of a map (h, w) all of whose neighbours lie inside it.

    These are rows 0..h-r and columns r..w-r for r = radius - 1. Raises ConfigError for a map that is too small.
    """
    height, width = size
    reach = radius - 1
    if height <= reach or width <= 2 * reach:
        raise ConfigError(
            f"a map of {height}x{width} has no pixel with all neighbours within radius {radius} inside; "
            f"it must be at least {reach + 1}x{2 * reach + 1}"
        )
    grid = np.arange(height * width, dtype=np.int64).reshape(size)
    return grid[: height - reach, reach : width - reach].reshape(-1)


def flat_offsets(points: IntArray, width: int) -> IntArray:
    """(dy, dx) pairs (..., 2) as differences of flat indices (...) in a map of this width."""
    return points[..., 0] * width + points[..., 1]
