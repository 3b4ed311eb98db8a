"""Images with masks and no tags of their own: the tags are the classes in the masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.data.classes import find_class_list
from tag2mask.data.masks import read_mask
from tag2mask.data.readers.found import BINARY, IMAGE_FOLDERS, MASK_PLACES, Folders, Found, Query, Row
from tag2mask.data.readers.mask_files import give_masks, is_mask_beside
from tag2mask.data.readers.tree import is_picture, subfolders, walk
from tag2mask.data.records import IGNORED, BadFileError
from tag2mask.data.words import BACKGROUND, split_name

LOOKS_FOR = "images and masks (folders, or NAME_mask.png beside NAME.jpg) with a file that names the classes"


def matches(root: Path) -> bool:
    """Tell whether there are folders images and masks, or masks beside the images of splits, and a class file."""
    if root.is_file():
        return False
    folders = any((root / name).is_dir() for name in IMAGE_FOLDERS[1:]) and (root / "masks").is_dir()
    return (folders or _beside(root)) and named_at(root)


def named_at(root: Path) -> bool:
    """Tell whether a file names the classes, at `root` or in a split's folder."""
    return any(find_class_list(folder) for folder in (root, *split_folders(root)))


def split_folders(root: Path) -> list[Path]:
    """Return the folders that are called as splits are."""
    return [folder for folder in subfolders(root) if split_name(folder.name)]


def _beside(root: Path) -> bool:
    for folder in (root, *split_folders(root)):
        names = list(Folders(folder).files("").values())
        if any(is_mask_beside(name, names) for name in names if name.endswith("_mask.png")):
            return True
    return False


def read(root: Path, query: Query) -> Found:
    """Read every image that has a mask; its tags are the classes in it, none makes it a negative."""
    if query.listed is None and query.mask_values is None:
        raise DataError(f"{root}: nothing names the classes in the masks; write classes.txt, a class a line")
    values = dict(query.mask_values or (query.listed.values if query.listed else {}))
    one = (query.classes or (query.listed.names if query.listed else ()))[:1]
    values = {value: one[0] if name == BINARY and one else name for value, name in values.items()}
    found = Found(root.name, ids_by_path=True)
    found.rows = list(_rows(root))
    give_masks(found, Folders(root), found.rows)
    without = [row for row in found.rows if row.mask_path is None]
    found.rows = [row for row in found.rows if row.mask_path is not None and _fill(found, row, values)]
    for row in without:
        found.report("no-label", row.relative, "", "has no mask, so nothing is known of it", "left out; give tags")
    message = f"the tags of {len(found.rows)} image(s) are taken from their masks"
    found.report("tags", root.name, "", message, "write labels.csv, to learn from tags alone", note=True)
    return found


def _rows(root: Path) -> Iterator[Row]:
    for parent, names in walk(root):
        inner = parent.relative_to(root)
        if any(part in MASK_PLACES for part in inner.parts):
            continue
        split = next((found for part in inner.parts if (found := split_name(part))), "")
        for name in names:
            if is_picture(name) and not is_mask_beside(name, names):
                relative = (inner / name).as_posix()
                yield Row(parent / name, relative, [], split, None, relative)


def _fill(found: Found, row: Row, values: dict[int, str]) -> bool:
    assert row.mask_path is not None
    row.label_file = row.mask_path.name
    try:
        there = np.flatnonzero(np.bincount(read_mask(row.mask_path).ravel(), minlength=256)).tolist()
    except BadFileError as error:
        found.report("unreadable-mask", row.mask_path.name, "", error.message, error.remedy, fatal=True)
        return False
    outside = [value for value in there if value not in (0, IGNORED) and value not in values]
    if outside:
        message = f"value {outside[0]} names no class"
        found.report(
            "mask-values", row.mask_path.name, "", message, "those pixels are ignored; name it in classes.txt"
        )
    named = [values[value] for value in there if value in values]
    row.names = [name for name in dict.fromkeys(named) if name not in (BACKGROUND, "ignored")]
    row.negative = not row.names
    return True
