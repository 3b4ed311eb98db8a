"""Connected parts of a mask, their exact outlines along the edges of pixels, and their run-length codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tag2mask.data.records import IGNORED

Ints = npt.NDArray[np.int64]
_CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])  # where the top, right, bottom, left side of a pixel begins


@dataclass(frozen=True)
class Parts:
    """The parts of a mask: 4-connected pixels of one class, numbered 1..K in the order of their first pixels."""

    labels: npt.NDArray[np.int32]  # (H, W): the part's number, 0 for background and unsure pixels
    values: npt.NDArray[np.uint8]  # (K,): the class + 1
    areas: Ints  # (K,) pixels
    boxes: Ints  # (K, 4) left, top, width, height in pixels


def parts_of(mask: npt.NDArray[np.uint8]) -> Parts:
    """Find the parts of a mask (H, W) uint8; background and unsure pixels (255) belong to none."""
    height, width = mask.shape
    padded = np.zeros((height, width + 1), np.uint8)  # a column of background ends every row's last run
    padded[:, :width] = np.where(mask == IGNORED, 0, mask)
    flat = padded.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(starts, append=flat.size)
    run_of = np.repeat(np.arange(len(starts)), lengths).reshape(padded.shape)
    touching = (padded[1:] == padded[:-1]) & (padded[1:] > 0)
    roots = _joined(len(starts), run_of[:-1][touching], run_of[1:][touching])
    values, rows, columns = flat[starts], starts // (width + 1), starts % (width + 1)
    kept = np.flatnonzero(values)  # runs of classes
    firsts, part = np.unique(roots[kept], return_inverse=True)
    numbers = np.zeros(len(starts), np.int32)
    numbers[kept] = part + 1
    areas = np.bincount(part, lengths[kept], len(firsts)).astype(np.int64)
    boxes = _boxes(part, len(firsts), rows[kept], columns[kept], lengths[kept])
    return Parts(numbers[run_of][:, :width], values[firsts], areas, boxes)


def _joined(count: int, first: Ints, second: Ints) -> Ints:
    """The lowest of the `count` numbers that each one is joined to, by pairs of `first` and `second`."""
    if first.size:  # neighbours along a row repeat their pair
        new = np.concatenate(([True], (first[1:] != first[:-1]) | (second[1:] != second[:-1])))
        first, second = first[new], second[new]
    root = np.arange(count)
    while True:
        low = np.minimum(root[first], root[second])
        lower = root.copy()
        np.minimum.at(lower, root[first], low)
        np.minimum.at(lower, root[second], low)
        while not np.array_equal(lower[lower], lower):
            lower = lower[lower]
        if np.array_equal(lower, root):
            return root
        root = lower


def _boxes(part: Ints, count: int, rows: Ints, columns: Ints, lengths: Ints) -> Ints:
    left, top = np.full((2, count), np.iinfo(np.int64).max)
    right, bottom = np.zeros((2, count), np.int64)
    np.minimum.at(left, part, columns)
    np.minimum.at(top, part, rows)
    np.maximum.at(right, part, columns + lengths)
    np.maximum.at(bottom, part, rows + 1)
    return np.stack([left, top, right - left, bottom - top], axis=1)


def polygons(labels: npt.NDArray[np.int32]) -> dict[int, Ints]:
    """The outline of every part in `labels` (H, W): {number: (n, 2) x, y of corners of pixels}, exact.

    A hole is joined to what lies above it by an edge that is walked down and up again, so that one polygon says all.
    """
    outlines: dict[int, Ints] = {}
    holes: dict[int, list[Ints]] = {}
    for number, ring in _rings(labels):
        if _is_outer(ring):
            outlines[number] = ring
        else:
            holes.setdefault(number, []).append(ring)
    for number, found in holes.items():
        outlines[number] = _with_holes(outlines[number], found)
    return outlines


def _rings(labels: npt.NDArray[np.int32]) -> list[tuple[int, Ints]]:
    """Each closed line between a part and what it is not, the part on its right, from its highest corner on."""
    padded = np.pad(labels, 1)
    flat, stride = padded.ravel(), padded.shape[1]
    edges, following = _edges(flat, stride)
    after = np.searchsorted(edges, following).tolist()
    sides, pixels = np.divmod(edges, flat.size)
    corners = np.stack([pixels % stride, pixels // stride], axis=1) - 1 + _CORNERS[sides]
    unseen, rings = bytearray(b"\1") * len(edges), []
    for first in range(len(edges)):
        if unseen[first]:
            ring, edge = [], first
            while unseen[edge]:
                unseen[edge] = 0
                ring.append(edge)
                edge = after[edge]
            number = int(flat[pixels[first]])
            rings.append((number, _from_highest(corners[_turns(sides, ring)])))
    return rings


def _edges(flat: npt.NDArray[np.int32], stride: int) -> tuple[Ints, Ints]:
    """Sides of pixels where a part ends, as side * size + pixel, sorted; and which one each is followed by.

    At a corner where four pixels meet, the line stays with its pixel: parts are 4-connected.
    """
    inside = np.flatnonzero(flat)
    edges, following = [], []
    for side, (outward, ahead) in enumerate(((-stride, 1), (1, stride), (stride, -1), (-1, -stride))):
        at = inside[flat[inside + outward] != flat[inside]]
        goes_on = flat[at + ahead] == flat[at]
        turns_left = goes_on & (flat[at + ahead + outward] == flat[at])
        edges.append(side * flat.size + at)
        next_side = (side + 1 - goes_on - turns_left) % 4
        following.append(next_side * flat.size + at + ahead * goes_on + outward * turns_left)
    return np.concatenate(edges), np.concatenate(following)


def _turns(sides: Ints, ring: list[int]) -> Ints:
    """The edges of a ring that go another way than the one before."""
    edges = np.array(ring)
    return edges[sides[edges] != np.roll(sides[edges], 1)]


def _from_highest(ring: Ints) -> Ints:
    """The same ring, beginning with the leftmost of its highest corners."""
    return np.roll(ring, -int(np.lexsort((ring[:, 0], ring[:, 1]))[0]), axis=0)


def _is_outer(ring: Ints) -> bool:
    """Tell by the way it goes round (clockwise as seen) whether a ring is an outline, not a hole."""
    x, y = ring.T
    return bool((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0)


def _with_holes(outline: Ints, holes: Sequence[Ints]) -> Ints:
    for hole in sorted(holes, key=lambda ring: (ring[0, 1], ring[0, 0])):
        outline = _with_hole(outline, hole)
    return outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)]


def _with_hole(outline: Ints, hole: Ints) -> Ints:
    """Join a hole to the lowest edge of `outline` above its highest corner; higher holes are joined already."""
    (x, y), (ahead_x, ahead_y) = hole[0], np.roll(outline, -1, axis=0).T
    level = (outline[:, 1] == ahead_y) & (outline[:, 1] < y)
    over = level & (np.minimum(outline[:, 0], ahead_x) <= x) & (x <= np.maximum(outline[:, 0], ahead_x))
    edge = int(np.argmax(np.where(over, outline[:, 1], -1)))
    touched = np.array([[x, outline[edge, 1]]])
    return np.concatenate([outline[: edge + 1], touched, hole, hole[:1], touched, outline[edge + 1 :]])


def run_lengths(labels: npt.NDArray[np.int32]) -> dict[int, Ints]:
    """COCO's run-length codes of every part: {number: lengths of 0s and 1s in turn}, column by column from 0s on."""
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    numbers, firsts = np.unique(flat[starts][order], return_index=True)
    found = {}
    for number, runs in zip(numbers, np.split(order, firsts[1:]), strict=True):
        if number:
            borders = np.stack([starts[runs], ends[runs]], axis=1).ravel()
            counts = np.diff(borders, prepend=0)
            found[int(number)] = counts if borders[-1] == flat.size else np.append(counts, flat.size - borders[-1])
    return found


def compressed(counts: Ints) -> str:
    """COCO's text for run lengths: from the fourth on the difference to the one two before, five bits a character."""
    text = []
    for at, count in enumerate(counts):
        left = int(count) - (int(counts[at - 2]) if at > 2 else 0)
        while True:
            bits, left = left & 31, left >> 5
            last = left == (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + (0 if last else 32)))
            if last:
                break
    return "".join(text)
