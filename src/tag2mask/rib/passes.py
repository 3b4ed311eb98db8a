"""Forward and backward passes of one step, over the target's scales and over the partner batch.

The loss is a plain sum over rows, so its gradient is the sum of the gradients of its parts: each scale, and each
chunk of partners, is passed and differentiated by itself, and its graph is freed before the next one. That equals
one large backward pass up to round-off, at a fraction of its memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.networks import CAMClassifier
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.loss import ceiling_of, loss_of_present
from tag2mask.rib.pooling import pool_present
from tag2mask.rib.prepare import merge_mirror


@dataclass(frozen=True)
class TrunkFeatures:
    """Frozen features (B, c, H/8, W/8) that were computed before, instead of the images they came from."""

    values: Tensor


NetworkInput = Tensor | TrunkFeatures  # ImageNet-normalised images (B, 3, H, W), or their frozen features
PartnerBatch = tuple[NetworkInput, Tensor]  # and labels (B, C) of 0 and 1


def frozen_features(classifier: CAMClassifier, given: NetworkInput, config: RIBConfig) -> Tensor:
    """Features (B, c, H/8, W/8) on the classifier's device: computed from images, or as they were given."""
    weight = classifier.tuned_parameters()[1][0]
    if isinstance(given, TrunkFeatures):
        features = given.values.to(weight.device, weight.dtype)
    else:
        features = classifier.trunk_features(given.to(weight.device, weight.dtype))
    return features.contiguous(memory_format=torch.channels_last) if config.channels_last else features


@dataclass(frozen=True)
class TargetPass:
    """What one scale of the target gave, without gradient."""

    maps: Tensor  # (n, h, w): ReLU'd class maps of image and mirror, added
    logits: Tensor | None  # (2, n): pooled, image and mirror; None where the scale doesn't enter the loss


def target_pass(
    classifier: CAMClassifier, features: Tensor, classes: Tensor, config: RIBConfig, *, pooled: bool, graph: bool
) -> tuple[TargetPass, Tensor | None]:
    """Pass one scale of the target, features (2, c, h', w'), for its present `classes` (n,).

    Returns the pass and its share of the loss (a scalar with a graph if `graph`), None unless `pooled`.
    """
    with torch.set_grad_enabled(pooled and graph):
        maps = classifier.class_maps(features)[:, classes].float()  # (2, n, h, w)
        merged = merge_mirror(maps.detach())
        if not pooled:
            return TargetPass(merged, None), None
        logits = pool_present(maps, classes, config)  # (2, n)
        return TargetPass(merged, logits.detach()), loss_of_present(logits, ceiling_of(config))


def partner_pass(classifier: CAMClassifier, batch: PartnerBatch, config: RIBConfig) -> float:
    """Pass a partner batch, add its gradient to the tuned parameters' and return its share of the loss."""
    given, labels = batch
    loss = 0.0
    for start in range(0, len(labels), config.partner_chunk):
        rows = slice(start, start + config.partner_chunk)
        part = TrunkFeatures(given.values[rows]) if isinstance(given, TrunkFeatures) else given[rows]
        loss += _partner_chunk(classifier, part, labels[rows], config)
    return loss


def _partner_chunk(classifier: CAMClassifier, given: NetworkInput, labels: Tensor, config: RIBConfig) -> float:
    if not labels.any():
        return 0.0  # nothing present, nothing to raise
    features = frozen_features(classifier, given, config)
    row, cls = (labels > 0).to(features.device).nonzero(as_tuple=True)  # (P,) pairs of row and present class
    with torch.enable_grad():
        maps = classifier.class_maps(features)[row, cls].float()  # (P, h, w)
        loss = loss_of_present(pool_present(maps, cls, config), ceiling_of(config))
        loss.backward()
    return loss.item()
