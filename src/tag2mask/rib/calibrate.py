"""The step size on another backbone: chosen so that logits grow as fast as they do on the reference's.

A learning rate doesn't carry over between networks, because gradients don't have the same size. What carries over
is its effect: how far one step raises the target's logits, relative to where they start. The first step's growth is
linear in the learning rate (to first order), so it can be predicted from gradients alone and solved for.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from tag2mask.common.errors import ConfigError
from tag2mask.networks import CAMClassifier
from tag2mask.networks.precision import computing_in
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.step import NetworkInput, PartnerBatch, frozen_features, gap, own_loss, partner_pass
from tag2mask.rib.update import tuned


def first_step_growth(
    classifier: CAMClassifier,
    scaled_images: Sequence[NetworkInput],
    labels: Sequence[int],
    partner_batch: PartnerBatch | None,
    config: RIBConfig,
) -> float:
    """Growth of the target's mean pooled logit in the first step, per unit of learning rate, to first order.

    With T the sum of the target's pooled present-class logits over its R rows and n classes, P the same sum over
    the partner batch, and a_g the learning-rate multiplier of group g (1 for the head, `classifier_multiplier` for
    the 1x1 convolution), a step of learning rate r moves group g by r a_g (grad_g T + grad_g P), so that

        mean growth = r * sum_g a_g <grad_g T, grad_g T + grad_g P> / (R n).

    Returned is this without r, in logits. Weight decay and the limit m are left out. Inputs are as in `rib`.
    """
    numbers = computing_in(config.precision, classifier.classifier.weight.device)
    with numbers, tuned(classifier) as (head, last):
        parameters = [*head, *last]
        multipliers = [1.0] * len(head) + [config.classifier_multiplier] * len(last)
        terms = _target_gradient(classifier, scaled_images, labels, config)
        target = [None if p.grad is None else p.grad.clone() for p in parameters]
        if partner_batch is not None:
            partner_pass(classifier, partner_batch, config)  # adds to the gradients that are there
        products = [
            multiplier * torch.sum(own.double() * p.grad.double()).item()
            for p, own, multiplier in zip(parameters, target, multipliers, strict=True)
            if own is not None and p.grad is not None
        ]
    return sum(products) / terms


def _target_gradient(
    classifier: CAMClassifier, scaled_images: Sequence[NetworkInput], labels: Sequence[int], config: RIBConfig
) -> int:
    """Leave the target's loss gradient in `.grad` and return how many logits (R n) it sums."""
    terms = 0
    for images, scale in zip(scaled_images, config.scales, strict=True):
        if scale in config.loss_scales:
            features = frozen_features(classifier, images, config)
            classes = torch.tensor(sorted(set(labels)), device=features.device)
            with torch.enable_grad():
                maps = classifier.class_maps(features)[:, classes].float()  # (V, n, h, w)
                _, loss = own_loss(maps, classes, config)
            loss.backward()
            terms += 2 * len(classes)  # image and mirror, or it twice
    return terms


def initial_logit(
    classifier: CAMClassifier, scaled_images: Sequence[NetworkInput], labels: Sequence[int], config: RIBConfig
) -> float:
    """Mean absolute GAP logit of the present classes before any step, at scale 1, over image and mirror."""
    with torch.no_grad():
        maps: Tensor = classifier.class_maps(frozen_features(classifier, scaled_images[0], config))
    return gap(maps[:, sorted(set(labels))]).abs().mean().item()


def calibrated_learning_rate(
    growths: Sequence[float], initial_logits: Sequence[float], relative_growth: float
) -> float:
    """The learning rate at which the median image's logits grow by `relative_growth` in the first step.

    For image i the growth per unit of learning rate is g_i (`first_step_growth`) and the initial logit l_i
    (`initial_logit`): the rate is relative_growth / median_i(g_i / |l_i|). Raises ConfigError where there are no
    images or the median is not positive, i.e. where a step would not raise the target's logits.
    """
    if not growths or len(growths) != len(initial_logits):
        raise ConfigError(
            f"calibration needs one growth and one initial logit an image; got {len(growths)} and "
            f"{len(initial_logits)}"
        )
    ratios = [growth / max(abs(logit), 1e-12) for growth, logit in zip(growths, initial_logits, strict=True)]
    median = statistics.median(ratios)
    if not median > 0:
        raise ConfigError(
            f"the median relative growth per unit of learning rate is {median:.3g} over {len(ratios)} images: a "
            "step would not raise their logits; give learning_rate by hand"
        )
    return relative_growth / median
