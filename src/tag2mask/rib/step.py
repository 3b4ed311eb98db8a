"""One step of RIB (NeurIPS 2021, section 3), top to bottom: see `Steps.step`.

The sigmoid at a classifier's end is what makes the bottleneck, so the loss takes the pooled logits as they are; and
GNDRP pools them over what did not yet make the decision, so that gradients reach the other regions of an object.

The loss is a plain sum over rows, so its gradient is the sum of the gradients of its parts: each scale, and each
chunk of partners, is passed and differentiated by itself, and its graph is freed before the next one. That equals
one large backward pass up to round-off, at a fraction of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tag2mask.networks import CAMClassifier
from tag2mask.networks.folding import FoldedHead
from tag2mask.rib.config import Average, RIBConfig
from tag2mask.rib.update import Line, PolySGD, add_gradient, gradients, searched_rate

Groups = tuple[list[nn.Parameter], list[nn.Parameter]]  # the head's, the 1x1 convolution's
Stopped = Literal["finished", "early-stop", "run-away", "partners-exhausted"]


@dataclass(frozen=True)
class TrunkFeatures:
    """Frozen features (B, c, h', w') that were computed before, instead of the images they came from."""

    values: Tensor

    def __getitem__(self, rows: slice) -> TrunkFeatures:
        return TrunkFeatures(self.values[rows])


NetworkInput = Tensor | TrunkFeatures  # ImageNet-normalised images (B, 3, H, W), or their frozen features
PartnerBatch = tuple[NetworkInput, Tensor]  # and labels (B, C) of 0 and 1


@dataclass
class StepRecord:
    """What one step saw. Loss and learning rate are NaN where the step ended without an update."""

    covered: float = math.nan  # share of the scale-1 map over the guard's threshold, 0..1
    target_logits: list[Tensor] = field(default_factory=list)  # a (2, n) per loss scale: image, mirror or it again
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


class Steps:
    """One image on its way: its frozen features, the sums of its maps, and the record of each step.

    `features` are those of each scale, (2, c, h', w') for image and mirror or (1, c, h', w') for the image alone;
    `classes` (n,) the present ones. The classifier's `groups` are tunable, and its `head` runs folded.
    """

    def __init__(
        self,
        classifier: CAMClassifier,
        groups: Groups,
        head: FoldedHead,
        features: Sequence[Tensor],
        classes: Tensor,
        config: RIBConfig,
        *,
        partner_gradient: Tensor | None = None,
        trace: bool = False,
    ) -> None:
        self.classifier, self.groups, self.head, self.config = classifier, groups, head, config
        self.features, self.classes = features, classes
        self.partner_gradient, self.trace = partner_gradient, trace
        self.parameters = [*groups[0], *groups[1]]
        self.optimiser = PolySGD.for_rib(groups, config)
        self.cam_sums: list[Tensor] = []  # per scale (n, h, w)
        self.rib_sums: list[Tensor] = []
        self.records: list[StepRecord] = []

    def step(self, k: int, batch: PartnerBatch | None, *, updating: bool) -> Stopped | None:
        """Step k = 0 .. K-1: add the class maps to the sums, then update; return what ends the run, if anything."""
        record = StepRecord()
        self.records.append(record)
        self.optimiser.zero_grad()
        target_loss = 0.0
        for index, scale in enumerate(self.config.scales):
            in_loss = scale in self.config.loss_scales
            with torch.set_grad_enabled(in_loss and updating):
                maps = self.present_maps(index)  # (V, n, h, w), V = 1 or 2 views
                logits, loss = own_loss(maps, self.classes, self.config) if in_loss else (None, None)
            merged = merge_mirror(maps.detach())  # (V, n, h, w) -> (n, h, w)
            self._accumulate(index, merged, k)
            if logits is not None:
                record.target_logits.append(logits.detach())
            if index == 0:
                record.covered = covered_share(merged, self.config.guard_threshold)
                if runs_away(record.covered, k, self.config):
                    return "run-away"
            if updating and loss is not None:
                loss.backward()
                target_loss += loss.item()
        if not updating:
            return None
        record.loss = target_loss
        record.learning_rate = self._update(batch)
        return "early-stop" if passes_limit(record.target_sum, self.config) else None

    def present_maps(self, index: int) -> Tensor:
        """Raw class maps (V, n, h, w) of the present classes at one scale, of its views, at present weights."""
        return self.classifier.class_maps(self.features[index])[:, self.classes].float()

    def _accumulate(self, index: int, maps: Tensor, k: int) -> None:
        if k == 0:
            self.cam_sums.append(maps)
            self.rib_sums.append(maps.clone() if self.config.first_map else torch.zeros_like(maps))
        else:
            self.rib_sums[index] += maps
        if index == 0 and self.trace:
            self.records[-1].maps = maps.clone()
            self.records[-1].accumulated = self.rib_sums[0].clone()

    def _update(self, batch: PartnerBatch | None) -> float:
        """Add the partners' gradient to the target's and update; return the learning rate of the head."""
        self.head.push_gradients()
        searched = self.config.step_size == "searched"
        own = gradients(self.parameters) if searched else []
        if batch is not None:
            self.records[-1].loss += partner_pass(self.classifier, batch, self.config)
            self.head.push_gradients()
        if self.config.partners == "amortised" and self.partner_gradient is not None:
            add_gradient(self.parameters, self.partner_gradient, self.config.batch_size)
        rate = self._search(own) if searched else self.optimiser.step()[0]
        self.head.refresh()
        return rate

    def _search(self, own: Sequence[Tensor]) -> float:
        """Move along the gradient until the scale-1 maps have risen as `config.rise` says; return the rate."""
        line = Line(self.groups, (1.0, self.config.classifier_multiplier), self.config.weight_decay)
        start = self.cam_sums[0] if len(self.records) == 1 else self._look()
        slope = line.slope(own) / sum(logits.numel() for logits in self.records[-1].target_logits)

        def maps_at(rate: float) -> Tensor:
            line.move(rate)
            self.head.refresh()
            return self._look()

        rate = searched_rate(maps_at, start, slope, self.config)
        line.move(rate)
        return rate

    @torch.no_grad()
    def _look(self) -> Tensor:
        """The scale-1 maps (n, h, w) at the present weights."""
        return merge_mirror(self.present_maps(0))


def partner_pass(classifier: CAMClassifier, batch: PartnerBatch, config: RIBConfig) -> float:
    """Pass a partner batch, add its gradient to the tuned parameters' and return its share of the loss."""
    given, labels = batch
    loss = 0.0
    for start in range(0, len(labels), config.partner_chunk):
        rows = slice(start, start + config.partner_chunk)
        if labels[rows].any():  # else nothing is present, nothing to raise
            loss += _partner_chunk(classifier, given[rows], labels[rows], config)
    return loss


@torch.enable_grad()
def _partner_chunk(classifier: CAMClassifier, given: NetworkInput, labels: Tensor, config: RIBConfig) -> float:
    features = frozen_features(classifier, given, config)
    row, cls = (labels > 0).to(features.device).nonzero(as_tuple=True)  # (P,) pairs of row and present class
    maps = classifier.class_maps(features)[row, cls].float()  # (B, C, h, w) -> (P, h, w)
    _, loss = present_loss(maps, cls, config)
    loss.backward()
    return loss.item()


def frozen_features(classifier: CAMClassifier, given: NetworkInput, config: RIBConfig) -> Tensor:
    """Features (B, c, h', w') on the classifier's device: computed from images, or as they were given."""
    weight = classifier.tuned_parameters()[1][0]
    if isinstance(given, TrunkFeatures):
        features = given.values.to(weight.device, weight.dtype)
    else:
        features = classifier.trunk_features(given.to(weight.device, weight.dtype))
    return features.contiguous(memory_format=torch.channels_last) if config.channels_last else features


def stack_with_mirror(scaled_images: Sequence[Tensor], mirror: bool = True) -> list[Tensor]:
    """Turn normalised images (3, h, w), one a scale, into (2, 3, h, w): image and mirror.

    Without `mirror` into (1, 3, h, w). Raises ValueError for another layout, (h, w, 3) say.
    """
    for image in scaled_images:
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image of shape {tuple(image.shape)} is not (3, h, w)")
    return [torch.stack([image, image.flip(-1)] if mirror else [image]) for image in scaled_images]


def merge_mirror(maps: Tensor) -> Tensor:
    """ReLU class maps (..., 2, n, h, w) of image and mirror and add them, the mirror turned back: (..., n, h, w).

    Those of the image alone, (..., 1, n, h, w), count twice.
    """
    views = maps.relu().unbind(-4)
    return views[0] + views[1].flip(-1) if len(views) == 2 else 2 * views[0]


# --- from class maps to the loss ---------------------------------------------------------------------------


def own_loss(maps: Tensor, classes: Tensor, config: RIBConfig) -> tuple[Tensor, Tensor]:
    """`present_loss` of the views (V, n, h, w) of an image: logits (2, n), and their loss, a scalar."""
    logits = paired(present_logits(maps, classes, config))
    return logits, rib_loss(logits, ceiling=ceiling_of(config))


def paired(logits: Tensor) -> Tensor:
    """Logits (V, n) of an image and its mirror, (2, n): those of the image alone count for both."""
    return logits.expand(2, -1)


def present_loss(maps: Tensor, classes: Tensor, config: RIBConfig) -> tuple[Tensor, Tensor]:
    """Pool the maps (..., P, h, w) of present `classes` (P,) to logits (..., P); and their loss, a scalar.

    Absent classes never enter the loss, so only present ones are pooled; `gndrp` on all classes gives the same.
    """
    logits = present_logits(maps, classes, config)
    return logits, rib_loss(logits, ceiling=ceiling_of(config))


def present_logits(maps: Tensor, classes: Tensor, config: RIBConfig) -> Tensor:
    """Pool the maps (..., P, h, w) of present `classes` (P,) to logits (..., P)."""
    if config.pooling == "gap":
        return gap(maps)
    masked = torch.ones_like(classes, dtype=torch.bool)
    if config.gndrp_classes is not None:
        masked = classes < config.gndrp_classes
    return _gndrp(maps, masked, config.tau, config.average)


def ceiling_of(config: RIBConfig) -> float | None:
    """The paper's m where the loss is to be cut off there, for `rib_loss`."""
    return config.m if config.limit == "clamp" else None


def rib_loss(logits: Tensor, labels: Tensor | None = None, ceiling: float | None = None) -> Tensor:
    """Minus the sum over rows and present classes of logits (B, C), with labels (B, C) of 0 and 1 -> scalar.

    Without labels every logit is a present class's. `ceiling` m gives the paper's -y min(m, logit); None is the
    reference's form.
    """
    if labels is not None:
        logits = logits[labels > 0]
    if ceiling is not None:
        logits = logits.clamp(max=ceiling)
    return -logits.sum()


def gap(maps: Tensor) -> Tensor:
    """Global average pooling, the mean over positions: (..., h, w) -> (...)."""
    return maps.mean(dim=(-2, -1))


def gndrp(
    maps: Tensor,
    present: Sequence[int] | Tensor,
    tau: float,
    *,
    average: Average = "all",
    slip_classes: int | None = None,
) -> Tensor:
    """Pool raw class maps (B, C, h, w) to logits (B, C) by GNDRP; absent classes are average-pooled.

    Global non-discriminative region pooling (RIB, section 3.3): positions that made the decision, those at or above
    `tau` times the map's maximum, are left out. `present`: a list of classes for all rows, or labels (B, C) for each
    row. `slip_classes` reproduces a slip of the reference: classes from this number on are average-pooled even where
    present.
    """
    if isinstance(present, Tensor) and present.ndim == 2:
        masked = (present > 0).to(maps.device)  # (B, C)
    else:
        masked = torch.zeros(maps.shape[:2], dtype=torch.bool, device=maps.device)
        masked[:, list(present)] = True
    if slip_classes is not None:
        masked[:, slip_classes:] = False
    return _gndrp(maps, masked, tau, average)


def _gndrp(maps: Tensor, masked: Tensor, tau: float, average: Average) -> Tensor:
    """GNDRP of the maps where `masked` (...), GAP elsewhere: (..., h, w) -> (...)."""
    keep = nondiscriminative(maps, tau) | ~masked[..., None, None]  # (..., h, w)
    total = torch.where(keep, maps, 0.0)
    if average == "all":
        return total.mean(dim=(-2, -1))
    return total.sum(dim=(-2, -1)) / keep.sum(dim=(-2, -1)).clamp(min=1)  # 0 where none is kept


def nondiscriminative(maps: Tensor, tau: float) -> Tensor:
    """Where a map is below `tau` times its maximum: (..., h, w) -> bool (..., h, w), without gradient.

    A map whose maximum is negative has no such place (each value over the maximum is 1 or more), and an all-zero
    map has none either (0/0 is below nothing): their pooled logit is 0 and they get no gradient.
    """
    values = maps.detach()
    peak = values.amax(dim=(-2, -1), keepdim=True)  # (..., 1, 1)
    return values / peak < tau


# --- what ends a run ---------------------------------------------------------------------------------------


def passes_limit(total: float, config: RIBConfig) -> bool:
    """Whether the target's summed logits `total` end the run (limit "early_stop")."""
    if config.limit != "early_stop":
        return False
    return (abs(total) if config.absolute_limit else total) > config.m


def covered_share(maps: Tensor, threshold: float) -> float:
    """Share of positions where any class's map (n, h, w) is above `threshold` of its own maximum: 0..1.

    An all-zero map covers nothing.
    """
    return covered_shares(maps, threshold).item()


def covered_shares(maps: Tensor, threshold: float) -> Tensor:
    """`covered_share` of the maps (..., n, h, w) of several images: (...)."""
    peak = maps.amax(dim=(-2, -1), keepdim=True)  # (..., n, 1, 1)
    covered = (maps / peak > threshold).any(dim=-3)  # (..., h, w); 0/0 is above nothing
    return covered.float().mean(dim=(-2, -1))


def runs_away(covered: float, k: int, config: RIBConfig) -> bool:
    """Whether the maps of step `k` have spread so far that they lost the object; those of step 0, CAM, never."""
    return k > 0 and covered > config.guard_share
