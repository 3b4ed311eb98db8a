"""Whether a trained segmentation network learned anything, told from its losses and some photos of its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tag2mask.data.records import IGNORED, Dataset, ImageRecord

PER_CLASS = 4  # photos that are looked at
LONG_SIDE = 320  # pixels, at which they are looked at
FLAT = 0.9  # a last loss above this part of the first one: nothing was learned
RISEN = 1.5  # a last loss above this many times the lowest one: the training has come apart
TOO_LITTLE, TOO_MUCH = 0.4, 2.5  # cover of the answers over that of the masks
ENOUGH = 2  # photos with a class before its absence says anything
NAMED = 3  # classes that a warning names


@dataclass(frozen=True)
class Seen:
    """What the network answers on photos that it was trained on, against the masks that it learned from."""

    photos: int
    in_masks: np.ndarray  # (L,) photos whose mask holds the label
    answered: np.ndarray  # (L,) of these, those where some pixel is answered so
    mask_cover: float  # share of known pixels that are foreground, 0..1
    answer_cover: float


def handful(dataset: Dataset, ids: Iterable[str]) -> list[ImageRecord]:
    """The first photos of each class, among those in `ids`."""
    there, counts, chosen = set(ids), [0] * len(dataset.classes), []
    for record in dataset.records:
        if record.id in there and any(counts[label] < PER_CLASS for label in record.labels):
            chosen.append(record)
            for label in record.labels:
                counts[label] += 1
    return chosen


def look(pairs: Iterable[tuple[np.ndarray, np.ndarray]], n_labels: int) -> Seen:
    """Compare (answer, mask) pairs, both (H, W) uint8; 255 in a mask counts as neither."""
    in_masks, answered = np.zeros(n_labels, int), np.zeros(n_labels, int)
    photos, known_pixels, mask_pixels, answer_pixels = 0, 0, 0, 0
    for answer, mask in pairs:
        known = mask != IGNORED
        in_mask = np.bincount(mask[known], minlength=n_labels) > 0
        in_masks += in_mask
        answered += in_mask & (np.bincount(answer[known], minlength=n_labels) > 0)
        photos, known_pixels = photos + 1, known_pixels + int(known.sum())
        mask_pixels += int((mask[known] > 0).sum())
        answer_pixels += int((answer[known] > 0).sum())
    known_pixels = max(known_pixels, 1)
    return Seen(photos, in_masks, answered, mask_pixels / known_pixels, answer_pixels / known_pixels)


def complaint(losses: Sequence[float], seen: Seen, classes: Sequence[str], *, balanced: bool) -> str:
    """One line on what went wrong and what to change, "" where nothing did.

    `losses` are the epochs' means, `balanced` the segmenter's setting; what weighs most is said first, and alone.
    """
    checks: tuple[Callable[[], str], ...] = (
        lambda: _of_losses(losses),
        lambda: _of_classes(seen, classes, balanced),
        lambda: _of_cover(seen, balanced),
    )
    return next(filter(None, (check() for check in checks)), "")


def _of_losses(losses: Sequence[float]) -> str:
    if len(losses) < 2:
        return ""
    first, last, lowest = losses[0], losses[-1], min(losses)
    if last > RISEN * lowest:
        return (
            f"the loss rose from {lowest:.3g} to {last:.3g}: the training has come apart; try a third of "
            "segmenter.learning_rate"
        )
    if last > FLAT * first:
        return (
            f"the loss stayed at {last:.3g} (first epoch {first:.3g}): the network learned next to nothing; try "
            "three times segmenter.learning_rate, then more segmenter.epochs"
        )
    return ""


def _of_classes(seen: Seen, classes: Sequence[str], balanced: bool) -> str:
    never = [
        f"{name} (0 of {seen.in_masks[label]})"
        for label, name in enumerate(classes, start=1)
        if seen.in_masks[label] >= ENOUGH and not seen.answered[label]
    ]
    if not never:
        return ""
    more = f" and {len(never) - NAMED} more" if len(never) > NAMED else ""
    remedy = "" if balanced else "segmenter.balanced: true, "
    return (
        f"never answered on photos that it was trained on: {', '.join(never[:NAMED])}{more}; try "
        f"{remedy}more segmenter.epochs, and more photos of these classes"
    )


def _of_cover(seen: Seen, balanced: bool) -> str:
    if not seen.photos or not seen.mask_cover:
        return ""
    ratio = seen.answer_cover / seen.mask_cover
    if TOO_LITTLE <= ratio <= TOO_MUCH:
        return ""
    wanted = ratio < 1  # so that things count as much as what surrounds them
    remedy = "" if balanced == wanted else f"segmenter.balanced: {str(wanted).lower()}, or "
    return (
        f"its answers cover {100 * seen.answer_cover:.0f} % of {seen.photos} photos that it was trained on, their "
        f"masks {100 * seen.mask_cover:.0f} %; try {remedy}more segmenter.epochs"
    )
