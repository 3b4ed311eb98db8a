"""What a photo as a whole says of its classes, added to the answers of a segmentation network.

A network that learned a few hundred masks confuses classes more often than it misses outlines, while a linear model
on pooled features of an untouched ImageNet network tells tags well from as few photos (Kornblith et al., "Do better
ImageNet models transfer better?", CVPR 2019). Its evidence for a class, the logarithm of P(photo | class) over
P(photo | not the class), is added to the class's logits at every pixel. What such features hardly tell, diseases of
leaves for one, the classifier does that the masks came from: its logit, less the logarithm of the class's odds among
the photos, is the same evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.networks.backbones import Backbone, whole_multiples
from tag2mask.networks.classifier import CAMClassifier

EVIDENCE = (-4.0, 1.0)  # bounds: much may speak against a class; where it is, the pixels say
PENALTIES = (1.0, 0.25, 0.06, 0.015)  # of squared weights beside the mean loss of a photo; cross-validation chooses
FOLDS = 5
WORTH = 0.5  # of the uncertainty about a class: where features take away less, pixels know better
FEWEST = 5  # photos with and without a class below which nothing is learned about it


class Prior(nn.Module):
    """Evidence for each class from a whole image, within bounds; subclasses give it.

    `strength` is the factor by which the evidence counts.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def train(self, mode: bool = True) -> Prior:
        """Stay in evaluation: nothing here is trained by steps."""
        return super().train(False)

    def evidence(self, images: Tensor) -> Tensor:
        """What speaks for each class (B, classes) in images (B, 3, H, W) whose sides are multiples of 32."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """What is added to the logits (B, L) of ImageNet-normalised images (B, 3, H, W); background gets 0."""
        return self.of_padded(whole_multiples(images))

    def of_padded(self, images: Tensor) -> Tensor:
        """As `forward`, of images whose sides are multiples of 32."""
        return F.pad(self.strength * self.evidence(images).clamp(*EVIDENCE), (1, 0))


class TagPrior(Prior):
    """Evidence from pooled features of a frozen backbone, by a linear layer.

    Made without evidence, which `learn` gives it.
    """

    def __init__(self, backbone: Backbone, n_classes: int, strength: float) -> None:
        super().__init__(strength)
        self.backbone = backbone.requires_grad_(False)
        self.linear = nn.Linear(2 * backbone.channels, n_classes).requires_grad_(False)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.train(False)

    def features(self, images: Tensor) -> Tensor:
        """Average and maximum of the features (B, 2 * channels) of ImageNet-normalised images (B, 3, H, W)."""
        return self._of_padded(whole_multiples(images))

    def _of_padded(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def evidence(self, images: Tensor) -> Tensor:
        """As in `Prior`."""
        return self.linear(self._of_padded(images))

    def learn(self, features: Tensor, tags: Tensor) -> Told:
        """Set the linear layer from features (N, 2 * channels) and tags (N, classes) of 0 and 1; no randomness.

        The penalty, and whether a class gets evidence at all, are decided by cross-validation.
        """
        found = evidence_of(features.double(), tags.double())
        self.linear.weight.copy_(found.weight)
        self.linear.bias.copy_(found.bias)
        return found.told


class ClassifierPrior(Prior):
    """Evidence from a classifier of the same classes.

    Its logits are taken as they are until `learn` gives it the classes' odds.
    """

    odds: Tensor  # (classes,) logarithms, of having the class

    def __init__(self, classifier: CAMClassifier, strength: float) -> None:
        super().__init__(strength)
        self.classifier = classifier.requires_grad_(False)
        self.register_buffer("odds", torch.zeros(classifier.n_classes))
        self.train(False)

    def evidence(self, images: Tensor) -> Tensor:
        """As in `Prior`."""
        return self.classifier.pooled(self.classifier.backbone(images)) - self.odds

    def learn(self, tags: Tensor) -> None:
        """Take the classes' odds from tags (N, classes) of 0 and 1."""
        self.odds.copy_(_logit(tags.double().mean(dim=0)))


@dataclass(frozen=True)
class Told:
    """How well the evidence tells the tags of images that it wasn't learned from."""

    penalty: float | None
    # by class: the share of the uncertainty, the mean loss of knowing only frequencies, that it takes away; classes
    # below WORTH get no evidence
    gain: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """A linear map from features to log likelihood ratios."""

    weight: Tensor  # (classes, features)
    bias: Tensor  # (classes,)
    told: Told


def evidence_of(features: Tensor, tags: Tensor) -> Evidence:
    """Fit logistic regressions, and take the classes' frequencies out of them; float64, arguments as `learn`."""
    n_classes = tags.shape[1]
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=1e-6)
    scaled = (features - mean) / deviation
    # weights lie in the span of the images: as many unknowns as images, where these are fewer than features
    axes = torch.linalg.svd(scaled, full_matrices=False).Vh  # (A, features), orthonormal
    scaled = scaled @ axes.T
    counts = tags.sum(dim=0)
    possible = (counts >= FEWEST) & (len(tags) - counts >= FEWEST)
    if not bool(possible.any()):
        nothing = torch.zeros(n_classes, features.shape[1], dtype=features.dtype)
        return Evidence(nothing, nothing[:, 0].clone(), Told(None, (0.0,) * n_classes))
    fold = torch.arange(len(tags)) % FOLDS
    plain = _loss_by_class(_logit(tags.mean(dim=0)).expand_as(tags), tags)  # of knowing only frequencies
    losses = {penalty: torch.zeros(n_classes, dtype=features.dtype) for penalty in PENALTIES}
    for held_out in range(FOLDS):
        there = fold != held_out
        for penalty, loss in losses.items():
            weight, bias = _fit(scaled[there], tags[there], penalty)
            loss += _loss_by_class(scaled[~there] @ weight.T + bias, tags[~there]) * float((~there).sum()) / len(tags)
    best = min(losses, key=lambda penalty: float(losses[penalty][possible].mean()))
    gain = torch.where(possible, 1 - losses[best] / plain.clamp(min=1e-9), 0.0)
    weight, bias = _fit(scaled, tags, best)
    bias = bias - _logit(tags.mean(dim=0))  # odds over the odds of any image: likelihoods' ratio
    weight = (weight @ axes) / deviation
    bias = bias - weight @ mean
    speaks = (gain >= WORTH).to(features.dtype)
    told = Told(best, tuple(round(float(max(value, 0.0)), 4) for value in gain))
    return Evidence(weight * speaks[:, None], bias * speaks, told)


def _logit(share: Tensor) -> Tensor:
    return torch.logit(share, eps=1e-6)


def _loss_by_class(logits: Tensor, tags: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, tags, reduction="none").mean(dim=0)


def _fit(features: Tensor, tags: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (classes, features) and biases of penalised logistic regressions of all classes, by L-BFGS."""
    weight = torch.zeros(tags.shape[1], features.shape[1], dtype=features.dtype, requires_grad=True)
    bias = _logit(tags.mean(dim=0)).clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=300, history_size=20, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        losses = F.binary_cross_entropy_with_logits(features @ weight.T + bias, tags, reduction="none").mean(dim=0)
        total = losses.sum() + penalty * weight.square().sum() / 2
        total.backward()
        return total

    optimiser.step(objective)
    return weight.detach(), bias.detach()
