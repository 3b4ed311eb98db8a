"""The method: reduce the information bottleneck (RIB, NeurIPS 2021) of one image at a time."""

from tag2mask.rib.amortise import PartnerGradients, class_gradients, mean_gradient
from tag2mask.rib.calibrate import calibrated_learning_rate, first_step_growth, initial_logit
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.finetune import RIBResult, rib, trace_arrays
from tag2mask.rib.step import (
    NetworkInput,
    PartnerBatch,
    StepRecord,
    TrunkFeatures,
    gap,
    gndrp,
    merge_mirror,
    rib_loss,
    stack_with_mirror,
)
from tag2mask.rib.update import PolySGD, restored, tuned

__all__ = [
    "NetworkInput",
    "PartnerBatch",
    "PartnerGradients",
    "PolySGD",
    "RIBConfig",
    "RIBResult",
    "StepRecord",
    "TrunkFeatures",
    "calibrated_learning_rate",
    "class_gradients",
    "first_step_growth",
    "gap",
    "gndrp",
    "initial_logit",
    "mean_gradient",
    "merge_mirror",
    "restored",
    "rib",
    "rib_loss",
    "stack_with_mirror",
    "trace_arrays",
    "tuned",
]
