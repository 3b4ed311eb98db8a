"""Every setting of RIB, once: default, unit, source.

"Paper" is RIB (NeurIPS 2021, arXiv 2110.06530), "reference" its released code. The default mends the
reference's slips; `RIBConfig.reference()` reproduces each of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tag2mask.common.errors import ConfigError
from tag2mask.config import Range, SettingError, Settings
from tag2mask.networks.precision import Precision

Pooling = Literal["gndrp", "gap"]
Average = Literal["all", "kept"]
Limit = Literal["early_stop", "clamp", "none"]
PartnerChoice = Literal["disjoint", "any", "none", "amortised"]
StepSize = Literal["scheduled", "searched"]
Exhausted = Literal["alone", "stop"]


@dataclass(frozen=True)
class RIBConfig(Settings):
    """Settings of the fine-tuning of one image; defaults are VOC's with the reference's slips mended.

    Raises ConfigError for impossible values, naming the setting, the value and what is allowed.
    """

    # what a step sees and does
    steps: Annotated[int, Range(ge=1, le=1000)] = 10  # K, maps that are summed; paper
    # of the image, 1.0 first: the guard looks at it; reference
    scales: Annotated[tuple[float, ...], Range(gt=0, le=8, items=(1, 20))] = (1.0, 0.5, 1.5, 2.0)
    # those that enter the loss as well; reference
    loss_scales: Annotated[tuple[float, ...], Range(gt=0, le=8, items=(1, 20))] = (1.0, 1.5, 2.0)
    mirror: bool = True  # the image's mirror is passed too, reference; false: the image counts for both
    # of the backbone's head, for ResNet-50; COCO 5e-6; paper
    learning_rate: Annotated[float, Range(gt=0, le=1_000_000)] = 8e-6
    # the 1x1 convolution's learning rate over the head's; reference
    classifier_multiplier: Annotated[float, Range(ge=0, le=1_000_000)] = 10.0
    power: Annotated[float, Range(ge=0, le=1000)] = 0.9  # polynomial decay over K steps; reference
    weight_decay: Annotated[float, Range(ge=0, le=1000)] = 1e-4  # reference
    # reference: it passes the weight decay as momentum, so in effect none
    momentum: Annotated[float, Range(ge=0, lt=1)] = 1e-4

    # the length of a step
    step_size: StepSize = "scheduled"  # by the learning rate (reference); "searched": for each image by its effect
    # searched: how far the mean of the scale-1 maps shall rise in a step, in parts of `rise_of`
    rise: Annotated[float, Range(gt=0, le=10)] = 0.2
    # the maps' peak, or their mean before the step: where things cover a hundredth of a photo, a mean that rises by a
    # fifth of the peak is a map that floods it
    rise_of: Literal["peak", "mean"] = "peak"
    looks: Annotated[int, Range(ge=1, le=1000)] = 5  # searched: passes at scale 1 that the search of a step may take
    first_map: bool = True  # step 0, plain CAM, is part of the sum (reference)

    # the pooled logit and its loss
    pooling: Pooling = "gndrp"  # "gap": global average pooling; both in the paper
    # GNDRP keeps values below this share of the maximum; COCO 0.5; paper
    tau: Annotated[float, Range(gt=0, le=1)] = 0.4
    average: Average = "all"  # mean over all positions (reference) or the "kept" ones (as the paper reads)
    limit: Limit = "early_stop"  # when logits grow large: stop (reference), "clamp" to min(m, logit) (paper), "none"
    # logits; early_stop: sum over the target's rows and classes; clamp: each logit; COCO 1000
    m: Annotated[float, Range(gt=0)] = 600.0

    # run-away guard, from the second step on
    # share of a map's maximum from which a position counts as covered; reference
    guard_threshold: Annotated[float, Range(ge=0, lt=1)] = 0.3
    # covered share of the scale-1 map that ends the run; COCO 0.8; reference
    guard_share: Annotated[float, Range(gt=0, le=1, note="(1 switches the guard off)")] = 0.7

    # the batch of other images
    # share no class with the target (paper), "any" image, "none", or "amortised": not images but their expected
    # gradient, which is computed once for the set
    partners: PartnerChoice = "disjoint"
    # B, images a step; COCO 15; paper
    batch_size: Annotated[int, Range(ge=1, le=8192, note="(partners: none switches the batch off)")] = 20
    exhausted: Exhausted = "alone"  # partner batches have run out: go on with the target "alone", or "stop"

    # slips of the reference
    # only the first so many classes are masked by GNDRP; reference: 20
    gndrp_classes: Annotated[int | None, Range(ge=0, le=1_000_000)] = None
    update_after_last: bool = False  # run the last step's update although no map uses it; reference: True
    absolute_limit: bool = False  # early_stop tests the sum's absolute value; reference: True

    # execution: changes memory and time, not the maps (beyond round-off; bf16's is the coarsest)
    precision: Precision = "32"  # of convolutions; "tf32" and "bf16" are for GPUs, a CPU is slower in bf16
    # partner images that are passed and differentiated together
    partner_chunk: Annotated[int, Range(ge=1, le=8192)] = 4
    channels_last: bool = False  # layout of the features in memory
    fold_batch_norm: bool = True  # into the convolutions, as its statistics are fixed

    def check_relations(self) -> None:
        """Raise ConfigError for scales that don't fit together and where no map is left."""
        if self.scales[0] != 1.0 or len(set(self.scales)) < len(self.scales):
            raise SettingError(self, ("scales",), "1.0 first, at which the run-away guard looks, and each scale once")
        if not set(self.loss_scales) <= set(self.scales):
            raise SettingError(self, ("loss_scales", "scales"), f"some of scales, {list(self.scales)}")
        if self.rise_of == "peak" and self.rise >= 1:
            raise SettingError(self, ("rise", "rise_of"), "below 1 where rise_of is peak")
        if not self.first_map and self.steps < 2:
            raise SettingError(self, ("steps", "first_map"), "2 or more with first_map: false")

    @property
    def views(self) -> int:
        """What is passed of the image at each scale: 2, it and its mirror, or 1, it alone."""
        return 2 if self.mirror else 1

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
