"""SGD with polynomial decay, and a classifier that is itself again afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tag2mask.networks import CAMClassifier
from tag2mask.rib.config import RIBConfig


class PolySGD:
    """SGD whose learning rate falls as (1 - step / total_steps) ** power, then stays at its last value.

    `groups` are (parameters, multiplier of the learning rate) pairs; parameters without a gradient are left alone.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Iterable[nn.Parameter], float]],
        *,
        learning_rate: float,
        total_steps: int,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        power: float = 0.9,
    ) -> None:
        self.initial = [learning_rate * multiplier for _, multiplier in groups]
        self.total_steps = total_steps
        self.power = power
        self.steps_done = 0
        self._sgd = torch.optim.SGD(
            [{"params": list(parameters), "lr": learning_rate * by} for parameters, by in groups],
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
        )

    @classmethod
    def for_rib(cls, groups: tuple[list[nn.Parameter], list[nn.Parameter]], config: RIBConfig) -> PolySGD:
        """The optimiser of one image's run: head at the learning rate, 1x1 convolution at its multiple."""
        head, classifier = groups
        return cls(
            [(head, 1.0), (classifier, config.classifier_multiplier)],
            learning_rate=config.learning_rate,
            total_steps=config.steps,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            power=config.power,
        )

    @property
    def learning_rates(self) -> list[float]:
        """The learning rate of each group in the coming step."""
        step = min(self.steps_done, self.total_steps - 1)
        decay = (1 - step / self.total_steps) ** self.power
        return [rate * decay for rate in self.initial]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._sgd.zero_grad(set_to_none=True)

    def step(self) -> list[float]:
        """Update the parameters; return the learning rate used for each group."""
        rates = self.learning_rates
        for group, rate in zip(self._sgd.param_groups, rates, strict=True):
            group["lr"] = rate
        self._sgd.step()
        self.steps_done += 1
        return rates


@contextmanager
def restored(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Put the parameters' values back at the end, also after an exception."""
    held = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in held:
                parameter.copy_(value)


@contextmanager
def tuned(classifier: CAMClassifier) -> Iterator[tuple[list[nn.Parameter], list[nn.Parameter]]]:
    """Make the classifier tunable and yield its groups (head, 1x1 convolution); undo everything at the end.

    In between only the tuned parameters require gradients and every module is in evaluation mode. Values,
    gradients, `requires_grad` and training modes are put back, also after an exception. Only the tuned half is
    copied: the trunk doesn't change.
    """
    groups = classifier.tuned_parameters()
    tunable = [*groups[0], *groups[1]]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in classifier.parameters()]
    modes = [(module, module.training) for module in classifier.modules()]
    try:
        with restored(tunable):
            classifier.eval()
            for parameter, _, _ in flags:
                parameter.requires_grad_(False)
                parameter.grad = None
            for parameter in tunable:
                parameter.requires_grad_(True)
            yield groups
    finally:
        for parameter, requires_grad, grad in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for module, training in modes:
            module.training = training
