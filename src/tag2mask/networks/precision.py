"""In which number format convolutions are computed: float32, TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["32", "tf32", "bf16"]


@contextmanager
def computing_in(precision: Precision, device: torch.device | str) -> Iterator[None]:
    """Inside, convolutions and matrix products on `device` are computed in `precision`; weights stay float32.

    "32" is float32 throughout, also on GPUs where PyTorch's convolutions would take TF32 by themselves. "tf32" keeps
    10 bits of the mantissa and is float32 on a CPU. "bf16" is autocast, which keeps 7; gradients arrive in float32.
    """
    kind = torch.device(device).type
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    # no cache of cast weights: they change between the passes of one image
    autocast = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    try:
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        with autocast:
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
