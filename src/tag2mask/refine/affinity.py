"""Affinity of nearby pixels: 1 - the strongest edge on the straight path between them (IRN, section 4).

The paths themselves are `tag2mask.networks.paths`, which the boundary network is trained on: the one thing of ours
that `refine` imports, so that training and inference can't disagree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tag2mask.common.errors import DataError
from tag2mask.networks.paths import destinations, each_path


def affinities(edge: Tensor, radius: int) -> Tensor:
    """Affinity (K, h, w) of every pixel and its K neighbours right and below, in the order of `destinations`.

    `edge` (h, w) in 0..1. Row k, at (y, x), belongs to the pixels (y, x) and (y + dy, x + dx); the affinity is the
    same seen from either, so half the neighbours are enough. 0 where the neighbour lies outside. Memory is K maps,
    34 for radius 5. Raises DataError for an edge map that isn't a matrix or has values outside 0..1.
    """
    check_edge(edge)
    height, width = edge.shape
    result = edge.new_zeros(len(destinations(radius)), height, width)
    for row, path in zip(result, each_path(radius), strict=True):
        (dy, dx), between = path[0].tolist(), path[1:].tolist()
        rows, columns = height - dy, width - abs(dx)
        if rows <= 0 or columns <= 0:
            continue
        left = max(0, -dx)  # first column whose neighbour is inside
        strongest = edge[dy : dy + rows, left + dx : left + dx + columns].clone()
        for y, x in between:  # a path stays in the box of its ends, so inside the map
            torch.maximum(strongest, edge[y : y + rows, left + x : left + x + columns], out=strongest)
        torch.sub(1, strongest, out=row[:rows, left : left + columns])
    return result


def check_edge(edge: Tensor) -> None:
    """Raise DataError unless `edge` is (h, w) with finite values in 0..1."""
    if edge.ndim != 2 or edge.numel() == 0:
        raise DataError(f"an edge map is (h, w) with at least one pixel, not {tuple(edge.shape)}")
    low, high = float(edge.min()), float(edge.max())
    if not 0 <= low <= high <= 1:  # also when either is NaN
        raise DataError(f"edge values lie in {low:g}..{high:g}; they must be in 0..1 (apply the sigmoid first)")
