"""What a piece of work costs, counted rather than timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted_flops(work: Callable[[], object]) -> float:
    """Floating-point operations of `work()`: those of convolutions and matrix products, a multiply-add as two."""
    backward = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=backward) as counter:
        work()
    return float(counter.get_total_flops())


def _convolution_backward(
    grad_output: Sequence[int], _input: Sequence[int], weight: Sequence[int], *rest: object, **_: object
) -> int:
    """As many as the forward pass for each gradient asked for; torch's own count takes grouped ones for dense.

    Shapes: grad_output (B, O, h, w), weight (O, I / groups, kh, kw). `rest` ends with groups and the output mask
    (input, weight, bias).
    """
    mask = rest[-1]
    assert isinstance(mask, (list, tuple))
    forward = 2 * math.prod(grad_output) * math.prod(weight[1:])
    return forward * (bool(mask[0]) + bool(mask[1]))
