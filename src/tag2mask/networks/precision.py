"""In which number format convolutions are computed: float32, TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Precision = Literal["32", "tf32", "bf16"]

_IN_BFLOAT16 = (
    *(torch.conv1d, torch.conv2d, torch.conv3d, F.linear, F.scaled_dot_product_attention),
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm),
)
_IN_FLOAT32 = (F.batch_norm, F.layer_norm, F.group_norm, F.softmax, torch.softmax, torch.Tensor.softmax)
_CALLED_IN: Mapping[Callable[..., Any], torch.dtype] = {
    **dict.fromkeys(_IN_BFLOAT16, torch.bfloat16),
    **dict.fromkeys(_IN_FLOAT32, torch.float32),
}


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


def calling_in(precision: Precision) -> AbstractContextManager[Any]:
    """What `computing_in` needs beside it around torch.func.vmap, under which autocast misses convolutions."""
    return _Bfloat16Calls() if precision == "bf16" else nullcontext()


class _Bfloat16Calls(TorchFunctionMode):
    """As autocast: convolutions and matrix products are called with bfloat16, norms and softmax with float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        wanted = _CALLED_IN.get(func)
        if wanted is not None:
            args = [_cast(value, wanted) for value in args]
            kwargs = {key: _cast(value, wanted) for key, value in kwargs.items()}
        return func(*args, **kwargs)


def _cast(value: Any, wanted: torch.dtype) -> Any:
    lower = isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.bfloat16)
    return value.to(wanted) if lower else value
