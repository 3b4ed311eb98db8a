"""IRN's random walk, exact and without its matrix: maps spread over an image until they meet edges.

Ahn, Cho, Kwak, CVPR 2019, section 5. With affinities A (symmetric, self-affinity 1, to the power of beta) and
D = diag(column sums of A), the walk gives each pixel the mean of its neighbours, x <- P x, P = D^-1 A, 2^times times.
The reference builds P dense, (h w)^2, and squares it; A has at most 69 non-zeros a row for radius 5, so repeated
products with vectors are far cheaper and give the same numbers.

Fewer products than 2^times do. P = D^-1/2 S D^1/2 with S = D^-1/2 A D^-1/2 symmetric and of spectrum in [-1, 1]
(P's rows sum to 1). On [-1, 1], x^s = sum_k c_k T_k(x) with c_k >= 0: c_k is the probability that s steps of +1 or
-1 end at +k or -k, and T_k are Chebyshev's polynomials, |T_k| <= 1. So cutting the sum after degree d errs by at
most the tail e = P(|X_s| > d) <= 2 exp(-d^2 / 2s) (Sachdeva & Vishnoi, "Faster Algorithms via Approximation Theory",
2014, theorem 3.3); here the exact tail is used. In the 2-norm the error of S^s is thus at most e, and for the maps,
as every column sum is at least 1,

    max |error| <= e * sqrt(sum_i D_i x_i^2)  <=  e * max|x| * sqrt(sum_i D_i)

whatever the edges are. The degree is chosen so that this is below a tolerance, 1e-6 of the largest value. T_k(S) is
applied by its recurrence, one product a degree: about 100 instead of 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.networks.paths import destinations, flat_offsets
from tag2mask.refine.affinity import affinities, check_edge

Method = Literal["chebyshev", "power"]

TOLERANCE = 1e-6  # of the largest value; the proven maximum error of "chebyshev", round-off (below 1e-12) aside
# In single precision the rows of P sum to 1 within 6e-7, and 256 steps make 2e-4 of that.
PRECISION = torch.float64
# Affinities^beta below this count as 0. Dropping at most 68 of them changes no row of P by more than 2 * 68 times
# this in sum, and 256 steps by 256 times that: 4e-26 of the largest value. It keeps products free of denormal
# numbers, which processors multiply many times more slowly.
NEGLIGIBLE = 1e-30
# Added to maps that are scaled to 1. A walk leaves a constant as it is, so this can be taken off again, and values
# that spread into empty areas never become denormal.
FLOOR = 1e-15


def random_walk(
    maps: Tensor,
    edge: Tensor,
    *,
    radius: int = 5,
    beta: float = 10.0,
    times: int = 8,
    method: Method = "chebyshev",
) -> Tensor:
    """Spread `maps * (1 - edge)` by 2^times steps of the walk (IRN, section 5); see the module for the method.

    `maps` (n, h, w) of any finite values (the reference takes them to the power of 1.3 first), `edge` (h, w) in
    0..1, on the same device. Returns (n, h, w) float32. "power" takes 2^times products and is exact up to round-off;
    "chebyshev" takes about 100 instead of 256 at times=8 and differs by at most 1e-6 of the largest value. Worked
    out in double precision; memory is 34 such maps for radius 5, and about 8 for each of the n: 360 MB for 3 maps of
    1000x750. Raises DataError on sizes that don't fit or values that aren't finite or, for edges, outside 0..1,
    ConfigError on impossible settings.
    """
    _check(maps, edge, beta, times, method)
    if maps.shape[0] == 0:
        return torch.zeros_like(maps, dtype=torch.float32)
    device = maps.device
    if device.type == "mps":  # which has no double precision
        maps, edge = maps.cpu(), edge.cpu()
    start = maps.to(PRECISION) * (1 - edge.to(PRECISION))
    peak = start.abs().amax()
    if peak == 0:
        return start.float().to(device)
    walk = Stencil.from_edge(edge.to(PRECISION), radius, beta)
    values = walk.flat(start / peak + FLOOR) * walk.root  # (n, L)
    if method == "power":
        values = matrix_power(walk.add_product, values, 2**times)
    else:
        error = TOLERANCE / math.sqrt(float(walk.root.square().sum()))
        values = chebyshev(walk.add_product, values, 2**times, error)
    return walk.maps(values / walk.root).sub_(FLOOR).mul_(peak).float().to(device)


@dataclass(frozen=True)
class Stencil:
    """S = D^-1/2 A D^-1/2 as one weight a pixel and neighbour, kept for half the neighbours as S is symmetric.

    The map lies flat with rows of w + r (r = radius - 1), so that every neighbour is a fixed step away and a product
    is 2 K multiplications of contiguous stretches. What lies in the gap, and in the tail of the longest step, has
    weight 0.
    """

    weights: Tensor  # (K, h * (w + r))
    diagonal: Tensor  # (h * (w + r) + tail,): a pixel's own weight, 1 / D
    root: Tensor  # as diagonal: square roots of D
    steps: tuple[int, ...]  # K, how far away each neighbour lies
    size: tuple[int, int]  # h, w + r
    width: int  # w

    @classmethod
    def from_edge(cls, edge: Tensor, radius: int, beta: float) -> Stencil:
        """Build from an edge map (h, w) in 0..1; memory is K maps, 34 for radius 5."""
        gap = edge.new_ones(edge.shape[0], radius - 1)  # nothing passes an edge of 1
        padded = torch.cat([edge, gap], dim=1)
        height, pitch = padded.shape
        weights = affinities(padded, radius).view(-1, height * pitch)
        weights.pow_(beta)
        torch.threshold_(weights, NEGLIGIBLE, 0.0)
        steps = tuple(int(step) for step in flat_offsets(destinations(radius), pitch))
        totals = edge.new_ones(height * pitch + max(steps))  # self-affinity 1
        for row, step in zip(weights, steps, strict=True):
            totals[: row.numel()] += row
            totals[step : step + row.numel()] += row
        root = totals.sqrt()
        for row, step in zip(weights, steps, strict=True):
            row.div_(root[: row.numel()]).div_(root[step : step + row.numel()])
        return cls(weights, 1 / totals, root, steps, (height, pitch), edge.shape[1])

    def flat(self, maps: Tensor) -> Tensor:
        """Lay maps (n, h, w) out as (n, L), zero in between."""
        gapped = F.pad(maps, (0, self.size[1] - self.width))  # (n, h, w + r)
        tail = self.root.numel() - self.size[0] * self.size[1]
        return F.pad(gapped.flatten(1), (0, tail))

    def maps(self, values: Tensor) -> Tensor:
        """Take maps (n, h, w) out of (n, L); a copy."""
        height, pitch = self.size
        return values[:, : height * pitch].view(-1, height, pitch)[:, :, : self.width].contiguous()

    def add_product(self, values: Tensor, out: Tensor, scale: float = 1.0) -> None:
        """Add scale * S values to `out`; both (n, L)."""
        out.addcmul_(values, self.diagonal, value=scale)
        length = self.weights.shape[1]
        for row, step in zip(self.weights, self.steps, strict=True):
            out[:, :length].addcmul_(values[:, step : step + length], row, value=scale)
            out[:, step : step + length].addcmul_(values[:, :length], row, value=scale)


AddProduct = Callable[[Tensor, Tensor, float], None]  # adds scale * S values to the second


def matrix_power(add_product: AddProduct, values: Tensor, exponent: int) -> Tensor:
    """S^exponent values by as many products; (n, L) to (n, L)."""
    out = torch.empty_like(values)
    values = values.clone()
    for _ in range(exponent):
        out.zero_()
        add_product(values, out, 1.0)
        values, out = out, values
    return values


def chebyshev(add_product: AddProduct, values: Tensor, exponent: int, error: float) -> Tensor:
    """S^exponent values within `error` in operator norm, for symmetric S of spectrum in [-1, 1]; (n, L) to (n, L)."""
    coefficients = chebyshev_coefficients(exponent)[: chebyshev_degree(exponent, error) + 1]
    result = coefficients[0] * values
    before, now = values.clone(), torch.zeros_like(values)  # T_0, T_1
    add_product(before, now, 1.0)
    for degree, coefficient in enumerate(coefficients[1:], start=1):
        if degree > 1:
            add_product(now, before.neg_(), 2.0)  # T_k = 2 S T_{k-1} - T_{k-2}
            before, now = now, before
        if coefficient:
            result.add_(now, alpha=coefficient)
    return result


@lru_cache(maxsize=16)
def chebyshev_coefficients(exponent: int) -> tuple[float, ...]:
    """c_0..c_s of x^s = sum_k c_k T_k(x): c_k = 2^(1-s) binomial(s, (s-k)/2) for k of s's parity, c_0 half that."""
    coefficients = [0.0] * (exponent + 1)
    first = exponent % 2
    value = math.comb(exponent, exponent // 2) * 2 / 2**exponent
    for degree in range(first, exponent + 1, 2):
        coefficients[degree] = value
        value *= (exponent - degree) / (exponent + degree + 2)
    coefficients[0] /= 2
    return tuple(coefficients)


def chebyshev_degree(power: int, tolerance: float) -> int:
    """The smallest degree whose Chebyshev series is within `tolerance` of x^power everywhere on [-1, 1].

    The error, largest at x = 1, is exactly the sum of the coefficients left out; about sqrt(2 power ln(2 /
    tolerance)). `chebyshev_degree(256, 1e-9)` is 96. Raises ConfigError for a power below 1 or a tolerance that
    isn't positive.
    """
    if power < 1 or not tolerance > 0:
        raise ConfigError(f"power {power} must be 1 or more, tolerance {tolerance} positive")
    left_out = 0.0
    coefficients = chebyshev_coefficients(power)
    for degree in range(power, 0, -1):
        left_out += coefficients[degree]
        if left_out > tolerance:
            return degree
    return 0


def _check(maps: Tensor, edge: Tensor, beta: float, times: int, method: str) -> None:
    if maps.ndim != 3 or maps.shape[1:] != edge.shape:
        raise DataError(
            f"maps of shape {tuple(maps.shape)} don't fit an edge map of {tuple(edge.shape)}; "
            "give (n, h, w) and (h, w), both at stride 4"
        )
    check_edge(edge)
    if not torch.isfinite(maps).all():
        raise DataError("a map holds values that are not finite, which a walk would spread over the whole image")
    if not 0 < beta < math.inf or not 0 <= times <= 16:
        raise ConfigError(f"beta {beta} must be positive and times {times} in 0..16 (steps are 2^times)")
    if method not in ("chebyshev", "power"):
        raise ConfigError(f"method '{method}' is unknown; use 'chebyshev' or 'power'")
