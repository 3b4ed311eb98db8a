"""Training through a last activation, and fine-tuning without one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.common.seeding import seed_for
from tag2mask.experiments.toy.config import DIGITS, ToyConfig
from tag2mask.experiments.toy.data import Pictures
from tag2mask.experiments.toy.endings import Ending, of_class
from tag2mask.experiments.toy.network import SixStages
from tag2mask.rib import PolySGD, RIBConfig, calibrated_learning_rate, gndrp
from tag2mask.rib import rib_loss as loss_of_present

Batch = tuple[Tensor, Tensor]  # images (N, 1, S, S), labels (N,)
Loss = Callable[[SixStages, Tensor, Tensor], Tensor]  # network, images (N, 1, S, S), labels (N,) -> scalar


def as_batch(pictures: Pictures) -> Batch:
    """All pictures as one batch."""
    return torch.from_numpy(pictures.images)[:, None], torch.from_numpy(pictures.labels)


def batches(pictures: Pictures, size: int, draw: np.random.Generator) -> Iterator[Batch]:
    """One epoch in random order."""
    images, labels = as_batch(pictures)
    for rows in torch.from_numpy(draw.permutation(len(pictures))).split(size):
        yield images[rows], labels[rows]


def train(pictures: Pictures, ending: Ending, config: ToyConfig, seed: int) -> SixStages:
    """Train a network through `ending` by Adam; the same arguments give the same weights."""
    network = SixStages(config, seed_for(seed, "toy network") % 2**32)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    draw = np.random.default_rng(seed_for(seed, "toy order"))
    loss_of = training_loss(ending)
    for _ in range(config.epochs):
        for images, labels in batches(pictures, config.batch_size, draw):
            optimiser.zero_grad()
            loss_of(network, images, labels).backward()
            optimiser.step()
    return network


def training_loss(ending: Ending) -> Loss:
    """The loss through the last activation, from labels instead of targets."""

    def loss_of(network: SixStages, images: Tensor, labels: Tensor) -> Tensor:
        logits = network(images)
        return ending.loss(logits, F.one_hot(labels, len(DIGITS)).to(logits.dtype))

    return loss_of


def rib_loss(network: SixStages, images: Tensor, labels: Tensor) -> Tensor:
    """RIB's loss without an activation: minus the sum of every picture's logit of its own class.

    The paper's ceiling min(m, logit) is left out: ten steps don't come near it.
    """
    return loss_of_present(network(images), F.one_hot(labels, len(DIGITS)))


def opposed_loss(network: SixStages, images: Tensor, labels: Tensor) -> Tensor:
    """The same, and the logit of the absent class is pushed down, so that both classes keep apart."""
    return -margin(network, images, labels).sum()


def gndrp_loss(network: SixStages, images: Tensor, labels: Tensor) -> Tensor:
    """RIB's loss on logits pooled by GNDRP: positions that made the decision are left out of the mean."""
    maps = network.class_maps(images)  # (N, 2, s, s)
    present = F.one_hot(labels, len(DIGITS))
    return loss_of_present(gndrp(maps, present, RIBConfig().tau), present)


def margin(network: SixStages, images: Tensor, labels: Tensor) -> Tensor:
    """How far each picture's own class is ahead of the other one, in logits (N,)."""
    logits = network(images)
    return of_class(logits, labels) - of_class(logits, 1 - labels)


@dataclass(frozen=True)
class Tuning:
    """How networks of one seed and ending are tuned."""

    learning_rate: float
    config: ToyConfig

    def tuned(self, network: SixStages, steps: Iterable[Batch], loss_of: Loss) -> SixStages:
        """A copy of `network` after one update a batch, with RIB's decay of the learning rate."""
        network = copy.deepcopy(network)
        optimiser = PolySGD(
            [(network.parameters(), 1.0)], learning_rate=self.learning_rate, total_steps=self.config.steps
        )
        for images, labels in steps:
            optimiser.zero_grad()
            loss_of(network, images, labels).backward()
            optimiser.step()
        return network


def shared_batches(pictures: Pictures, config: ToyConfig, seed: int) -> list[Batch]:
    """The batches that tune one network for all pictures, one a step."""
    draw = np.random.default_rng(seed_for(seed, "toy tuning"))
    images, labels = as_batch(pictures)
    rows = [
        draw.choice(len(pictures), min(config.tuning_batch, len(pictures)), replace=False)
        for _ in range(config.steps)
    ]
    return [(images[chosen], labels[chosen]) for chosen in rows]


def single_batches(target: Batch, pictures: Pictures, config: ToyConfig, seed: int, name: int) -> list[Batch]:
    """For one picture (1, 1, S, S), a batch a step as in RIB: itself first, then pictures of the other class."""
    draw = np.random.default_rng(seed_for(seed, "toy partners", name))
    others = np.flatnonzero(pictures.labels != int(target[1]))
    images, labels = as_batch(pictures)
    made = []
    for _ in range(config.steps):
        rows = draw.choice(others, min(config.partners, len(others)), replace=False)
        made.append((torch.cat([target[0], images[rows]]), torch.cat([target[1], labels[rows]])))
    return made


def tuning_for(network: SixStages, firsts: list[tuple[Batch, int]], config: ToyConfig) -> Tuning:
    """Choose the rate at which the targets' output grows by `config.growth` in the first step, to first order.

    `firsts` are first batches with how many of their rows are targets; the median decides, as in RIB's calibration.
    Raises ConfigError where no step would raise the outputs.
    """
    growths, outputs = [], []
    for (images, labels), targets in firsts:
        logits = of_class(network(images), labels)
        own = torch.autograd.grad(logits[:targets].sum(), list(network.parameters()), retain_graph=True)
        everyone = torch.autograd.grad(logits.sum(), list(network.parameters()))
        product = sum(float((a * b).sum()) for a, b in zip(own, everyone, strict=True))
        growths.append(product / targets)
        outputs.append(float(logits[:targets].detach().abs().mean()))
    return Tuning(calibrated_learning_rate(growths, outputs, config.growth), config)


@torch.no_grad()
def accuracy(network: SixStages, pictures: Pictures) -> float:
    """Share of pictures whose own class has the larger output, 0..1."""
    images, labels = as_batch(pictures)
    return float((network(images).argmax(dim=1) == labels).float().mean())


@torch.no_grad()
def mean_margin(network: SixStages, pictures: Pictures) -> float:
    """Mean lead of the own class, in logits."""
    return float(margin(network, *as_batch(pictures)).mean())
