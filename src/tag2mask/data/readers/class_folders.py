"""A folder for each class, perhaps under train and val folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.common.files import digest_file
from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.readers.found import (
    BACKGROUND,
    MASK_FOLDERS,
    Folders,
    Found,
    Query,
    Row,
    nfc,
    split_name,
)

LOOKS_FOR = "a folder for each class with pictures in it (or such folders under train and val)"


def matches(root: Path) -> bool:
    """Tell whether any folder below `root`, one or two levels down, holds a picture."""
    return root.is_dir() and any(
        _has_picture(inner) for folder in _subfolders(root) for inner in (folder, *_subfolders(folder))
    )


def read(root: Path, query: Query) -> Found:
    """Read class folders; folders below a class's folder belong to it."""
    if not root.is_dir():
        raise DataError(f"{root}: is a file; give the folder that holds the class folders")
    found = Found(root.name, voc_masks=(root / "SegmentationClass").is_dir(), ids_by_path=True)
    classes: set[str] = set()
    for split, parent in _split_folders(root):
        _report_loose(found, root, parent)
        for folder in _subfolders(parent):
            if nfc(folder.name) == BACKGROUND:
                message, remedy = f"'{BACKGROUND}' can't be a class", "it is left out; rename or delete it"
                found.report("unknown-class", _relative(root, folder) + "/", "", message, remedy)
                continue
            classes.add(nfc(folder.name))
            found.rows += _read_class(found, root, folder, split)
    found.known = tuple(sorted(classes))
    _report_absent(found, query)
    found.rows = _join_same_files(found, found.rows)
    return found


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    inner = _subfolders(root)
    splits = [(split_name(folder.name), folder) for folder in inner]
    if inner and all(split is not None for split, _ in splits):
        return [(split or "", folder) for split, folder in splits]
    return [("", root)]


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [folder / name for name in sorted(names) if name not in MASK_FOLDERS]


def _has_picture(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in entries)


def _read_class(found: Found, root: Path, folder: Path, split: str) -> list[Row]:
    folders, rows = Folders(root), []
    strange: Counter[str] = Counter()
    for parent, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in IMAGE_SUFFIXES:
                strange[suffix or "no suffix"] += 1
                continue
            relative = _relative(root, Path(parent, name))
            mask = folders.mask(str(PurePosixPath(relative).with_suffix("")))
            rows.append(Row(Path(parent, name), relative, [nfc(folder.name)], split, mask, relative))
    for suffix, count in strange.items():
        remedy = "left out; convert them to JPEG or PNG if they are pictures"
        message = f"{count} file(s) that are not pictures by their name ({suffix})"
        found.report("not-an-image", _relative(root, folder) + "/", "", message, remedy)
    return rows


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _report_loose(found: Found, root: Path, parent: Path) -> None:
    loose = [n for n in Folders(parent).files("").values() if Path(n).suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        message = f"{len(loose)} picture(s) lie beside the class folders (such as '{loose[0]}')"
        where = _relative(root, parent) if parent != root else root.name
        found.report("no-label", where + "/", "", message, "left out; move them into a class's folder")


def _report_absent(found: Found, query: Query) -> None:
    for name in query.classes or ():
        if name not in (found.known or ()):
            near = did_you_mean(name, found.known or ())
            remedy = "rename the folder, or take the class out of the list"
            found.report("unknown-class", found.name + "/", "", f"class '{name}' has no folder{near}", remedy)


def _join_same_files(found: Found, rows: list[Row]) -> list[Row]:
    """Give an image that lies under the same name and with the same bytes in several classes all their labels.

    Only files of equal name and length are compared, so nothing is opened in the usual case.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.split, _below_class(row)), []).append(row)
    dropped: set[Path] = set()
    for group in groups.values():
        first_of: dict[str, Row] = {}
        for row in group if _equal_lengths(group) else ():
            first = first_of.setdefault(digest_file(row.path), row)
            if first is not row:
                first.names += row.names
                dropped.add(row.path)
                message = f"is the same file as {first.relative}"
                remedy = "counted once, with both labels; use a label CSV for images with several labels"
                found.report("duplicate", row.relative, "", message, remedy)
    return [row for row in rows if row.path not in dropped]


def _below_class(row: Row) -> str:
    parts = PurePosixPath(row.relative).parts
    return str(PurePosixPath(*parts[2 if row.split else 1 :]))


def _equal_lengths(group: list[Row]) -> bool:
    lengths = [row.path.stat().st_size for row in group] if len(group) > 1 else []
    return len(set(lengths)) < len(lengths)
