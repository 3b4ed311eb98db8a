"""Run-away guard: maps that spread over the whole image have lost the object."""

from __future__ import annotations

from torch import Tensor

from tag2mask.rib.config import RIBConfig


def covered_share(maps: Tensor, threshold: float) -> float:
    """Share of positions where any class's map (n, h, w) is above `threshold` of its own maximum: 0..1.

    An all-zero map covers nothing.
    """
    peak = maps.amax(dim=(-2, -1), keepdim=True)  # (n, 1, 1)
    covered = (maps / peak > threshold).any(dim=0)  # (h, w); 0/0 is above nothing
    return covered.float().mean().item()


def runs_away(covered: float, step: int, config: RIBConfig) -> bool:
    """Whether the run ends because the maps of `step` (counted from 0) cover too much; step 0 never does."""
    return step > 0 and covered > config.guard_share
