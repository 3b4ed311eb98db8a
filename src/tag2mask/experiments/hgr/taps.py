"""Where a classifier is read: after its stem, each stage, its last features, and at the pooled logit of a class."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.networks import CAMClassifier


@dataclass(frozen=True)
class Tap:
    """A part of the network that is passed as one, and whether RIB changes it."""

    name: str  # "stem", "stage1", ..., "features"
    part: nn.Sequential
    tuned: bool


def taps_of(classifier: CAMClassifier) -> list[Tap]:
    """Cut trunk and head after their stages, in order; joined they are the backbone.

    A stage is a child that is a `Sequential`; what lies before the first is the stem, what lies after the last
    belongs to the features, as does a head that joins two stages. So batch norms and activations stay with their
    convolution.
    """
    halves = ((classifier.backbone.trunk, False), (classifier.backbone.head, True))
    children = [
        (child, tuned)
        for half, tuned in halves
        for child in (half.children() if isinstance(half, nn.Sequential) else [half])
    ]
    taps: list[Tap] = []
    pending: list[nn.Module] = []
    stages = 0
    for place, (child, tuned) in enumerate(children):
        pending.append(child)
        last = place + 1 == len(children) or children[place + 1][1] != tuned
        if not (last or isinstance(child, nn.Sequential) or isinstance(children[place + 1][0], nn.Sequential)):
            continue
        if isinstance(child, nn.Sequential):
            stages += 1
            name = f"stage{stages}"
        else:
            name = "stem" if not taps else "features"
        taps.append(Tap(name, nn.Sequential(*pending), tuned))
        pending = []
    return taps


def gradient_maps(
    classifier: CAMClassifier, image: Tensor, classes: Tensor, taps: Collection[str]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield (layer, scalar, magnitude) of the gradient with respect to an image (1, 3, H, W).

    Magnitude (H, W): its length over the three colours. Scalar "sum" or "norm" of a tap's output; and for each of
    `classes` (n,) one map of layer "logit": the class map's mean, before any sigmoid. `taps` names the taps that are
    wanted. No parameter's `.grad` is touched.
    """
    pixels = image.detach().clone().requires_grad_()
    values = pixels
    with torch.enable_grad():
        for tap in taps_of(classifier):
            values = tap.part(values)
            if tap.name in taps:
                yield tap.name, "sum", _magnitude(values.sum(), pixels)
                yield tap.name, "norm", _magnitude(values.norm(), pixels)
        logits = classifier.classifier(values).mean(dim=(2, 3))[0]  # (1, C, h, w) -> (C,)
        for index in classes.tolist():
            yield "logit", str(index), _magnitude(logits[index], pixels)


def _magnitude(value: Tensor, pixels: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, pixels, retain_graph=True)
    return gradient[0].norm(dim=0)  # (1, 3, H, W) -> (H, W)


def smoothed(magnitude: Tensor, width: int) -> Tensor:
    """Mean over a box of `width` (odd) pixels, cut at the borders: (H, W) -> (H, W); 1 leaves the map as it is."""
    if width == 1:
        return magnitude
    return F.avg_pool2d(magnitude[None, None], width, 1, width // 2, count_include_pad=False)[0, 0]
