"""The paper's toy experiment: where in a classifier do gradients stop reaching a rarely seen mark?"""

from tag2mask.experiments.toy.config import ToyConfig
from tag2mask.experiments.toy.experiment import ToyResult, run_toy

__all__ = ["ToyConfig", "ToyResult", "run_toy"]
