"""What a report has to admit, in words that name no private folder: a report is passed on."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tag2mask.common.errors import Tag2MaskError
from tag2mask.common.files import read_json

T = TypeVar("T")

# Everything that a truncated, foreign or half-written file is known to raise in its reader.
READ_ERRORS = (
    Tag2MaskError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    SyntaxError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
# The folders of an absolute path, with or without a drive; not of an address (https://...) or of "and/or".
_ABSOLUTE = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s:'\"/\\]+[/\\])*(?=\S)")


@dataclass
class Notes:
    """Parts that are not there, or not yet, and files that could not be shown."""

    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def attempt(self, name: str, path: Path, read: Callable[[Path], T]) -> T | None:
        """Return `read(path)`, or None with a note that names the file when it cannot be read.

        The note says `name` where the error says `path`.
        """
        try:
            return read(path)
        except READ_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason.removeprefix(f"{path}:").removeprefix(str(path)).replace(str(path), path.name)
            self.broken.append(f"{name}: {reason.strip()[:240]}")
            return None

    def json(self, run: Path, name: str) -> Any:
        """Read a JSON file of the run; None where there is none or it can't be read."""
        path = run / name
        return self.attempt(name, path, read_json) if path.is_file() else None

    def text(self, run: Path, name: str) -> str:
        """Read a text file of the run; "" where there is none or it can't be read."""
        path = run / name
        return (self.attempt(name, path, _text) or "") if path.is_file() else ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def without_folders(text: str, known: Iterable[Path] = ()) -> str:
    """Return a message with the bare names of files.

    Absolute paths are cut; `known` ones are cut also where a folder's name has spaces.
    """
    paths = [path for path in known if path.is_absolute()]
    for path in paths:
        text = text.replace(str(path), path.name)
    for path in paths:
        text = text.replace(f"{path.parent}/", "")
    head, colon, rest = text.partition(": ")  # most messages begin with the file
    if _ABSOLUTE.match(head):
        text = re.split(r"[/\\]", head)[-1] + colon + rest
    return _ABSOLUTE.sub("", text)
