"""RIB of one image: a few steps of fine-tuning, and the sum of the class maps along the way.

The classifier is borrowed: whatever happens, it leaves as it came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tag2mask.common.errors import DataError
from tag2mask.networks import CAMClassifier
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.guard import covered_share, runs_away
from tag2mask.rib.loss import passes_limit
from tag2mask.rib.optimiser import PolySGD, tuned
from tag2mask.rib.passes import NetworkInput, PartnerBatch, frozen_features, partner_pass, target_pass

Stopped = Literal["finished", "early-stop", "run-away", "partners-exhausted"]


@dataclass
class StepRecord:
    """What one step saw. Loss and learning rate are NaN where the step ended without an update."""

    covered: float = math.nan  # share of the scale-1 map over the guard's threshold, 0..1
    target_logits: list[Tensor] = field(default_factory=list)  # a (2, n) per loss scale: image and mirror
    loss: float = math.nan  # over all rows, target and partners
    learning_rate: float = math.nan  # of the backbone's head
    maps: Tensor | None = None  # (n, h, w): the scale-1 map of this step, kept on request
    accumulated: Tensor | None = None  # (n, h, w): the sum of scale-1 maps so far, kept on request

    @property
    def target_sum(self) -> float:
        """Sum of the target's pooled present-class logits over scales, mirrors and classes."""
        return sum(logits.sum().item() for logits in self.target_logits)

    @property
    def target_logit(self) -> float:
        """Mean of the target's pooled present-class logits."""
        return torch.cat([logits.flatten() for logits in self.target_logits]).mean().item()


@dataclass
class RIBResult:
    """Localization maps of one image at network resolution, only for its present classes, and how they came."""

    classes: tuple[int, ...]  # the n present classes, ascending
    cam_sums: list[Tensor]  # per scale (n, h, w), of step 0: plain CAM
    rib_sums: list[Tensor]  # per scale (n, h, w), summed over the steps
    steps: list[StepRecord]
    stopped: Stopped

    @property
    def steps_run(self) -> int:
        """Number of steps whose maps are in the sums; a run-away step is in the sum of scale 1 only."""
        return len(self.steps)


def rib(
    classifier: CAMClassifier,
    scaled_images: Sequence[NetworkInput],
    labels: Sequence[int],
    partner_batches: Iterable[PartnerBatch] = (),
    config: RIBConfig | None = None,
    *,
    trace: bool = False,
) -> RIBResult:
    """Fine-tune the classifier on one image without its last activation and sum the class maps (RIB, NeurIPS 2021).

    `scaled_images`: for each of `config.scales` the image and its mirror (2, 3, h_s, w_s), ImageNet-normalised, or
    their `TrunkFeatures`. `labels`: the classes present. `partner_batches`: one (images or features, labels (B, C))
    per update, taken as needed; the caller chooses them class-disjoint or not. `trace` keeps the scale-1 maps of
    every step. Raises DataError for an image without labels or with labels that the classifier doesn't know.
    """
    config = config or RIBConfig()
    _check(classifier, scaled_images, labels, config)
    with tuned(classifier) as groups:
        run = _Run(classifier, scaled_images, labels, config, trace)
        optimiser = PolySGD.for_rib(groups, config)
        stopped = run.all_steps(iter(partner_batches), optimiser)
    return RIBResult(tuple(run.classes.tolist()), run.cam_sums, run.rib_sums, run.steps, stopped)


class _Run:
    """The state of one image's run: frozen features, running sums, and the record of each step."""

    def __init__(
        self,
        classifier: CAMClassifier,
        scaled_images: Sequence[NetworkInput],
        labels: Sequence[int],
        config: RIBConfig,
        trace: bool,
    ) -> None:
        self.classifier, self.config, self.trace = classifier, config, trace
        self.features = [frozen_features(classifier, images, config) for images in scaled_images]
        self.classes = torch.tensor(sorted(set(labels)), device=self.features[0].device)
        self.cam_sums: list[Tensor] = []
        self.rib_sums: list[Tensor] = []
        self.steps: list[StepRecord] = []

    def all_steps(self, partner_batches: Iterator[PartnerBatch], optimiser: PolySGD) -> Stopped:
        """Run up to K steps; say what ended them."""
        for step in range(self.config.steps):
            updating = step < self.config.updates
            batch = self._next_batch(partner_batches) if updating else None
            if updating and batch is None and self._needs_partners():
                self._check_any_step()
                return "partners-exhausted"
            self.steps.append(StepRecord())
            optimiser.zero_grad()
            if not self._pass_target(step, graph=updating):
                return "run-away"
            if updating and self._update(batch, optimiser):
                return "early-stop"
        return "finished"

    def _next_batch(self, partner_batches: Iterator[PartnerBatch]) -> PartnerBatch | None:
        return None if self.config.partners == "none" else next(partner_batches, None)

    def _needs_partners(self) -> bool:
        return self.config.partners != "none" and self.config.exhausted == "stop"

    def _check_any_step(self) -> None:
        if not self.steps:
            raise DataError("there is not one partner batch for this image; use exhausted: alone or partners: none")

    def _pass_target(self, step: int, *, graph: bool) -> bool:
        """Pass every scale, add its maps to the sums and its gradient to the parameters'; False on a run-away."""
        record = self.steps[-1]
        loss = 0.0
        for index, scale in enumerate(self.config.scales):
            pooled = scale in self.config.loss_scales
            seen, scale_loss = target_pass(
                self.classifier, self.features[index], self.classes, self.config, pooled=pooled, graph=graph
            )
            self._accumulate(index, seen.maps)
            if seen.logits is not None:
                record.target_logits.append(seen.logits)
            if index == 0:
                record.covered = covered_share(seen.maps, self.config.guard_threshold)
                if runs_away(record.covered, step, self.config):
                    return False
            if graph and scale_loss is not None:
                scale_loss.backward()
                loss += scale_loss.item()
        record.loss = loss if graph else math.nan
        return True

    def _accumulate(self, index: int, maps: Tensor) -> None:
        if index == len(self.rib_sums):  # the first step
            self.cam_sums.append(maps)
            self.rib_sums.append(maps.clone())
        else:
            self.rib_sums[index] += maps
        if index == 0 and self.trace:
            self.steps[-1].maps = maps.clone()
            self.steps[-1].accumulated = self.rib_sums[0].clone()

    def _update(self, batch: PartnerBatch | None, optimiser: PolySGD) -> bool:
        """Add the partners' gradient and update; True if the target's logits have grown past the limit."""
        record = self.steps[-1]
        if batch is not None:
            record.loss += partner_pass(self.classifier, batch, self.config)
        record.learning_rate = optimiser.step()[0]
        return passes_limit(record.target_sum, self.config)


def _check(
    classifier: CAMClassifier, scaled_images: Sequence[NetworkInput], labels: Sequence[int], config: RIBConfig
) -> None:
    if len(scaled_images) != len(config.scales):
        raise DataError(f"{len(scaled_images)} scaled images for {len(config.scales)} scales {config.scales}")
    if not labels:
        raise DataError("an image without labels has no class to localize; leave it out")
    unknown = [label for label in labels if not 0 <= label < classifier.n_classes]
    if unknown:
        raise DataError(f"label {unknown[0]} is outside the classifier's classes 0..{classifier.n_classes - 1}")
