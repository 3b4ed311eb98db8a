"""Which epoch of a classifier's training is the best, told by tags of photos held out from it; no mask is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from tag2mask.common.values import as_number
from tag2mask.data import Dataset
from tag2mask.networks import CAMClassifier, save_module
from tag2mask.runs.log import Epoch
from tag2mask.stages.criterion import localization_criterion
from tag2mask.stages.tag_scores import figure, mean_of, tag_scores

CURVE_IMAGES = 60  # held-out photos, class-balanced, of which tags are told while it learns
LOOKED_AT = 20  # of them, class-balanced, on which is measured where it looks


def merit(precision: float, criterion: float | None) -> float:
    """How good a classifier is for masks: what it tells of tags (mAP 0..1) and where it looks (-1..1), summed.

    Neither alone is enough: one that tells tags may look beside the thing, and one that hardly tells them may look
    well at what little it knows.
    """
    return precision + (criterion or 0.0)


def best_epoch(rows: Sequence[Epoch]) -> Epoch | None:
    """The row of most merit, of equals the last; None where none was measured."""
    measured = [row for row in rows if row.val_map is not None]
    return max(reversed(measured), key=_merit_of, default=None)


def no_better(rows: Sequence[Epoch], patience: int) -> bool:
    """Whether the best of the measured epochs has been followed by `patience` that are no better."""
    measured = [row for row in rows if row.val_map is not None]
    best = best_epoch(measured)
    return best is not None and len(measured) - 1 - measured.index(best) >= patience


def _merit_of(row: Epoch) -> float:
    return merit(row.val_map or 0.0, row.val_criterion)


@dataclass(frozen=True)
class Curve:
    """A look at held-out photos after an epoch; a class, so that it can be handed to other processes."""

    photos: Dataset
    long_side: int | None  # None: as they are read
    seed: int
    best: Path | None = None  # where the weights of the best epoch are kept; None = of none

    def __call__(self, module: nn.Module, before: Sequence[Epoch]) -> dict[str, float | None]:
        """Figures for the log's row, from those before it: `val_map` 0..1, null where no photo can be read.

        Where weights are kept, also `val_criterion`; they are written if this epoch is the best so far.
        """
        classifier = cast(CAMClassifier, module)
        found = {"val_map": figure(mean_of(tag_scores(classifier, self.photos, self.long_side).average_precision()))}
        if self.best is None:
            return found
        looks = localization_criterion(classifier, self.photos, self.long_side, LOOKED_AT, self.seed)
        found["val_criterion"] = as_number(looks.get("criterion"))
        row = Epoch(1 + max((row.epoch for row in before), default=0), 0, None, 0.0, 0.0, **found)
        if best_epoch([*before, row]) is row:
            save_module(module, self.best)
        return found


def kept(rows: Sequence[Epoch], epochs: int, photos: int) -> dict[str, Any]:
    """What a manifest says of the epoch whose weights are kept; empty where none was measured."""
    best = best_epoch(rows)
    if best is None:
        return {}
    return {"epoch": best.epoch, "learned": rows[-1].epoch, "planned": epochs, "photos": photos}
