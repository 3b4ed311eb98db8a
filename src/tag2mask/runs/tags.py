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
class TagFigures:
    """Average precision of the tags, 0..1, on held-out photos, and what the classifier contradicts most."""

    mean: float | None  # over the classes that occur
    images: int | None
    by_class: dict[str, float]
    doubted: tuple[DoubtedTag, ...]


def tag_figures(manifest: Mapping[str, Any]) -> TagFigures | None:
    """What a manifest says of tags; None where it says nothing."""
    figures = TagFigures(
        as_number(manifest.get("validation_map")),
        as_count(manifest.get("validation_images")),
        as_numbers(manifest.get("validation_ap")),
        tuple(_doubted(manifest.get("doubted_tags"))),
    )
    return None if figures.mean is None and not figures.doubted else figures


def _doubted(rows: Any) -> Iterable[DoubtedTag]:
    for row in map(as_dict, as_list(rows)):
        score = as_number(row.get("score"))
        if score is not None:
            yield DoubtedTag(str(row.get("id")), str(row.get("class")), bool(row.get("tagged")), score)
