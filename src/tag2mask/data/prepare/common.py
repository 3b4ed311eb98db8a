"""What both preparations share: looking at files cheaply, the result, and when it is an error."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import write_json
from tag2mask.data.images import decode_image, image_size
from tag2mask.data.readers.prepared import FOLDER, MANIFEST
from tag2mask.data.records import BadFileError, Problem, printable

FATAL = frozenset(
    {
        "missing-image",
        "unreadable-image",
        "image-size",
        "unreadable-mask",
        "mask-size",
        "mask-values",
        "unknown-class",
        "bad-annotation",
    }
)
_SHOWN = 5
_END_OF_JPEG = b"\xff\xd9"
_TAIL = 64  # bytes; some cameras write padding after the end of a JPEG


@dataclass
class Prepared:
    """What a preparation found and wrote."""

    kind: str  # "voc2012" or "coco2014"
    folder: Path  # with the index
    allow_bad: bool = False  # go on without what can't be used
    lines: list[str] = field(default_factory=list)  # the summary, for a person
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # goes into prepared.json

    def fatal(self) -> list[Problem]:
        """Return what must be mended, or allowed, before anything is trained."""
        return [problem for problem in self.problems if problem.kind in FATAL]

    def by_kind(self) -> list[str]:
        """Return the problems as lines, a few of each kind."""
        groups: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            groups[problem.kind].append(problem)
        lines = []
        for kind, problems in groups.items():
            lines.append(f"{len(problems)} x {kind}")
            lines += [f"  {problem}" for problem in problems[:_SHOWN]]
            if len(problems) > _SHOWN:
                lines.append(f"  ... and {len(problems) - _SHOWN} more, all in {self.folder / MANIFEST}")
        return lines


def out_folder(home: Path, out: Path | None) -> Path:
    """Return the folder for the index: as asked, else inside the data set; ConfigError where it can't be written."""
    folder = home / FOLDER if out is None else out.expanduser().absolute()
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return folder
    remedy = "say where the index goes instead: --out DIR" if out is None else "choose another --out"
    raise ConfigError(f"{there}: can't be written to; {remedy} (DIR is then what --data names in later commands)")


def start(prepared: Prepared, home: Path, classes: Sequence[str]) -> None:
    """Write the manifest of an unfinished preparation."""
    try:
        root = os.path.relpath(home, prepared.folder)
    except ValueError:  # another drive
        root = str(home)
    prepared.facts |= {"kind": prepared.kind, "name": printable(home.name), "root": root, "classes": list(classes)}
    save(prepared, finished=False)


def save(prepared: Prepared, *, finished: bool) -> None:
    """Write the manifest with what is known so far."""
    problems = [str(problem) for problem in prepared.problems]
    write_json(prepared.folder / MANIFEST, prepared.facts | {"finished": finished, "problems": problems})


def refuse(prepared: Prepared) -> None:
    """Raise DataError when something must be mended first and the caller didn't allow to go on without it."""
    fatal = prepared.fatal()
    if fatal and not prepared.allow_bad:
        save(prepared, finished=False)
        raise DataError(
            f"{prepared.facts['name']}: {len(fatal)} file(s) or entries can't be used, first: {fatal[0]}"
            + "".join(f" | {problem}" for problem in fatal[1:3])
            + f"; all are listed in {prepared.folder / MANIFEST}; mend them, or go on without them (--allow-bad)"
        )


def finish(prepared: Prepared) -> Prepared:
    """Mark the preparation as done, unless `refuse` does."""
    refuse(prepared)
    save(prepared, finished=True)
    return prepared


def look_at_image(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image that is there and whole, decoding it only when its end looks cut off.

    Raises BadFileError for a missing, empty, truncated or non-image file.
    """
    size = image_size(path)
    if path.suffix.lower() in (".jpg", ".jpeg") and not _ends(path):
        decode_image(path)  # a truncated one raises; one with other bytes after its end is fine
    return size


def _ends(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
        return _END_OF_JPEG in stream.read()


def image_problem(path: Path, shown: str) -> tuple[Problem | None, tuple[int, int] | None]:
    """Return what is wrong with an image, or else its size."""
    try:
        return None, look_at_image(path)
    except BadFileError as error:
        return Problem("unreadable-image", shown, "", error.message, error.remedy), None


def count_line(what: str, found: int, expected: int) -> str:
    """Return one line of the summary: a count against the published one."""
    if found == expected:
        return f"{what}: {found:,}, as published"
    return f"{what}: {found:,} of the published {expected:,}; scores are not comparable with published ones"
