"""A run's steps as plain arrays, for files and the report."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tag2mask.rib.finetune import RIBResult


def trace_arrays(result: RIBResult) -> dict[str, np.ndarray]:
    """Arrays of a traced run of S steps on n classes.

    `classes` (n,); `maps` and `accumulated` float16 (S, n, h, w): scale 1's map of each step and the sum so far,
    each class divided by its maximum, 0..1; `loss` (S,), NaN where no update followed; `target_logit` (S,), the
    mean pooled logit of the present classes; `covered` (S,), 0..1. Raises ValueError for a run without trace.
    """
    maps = [step.maps for step in result.steps if step.maps is not None]
    accumulated = [step.accumulated for step in result.steps if step.accumulated is not None]
    if len(maps) != len(result.steps):
        raise ValueError("this run kept no maps; call rib(..., trace=True)")
    return {
        "classes": np.asarray(result.classes, dtype=np.int16),
        "maps": _normalised(maps),
        "accumulated": _normalised(accumulated),
        "loss": np.asarray([step.loss for step in result.steps], dtype=np.float32),
        "target_logit": np.asarray([step.target_logit for step in result.steps], dtype=np.float32),
        "covered": np.asarray([step.covered for step in result.steps], dtype=np.float32),
    }


def _normalised(maps: list[Tensor]) -> np.ndarray:
    stacked = torch.stack(maps)  # (S, n, h, w)
    peak = stacked.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (stacked / peak).cpu().numpy().astype(np.float16)
