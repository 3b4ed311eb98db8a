"""What may stand at the end of the network: an activation, the loss that fits it, and its slope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tag2mask.common.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Ending:
    """A last activation. All functions take logits (N, 2)."""

    name: str
    saturates: str  # on "both" sides, "one" side, or "none"
    activation: Callable[[Tensor], Tensor]  # -> (N, 2)
    loss: Callable[[Tensor, Tensor], Tensor]  # and targets (N, 2) of 0 and 1 -> scalar
    slope: Callable[[Tensor, Tensor], Tensor]  # and labels (N,) -> (N,): at the true class, over its steepest, 0..1


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Pick each row's value of its own class: (N, C), (N,) -> (N,)."""
    return values.gather(1, labels[:, None])[:, 0]


def _bell(share: Tensor) -> Tensor:
    return 4 * share * (1 - share)


ENDINGS = {
    ending.name: ending
    for ending in (
        Ending(
            "sigmoid",
            "both",
            Tensor.sigmoid,
            F.binary_cross_entropy_with_logits,
            lambda z, y: _bell(of_class(z.sigmoid(), y)),
        ),
        Ending(
            "softmax",
            "both",
            lambda z: z.softmax(dim=1),
            F.cross_entropy,
            lambda z, y: _bell(of_class(z.softmax(dim=1), y)),
        ),
        Ending(
            "tanh",
            "both",
            Tensor.tanh,
            lambda z, t: F.mse_loss(z.tanh(), 2 * t - 1),
            lambda z, y: 1 - of_class(z.tanh(), y) ** 2,
        ),
        Ending(
            "relu",
            "one",
            Tensor.relu,
            lambda z, t: F.mse_loss(z.relu(), t),
            lambda z, y: (of_class(z, y) > 0).to(z.dtype),
        ),
        Ending(
            "none",
            "none",
            lambda z: z,
            lambda z, t: F.mse_loss(z, 2 * t - 1),
            lambda z, y: of_class(z, y).new_ones(len(y)),
        ),
    )
}


def ending_of(name: str) -> Ending:
    """Return an ending by name; ConfigError names the nearest one."""
    if name not in ENDINGS:
        raise ConfigError(f"last: '{name}' is no last activation that is known here{did_you_mean(name, ENDINGS)}")
    return ENDINGS[name]
