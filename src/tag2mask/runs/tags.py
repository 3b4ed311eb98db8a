"""How well a classifier tells the tags of photos, as its manifest has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tag2mask.common.values import as_count, as_dict, as_list, as_number, as_numbers


@dataclass(frozen=True)
class DoubtedTag:
    """A tag, or the lack of one, that the classifier contradicts."""

    id: str  # of the photo
    name: str  # of the class
    tagged: bool
    score: float  # the classifier's for that class, 0..1


@dataclass(frozen=True)
class Looks:
    """Where the classifier looks, told without masks: tags' scores when the photo is kept or erased in part.

    That part is where the tag's class map is strongest.
    """

    criterion: float  # mean of kept less erased, -1..1: the higher, the better the maps point at what is tagged
    photos: int
    shares: tuple[float, ...]  # 0..1, ascending
    kept: tuple[float, ...]  # the score that remains where only the share is kept, in parts of the whole photo's
    erased: tuple[float, ...]  # where it is erased

    @property
    def rows(self) -> list[tuple[float, float, float]]:
        """(share, kept, erased) of each share."""
        return list(zip(self.shares, self.kept, self.erased, strict=True))

    def in_words(self) -> str:
        """The criterion, for a line of text."""
        return f"localization criterion {self.criterion:.2f} on {self.photos}, the best is 1"


@dataclass(frozen=True)
class Kept:
    """Which epoch's weights are the result, where held-out photos told."""

    epoch: int  # from 1
    learned: int  # epochs, before the training ended
    planned: int
    photos: int  # that told

    def in_words(self) -> str:
        """Which, for a line of text."""
        early = f", ended early after {self.learned} of {self.planned}" if self.learned < self.planned else ""
        return f"weights of epoch {self.epoch}{early or f' of {self.planned}'}, the best on {self.photos} of these"


@dataclass(frozen=True)
class TagFigures:
    """Average precision of the tags, 0..1, on held-out photos, and what the classifier contradicts most."""

    mean: float | None  # over the classes that occur
    images: int | None
    by_class: dict[str, float]
    doubted: tuple[DoubtedTag, ...]
    looks: Looks | None = None
    kept: Kept | None = None

    def in_words(self) -> str:
        """Average precision, epoch and criterion in a line; "" where none was measured."""
        told = f"held-out tags: mAP {self.mean:.3f} on {self.images} photos" if self.mean is not None else ""
        parts = [told, *(one.in_words() for one in (self.kept, self.looks) if one is not None)]
        return "; ".join(part for part in parts if part)


def tag_figures(manifest: Mapping[str, Any]) -> TagFigures | None:
    """What a manifest says of tags; None where it says nothing."""
    figures = TagFigures(
        as_number(manifest.get("validation_map")),
        as_count(manifest.get("validation_images")),
        as_numbers(manifest.get("validation_ap")),
        tuple(_doubted(manifest.get("doubted_tags"))),
        _looks(as_dict(manifest.get("localization_criterion"))),
        _kept(as_dict(manifest.get("kept"))),
    )
    return None if figures.mean is None and not figures.doubted and figures.looks is None else figures


def _looks(found: Mapping[str, Any]) -> Looks | None:
    value, photos = as_number(found.get("criterion")), as_count(found.get("photos"))
    rows = [[as_number(one) for one in as_list(found.get(key))] for key in ("shares", "kept", "erased")]
    whole = [tuple(one for one in row if one is not None) for row in rows]
    if value is None or photos is None or len({len(row) for row in (*rows, *whole)}) != 1:
        return None
    return Looks(value, photos, *whole)


def _kept(found: Mapping[str, Any]) -> Kept | None:
    counts = [as_count(found.get(key)) for key in ("epoch", "learned", "planned", "photos")]
    known = [count for count in counts if count is not None]
    return Kept(*known) if len(known) == len(counts) else None


def _doubted(rows: Any) -> Iterable[DoubtedTag]:
    for row in map(as_dict, as_list(rows)):
        score = as_number(row.get("score"))
        if score is not None:
            yield DoubtedTag(str(row.get("id")), str(row.get("class")), bool(row.get("tagged")), score)
