"""From class maps to class logits: global average pooling (GAP) and GNDRP.

GNDRP, global non-discriminative region pooling (RIB, NeurIPS 2021): the positions that made the decision, those at
or above `tau` times the map's maximum, are left out, so that gradients reach the other regions of an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tag2mask.rib.config import Average, RIBConfig


def gap(maps: Tensor) -> Tensor:
    """Mean over positions: (..., h, w) -> (...)."""
    return maps.mean(dim=(-2, -1))


def nondiscriminative(maps: Tensor, tau: float) -> Tensor:
    """Where a map is below `tau` times its maximum: (..., h, w) -> bool (..., h, w), without gradient.

    A map whose maximum is negative has no such place (each value over the maximum is 1 or more), and an all-zero
    map has none either (0/0 is below nothing): their pooled logit is 0 and they get no gradient.
    """
    values = maps.detach()
    peak = values.amax(dim=(-2, -1), keepdim=True)  # (..., 1, 1)
    return values / peak < tau


def masked_mean(maps: Tensor, keep: Tensor, average: Average = "all") -> Tensor:
    """Mean of the kept values over "all" positions or over the "kept" ones (0 if there are none).

    `maps` and bool `keep`: (..., h, w) -> (...).
    """
    total = torch.where(keep, maps, 0.0)
    if average == "all":
        return total.mean(dim=(-2, -1))
    return total.sum(dim=(-2, -1)) / keep.sum(dim=(-2, -1)).clamp(min=1)


def gndrp(
    maps: Tensor,
    present: Sequence[int] | Tensor,
    tau: float,
    *,
    average: Average = "all",
    slip_classes: int | None = None,
) -> Tensor:
    """Pool raw class maps (B, C, h, w) to logits (B, C) by GNDRP; absent classes are average-pooled.

    `present`: a list of classes for all rows, or labels (B, C) for each row. `slip_classes` reproduces a slip of
    the reference: classes from this number on are average-pooled even where present.
    """
    masked = present_mask(present, maps.shape[0], maps.shape[1]).to(maps.device)  # (B, C)
    if slip_classes is not None:
        masked[:, slip_classes:] = False
    keep = nondiscriminative(maps, tau) | ~masked[:, :, None, None]  # (B, C, h, w)
    return masked_mean(maps, keep, average)


def present_mask(present: Sequence[int] | Tensor, rows: int, n_classes: int) -> Tensor:
    """Bool (rows, n_classes) from a class list for all rows, or from labels (rows, n_classes)."""
    if isinstance(present, Tensor) and present.ndim == 2:
        return present > 0
    mask = torch.zeros(rows, n_classes, dtype=torch.bool)
    mask[:, list(present)] = True
    return mask


def pool_present(maps: Tensor, classes: Tensor, config: RIBConfig) -> Tensor:
    """Pool the maps of present classes as `config` says: (..., P, h, w) -> (..., P).

    `classes` (P,) names the class of each map. Absent classes never enter the loss, so only present ones are
    pooled; this gives the same numbers as `gndrp` on all classes.
    """
    if config.pooling == "gap":
        return gap(maps)
    keep = nondiscriminative(maps, config.tau)
    if config.gndrp_classes is not None:
        keep = keep | (classes >= config.gndrp_classes)[:, None, None]
    return masked_mean(maps, keep, config.average)
