"""RIB of one image: a few steps of fine-tuning, and the sum of the class maps along the way.

The classifier is borrowed: whatever happens, it leaves as it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tag2mask.common.errors import DataError
from tag2mask.networks import CAMClassifier
from tag2mask.networks.folding import FoldedHead
from tag2mask.networks.precision import computing_in
from tag2mask.rib.amortise import add_gradient
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.guard import covered_share, runs_away
from tag2mask.rib.loss import passes_limit
from tag2mask.rib.optimiser import PolySGD, tuned
from tag2mask.rib.passes import NetworkInput, PartnerBatch, TargetPass, frozen_features, partner_pass, target_pass
from tag2mask.rib.search import Line, search_rate

Groups = tuple[list[nn.Parameter], list[nn.Parameter]]
OnStep = Callable[[int, CAMClassifier], None]
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
    partner_gradient: Tensor | None = None,
    trace: bool = False,
    on_step: OnStep | None = None,
) -> RIBResult:
    """Fine-tune the classifier on one image without its last activation and sum the class maps (RIB, NeurIPS 2021).

    `scaled_images`: for each of `config.scales` the image and its mirror (2, 3, h_s, w_s), ImageNet-normalised, or
    their `TrunkFeatures`. `labels`: the classes present. `partner_batches`: one (images or features, labels (B, C))
    per update, taken as needed; the caller chooses them class-disjoint or not. `partner_gradient` (P,): the expected
    gradient of one partner instead, for partners "amortised" (`PartnerGradients.expected`). `trace` keeps the
    scale-1 maps of every step. `on_step(k, classifier)` is called as step k = 0 .. begins, i.e. after k updates; it
    may look at the classifier, not change it or its gradients. Raises DataError for an image without labels or with
    labels that the classifier doesn't know.
    """
    config = config or RIBConfig()
    _check(classifier, scaled_images, labels, config)
    numbers = computing_in(config.precision, classifier.classifier.weight.device)
    with numbers, tuned(classifier) as groups, _folded(classifier, config) as head:
        run = _Run(classifier, groups, head, config)
        run.look_at(scaled_images, labels)
        run.partner_gradient, run.trace, run.on_step = partner_gradient, trace, on_step
        stopped = run.all_steps(iter(partner_batches))
    return RIBResult(tuple(run.classes.tolist()), run.cam_sums, run.rib_sums, run.steps, stopped)


def _folded(classifier: CAMClassifier, config: RIBConfig) -> AbstractContextManager[FoldedHead | None]:
    return FoldedHead(classifier.backbone.head) if config.fold_batch_norm else nullcontext()


class _Run:
    """The state of one image's run: frozen features, running sums, and the record of each step."""

    partner_gradient: Tensor | None = None
    on_step: OnStep | None = None
    trace = False

    def __init__(self, classifier: CAMClassifier, groups: Groups, head: FoldedHead | None, config: RIBConfig) -> None:
        self.classifier, self.groups, self.head, self.config = classifier, groups, head, config
        self.optimiser = PolySGD.for_rib(groups, config)
        self.cam_sums: list[Tensor] = []
        self.rib_sums: list[Tensor] = []
        self.steps: list[StepRecord] = []

    def look_at(self, scaled_images: Sequence[NetworkInput], labels: Sequence[int]) -> None:
        """Compute the frozen features of the target, once for all steps."""
        self.features = [frozen_features(self.classifier, images, self.config) for images in scaled_images]
        self.classes = torch.tensor(sorted(set(labels)), device=self.features[0].device)

    def all_steps(self, partner_batches: Iterator[PartnerBatch]) -> Stopped:
        """Run up to K steps; say what ended them."""
        for step in range(self.config.steps):
            updating = step < self.config.updates
            batch = self._next_batch(partner_batches) if updating else None
            if updating and batch is None and self._needs_partners():
                self._check_any_step()
                return "partners-exhausted"
            self.steps.append(StepRecord())
            self.optimiser.zero_grad()
            if self.on_step is not None:
                self.on_step(step, self.classifier)
            if not self._pass_target(step, graph=updating):
                return "run-away"
            if updating and self._update(batch):
                return "early-stop"
        return "finished"

    def _next_batch(self, partner_batches: Iterator[PartnerBatch]) -> PartnerBatch | None:
        return next(partner_batches, None) if self.config.partners in ("disjoint", "any") else None

    def _needs_partners(self) -> bool:
        return self.config.partners in ("disjoint", "any") and self.config.exhausted == "stop"

    def _check_any_step(self) -> None:
        if not self.steps:
            raise DataError("there is not one partner batch for this image; use exhausted: alone or partners: none")

    def _pass_target(self, step: int, *, graph: bool) -> bool:
        """Pass every scale, add its maps to the sums and its gradient to the parameters'; False on a run-away."""
        record = self.steps[-1]
        loss = 0.0
        for index, scale in enumerate(self.config.scales):
            seen, scale_loss = self._pass_scale(index, pooled=scale in self.config.loss_scales, graph=graph)
            self._accumulate(index, seen.maps, step)
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

    def _pass_scale(self, index: int, *, pooled: bool, graph: bool) -> tuple[TargetPass, Tensor | None]:
        features = self.features[index]
        return target_pass(self.classifier, features, self.classes, self.config, pooled=pooled, graph=graph)

    def _accumulate(self, index: int, maps: Tensor, step: int) -> None:
        if step == 0:
            self.cam_sums.append(maps)
            self.rib_sums.append(maps.clone() if self.config.first_map else torch.zeros_like(maps))
        else:
            self.rib_sums[index] += maps
        if index == 0 and self.trace:
            self.steps[-1].maps = maps.clone()
            self.steps[-1].accumulated = self.rib_sums[0].clone()

    def _update(self, batch: PartnerBatch | None) -> bool:
        """Add the partners' gradient and update; True if the target's logits have grown past the limit."""
        record = self.steps[-1]
        self._push()
        searched = self.config.step_size == "searched"
        own = self._own_gradient() if searched else []
        if batch is not None:
            record.loss += partner_pass(self.classifier, batch, self.config)
            self._push()
        if self.config.partners == "amortised" and self.partner_gradient is not None:
            add_gradient(self._parameters(), self.partner_gradient, self.config.batch_size)
        record.learning_rate = self._search(own) if searched else self.optimiser.step()[0]
        self._refresh()
        return passes_limit(record.target_sum, self.config)

    def _search(self, own: Sequence[Tensor]) -> float:
        """Move along the gradient until the scale-1 maps have risen as `config.rise` says; return the rate."""
        line = Line(self.groups, (1.0, self.config.classifier_multiplier), self.config.weight_decay)
        start = self.cam_sums[0] if len(self.steps) == 1 else self._look()
        peak, level = start.amax(dim=(-2, -1)).mean().item(), start.mean().item()
        slope = line.slope(own) / sum(logits.numel() for logits in self.steps[-1].target_logits)
        if peak <= 0 or slope <= 0:  # the maps are nowhere positive: there is nothing to follow
            return 0.0

        def rise_at(rate: float) -> float:
            line.move(rate)
            self._refresh()
            return (self._look().mean().item() - level) / peak

        # image and mirror are added in the maps, hence twice the growth of the pooled logits
        first = self.config.rise * peak / (2 * slope)
        rate = search_rate(rise_at, first, self.config.rise, self.config.looks)
        line.move(rate)
        return rate

    def _look(self) -> Tensor:
        """The scale-1 maps (n, h, w) at the present weights."""
        return self._pass_scale(0, pooled=False, graph=False)[0].maps

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.groups[0], *self.groups[1]]

    def _own_gradient(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._parameters()]

    def _push(self) -> None:
        if self.head is not None:
            self.head.push_gradients()

    def _refresh(self) -> None:
        if self.head is not None:
            self.head.refresh()


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
