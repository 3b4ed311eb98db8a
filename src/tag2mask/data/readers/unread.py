"""Labels in forms that no reader takes: named, with what to do, before folders are taken for classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.words import natural, split_name

_TABLES = (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".arrow")
_JSON = (".json", ".jsonl", ".ndjson")
_SNIFFED = 1 << 16  # bytes of a text file
_LOOKED_AT = 20  # text files of each folder
_SUFFIX = "|".join(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES))
_NAMES_PICTURE = re.compile(rf'"[^"\n]*\.(?:{_SUFFIX})[^"\n]*"', re.IGNORECASE)
_PICTURE_AND_LABEL = re.compile(rf"^[^\n]+?\.(?:{_SUFFIX})[\"']?[ \t,;|:]+\S", re.IGNORECASE | re.MULTILINE)
_LINE = re.compile(r"^[ \t]*\S", re.MULTILINE)
_BOX = re.compile(r"\s*\d+(?:[ \t]+-?\d*\.?\d+){4,}\s*(?:\n|$)")
# the keys by which a tool's JSON is known, all of them; its name; what to do
_TOOLS = (
    (('"shapes"', '"imagePath"'), "Labelme's JSON", "convert it to COCO (labelme2coco)"),
    (('"classTitle"',), "Supervisely's JSON", "export as COCO there"),
    (('"region_attributes"',), "the JSON of VGG Image Annotator", "export as COCO there"),
    (('"item"', '"annotations"'), "V7 Darwin's JSON", "export as COCO there"),
    (('"items"', '"categories"'), "Datumaro's JSON", "export as COCO"),
)
_WRITE = "write labels.csv (columns image,labels)"


def unread_labels(root: Path) -> str | None:
    """Return what the first file below `root` that holds labels in no form that is read is, and what to do."""
    return next(_labels(root), None)


def seen(root: Path) -> str:
    """Return in a few words which files lie below a folder, or what a file is."""
    if root.is_file():
        what = (
            "a picture" if is_picture(root.name) else f"a file '{root.suffix}' that is no label file as they are read"
        )
        return f"this is {what}"
    suffixes = Counter(Path(name).suffix.lower() or "no suffix" for _, names in walk(root) for name in names)
    shown = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    pictures = any(suffix in IMAGE_SUFFIXES for suffix in suffixes)
    unread = "" if pictures or not shown else ", none of them a picture that is read (convert them to JPEG or PNG)"
    return f"there are {shown or 'no files'}{unread}"


def _labels(root: Path) -> Iterator[str]:
    for parent, names in walk(root):
        top = parent == root or (parent.parent == root and bool(split_name(parent.name)))
        pictures = {Path(name).stem for name in names if is_picture(name)}
        if top:
            tables = (name for name in names if name.lower().endswith(_TABLES))
            yield from (f"{parent / name}: may hold the labels, and isn't read; {_WRITE}" for name in tables)
        for name in islice((n for n in natural(names) if n.lower().endswith(_JSON)), _LOOKED_AT):
            yield from _json(parent / name, top)
        for name in islice((n for n in natural(names) if n.lower().endswith(".txt")), _LOOKED_AT):
            yield from _text(root, parent / name, top, beside=Path(name).stem in pictures)


def _json(path: Path, top: bool) -> Iterator[str]:
    text = _head(path)
    for keys, tool, remedy in _TOOLS:
        if all(key in text for key in keys):
            yield f"{path}: is {tool}, which isn't read; {remedy}, or {_WRITE}"
    if top and _NAMES_PICTURE.search(text):
        yield f"{path}: names pictures, so it may hold the labels, and JSON of this form isn't read; {_WRITE}"


def _text(root: Path, path: Path, top: bool, beside: bool) -> Iterator[str]:
    text = _head(path)
    if beside and _BOX.match(text):
        yield (
            f"{path}: is YOLO's label file beside its picture; put classes.txt (a class a line) into {root}, and "
            "read it by --set data.reader=yolo"
        )
    elif top and 2 * len(_PICTURE_AND_LABEL.findall(text)) >= len(_LINE.findall(text)):
        yield f"{path}: names pictures and labels, and text of this form isn't read; {_WRITE}"


def _head(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_SNIFFED).decode("utf-8", "replace")
    except OSError:
        return ""
