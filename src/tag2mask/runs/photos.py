"""Which photos a folder of masks is of: further ones may be added, a mask of another photo is never taken for it."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import ids_in
from tag2mask.data.records import ImageRecord, printable
from tag2mask.runs.folder import StageFolder


def note_photos(folder: StageFolder, records: Sequence[ImageRecord], *, tagged: bool = False) -> None:
    """Note in the manifest which photos the masks are of; ConfigError where a mask that is there is of another.

    `tagged`: labels are restricted to the photos' tags, which then belong to what a mask was made from.
    """
    known: dict[str, Any] = folder.manifest.get("photos", {})
    given = {record.id: _stamp(record.path) | (_tags(record) if tagged else {}) for record in records}
    others = [
        record
        for record in records
        if _differs(known.get(record.id), given[record.id]) and (folder.path / "masks" / f"{record.id}.png").is_file()
    ]
    if others:
        first = others[0]
        of = _before(known.get(first.id) or {}, given[first.id])
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise ConfigError(
            f"{printable(first.path)}{more}: {folder.path / 'masks' / first.id}.png was made from {of}; nothing is "
            "overwritten: choose another folder for the masks, or delete that mask to have it made again"
        )
    folder.save(finished=False, photos=known | given)  # before any mask is written


def _tags(record: ImageRecord) -> dict[str, Any]:
    return {"labels": list(record.labels) if record.told else None}


def _differs(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether a photo isn't the one that was noted.

    Earlier versions noted no tags, and took a photo that is told to show no class for one that may show any.
    """
    if old is None:
        return True
    before = old if "labels" in old or new.get("labels") == [] else {**old, "labels": new.get("labels")}
    return any(before.get(key) != value for key, value in new.items())


def _before(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What a mask was made from, in words."""
    if not _differs(old, {key: value for key, value in new.items() if key != "labels"}):
        return "this photo with other tags"
    if old.get("path") == new["path"]:
        return "an earlier state of this photo"
    return f"another photo ({old.get('path', 'one that was not noted')})"


def _stamp(path: Path) -> dict[str, Any]:
    """What tells a photo from another one, or from an earlier state of it."""
    state = path.stat()
    return {"path": printable(os.path.realpath(path)), "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def done_before(folder: StageFolder, given: Container[str]) -> list[str]:
    """Photos of earlier calls that have their mask; those that failed are forgotten until they are given again."""
    masks = ids_in(folder.path / "masks", ".png")
    return [i for i in folder.manifest["photos"] if i not in given and i in masks]
