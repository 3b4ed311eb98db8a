"""The partners' share of the gradient, computed once for the whole set instead of for every image.

At the start weights, what a batch of other images adds to the gradient depends on the target only through the
classes that it excludes. Its expectation over batches is therefore known beforehand: with g_c the mean gradient of
class c's pooled logit over images that hold c, and q_c(L) the share of images holding c among those that share no
class with the target's labels L, a batch of B images contributes

    B * sum_c q_c(L) g_c.

That is exact in expectation for images of one class; for others it takes a class's gradient as independent of the
classes beside it. It also takes away the noise of which images were drawn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from tag2mask.networks import CAMClassifier
from tag2mask.networks.precision import computing_in
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.step import NetworkInput, PartnerBatch, frozen_features, partner_pass, present_loss
from tag2mask.rib.update import flat_gradient, tuned

SUMMED_TOGETHER = 2**17  # elements
KEPT_LABEL_SETS = 4  # sums kept for label sets seen last; each is as large as the tuned parameters


def class_gradients(
    classifier: CAMClassifier, samples: Callable[[int], Iterable[NetworkInput]], config: RIBConfig
) -> Tensor:
    """Mean gradient of minus each class's pooled logit at the start weights: (C, P) bfloat16 on the CPU.

    `samples(c)` gives images (B, 3, H, W) that hold class c, or their features. P counts the tuned parameters, in
    the order of `tuned_parameters()`. A class without a sample gets zeros.
    """
    numbers = computing_in(config.precision, classifier.classifier.weight.device)
    with numbers, tuned(classifier) as (head, last):
        parameters = [*head, *last]
        rows = torch.zeros(classifier.n_classes, sum(p.numel() for p in parameters), dtype=torch.bfloat16)
        for cls in range(classifier.n_classes):
            count = sum(_add_gradient(classifier, given, cls, config) for given in samples(cls))
            if count:
                rows[cls] = (flat_gradient(parameters) / count).to(rows.device, rows.dtype)
            for parameter in parameters:
                parameter.grad = None
    return rows


def _add_gradient(classifier: CAMClassifier, given: NetworkInput, cls: int, config: RIBConfig) -> int:
    features = frozen_features(classifier, given, config)
    with torch.enable_grad():
        maps = classifier.class_maps(features)[:, [cls]].float()  # (B, 1, h, w)
        classes = torch.tensor([cls], device=maps.device)
        _, loss = present_loss(maps, classes, config)
        loss.backward()
    return len(features)


def mean_gradient(classifier: CAMClassifier, partners: Iterable[PartnerBatch], config: RIBConfig) -> Tensor | None:
    """Mean gradient (P,) of the partners' loss at the start weights, over all their rows; None without partners.

    For few images this is `PartnerGradients.expected` without its assumption; all of them are passed.
    """
    rows = 0
    with computing_in(config.precision, classifier.classifier.weight.device), tuned(classifier) as (head, last):
        for batch in partners:
            partner_pass(classifier, batch, config)
            rows += len(batch[1])
        return flat_gradient([*head, *last]) / rows if rows else None


class PartnerGradients:
    """The expected gradient of one partner image, for any labels of the target.

    `gradients` (C, P) as `class_gradients` gives them, or memory-mapped from a file; sums are made where they lie.
    `labels` (N, C) bool of the training set; the cost of a sum doesn't grow with N, only with the number of distinct
    label sets. At most `KEPT_LABEL_SETS` sums are kept.
    """

    def __init__(self, gradients: Tensor, labels: np.ndarray) -> None:
        self.gradients = gradients
        self.label_sets, self.images = np.unique(np.asarray(labels, dtype=bool), axis=0, return_counts=True)
        self._kept: OrderedDict[tuple[int, ...], Tensor | None] = OrderedDict()

    def rates(self, present: Sequence[int]) -> np.ndarray:
        """Share of images that hold each class among those without any class of `present`: (C,) in 0..1."""
        disjoint = ~self.label_sets[:, list(present)].any(axis=1)
        images = self.images[disjoint]
        holding = images @ self.label_sets[disjoint]  # (C,): images that hold each class
        return holding / max(1, images.sum())

    def expected(self, present: Sequence[int]) -> Tensor | None:
        """The expected gradient (P,) float32 of one partner's loss; None where every image shares a class."""
        key = tuple(sorted(set(present)))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        rates = self.rates(key)
        total: Tensor | None = None
        if rates.any():
            total = _weighted_sum(self.gradients, rates)
        self._kept[key] = total
        if len(self._kept) > KEPT_LABEL_SETS:
            self._kept.popitem(last=False)
        return total


def _weighted_sum(rows: Tensor, weights: np.ndarray) -> Tensor:
    """Sum of bfloat16 rows (C, P) by weights (C,), in float32: (P,). In blocks that stay in a processor's cache."""
    total = torch.zeros(rows.shape[1], device=rows.device)
    block = SUMMED_TOGETHER if rows.device.type == "cpu" else rows.shape[1]
    for start in range(0, rows.shape[1], block):
        part = total[start : start + block]
        for cls in np.flatnonzero(weights):
            part.add_(rows[int(cls), start : start + block].float(), alpha=float(weights[cls]))
    return total
