"""The answer of a segmentation network to one image: labels and how sure they are, at any size, by tags if given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.data.transforms import rescale, to_tensor
from tag2mask.networks.decoders import SegmentationNetwork

TILE_MARGIN = 8  # a tile's share, 1 / 8 of its side, that only serves as surroundings


class Answer(NamedTuple):
    """Labels of an image's pixels and the probability of each."""

    labels: np.ndarray  # (H, W) uint8: 0 background, class index + 1
    confidence: np.ndarray  # (H, W) uint8: 0..255 for a probability of 0..1


@torch.inference_mode()
def combined_logits(
    network: SegmentationNetwork,
    image: np.ndarray,
    scales: Sequence[float],
    *,
    mirror: bool = True,
    combine: Literal["mean", "max"] = "mean",
) -> Tensor:
    """Logits (L, H, W) of an image (H, W, 3) uint8, combined over scales and mirrors, at its size; on the CPU."""
    size = image.shape[:2]
    device = next(network.parameters()).device
    combined: Tensor | None = None
    for scale in scales:
        pixels = to_tensor(rescale(image, scale))[None].to(device)  # (1, 3, h, w)
        views = torch.cat([pixels, pixels.flip(3)]) if mirror else pixels
        logits = network(views.contiguous(memory_format=torch.channels_last))
        if mirror:
            logits = torch.stack([logits[0], logits[1].flip(2)])
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        view = logits.mean(dim=0) if combine == "mean" else logits.amax(dim=0)  # (L, H, W)
        if combined is None:
            combined = view
        else:
            combined = combined + view if combine == "mean" else torch.maximum(combined, view)
    assert combined is not None
    if combine == "mean":
        combined = combined / len(scales)
    return combined.cpu()


@torch.inference_mode()
def prior_of(network: SegmentationNetwork, image: np.ndarray, long_side: int | None = None) -> Tensor | None:
    """What an image (H, W, 3) uint8 as a whole adds to its logits, (L, 1, 1) on the CPU; None without a tag prior.

    Images larger than `long_side` are looked at in that size.
    """
    if network.prior is None:
        return None
    smaller = 1.0 if long_side is None else min(1.0, long_side / max(image.shape[:2]))
    pixels = to_tensor(rescale(image, smaller))[None].to(next(network.parameters()).device)
    return network.prior(pixels.contiguous(memory_format=torch.channels_last))[0].cpu()[:, None, None]


def kept_labels(n_labels: int, classes: Sequence[int] | None, background: bool = True) -> list[int]:
    """The labels that an image may have: background, if there is one, and its tags (class indices); None: all."""
    kept = range(1, n_labels) if classes is None else [index + 1 for index in sorted(classes)]
    return [0, *kept] if background or not kept else list(kept)


def answer_of_logits(
    logits: Tensor,
    classes: Sequence[int] | None = None,
    *,
    sharpen: Callable[[np.ndarray], np.ndarray] | None = None,
    background: bool = True,
    tagged: float = 0.0,
) -> Answer:
    """Turn logits (L, H, W) into labels and confidence, among the image's tags where `classes` are given.

    These are known to be there, which the network had to guess: `tagged` is added to their logits. `sharpen` makes
    the probabilities (K, H, W) follow the image's edges; confidence is the network's own, of what comes out.
    """
    kept = kept_labels(len(logits), classes, background)
    logits = logits[kept]  # (K, H, W)
    if classes is not None:
        logits = logits + tagged * (torch.tensor(kept) > 0)[:, None, None]
    probabilities = logits.softmax(dim=0)
    refined = probabilities if sharpen is None else torch.from_numpy(sharpen(probabilities.numpy()))
    best = refined.argmax(dim=0)
    sure = probabilities.gather(0, best[None])[0]
    labels = torch.tensor(kept, dtype=torch.uint8)[best]
    return Answer(labels.numpy(), (255 * sure).round().to(torch.uint8).numpy())


def joined(logits: Tensor, mask: np.ndarray, weight: float) -> Tensor:
    """Logits (L, H, W) to which a mask (H, W) adds `weight` at its labels; 255, unsure, adds nothing."""
    labels = torch.arange(len(logits))[:, None, None]
    return logits + weight * (torch.from_numpy(mask)[None] == labels)


Place = tuple[slice, slice]  # rows and columns of an image


def by_tiles(answer: Callable[[Place], Answer], size: tuple[int, int], tile: int) -> Answer:
    """Answer an image of any size (H, W) tile by tile, so that memory depends on `tile` (pixels a side) alone.

    Tiles overlap by a quarter of their side, and of each only the part is used that is farther from its border than
    from its neighbour's. An image that fits in one tile is answered as it is.
    """
    height, width = size
    labels, confidence = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    for (top, rows, own_rows), (left, columns, own_columns) in product(_spans(height, tile), _spans(width, tile)):
        part = answer((slice(top, top + rows), slice(left, left + columns)))
        place = (slice(*own_rows), slice(*own_columns))
        inside = (slice(own_rows[0] - top, own_rows[1] - top), slice(own_columns[0] - left, own_columns[1] - left))
        labels[place], confidence[place] = part.labels[inside], part.confidence[inside]
    return Answer(labels, confidence)


def _spans(side: int, tile: int) -> list[tuple[int, int, tuple[int, int]]]:
    """(start, length, (first, last + 1) of its own pixels) of the tiles along a side; the own pixels cover it."""
    if side <= tile:
        return [(0, side, (0, side))]
    step = tile - 2 * (tile // TILE_MARGIN)
    count = -(-(side - tile) // step) + 1
    starts = [round(index * (side - tile) / (count - 1)) for index in range(count)]
    cuts = [0, *((before + tile + after) // 2 for before, after in pairwise(starts)), side]
    return [(start, tile, (cuts[i], cuts[i + 1])) for i, start in enumerate(starts)]
