"""Going through folders of pictures, past what computers and runs leave in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json
from tag2mask.data.images import IMAGE_SUFFIXES

# What unpacking, network drives and file systems leave behind (@eaDir holds thumbnails).
_JUNK_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
_JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside that may hold data: `visible_folders` without what runs wrote."""
    return [path for path in visible_folders(folder) if not written_by_run(path)]


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders inside, sorted, without hidden ones and junk; DataError when `folder` can't be listed."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and _is_data(entry.name))
    except PermissionError as error:
        raise not_listed(folder) from error
    return [folder / name for name in names]


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, names of its visible files, sorted) for `folder` and all below, as far as `subfolders` goes.

    Links to folders are followed, each folder once, but not to one that the link itself lies in.
    """
    linked = {os.path.realpath(folder)}
    for parent, inner, names in os.walk(folder, onerror=_raise_not_listed, followlinks=True):
        inner[:] = sorted(n for n in inner if _is_data(n) and not written_by_run(Path(parent, n)))
        for link in [name for name in inner if os.path.islink(os.path.join(parent, name))]:
            target = os.path.realpath(os.path.join(parent, link))
            if target in linked or Path(os.path.realpath(parent)).is_relative_to(target):
                inner.remove(link)
            linked.add(target)
        yield Path(parent), sorted(n for n in names if not n.startswith(".") and n.casefold() not in _JUNK_FILES)


def not_listed(folder: Path | str) -> DataError:
    """Return the error for a folder that the system doesn't let us look into."""
    return DataError(f"{folder}: may not be listed; make the folder readable")


def written_by_run(folder: Path) -> bool:
    """Tell whether a run or one of its stages wrote this folder: its pictures are results, not data."""
    return _has_key(folder / "run.json", "recipe") or _has_key(folder / "manifest.json", "stage")


def is_picture(name: str) -> bool:
    """Tell by its name whether a file is a picture."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_data(folder: str) -> bool:
    return not folder.startswith(".") and folder not in _JUNK_FOLDERS


def _has_key(path: Path, key: str) -> bool:
    try:
        content = read_json(path) if path.is_file() else None
    except (OSError, ValueError):  # somebody else's file
        return False
    return isinstance(content, dict) and key in content


def _raise_not_listed(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise not_listed(error.filename) from error
