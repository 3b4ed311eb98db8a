"""From class maps to logits while the classifier learns: what the pooling rewards is where the network looks.

The average spreads a photo's one gradient over all positions, so a small object can be told by its surroundings just
as well; the maximum leaves it to one position. What lies between asks for some positions that speak for the class,
and lets the rest be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["average", "maximum", "log-sum-exp", "top-share", "ranking", "generalised-mean", "class-attention"]
# What each kind's one parameter is where none is given; the average and the maximum have none.
DEFAULTS: dict[str, float] = {
    "log-sum-exp": 4.0,  # sharpness r: 0 is nearly the average, large the maximum (Pinheiro & Collobert, CVPR 2015)
    "top-share": 0.1,  # share of positions that are averaged
    "ranking": 0.1,  # share of positions that hold half of the weight (Kolesnikov & Lampert, ECCV 2016)
    "generalised-mean": 3.0,  # power p of the features: 1 is the average (Radenovic et al., TPAMI 2019)
    "class-attention": 1.0,  # sharpness t of each class's attention (Zhu & Wu, ICCV 2021, residual attention)
}
_EPSILON = 1e-6  # features are at least this under a power, whose gradient at 0 has no bound


@dataclass(frozen=True)
class Pooling:
    """How positions are joined; `parameter` as `DEFAULTS` has it, of no meaning for the average and the maximum."""

    kind: Kind = "average"
    parameter: float = 1.0

    @classmethod
    def of(cls, kind: Kind, parameter: float | None = None) -> Pooling:
        """Fill in the kind's default where no parameter is given."""
        return cls(kind, DEFAULTS.get(kind, 1.0) if parameter is None else parameter)

    @property
    def of_features(self) -> bool:
        """Whether features are pooled, before the 1x1 convolution, instead of class maps, after it."""
        return self.kind in ("average", "generalised-mean")

    @property
    def parting_power(self) -> float:
        """The power of CAM's values at which large things part from the rest: below 1 for a mean that makes peaks.

        1 for the average, which is the power mean of power 1, and 0.5 for that of power 3, at which 240 photos of
        animals were measured; in between it falls as 2 / (p + 1). Other poolings' maps are parted as they are.
        """
        return 2 / (self.parameter + 1) if self.kind == "generalised-mean" else 1.0

    def __call__(self, maps: Tensor) -> Tensor:
        """Join positions: (B, C, h, w) -> (B, C)."""
        if self.kind == "average":
            return maps.mean(dim=(2, 3))
        values = maps.flatten(2)  # (B, C, h * w)
        if self.kind == "maximum":
            return values.amax(dim=2)
        if self.kind == "log-sum-exp":
            return log_mean_exp(values, self.parameter)
        if self.kind == "top-share":
            return top_share(values, self.parameter)
        if self.kind == "ranking":
            return global_weighted_ranking(values, self.parameter)
        if self.kind == "class-attention":
            return class_attention(values, self.parameter)
        return generalised_mean(values, self.parameter)


def log_mean_exp(values: Tensor, sharpness: float) -> Tensor:
    """log(mean(exp(r x))) / r over the last dimension: between the average (r = 0) and the maximum."""
    return (torch.logsumexp(sharpness * values, dim=-1) - _count(values).log()) / sharpness


def top_share(values: Tensor, share: float) -> Tensor:
    """Mean of the largest values of the last dimension, `share` of them and at least one."""
    count = (share * _count(values)).round().clamp(min=1)
    first = torch.arange(values.shape[-1], device=values.device) < count
    return (values.sort(dim=-1, descending=True).values * first).sum(dim=-1) / count


def global_weighted_ranking(values: Tensor, share: float) -> Tensor:
    """Mean of the last dimension's values, sorted, with weights d^0, d^1, ... of which `share` hold half.

    d depends on the number of values, so that a photo's size doesn't change the pooling.
    """
    count = values.shape[-1]
    ranks = torch.arange(count, device=values.device, dtype=values.dtype)
    weights = 0.5 ** (ranks / (share * count))
    return (values.sort(dim=-1, descending=True).values * weights).sum(dim=-1) / weights.sum()


def class_attention(values: Tensor, sharpness: float) -> Tensor:
    """Mean over the last dimension with weights softmax(t x): a class looks where its own map is high."""
    return (torch.softmax(sharpness * values, dim=-1) * values).sum(dim=-1)


def _count(values: Tensor) -> Tensor:
    """How many values the last dimension has, as a tensor: an exported network must count those of each photo."""
    exact = torch.promote_types(values.dtype, torch.float32)
    return torch.ones(values.shape[-1:], dtype=exact, device=values.device).sum()


def generalised_mean(values: Tensor, power: float) -> Tensor:
    """mean(x^p)^(1/p) over the last dimension, of values that are taken to be at least 0."""
    return values.clamp(min=_EPSILON).pow(power).mean(dim=-1).pow(1 / power)
