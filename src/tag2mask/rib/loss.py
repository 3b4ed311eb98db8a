"""The loss without the last activation, and the limit on how far logits may grow.

The sigmoid at a classifier's end is what makes the bottleneck (RIB, NeurIPS 2021), so logits enter as they are.
"""

from __future__ import annotations

from torch import Tensor

from tag2mask.rib.config import RIBConfig


def loss_of_present(logits: Tensor, ceiling: float | None = None) -> Tensor:
    """Minus the sum of present-class logits, each at most `ceiling`: any shape -> scalar."""
    if ceiling is not None:
        logits = logits.clamp(max=ceiling)
    return -logits.sum()


def rib_loss(logits: Tensor, labels: Tensor, ceiling: float | None = None) -> Tensor:
    """Minus the sum over rows and present classes of logits (B, C), with labels (B, C) of 0 and 1 -> scalar.

    `ceiling` m gives the paper's -y min(m, logit); None is the reference's form.
    """
    return loss_of_present(logits[labels > 0], ceiling)


def target_sum(logits: Tensor, labels: Tensor, rows: int = 6) -> Tensor:
    """Sum of the present-class logits of the target, the first `rows` rows: (B, C) -> scalar."""
    return -rib_loss(logits[:rows], labels[:rows])


def ceiling_of(config: RIBConfig) -> float | None:
    """The m of min(m, logit) where `config` clamps, else None."""
    return config.m if config.limit == "clamp" else None


def passes_limit(total: float, config: RIBConfig) -> bool:
    """Whether the target's summed logits `total` end the run (limit "early_stop")."""
    if config.limit != "early_stop":
        return False
    return (abs(total) if config.absolute_limit else total) > config.m
