"""Losses of the segmentation network, for true masks and for masks that are wrong in places.

Each takes logits (B, L, h, w) and labels (B, h, w) in 0..L-1, or 255 where unknown, and returns what every pixel
costs, (B, h, w); what it says of unknown pixels is not looked at. A further loss is one function and one line in
`LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.common.ranks import shared_counts
from tag2mask.data.records import IGNORED

LOG_OF_ZERO = -4.0  # what the symmetric cross-entropy takes for log 0 (Wang et al., ICCV 2019)
CROSS_ENTROPY_SHARE = 0.1  # of the plain cross-entropy in the symmetric one (the same, for CIFAR-10)
GENERALISED_POWER = 0.7  # q; 0 is the cross-entropy, 1 the mean absolute error (Zhang and Sabuncu, NeurIPS 2018)
OWN_SHARE = 0.2  # of the network's own label in bootstrapping (Reed et al., ICLR 2015 workshop: hard, 0.8)
SOFT_RADIUS = 4  # pixels around each one whose labels make its soft target

PixelLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log of the label's probability."""
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")


def symmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and its reverse, that of the label under the network's answer (Wang et al., ICCV 2019)."""
    reverse = -LOG_OF_ZERO * (1 - _probability(logits, labels))
    return CROSS_ENTROPY_SHARE * cross_entropy(logits, labels) + reverse


def generalised(logits: Tensor, labels: Tensor) -> Tensor:
    """(1 - p^q) / q: a pixel that the network is sure is labelled wrongly pulls less (Zhang and Sabuncu, 2018)."""
    probability = _probability(logits, labels).clamp(min=1e-6)
    return (1 - probability**GENERALISED_POWER) / GENERALISED_POWER


def bootstrapped(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a target that is partly the network's own label of the moment (Reed et al., 2015)."""
    own = cross_entropy(logits, logits.detach().argmax(dim=1))
    return (1 - OWN_SHARE) * cross_entropy(logits, labels) + OWN_SHARE * own


def collision(logits: Tensor, labels: Tensor) -> Tensor:
    """Collision cross-entropy, -log of the sum over labels of target times prediction, under a soft target.

    The target is the share of each label within `SOFT_RADIUS` pixels: inside a region it is the label itself, along
    edges it leaves open which side a pixel is on: where two labels are as likely, either answer costs the same.
    """
    known = labels != IGNORED
    hot = F.one_hot(_filled(labels), logits.shape[1]).permute(0, 3, 1, 2) * known[:, None].to(logits.dtype)
    shares = F.avg_pool2d(hot, 2 * SOFT_RADIUS + 1, stride=1, padding=SOFT_RADIUS)  # (B, L, h, w)
    target = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return -torch.logsumexp(logits.log_softmax(dim=1) + target.clamp(min=1e-6).log(), dim=1)


LOSSES: dict[str, PixelLoss] = {
    "cross_entropy": cross_entropy,
    "symmetric": symmetric,
    "generalised": generalised,
    "bootstrapped": bootstrapped,
    "collision": collision,
}


def _probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(dim=1).gather(1, _filled(labels)[:, None])[:, 0]


def _filled(labels: Tensor) -> Tensor:
    """Labels that can be used as indices: 0 where unknown."""
    return labels.masked_fill(labels == IGNORED, 0)


def segmentation_loss(
    logits: Tensor, labels: Tensor, *, balanced: bool = False, loss: str = "cross_entropy"
) -> Tensor:
    """Mean loss at the logits' resolution: labels (B, H, W) are taken to their size by the nearest pixel.

    255 is ignored. `loss` is a name in `LOSSES`. `balanced` averages foreground and background pixels apart and
    takes the mean of the two, so that large backgrounds don't drown small objects. A batch without a labelled pixel
    gives 0. In training over several processes the averages are those of the whole batch.
    """
    # the pixel in a cell's middle, where enlarged logits put the cell; "nearest" takes its corner, half a cell away
    small = F.interpolate(labels[:, None].float(), size=logits.shape[-2:], mode="nearest-exact")[:, 0].long()
    known = small != IGNORED
    costs = LOSSES[loss](logits, small)  # (B, h, w)
    kinds = (known & (small > 0), small == 0) if balanced else (known,)
    counts = shared_counts(torch.stack([kind.sum() for kind in kinds]))  # (2,) or (1,)
    there = counts > 0
    sums = torch.stack([costs[kind].sum() for kind in kinds])
    means = sums / torch.where(there, counts, torch.ones_like(counts))
    return means.sum() / there.sum().clamp(min=1)
