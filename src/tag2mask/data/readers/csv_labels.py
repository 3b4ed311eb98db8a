"""A CSV file with the columns image, labels and perhaps split and mask."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path

from tag2mask.common.errors import did_you_mean
from tag2mask.data.readers.found import (
    IMAGE_FOLDERS,
    Folders,
    Found,
    Query,
    Row,
    give_masks,
    inside,
    names_of,
    nfc,
    split_name,
)
from tag2mask.data.records import BadFileError

LOOKS_FOR = "a file labels.csv with the columns image,labels (or the path of such a file)"
_SEPARATORS = re.compile(r"[;|,]")
_SUFFIXES_TO_TRY = ("", ".jpg", ".jpeg", ".png", ".JPG")
_COLUMNS = ("image", "labels", "split", "mask")


def matches(root: Path) -> bool:
    """Tell whether `root` is a CSV file or holds labels.csv."""
    return root.suffix.lower() == ".csv" if root.is_file() else (root / "labels.csv").is_file()


def read(root: Path, query: Query) -> Found:
    """Read a label file; images and masks are looked for in its folder and the usual folders beside it."""
    path = root if root.is_file() else root / "labels.csv"
    if not path.is_file():
        raise BadFileError(path, "does not exist", "make it, with the columns image,labels")
    folders = Folders(path.parent)
    found = Found(path.parent.name, voc_masks=(path.parent / "SegmentationClass").is_dir())
    listed = list(cells(path, found))
    splits = {} if any("split" in row for _, row in listed) else _listed_splits(path.parent)
    spaces = not any(_SEPARATORS.search(row["labels"]) for _, row in listed)
    without_mask: list[Row] = []
    for line, row_cells in listed:
        row = _row(found, folders, path.name, f"line {line}", row_cells)
        if row is not None:
            row.names = split_labels(row_cells["labels"], query.known(), spaces)
            row.split = row.split or next((splits[n] for n in names_of(row.relative) if n in splits), "")
            found.rows.append(row)
            if not row_cells.get("mask"):
                without_mask.append(row)
    give_masks(found, folders, without_mask)
    return found


def split_labels(cell: str, known: Collection[str] = (), spaces: bool = True) -> list[str]:
    """Return the names in a cell, each once: separated by ; | or , or else, unless they make a known name, spaces.

    known: all right names, when there is a list; spaces: whether spaces may separate when there is none.
    """
    cell = nfc(cell.strip())
    if cell in known:
        return [cell]
    if _SEPARATORS.search(cell):
        parts = [" ".join(part.split()) for part in _SEPARATORS.split(cell)]
    elif known:
        parts = _known_words(cell, known)
    else:
        parts = cell.split() if spaces else [" ".join(cell.split())]
    return list(dict.fromkeys(part for part in parts if part))


def _known_words(cell: str, known: Collection[str]) -> list[str]:
    """Split at spaces, keeping known names of several words together ("traffic light car")."""
    words, names = cell.split(), []
    while words:
        length = next((n for n in range(len(words), 0, -1) if " ".join(words[:n]) in known), 1)
        names.append(" ".join(words[:length]))
        del words[:length]
    if not any(name in known for name in names) and get_close_matches(cell, known, n=1, cutoff=0.8):
        return [cell]  # one misspelt name of several words
    return names


def cells(path: Path, found: Found) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, {column: text}) of every row that isn't blank."""
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if not header:
                header = [value.casefold() for value in values]
                _check_header(path, header)
            elif len(values) > len(header) and any(values[len(header) :]):
                message = f"has {len(values)} cells, the header {len(header)}"
                remedy = "the row is left out; put several labels in quotes or separate them by ';'"
                found.report("bad-row", path.name, f"line {reader.line_num}", message, remedy)
            else:
                padded = values + [""] * (len(header) - len(values))
                yield reader.line_num, dict(zip(header, padded, strict=False))
    except csv.Error as error:
        raise BadFileError(path, f"line {reader.line_num}: {error}", "save it as plain CSV in UTF-8") from error
    if not header:
        raise BadFileError(path, "is empty", "write a header image,labels and a row for each image")


def _text(path: Path) -> str:
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        value = data[error.start : error.start + 1]
        raise BadFileError(path, f"line {line}: byte {value!r} is not UTF-8", "save the file as UTF-8") from error


def _check_header(path: Path, header: list[str]) -> None:
    for column in ("image", "labels"):
        if column not in header:
            near = did_you_mean(column, header)
            message = f"the header {','.join(header)} has no column '{column}'{near}"
            raise BadFileError(path, message, f"the columns are {', '.join(_COLUMNS)}; the first two are needed")


def _row(found: Found, folders: Folders, file: str, place: str, cells: dict[str, str]) -> Row | None:
    name = cells["image"]
    relative = inside(name)
    if relative is None:
        message = f"image path '{name}' is empty or leaves the dataset's folder"
        found.report("unsafe-path", file, place, message, "give a path below the folder of the CSV")
        return None
    actual = next(filter(None, (folders.find(relative + s, IMAGE_FOLDERS) for s in _SUFFIXES_TO_TRY)), None)
    if actual is None:
        message = f"image '{name}' is not on disk{folders.other_case(relative, IMAGE_FOLDERS)}"
        found.report("missing-image", file, place, message, "add the file or delete the row")
        return None
    split = split_name(cells.get("split", ""))
    if split is None:
        message = f"split '{cells['split']}' is not train, val or test"
        found.report("unknown-split", file, place, message, "the image is left out; correct the split")
        return None
    mask = _mask(found, folders, file, place, cells.get("mask", ""))
    return Row(folders.root / actual, actual, [], split, mask, file, place)


def _mask(found: Found, folders: Folders, file: str, place: str, name: str) -> Path | None:
    if not name:
        return None  # looked for by the image's name, once all images are known
    relative = inside(name)
    actual = None if relative is None else folders.find(relative, ("", "SegmentationClass", "masks"))
    if actual is None:
        message = f"mask '{name}' " + ("leaves the dataset's folder" if relative is None else "is not on disk")
        found.report("missing-mask", file, place, message, "the image counts as one without a mask")
        return None
    return folders.root / actual


def _listed_splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train", "val"):
        path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if path.is_file():
            for stem in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
                splits.setdefault(nfc(stem.strip()), split)
    return splits
