"""Whether the classifier has learned its classes, told before maps are made: one line a class, with a remedy.

Only tags are looked at. What is at chance: the held-out photos with the tag don't score higher than those without it
by more than chance does in one of twenty sets (rank-sum test, normal approximation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tag2mask.stages.tag_scores import TagScores

FEW = 20  # training photos of a class, below which it is seldom learned
ONE_SIDED = 1.645  # standard deviations: 1 in 20
TOGETHER = 0.95  # share of a class' photos that also hold another one
AT_BORDER = 1.2  # strength of maps along the border over their mean; objects' maps are mostly below 0.5
Labels = npt.NDArray[np.bool_]  # (N, C)


def warnings_of(
    classes: Sequence[str],
    labels: Labels,
    held_out: TagScores | None = None,
    border: Mapping[str, float] | None = None,
) -> list[str]:
    """What stands in the way of each class.

    From the training photos' labels (N, C), the scores of held-out ones, and how strong each class' maps are along
    the photos' border, over their mean.
    """
    found = [*_few(classes, labels), *_everywhere(classes, labels), *_together(classes, labels)]
    found += _at_chance(held_out) if held_out is not None else ()
    return [*found, *_at_the_border(border or {})]


def _few(classes: Sequence[str], labels: Labels) -> Iterator[str]:
    for name, count in zip(classes, labels.sum(axis=0).tolist(), strict=True):
        if count < FEW:
            yield (
                f"class '{name}': {count} of {len(labels)} training photos have it, fewer than {FEW}: such a class "
                "is seldom learned; add photos of it, or leave it out with data.classes"
            )


def _everywhere(classes: Sequence[str], labels: Labels) -> Iterator[str]:
    for name, everywhere in zip(classes, np.asarray(labels.all(axis=0)).tolist(), strict=True):
        if everywhere:
            yield (
                f"class '{name}': all {len(labels)} training photos have it, so nothing tells it from its "
                "surroundings; add photos without it, with their other tags or none"
            )


def _together(classes: Sequence[str], labels: Labels) -> Iterator[str]:
    both = labels.T.astype(np.int64) @ labels.astype(np.int64)  # (C, C) photos that have two classes
    for first, second in zip(*np.nonzero(~np.eye(len(classes), dtype=bool)), strict=True):
        count, shared = both[first, first], both[first, second]
        everywhere = both[second, second] == len(labels)
        if count >= 2 and shared >= TOGETHER * count and not everywhere:
            yield (
                f"class '{classes[first]}': {shared} of its {count} training photos have '{classes[second]}' too, so "
                "maps can't tell the two apart; add photos with one of them, or make them one class"
            )


def _at_chance(scores: TagScores) -> Iterator[str]:
    precision = scores.average_precision()
    for c, name in enumerate(scores.classes):
        tagged = scores.labels[:, c].numpy()
        if name in precision and not tagged.all() and at_chance(scores.logits[:, c].numpy(), tagged):
            yield (
                f"class '{name}': average precision {precision[name]:.2f} on held-out photos, {tagged.sum()} of "
                f"{len(tagged)} of which have it, is what chance gives; check its tags (tag2mask data check), add "
                "photos of it, or show it larger (classifier.long_side_max) and longer (classifier.epochs)"
            )


def _at_the_border(border: Mapping[str, float]) -> Iterator[str]:
    for name, strength in border.items():
        if strength > AT_BORDER:
            yield (
                f"class '{name}': maps are {strength:.1f} times as strong along the photos' border as on average; "
                "its backdrop may tell it (light, colour, place) instead of the object; raise classifier.colour and "
                "classifier.brightness, or add photos of other classes, or of none, before that backdrop"
            )


def at_chance(scores: npt.NDArray, tagged: npt.NDArray[np.bool_]) -> bool:
    """Whether the share of pairs (tagged, not tagged) in right order, (N,) scores, is within chance of a half.

    Never where so few photos have the class, or lack it, that even the right order could be chance.
    """
    positives, negatives = int(tagged.sum()), int((~tagged).sum())
    above = scores[tagged][:, None] - scores[~tagged][None, :]
    ordered = float(np.mean((above > 0) + 0.5 * (above == 0)))  # the area under the ROC curve
    deviation = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    limit = 0.5 + ONE_SIDED * deviation
    return limit < 1 and ordered <= limit
