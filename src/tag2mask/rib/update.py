"""How the tuned weights move in a step: by SGD, or along a line whose length is searched; and how they come back.

One long step instead of many small ones: the loss is linear in the logits, so the direction hardly changes on the
way and the maps of many small steps lie close to a line. What differs between images is the length: the same rate
leaves one image where it was and floods another. So the step is measured by its effect: the mean of the class maps at
scale 1 shall rise by a given share of their peak. That rise is nearly linear in the rate, a look at it costs one pass
at scale 1, and two or three suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tag2mask.networks import CAMClassifier
from tag2mask.rib.config import RIBConfig

TOLERANCE = 0.15  # relative; nearer to the aim isn't searched
LONGEST_STRIDE = 4.0  # a look may multiply the rate by at most this
Search = Generator[float, float, float]  # yields a rate to look at, is sent what was seen there, returns the rate


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


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the parameters' gradients, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def flat_gradient(parameters: Sequence[Tensor]) -> Tensor:
    """All gradients in one row (P,), zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def add_gradient(parameters: Sequence[Tensor], flat: Tensor, times: float) -> None:
    """Add `times` a flat gradient (P,) to the parameters' own."""
    start = 0
    for parameter in parameters:
        part = flat[start : start + parameter.numel()].view_as(parameter).to(parameter.device, parameter.dtype)
        parameter.grad = part * times if parameter.grad is None else parameter.grad.add_(part, alpha=times)
        start += parameter.numel()


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
        self._sgd = torch.optim.SGD(
            [{"params": list(parameters), "lr": learning_rate * by} for parameters, by in groups],
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        # torch's PolynomialLR falls to 0 in the end and multiplies its factors up, which moves the last digits
        self._schedule = LambdaLR(self._sgd, lambda step: (1 - min(step, total_steps - 1) / total_steps) ** power)

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
        return [float(rate) for rate in self._schedule.get_last_lr()]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._sgd.zero_grad(set_to_none=True)

    def step(self) -> list[float]:
        """Update the parameters; return the learning rate used for each group."""
        rates = self.learning_rates
        self._sgd.step()
        self._schedule.step()
        return rates


class Line:
    """The tuned parameters on their way along the negative gradient: theta(rate) = theta_0 - rate * direction."""

    def __init__(self, groups: Sequence[Sequence[Tensor]], multipliers: Sequence[float], weight_decay: float) -> None:
        self.parameters = [parameter for group in groups for parameter in group]
        self.origin = [parameter.detach().clone() for parameter in self.parameters]
        scaled = [multiplier for group, multiplier in zip(groups, multipliers, strict=True) for _ in group]
        self.direction = [
            by * ((0.0 if parameter.grad is None else parameter.grad) + weight_decay * start)
            for parameter, start, by in zip(self.parameters, self.origin, scaled, strict=True)
        ]

    @torch.no_grad()
    def move(self, rate: float) -> None:
        """Put the parameters to theta(rate)."""
        for parameter, start, direction in zip(self.parameters, self.origin, self.direction, strict=True):
            torch.sub(start, direction, alpha=rate, out=parameter)

    def slope(self, gradient: Sequence[Tensor]) -> float:
        """To first order, how much a loss of this gradient falls a unit of rate."""
        products = (torch.sum(g * d) for g, d in zip(gradient, self.direction, strict=True))
        return math.fsum(product.item() for product in products)


def searched_rate(maps_at: Callable[[float], Tensor], start: Tensor, slope: float, config: RIBConfig) -> float:
    """Find the rate at which the scale-1 maps (n, h, w), `start` at rate 0, have risen as `config.rise` says.

    `maps_at(rate)` looks at them; `slope` is the growth of the mean pooled logit a unit of rate, to first order.
    Returns 0 where the maps are nowhere positive: there is nothing to follow.
    """
    peak, level = start.amax(dim=(-2, -1)).mean().item(), start.mean().item()
    return _looked(level_search(peak, level, slope, config), lambda rate: maps_at(rate).mean().item())


def level_search(peak: float, level: float, slope: float, config: RIBConfig) -> Search:
    """The search of `searched_rate`, which is sent the mean of the scale-1 maps at each rate.

    `peak`: the mean over classes of the maps' maxima at rate 0, `level`: their mean there.
    """
    if peak <= 0 or slope <= 0:
        return 0.0
    unit = peak if config.rise_of == "peak" else level
    # image and mirror are added in the maps, hence twice the growth of the pooled logits
    search = rise_search(config.rise * unit / (2 * slope), config.rise, config.looks)
    rate = next(search)
    while True:
        try:
            rate = search.send(((yield rate) - level) / unit)
        except StopIteration as found:
            return float(found.value)


def search_rate(rise_at: Callable[[float], float], first: float, aim: float, looks: int) -> float:
    """Find the rate at which `rise_at(rate)` is `aim`, to `TOLERANCE`, in at most `looks` evaluations.

    `rise_at(0)` is 0 and the rise grows with the rate at first; a rate at which it is less than at a smaller one, or
    not a number, is too far. Returns the rate looked at whose rise was nearest to the aim, or 0 where none rose.
    """
    return _looked(rise_search(first, aim, looks), rise_at)


def rise_search(first: float, aim: float, looks: int) -> Search:
    """The search of `search_rate`, which is sent the rise at each rate."""
    below, above = (0.0, 0.0), (math.inf, math.inf)
    seen = [(0.0, 0.0)]
    rate = first
    for _ in range(looks):
        rise = yield rate
        if not math.isfinite(rise) or (rise < below[1] and rate > below[0]):
            above = (rate, math.inf)
        else:
            seen.append((rate, rise))
            if abs(rise - aim) <= TOLERANCE * aim:
                return rate
            below, above = ((rate, rise), above) if rise < aim else (below, (rate, rise))
        rate = _next(below, above, aim)
    return min(seen, key=lambda pair: abs(pair[1] - aim))[0]


def _looked(search: Search, at: Callable[[float], float]) -> float:
    """Look where the search asks for until it knows the rate."""
    try:
        rate = next(search)
        while True:
            rate = search.send(at(rate))
    except StopIteration as found:
        return float(found.value)


def _next(below: tuple[float, float], above: tuple[float, float], aim: float) -> float:
    if math.isinf(above[0]):  # still too near: go on as far as a straight line says
        stride = aim / below[1] if below[1] > 0 else math.inf
        return below[0] * min(max(stride, 1.2), LONGEST_STRIDE)
    if math.isinf(above[1]):
        return (below[0] + above[0]) / 2
    share = (aim - below[1]) / (above[1] - below[1])  # of the way from below to above
    return below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
