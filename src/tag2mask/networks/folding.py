"""Batch norm with fixed statistics, folded into the convolution before it.

In evaluation mode batch norm is a scale and a shift of each channel, y = s (x - mu) + beta with
s = gamma / sqrt(var + eps), so that conv + batch norm is a convolution of weight s w and bias s (b - mu) + beta.
That saves a pass over the features forward and two backward; what it costs is the size of the weights, once a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def folded_values(
    kernel: Tensor, shift: Tensor | None, norm: nn.BatchNorm2d, affine: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Weight (O, I, kh, kw) and bias (O,) of the one convolution that does what kernel, shift and `norm` do.

    `affine` are gamma and beta in place of the norm's own.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gamma, beta = affine or (norm.weight, norm.bias)
    scale = gamma * torch.rsqrt(norm.running_var + norm.eps)  # (O,)
    centred = (shift if shift is not None else 0.0) - norm.running_mean
    return kernel * scale[:, None, None, None], centred * scale + beta


@torch.no_grad()
def fold_trunk(backbone: Backbone) -> None:
    """Fold the frozen trunk for good. For use, not for saving: its state has other keys afterwards."""
    for conv, norm in list(pairs_of(backbone.trunk)):
        weight, bias = folded_values(conv.weight, conv.bias, norm)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        norm.forward = _after(norm)  # type: ignore[method-assign]


class FoldedHead:
    """A context in which a head in evaluation mode runs folded, and its own parameters can still be tuned.

    Inside, the passes see folded weights as leaves and leave their gradients there. `push_gradients` carries these
    on to the parameters themselves, and `refresh` folds anew after an update. At the end, also after an exception,
    the modules are as they were.
    """

    def __init__(self, head: nn.Module) -> None:
        self.pairs = list(pairs_of(head))
        names = {module: name for name, module in head.named_modules()}
        self.names = [(names[conv], names[norm]) for conv, norm in self.pairs]
        self.own = [(conv.weight, conv.bias) for conv, _ in self.pairs]
        self.folded: list[Tensor] = []  # with the graph that leads to the parameters
        self.leaves: list[nn.Parameter] = []  # the same values, for the passes

    def __enter__(self) -> FoldedHead:
        self.refresh()
        for _, norm in self.pairs:
            norm.forward = _after(norm)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for (conv, norm), (kernel, shift) in zip(self.pairs, self.own, strict=True):
            conv.weight, conv.bias = kernel, shift
            del norm.forward
        self.folded, self.leaves = [], []

    def folded_from(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The head's parameters by name, other values than its own, as `functional_call` takes them inside."""
        state = dict(parameters)
        for (conv, norm), (_, module) in zip(self.names, self.pairs, strict=True):
            kernel, shift = state[f"{conv}.weight"], state.get(f"{conv}.bias")
            affine = state.pop(f"{norm}.weight"), state.pop(f"{norm}.bias")
            state[f"{conv}.weight"], state[f"{conv}.bias"] = folded_values(kernel, shift, module, affine)
        return state

    def push_gradients(self) -> None:
        """Add the folded gradients to the parameters' own, and drop them."""
        reached = [
            (value, leaf)
            for value, leaf in zip(self.folded, self.leaves, strict=True)
            if value.requires_grad and leaf.grad is not None
        ]
        if reached:
            values, leaves = zip(*reached, strict=True)
            torch.autograd.backward(values, [leaf.grad for leaf in leaves], retain_graph=True)
        for leaf in self.leaves:
            leaf.grad = None

    @torch.enable_grad()
    def refresh(self) -> None:
        """Fold the parameters' present values."""
        self.folded, self.leaves = [], []  # first, so that old and new ones don't take memory together
        for (conv, norm), (kernel, shift) in zip(self.pairs, self.own, strict=True):
            values = folded_values(kernel, shift, norm)
            conv.weight, conv.bias = (nn.Parameter(value.detach()) for value in values)
            self.folded += values
            self.leaves += [conv.weight, conv.bias]


def _after(norm: Any) -> Any:
    """What remains of a folded batch norm: nothing, or the activation that timm keeps in it."""
    activation = getattr(norm, "act", None)
    if activation is None:
        return lambda features: features
    return lambda features: activation(norm.drop(features))
