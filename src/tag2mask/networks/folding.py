"""Batch norm with fixed statistics, folded into the convolution before it.

In evaluation mode batch norm is a scale and a shift of each channel, y = s (x - mu) + beta with
s = gamma / sqrt(var + eps), so that conv + batch norm is a convolution of weight s w and bias s (b - mu) + beta.
That saves a pass over the features forward and two backward; what it costs is the size of the weights, once a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone

BATCH_NORMS = (nn.BatchNorm2d,)  # timm's BatchNormAct2d, which holds an activation too, is one of them


def pairs_of(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions directly followed by an affine batch norm, in the order in which modules are registered."""
    before: nn.Module | None = None
    for child in module.children():
        if isinstance(child, BATCH_NORMS) and child.affine and child.track_running_stats:
            if isinstance(before, nn.Conv2d) and before.out_channels == child.num_features:
                yield before, child
        else:
            yield from pairs_of(child)
        before = child


def folded_values(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (O, I, kh, kw) and bias (O,) of the one convolution that does what the two do."""
    scale = _scale(norm)  # (O,)
    bias = conv.bias if conv.bias is not None else torch.zeros_like(scale)
    assert norm.running_mean is not None
    return conv.weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)


@torch.no_grad()
def fold_trunk(backbone: Backbone) -> None:
    """Fold the frozen trunk for good. For use, not for saving: its state has other keys afterwards."""
    for conv, norm in list(pairs_of(backbone.trunk)):
        weight, bias = folded_values(conv, norm)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        norm.forward = _after(norm)  # type: ignore[method-assign]


class FoldedHead:
    """A context in which a head in evaluation mode runs folded, and its own parameters can still be tuned.

    Inside, the passes see folded weights as leaves and leave their gradients there. `push_gradients` carries these
    to the parameters themselves by the chain rule, and `refresh` folds anew after an update. At the end, also after
    an exception, the modules are as they were.
    """

    def __init__(self, head: nn.Module) -> None:
        self.pairs = list(pairs_of(head))
        self.own = [dict(conv._parameters) for conv, _ in self.pairs]
        self.leaves: list[tuple[nn.Parameter, nn.Parameter]] = []

    def __enter__(self) -> FoldedHead:
        with torch.no_grad():
            values = [folded_values(conv, norm) for conv, norm in self.pairs]
        self.leaves = [(nn.Parameter(weight), nn.Parameter(bias)) for weight, bias in values]
        for (conv, norm), (weight, bias) in zip(self.pairs, self.leaves, strict=True):
            conv._parameters["weight"], conv._parameters["bias"] = weight, bias
            norm.forward = _after(norm)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for (conv, norm), own in zip(self.pairs, self.own, strict=True):
            conv._parameters.update(own)
            del norm.forward
        self.leaves = []

    @torch.no_grad()
    def push_gradients(self) -> None:
        """Add the folded gradients to the parameters' own, and drop them."""
        for (_, norm), own, (weight, bias) in zip(self.pairs, self.own, self.leaves, strict=True):
            if weight.grad is None or bias.grad is None:
                continue
            scale, kernel, shift = _scale(norm), own["weight"], own["bias"]
            assert kernel is not None
            assert norm.running_mean is not None
            assert norm.running_var is not None
            inverse = torch.rsqrt(norm.running_var + norm.eps)  # (O,): ds / dgamma
            centred = (shift if shift is not None else 0.0) - norm.running_mean  # (O,): dbias / ds
            to_scale = (weight.grad * kernel).sum(dim=(1, 2, 3)) + bias.grad * centred  # (O,)
            _add(kernel, weight.grad * scale[:, None, None, None])
            _add(norm.weight, to_scale * inverse)
            _add(norm.bias, bias.grad)
            if shift is not None:
                _add(shift, bias.grad * scale)
            weight.grad = bias.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the parameters' present values."""
        for (_, norm), own, (weight, bias) in zip(self.pairs, self.own, self.leaves, strict=True):
            kernel, shift = own["weight"], own["bias"]
            assert kernel is not None
            assert norm.running_mean is not None
            scale = _scale(norm)
            torch.mul(kernel, scale[:, None, None, None], out=weight)
            bias.copy_(((shift if shift is not None else 0.0) - norm.running_mean) * scale + norm.bias)


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.requires_grad:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _after(norm: Any) -> Any:
    """What remains of a folded batch norm: nothing, or the activation that timm keeps in it."""
    activation = getattr(norm, "act", None)
    if activation is None:
        return lambda features: features
    return lambda features: activation(norm.drop(features))
