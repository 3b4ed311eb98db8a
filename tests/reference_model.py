"""RIB as the reference computes it, transcribed plainly: one graph a step, every image through the whole network.

Nothing is shared, skipped or vectorised. Tests hold the package to this model's numbers, benchmarks to its cost.
It uses the package's networks, and reads a `RIBConfig` for its values, but none of the package's mathematics.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tag2mask.networks import CAMClassifier
from tag2mask.rib.config import RIBConfig


@dataclass
class PlainResult:
    """What a plain run leaves behind; maps hold all C classes."""

    cam_sums: list[Tensor] = field(default_factory=list)  # per scale (C, h, w), of step 0
    rib_sums: list[Tensor] = field(default_factory=list)  # per scale (C, h, w), over all steps
    losses: list[float] = field(default_factory=list)  # per update
    target_sums: list[float] = field(default_factory=list)  # per update
    learning_rates: list[float] = field(default_factory=list)  # per update, of the head
    steps_run: int = 0
    stopped: str = "finished"
    weights: list[Tensor] = field(default_factory=list)  # tuned parameters at the end


def plain_gndrp(maps: Tensor, labels: Tensor, tau: float, loop_classes: int, average: str = "all") -> Tensor:
    """GNDRP by loops over rows and classes: maps (B, C, h, w), labels (B, C) -> logits (B, C).

    `loop_classes` is the number of classes that the loop goes over: 20 in the reference whatever C is.
    """
    relative = torch.zeros_like(maps)
    for row in range(maps.shape[0]):
        for cls in range(min(loop_classes, maps.shape[1])):
            if labels[row, cls] > 0:
                relative[row, cls] = maps[row, cls].detach() / maps[row, cls].detach().max()
            else:
                relative[row, cls] = -1
    keep = (relative < tau).to(maps.dtype)
    if average == "kept":
        return (maps * keep).sum((2, 3)) / keep.sum((2, 3)).clamp(min=1)
    return (maps * keep).mean((2, 3))


def plain_rib(
    classifier: CAMClassifier,
    scaled_images: Sequence[Tensor],
    labels: Sequence[int],
    partner_batches: Iterable[tuple[Tensor, Tensor]],
    config: RIBConfig,
) -> PlainResult:
    """Run RIB with every slip of the reference; `config` gives the values. The classifier is copied, not changed."""
    network = copy.deepcopy(classifier).eval()
    head, last = network.tuned_parameters()
    sgd = torch.optim.SGD(
        [{"params": head}, {"params": last}],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    wanted = torch.zeros(1, network.n_classes)
    wanted[0, list(labels)] = 1
    result = PlainResult()
    batches = iter(partner_batches)
    for step in range(config.steps):
        batch = next(batches, None)
        if batch is None:
            result.stopped = "partners-exhausted"
            break
        result.steps_run += 1
        if not _plain_step(network, sgd, scaled_images, wanted, batch, config, step, result):
            break
    result.weights = [p.detach() for p in (*head, *last)]
    return result


def _plain_step(
    network: CAMClassifier,
    sgd: torch.optim.SGD,
    scaled_images: Sequence[Tensor],
    wanted: Tensor,
    batch: tuple[Tensor, Tensor],
    config: RIBConfig,
    step: int,
    result: PlainResult,
) -> bool:
    pooled = []
    for index, (scale, images) in enumerate(zip(config.scales, scaled_images, strict=True)):
        maps = network.class_maps(network.trunk_features(images))
        summed = maps[0].relu() + maps[1].relu().flip(-1)
        if step == 0:
            result.cam_sums.append(summed.detach())
            result.rib_sums.append(summed.detach())
        else:
            result.rib_sums[index] = result.rib_sums[index] + summed.detach()
        if index == 0 and step > 0 and _plain_share(summed.detach(), wanted, config) > config.guard_share:
            result.stopped = "run-away"
            return False
        if scale in config.loss_scales:
            pooled.append(_plain_pool(maps, wanted.expand(2, -1), config))
    images, labels = batch
    pooled.append(_plain_pool(network.class_maps(network.trunk_features(images)), labels, config))
    rows = 2 * len(config.loss_scales)
    logits, all_labels = torch.cat(pooled), torch.cat([wanted.expand(rows, -1), labels])
    loss = -(logits * all_labels).sum()
    for group, multiplier in zip(sgd.param_groups, (1.0, config.classifier_multiplier), strict=True):
        group["lr"] = config.learning_rate * multiplier * (1 - step / config.steps) ** config.power
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    result.losses.append(loss.item())
    result.target_sums.append((logits[:rows] * all_labels[:rows]).sum().item())
    result.learning_rates.append(sgd.param_groups[0]["lr"])
    if config.limit == "early_stop" and abs(result.target_sums[-1]) > config.m:
        result.stopped = "early-stop"
        return False
    return True


def _plain_pool(maps: Tensor, labels: Tensor, config: RIBConfig) -> Tensor:
    if config.pooling == "gap":
        return nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)
    return plain_gndrp(maps, labels, config.tau, config.gndrp_classes or maps.shape[1], config.average)


def _plain_share(summed: Tensor, wanted: Tensor, config: RIBConfig) -> float:
    covered = torch.zeros(summed.shape[1:], dtype=torch.bool)
    for cls in wanted[0].nonzero().flatten().tolist():
        covered |= summed[cls] / summed[cls].max() > config.guard_threshold
    return covered.float().mean().item()
