"""One long step instead of many small ones: how far to go is found for each image.

The loss is linear in the logits, so the direction hardly changes on the way and the maps of many small steps lie
close to a line. What differs between images is the length: the same rate leaves one image where it was and floods
another. So the step is measured by its effect: the mean of the class maps at scale 1 shall rise by a given share of
their peak. That rise is nearly linear in the rate, a look at it costs one pass at scale 1, and two or three suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = 0.15  # relative; nearer to the aim isn't searched
LONGEST_STRIDE = 4.0  # a look may multiply the rate by at most this


class Line:
    """The tuned parameters on their way along the negative gradient: theta(rate) = theta_0 - rate * direction."""

    def __init__(self, groups: Sequence[Sequence[Tensor]], multipliers: Sequence[float], weight_decay: float) -> None:
        self.parameters = [parameter for group in groups for parameter in group]
        self.origin = [parameter.detach().clone() for parameter in self.parameters]
        scaled = [multiplier for group, multiplier in zip(groups, multipliers, strict=True) for _ in group]
        self.direction = [
            by * ((0.0 if parameter.grad is None else parameter.grad) + weight_decay * start)
            for parameter, start, by in zip(self.parameters, self.origin, scaled, strict=True)
        ]

    @torch.no_grad()
    def move(self, rate: float) -> None:
        """Put the parameters to theta(rate)."""
        for parameter, start, direction in zip(self.parameters, self.origin, self.direction, strict=True):
            torch.sub(start, direction, alpha=rate, out=parameter)

    def slope(self, gradient: Sequence[Tensor]) -> float:
        """To first order, how much a loss of this gradient falls a unit of rate."""
        products = (torch.sum(g * d) for g, d in zip(gradient, self.direction, strict=True))
        return math.fsum(product.item() for product in products)


def search_rate(rise_at: Callable[[float], float], first: float, aim: float, looks: int) -> float:
    """Find the rate at which `rise_at(rate)` is `aim`, to `TOLERANCE`, in at most `looks` evaluations.

    `rise_at(0)` is 0 and the rise grows with the rate at first; a rate at which it is less than at a smaller one, or
    not a number, is too far. Returns the rate looked at whose rise was nearest to the aim, or 0 where none rose.
    """
    below, above = (0.0, 0.0), (math.inf, math.inf)
    seen = [(0.0, 0.0)]
    rate = first
    for _ in range(looks):
        rise = rise_at(rate)
        if not math.isfinite(rise) or (rise < below[1] and rate > below[0]):
            above = (rate, math.inf)
        else:
            seen.append((rate, rise))
            if abs(rise - aim) <= TOLERANCE * aim:
                return rate
            below, above = ((rate, rise), above) if rise < aim else (below, (rate, rise))
        rate = _next(below, above, aim)
    return min(seen, key=lambda pair: abs(pair[1] - aim))[0]


def _next(below: tuple[float, float], above: tuple[float, float], aim: float) -> float:
    if math.isinf(above[0]):  # still too near: go on as far as a straight line says
        stride = aim / below[1] if below[1] > 0 else math.inf
        return below[0] * min(max(stride, 1.2), LONGEST_STRIDE)
    if math.isinf(above[1]):
        return (below[0] + above[0]) / 2
    share = (aim - below[1]) / (above[1] - below[1])  # of the way from below to above
    return below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
