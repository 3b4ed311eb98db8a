"""Sums over the processes that train together (ranks); without any, everything is this process' own."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def rank_count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """Sum of `values` over the processes, without gradient; every process must call it, with the same shape."""
    values = values.detach()
    if rank_count() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def shared_counts(counts: Tensor) -> Tensor:
    """Float counts of a whole batch, divided by the number of processes; where nothing was counted, 0.

    Training in several processes (DDP) averages their gradients. A loss that is each process' own sum divided by
    this is then the mean over the whole batch, however unevenly its terms are spread; dividing by the process' own
    count would give the mean of means.
    """
    return summed(counts.float()) / rank_count()


def mean_of_batch(total: Tensor, count: Tensor) -> Tensor:
    """`total` of this process over the whole batch's share of `count` (see `shared_counts`); 0 where that is 0."""
    count = shared_counts(count)
    return total / torch.where(count > 0, count, torch.ones_like(count))
