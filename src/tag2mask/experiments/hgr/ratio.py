"""The high-gradient ratio (HGR): how much of a region a gradient reaches (RIB, NeurIPS 2021, the toy experiment)."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLD = 0.3  # share of a map's maximum; paper


def share_of_maximum(magnitudes: Tensor) -> Tensor:
    """Divide each map (..., H, W) of gradient magnitudes by its own maximum: 0..1; an all-zero map stays zero.

    A factor that is the same at all pixels of an image cancels here, and the slope of an activation on a single
    output is such a factor: with the same weights the result is the same through a sigmoid and without it.
    """
    peak = magnitudes.amax(dim=(-2, -1), keepdim=True)  # (..., 1, 1)
    return torch.where(peak > 0, magnitudes / peak.clamp(min=torch.finfo(magnitudes.dtype).tiny), 0.0)


def high_gradient_ratio(shares: Tensor, region: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Share of a region's pixels whose normalised gradient is above `threshold`: (N, H, W) -> (N,) in 0..1.

    `shares` as `share_of_maximum` gives them, `region` bool (N, H, W); NaN for an image without such a region.
    """
    size = region.sum(dim=(-2, -1))
    high = ((shares > threshold) & region).sum(dim=(-2, -1))
    return torch.where(size > 0, high / size.clamp(min=1), torch.nan)
