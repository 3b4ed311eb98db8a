"""The method: reduce the information bottleneck (RIB, NeurIPS 2021) of one image at a time."""

from tag2mask.rib.amortise import PartnerGradients, class_gradients
from tag2mask.rib.calibrate import calibrated_learning_rate, first_step_growth, initial_logit
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.finetune import RIBResult, StepRecord, rib
from tag2mask.rib.loss import rib_loss
from tag2mask.rib.optimiser import PolySGD, restored, tuned
from tag2mask.rib.passes import NetworkInput, PartnerBatch, TrunkFeatures
from tag2mask.rib.pooling import gap, gndrp
from tag2mask.rib.prepare import merge_mirror, stack_with_mirror
from tag2mask.rib.trace import trace_arrays

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
    "merge_mirror",
    "restored",
    "rib",
    "rib_loss",
    "stack_with_mirror",
    "trace_arrays",
    "tuned",
]
