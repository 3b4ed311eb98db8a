"""Gradients G_1..G_6 of the six stages with respect to the picture, and their high-gradient ratios.

A stage's output is a vector or a stack of maps, a gradient needs a number. Stages 1 to 5: the sum of the output (the
gradient that a backward pass with ones gives), or, for comparison, its length (L2 norm). Stage 6: the output of the
picture's own class, once through the last activation and once without.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tag2mask.experiments.hgr.ratio import high_gradient_ratio, share_of_maximum
from tag2mask.experiments.toy.config import ToyConfig
from tag2mask.experiments.toy.data import REGIONS, Pictures
from tag2mask.experiments.toy.endings import Ending, of_class
from tag2mask.experiments.toy.network import STAGES, SixStages
from tag2mask.experiments.toy.train import as_batch

WITHOUT = "none"  # the last stage read without an activation


class Reading(NamedTuple):
    """One way to read gradients: which stage, to which number it is reduced, through which activation."""

    stage: int  # 1..6
    scalar: str  # "sum" or "norm"; stage 6 always "class"
    through: str  # an activation's name at stage 6, "" before


class Row(NamedTuple):
    """One high-gradient ratio: a mean over pictures."""

    stage: int
    scalar: str
    through: str
    scale: str  # "own": over the map's own maximum; "steepest": that times the activation's slope over its steepest
    threshold: float
    region: str
    hgr: float  # 0..1
    images: int


@dataclass(frozen=True)
class Gradients:
    """Gradient maps of some pictures for every reading, over their own maximum; and the slope of the ending."""

    shares: dict[Reading, Tensor]  # (N, S, S), 0..1
    slope: Tensor  # (N,) of the last activation at each picture, over its steepest; 0..1

    @staticmethod
    def joined(parts: Sequence[Gradients]) -> Gradients:
        """Those of all parts, one after another."""
        shares = {key: torch.cat([part.shares[key] for part in parts]) for key in parts[0].shares}
        return Gradients(shares, torch.cat([part.slope for part in parts]))


def gradients(network: SixStages, pictures: Pictures, ending: Ending | None) -> Gradients:
    """Gradient maps of every stage; `ending` None: a network that has no last activation any more.

    In double precision, because a confident sigmoid is exactly 1 in single precision, with a gradient of exactly 0.
    """
    network = copy.deepcopy(network).double()
    images, labels = as_batch(pictures)
    images = images.double().requires_grad_()
    outputs = network.stages(images)
    found = {}
    for reading, value in _numbers(outputs, labels, ending):
        (gradient,) = torch.autograd.grad(value.sum(), images, retain_graph=True)
        found[reading] = share_of_maximum(gradient.abs()[:, 0]).float()  # (N, 1, S, S) -> (N, S, S)
    logits = outputs[-1].detach()
    slope = torch.ones(len(labels)) if ending is None else ending.slope(logits, labels).float()
    return Gradients(found, slope)


def _numbers(outputs: list[Tensor], labels: Tensor, ending: Ending | None) -> Iterator[tuple[Reading, Tensor]]:
    """Yield for each reading one number a picture (N,)."""
    for stage, values in enumerate(outputs[:-1], start=1):
        flat = values.flatten(1)  # (N, width, s, s) -> (N, width * s * s)
        yield Reading(stage, "sum", ""), flat.sum(dim=1)
        yield Reading(stage, "norm", ""), flat.norm(dim=1)
    yield Reading(STAGES, "class", WITHOUT), of_class(outputs[-1], labels)
    if ending is not None and ending.name != WITHOUT:
        yield Reading(STAGES, "class", ending.name), of_class(ending.activation(outputs[-1]), labels)


def ratios(found: Gradients, pictures: Pictures, config: ToyConfig) -> list[Row]:
    """High-gradient ratios of the three regions for every reading, and for other thresholds and scales one by one."""
    regions = torch.from_numpy(pictures.regions)
    rows = []
    for reading, shares in found.shares.items():
        for threshold in (config.threshold, *config.other_thresholds):
            rows += _of_regions(reading, "own", threshold, shares, regions)
        if reading.through not in ("", WITHOUT):
            rows += _of_regions(reading, "steepest", config.threshold, shares * found.slope[:, None, None], regions)
    return rows


def _of_regions(reading: Reading, scale: str, threshold: float, shares: Tensor, regions: Tensor) -> list[Row]:
    rows = []
    for name, value in REGIONS.items():
        each = high_gradient_ratio(shares, regions == value, threshold)
        known = each[~each.isnan()]
        mean = float(known.mean()) if len(known) else math.nan
        rows.append(Row(*reading, scale, threshold, name, mean, len(known)))
    return rows


def some(pictures: Pictures, rows: Sequence[int] | np.ndarray) -> Pictures:
    """Some of the pictures, by place."""
    at = np.asarray(rows)
    return Pictures(pictures.images[at], pictures.labels[at], pictures.regions[at])
