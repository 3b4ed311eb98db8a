"""Every setting of RIB, once: default, unit, source.

"Paper" is RIB (NeurIPS 2021, arXiv 2110.06530), "reference" its released code. The default mends the
reference's slips; `RIBConfig.reference()` reproduces each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.networks.precision import Precision

Pooling = Literal["gndrp", "gap"]
Average = Literal["all", "kept"]
Limit = Literal["early_stop", "clamp", "none"]
PartnerChoice = Literal["disjoint", "any", "none", "amortised"]
StepSize = Literal["scheduled", "searched"]
Exhausted = Literal["alone", "stop"]


@dataclass(frozen=True)
class RIBConfig:
    """Settings of the fine-tuning of one image; defaults are VOC's with the reference's slips mended.

    Raises ConfigError for impossible values, naming the setting, the value and what is allowed.
    """

    # what a step sees and does
    steps: int = 10  # K, maps that are summed; paper
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)  # of the image, 1.0 first: the guard looks at it; reference
    loss_scales: tuple[float, ...] = (1.0, 1.5, 2.0)  # those that enter the loss as well; reference
    learning_rate: float = 8e-6  # of the backbone's head, for ResNet-50; COCO 5e-6; paper
    classifier_multiplier: float = 10.0  # the 1x1 convolution's learning rate over the head's; reference
    power: float = 0.9  # polynomial decay over K steps; reference
    weight_decay: float = 1e-4  # reference
    momentum: float = 1e-4  # reference: it passes the weight decay as momentum, so in effect none

    # the length of a step
    step_size: StepSize = "scheduled"  # by the learning rate (reference); "searched": for each image by its effect
    rise: float = 0.2  # searched: how far the mean of the scale-1 maps shall rise in a step, as a share of their peak
    looks: int = 5  # searched: passes at scale 1 that the search of a step may take
    first_map: bool = True  # step 0, plain CAM, is part of the sum (reference)

    # the pooled logit and its loss
    pooling: Pooling = "gndrp"  # "gap": global average pooling; both in the paper
    tau: float = 0.4  # GNDRP keeps values below this share of the maximum; COCO 0.5; paper
    average: Average = "all"  # mean over all positions (reference) or the "kept" ones (as the paper reads)
    limit: Limit = "early_stop"  # when logits grow large: stop (reference), "clamp" to min(m, logit) (paper), "none"
    m: float = 600.0  # logits; early_stop: sum over the target's rows and classes; clamp: each logit; COCO 1000

    # run-away guard, from the second step on
    guard_threshold: float = 0.3  # share of a map's maximum from which a position counts as covered; reference
    guard_share: float = 0.7  # covered share of the scale-1 map that ends the run; 1 = off; COCO 0.8; reference

    # the batch of other images
    # share no class with the target (paper), "any" image, "none", or "amortised": not images but their expected
    # gradient, which is computed once for the set
    partners: PartnerChoice = "disjoint"
    batch_size: int = 20  # B, images a step; COCO 15; paper
    exhausted: Exhausted = "alone"  # partner batches have run out: go on with the target "alone", or "stop"

    # slips of the reference
    gndrp_classes: int | None = None  # only the first so many classes are masked by GNDRP; reference: 20
    update_after_last: bool = False  # run the last step's update although no map uses it; reference: True
    absolute_limit: bool = False  # early_stop tests the sum's absolute value; reference: True

    # execution: changes memory and time, not the maps (beyond round-off; bf16's is the coarsest)
    precision: Precision = "32"  # of convolutions; "tf32" and "bf16" are for GPUs, a CPU is slower in bf16
    partner_chunk: int = 4  # partner images that are passed and differentiated together
    channels_last: bool = False  # layout of the features in memory
    fold_batch_norm: bool = True  # into the convolutions, as its statistics are fixed

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name}: '{value}' is not allowed{did_you_mean(str(value), allowed)}")
        for name, (ok, allowed_text) in _RANGES.items():
            value = getattr(self, name)
            if not ok(value):
                raise ConfigError(f"{name}: {value} is not allowed; it must be {allowed_text}")
        _check_scales(self.scales, self.loss_scales)
        if not self.first_map and self.steps < 2:
            raise ConfigError("first_map: false leaves nothing to sum with steps: 1; use 2 or more steps")
        if self.gndrp_classes is not None and self.gndrp_classes < 0:
            raise ConfigError(f"gndrp_classes: {self.gndrp_classes} is not allowed; it must be 0 or more, or none")

    @property
    def updates(self) -> int:
        """Number of updates of a run that nothing stops: K - 1, or K with the reference's wasted one."""
        return self.steps if self.update_after_last else self.steps - 1

    @classmethod
    def voc(cls, **changes: Any) -> RIBConfig:
        """VOC 2012's values, slips mended: the default."""
        return cls(**changes)

    @classmethod
    def coco(cls, **changes: Any) -> RIBConfig:
        """COCO 2014's values, slips mended."""
        return cls(**{**_COCO, **changes})

    @classmethod
    def reference(cls, dataset: Literal["voc", "coco"] = "voc", **changes: Any) -> RIBConfig:
        """The reference code as released, every slip included, so that old results can be re-created."""
        if dataset not in ("voc", "coco"):
            raise ConfigError(f"dataset: '{dataset}' has no reference values; use voc or coco")
        return cls(**{**(_COCO if dataset == "coco" else {}), **_SLIPS, **changes})

    @classmethod
    def fast(cls, **changes: Any) -> RIBConfig:
        """One long step, its length searched, and the partners' gradient computed once for the set."""
        return cls(**{**_FAST, **changes})

    @classmethod
    def presets(cls) -> dict[str, RIBConfig]:
        """Whole configs by the name that a recipe may give as `preset`."""
        return {
            "voc": cls.voc(),
            "coco": cls.coco(),
            "fast": cls.fast(),
            "reference": cls.reference(),
            "reference-coco": cls.reference("coco"),
        }

    def replace(self, **changes: Any) -> RIBConfig:
        """Return a copy with some settings changed."""
        return dataclasses.replace(self, **changes)


_COCO: dict[str, Any] = {"learning_rate": 5e-6, "batch_size": 15, "tau": 0.5, "m": 1000.0, "guard_share": 0.8}
_FAST: dict[str, Any] = {
    "steps": 2,
    "step_size": "searched",
    "partners": "amortised",
    "guard_share": 1.0,  # the search bounds the step
    "limit": "none",  # so does it here
}
_SLIPS: dict[str, Any] = {
    "gndrp_classes": 20,
    "update_after_last": True,
    "absolute_limit": True,
    "exhausted": "stop",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "pooling": get_args(Pooling),
    "average": get_args(Average),
    "limit": get_args(Limit),
    "step_size": get_args(StepSize),
    "partners": get_args(PartnerChoice),
    "exhausted": get_args(Exhausted),
    "precision": get_args(Precision),
}
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": (lambda v: v >= 1, "1 or more"),
    "learning_rate": (lambda v: v > 0, "above 0"),
    "classifier_multiplier": (lambda v: v >= 0, "0 or more"),
    "power": (lambda v: v >= 0, "0 or more"),
    "weight_decay": (lambda v: v >= 0, "0 or more"),
    "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "tau": (lambda v: 0 < v <= 1, "above 0, at most 1"),
    "m": (lambda v: v > 0, "above 0"),
    "rise": (lambda v: 0 < v < 1, "above 0 and below 1, a share of the maps' peak"),
    "looks": (lambda v: v >= 1, "1 or more"),
    "guard_threshold": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "guard_share": (lambda v: 0 < v <= 1, "above 0, at most 1 (1 switches the guard off)"),
    "batch_size": (lambda v: v >= 1, "1 or more; partners: none switches the batch off"),
    "partner_chunk": (lambda v: v >= 1, "1 or more"),
}


def _check_scales(scales: tuple[float, ...], loss_scales: tuple[float, ...]) -> None:
    if not scales or scales[0] != 1.0:
        raise ConfigError(f"scales: {scales} must begin with 1.0, the scale that the run-away guard looks at first")
    if len(set(scales)) < len(scales) or min(scales) <= 0:
        raise ConfigError(f"scales: {scales} must be positive and each given once")
    if not loss_scales or not set(loss_scales) <= set(scales):
        raise ConfigError(f"loss_scales: {loss_scales} must be one or more of scales {scales}")
