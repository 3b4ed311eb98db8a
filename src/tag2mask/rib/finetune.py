"""RIB of one image: K steps of fine-tuning, and the sum of the class maps along the way.

The classifier is borrowed: whatever happens, it leaves as it came. What a step does is in `step.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.common.errors import DataError
from tag2mask.networks import CAMClassifier
from tag2mask.networks.folding import FoldedHead
from tag2mask.networks.precision import computing_in
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.step import (
    NetworkInput,
    PartnerBatch,
    StepRecord,
    Steps,
    Stopped,
    TrunkFeatures,
    frozen_features,
)
from tag2mask.rib.update import tuned

OnStep = Callable[[int, CAMClassifier], None]


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
    their `TrunkFeatures`; (1, 3, h_s, w_s) without `config.mirror`. `labels`: the classes
    present. `partner_batches`: one (images or features, labels (B, C)) per update, taken as needed; the caller
    chooses them class-disjoint or not. `partner_gradient` (P,): the expected gradient of one partner instead, for
    partners "amortised" (`PartnerGradients.expected`). `trace` keeps the scale-1 maps of every step.
    `on_step(k, classifier)` is called as step k = 0 .. begins, i.e. after k updates; it may look at the classifier,
    not change it or its gradients. Raises DataError for an image without labels or with labels that the classifier
    doesn't know.
    """
    config = config or RIBConfig()
    check_input(classifier, scaled_images, labels, config)
    numbers = computing_in(config.precision, classifier.classifier.weight.device)
    folded = FoldedHead(classifier.backbone.head if config.fold_batch_norm else nn.Identity())
    with numbers, tuned(classifier) as groups, folded as head:
        features = [frozen_features(classifier, images, config) for images in scaled_images]  # once for all steps
        classes = torch.tensor(sorted(set(labels)), device=features[0].device)
        steps = Steps(
            classifier, groups, head, features, classes, config, partner_gradient=partner_gradient, trace=trace
        )
        stopped = _all_steps(steps, iter(partner_batches), on_step or (lambda k, classifier: None))
    return RIBResult(tuple(classes.tolist()), steps.cam_sums, steps.rib_sums, steps.records, stopped)


def _all_steps(steps: Steps, partner_batches: Iterator[PartnerBatch], on_step: OnStep) -> Stopped:
    """Run up to K steps; say what ended them."""
    config = steps.config
    for k in range(config.steps):
        updating = k < config.updates
        batch = None
        if updating and config.partners in ("disjoint", "any"):
            batch = next(partner_batches, None)
            if batch is None and config.exhausted == "stop":
                return _without_partners(k)
        on_step(k, steps.classifier)
        ended = steps.step(k, batch, updating=updating)
        if ended is not None:
            return ended
    return "finished"


def _without_partners(k: int) -> Stopped:
    if k == 0:
        raise DataError("there is not one partner batch for this image; use exhausted: alone or partners: none")
    return "partners-exhausted"


def check_input(
    classifier: CAMClassifier, scaled_images: Sequence[NetworkInput], labels: Sequence[int], config: RIBConfig
) -> None:
    """Raise DataError for what `rib` refuses."""
    if len(scaled_images) != len(config.scales):
        raise DataError(f"{len(scaled_images)} scaled images for {len(config.scales)} scales {config.scales}")
    for given, scale in zip(scaled_images, config.scales, strict=True):
        views = len(given.values if isinstance(given, TrunkFeatures) else given)
        if views != config.views:
            raise DataError(f"{views} view(s) at scale {scale:g}; mirror: {config.mirror} takes {config.views}")
    if not labels:
        raise DataError("an image without labels has no class to localize; leave it out")
    unknown = [label for label in labels if not 0 <= label < classifier.n_classes]
    if unknown:
        raise DataError(f"label {unknown[0]} is outside the classifier's classes 0..{classifier.n_classes - 1}")


def trace_arrays(result: RIBResult) -> dict[str, np.ndarray]:
    """Arrays of a traced run of S steps on n classes, for files and the report.

    `classes` (n,); `maps` and `accumulated` float16 (S, n, h, w): scale 1's map of each step and the sum so far,
    each class divided by its maximum, 0..1; `loss` (S,), NaN where no update followed; `target_logit` (S,), the
    mean pooled logit of the present classes; `covered` (S,), 0..1. Raises ValueError for a run without trace.
    """
    maps = [step.maps for step in result.steps if step.maps is not None]
    accumulated = [step.accumulated for step in result.steps if step.accumulated is not None]
    if len(maps) != len(result.steps):
        raise ValueError("this run kept no maps; call rib(..., trace=True)")
    return {
        "classes": np.asarray(result.classes, dtype=np.int16),
        "maps": _normalised(maps),
        "accumulated": _normalised(accumulated),
        "loss": np.asarray([step.loss for step in result.steps], dtype=np.float32),
        "target_logit": np.asarray([step.target_logit for step in result.steps], dtype=np.float32),
        "covered": np.asarray([step.covered for step in result.steps], dtype=np.float32),
    }


def _normalised(maps: list[Tensor]) -> np.ndarray:
    stacked = torch.stack(maps)  # (S, n, h, w)
    peak = stacked.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (stacked / peak).cpu().numpy().astype(np.float16)
