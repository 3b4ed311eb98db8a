"""Label tables: image,labels, a row for each label, a column for each class, exports of labelling services."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tag2mask.common.errors import did_you_mean
from tag2mask.data.classes import ClassList
from tag2mask.data.readers.found import IMAGE_FOLDERS, Folders, Found, Query, Row, inside, names_of
from tag2mask.data.readers.labels import LabelError, split_labels, vectors
from tag2mask.data.readers.located import Located
from tag2mask.data.readers.mask_files import give_masks, is_mask_beside
from tag2mask.data.readers.tables import KEPT_ONCE, Columns, Entry, is_label_table, read_table
from tag2mask.data.readers.tree import is_picture, subfolders
from tag2mask.data.records import VOC_CLASSES, BadFileError, text_of
from tag2mask.data.text import table_rows
from tag2mask.data.words import is_empty, is_unlabelled, natural, nfc, split_name

__all__ = ["LOOKS_FOR", "cells", "matches", "read", "split_labels"]
LOOKS_FOR = "a file labels.csv with the columns image,labels (or the path of such a file)"
NAMES = ("labels.csv", "_classes.csv")
Names = Sequence[str] | None  # of a row's labels; None where they can't be read
_JOINED = re.compile(r"[/&+]")
SUFFIXES = (".csv", ".tsv")


def matches(root: Path) -> bool:
    """Tell whether `root` is a CSV file or holds a label table, itself or in each of its splits' folders."""
    return root.suffix.lower() in SUFFIXES if root.is_file() else bool(_tables(root))


def _tables(root: Path) -> list[tuple[str, Path]]:
    """Return (split, label table) of a folder: one of the usual names, those of its splits, or the only one."""
    own = next((root / name for name in NAMES if (root / name).is_file()), None)
    if own is not None:
        return [("", own)] if own.name != "_classes.csv" or _is_one_hot(own) else []
    inner = [(split_name(folder.name), folder) for folder in subfolders(root)]
    found = [
        (split, folder / name) for split, folder in inner if split for name in NAMES if (folder / name).is_file()
    ]
    if found:
        return [(split, path) for split, path in found if path.name != "_classes.csv" or _is_one_hot(path)]
    tables = [path for suffix in SUFFIXES for path in sorted(root.glob(f"*{suffix}"))]
    others = [path for path in tables if is_label_table(path)]
    named = [(split, path) for path in others if (split := split_name(path.stem.removesuffix("_labels")))]
    return named or ([("", others[0])] if len(others) == 1 else [])


def _is_one_hot(path: Path) -> bool:
    """Tell image,cat,dog from the table of mask values that bears the same name."""
    _, first = next(iter(table_rows(path)), (0, [""]))
    return first[0].casefold() not in ("pixel value", "value")


def read(root: Path, query: Query) -> Found:
    """Read label tables; images and masks are looked for in their folder and the usual folders beside them."""
    home = root.parent if root.is_file() else root
    tables = [("", root)] if root.is_file() else _tables(root)
    if not tables:
        raise BadFileError(root / "labels.csv", "does not exist", "make it, with the columns image,labels")
    found = Found(home.name, voc_masks=(home / "SegmentationClass").is_dir())
    folders = Folders(home)
    without_mask: list[Row] = []
    for split, path in tables:
        without_mask += _read_one(found, folders, path, split, query)
    if not found.rows and not found.problems:
        raise BadFileError(tables[0][1], "has a header and no row", "write a row for each image")
    rows = _joined(found, found.rows)
    if len(rows) < len(found.rows):
        kept = {id(row) for row in rows}
        without_mask = [row for row in without_mask if id(row) in kept]
    found.rows = rows
    give_masks(found, folders, without_mask)
    _say_unlisted(found, folders, [path.name for _, path in tables])
    return found


def _read_one(found: Found, folders: Folders, path: Path, split: str, query: Query) -> list[Row]:
    """Read one table into `found`; return the rows that say nothing of a mask."""
    columns, entries = read_table(path, found)
    names = _names(found, path, columns, entries, query)
    inner = path.parent.relative_to(folders.root).as_posix()
    bases = tuple(dict.fromkeys(f"{inner}/{base}".strip("/") if inner != "." else base for base in IMAGE_FOLDERS))
    located = Located.find(folders, (entry.image for entry in entries), (*bases, ""), "" if inner == "." else inner)
    located.say(found, path.name)
    splits = {} if columns.split >= 0 or split else _listed_splits(path.parent)
    without_mask: list[Row] = []
    last: dict[str, Row] = {}
    for entry, labels in _used_up(entries, names):
        row = _row(found, folders, path.name, entry, located) if labels is not None else None
        if row is None or labels is None:
            continue
        row.names, row.negative = labels, not labels
        row.split = row.split or split or next((splits[n] for n in names_of(row.relative) if n in splits), "")
        if columns.last_counts and row.relative in last:
            _replace(found, last[row.relative], row)
            continue
        if columns.last_counts:
            last[row.relative] = row
        found.rows.append(row)
        if not entry.mask:
            without_mask.append(row)
    return without_mask


def _used_up(entries: list[Entry], names: list[Names]) -> Iterator[tuple[Entry, Names]]:
    """Yield entries and their labels and empty the list of entries: rows and entries of a million are too much."""
    entries.reverse()
    for labels in names:
        yield entries.pop(), labels


def _replace(found: Found, before: Row, row: Row) -> None:
    """Let the last of several people's answers count."""
    if set(before.names) != set(row.names):
        message = f"image '{row.relative}' was tagged differently before ({before.place})"
        found.report("contradiction", row.file, row.place, message, "the last row counts")
    before.names, before.negative, before.at = row.names, row.negative, row.at


def _names(found: Found, path: Path, columns: Columns, entries: list[Entry], query: Query) -> list[Names]:
    """Return the labels of every row, None for one that can't be read."""
    if columns.one_hot:
        found.known = tuple(dict.fromkeys((*(found.known or ()), *_class_names(columns, query))))
        found.known_from = f"the columns of {path.name}"
        return [entry.one_hot or () for entry in entries]
    vector = vectors(" ".join(entry.labels) for entry in entries)
    if vector is not None:
        return _of_vectors(found, path, vector, query.listed)
    known = query.known() or _vocs(path.parent, entries)
    names: list[Names] = []
    once: dict[tuple[str, ...], Names] = {}
    for entry in entries:
        if entry.labels in once:
            names.append(once[entry.labels])
            continue
        try:
            shown = tuple(dict.fromkeys(name for cell in entry.labels for name in split_labels(cell, known)))
            names.append(once.setdefault(entry.labels, shown) if len(once) < KEPT_ONCE else shown)
        except LabelError as error:
            remedy = "the row is left out; write names separated by ';'"
            found.report("bad-row", path.name, entry.place, f"the labels' cell {error}", remedy)
            names.append(None)
    _say_spaces(found, path, entries, names)
    return _without_absent(found, path, entries, _numbers_named(found, path, names, query))


def _without_absent(found: Found, path: Path, entries: list[Entry], names: list[Names]) -> list[Names]:
    """Take away the rows that say what an image doesn't show; one of which every class is denied is a negative."""
    absent = sum(entry.absent for entry in entries)
    if not absent:
        return names
    denied: dict[str, set[str]] = defaultdict(set)
    for entry, row in zip(entries, names, strict=True):
        denied[entry.image].update((row or ()) if entry.absent else ())
    every = {name for row in names for name in row or ()}
    message = f"{absent} row(s) say by 0 or no that an image does not show their label"
    remedy = "they are no tags; an image is a negative where each class has such a row"
    found.report("absent", path.name, "", message, remedy, note=True)
    return [
        row if not entry.absent or not row else [] if denied[entry.image] == every else None
        for entry, row in zip(entries, names, strict=True)
    ]


def _class_names(columns: Columns, query: Query) -> Iterator[str]:
    return (name for name in columns.one_hot.values() if not query.means_none(name) and not is_unlabelled(name))


def _vocs(folder: Path, entries: list[Entry]) -> Collection[str]:
    """Return VOC's names where the folder has VOC's layout and the cells hold nothing else."""
    if not (folder / "JPEGImages").is_dir() or not (folder / "SegmentationClass").is_dir():
        return ()
    words = {word for entry in entries for cell in entry.labels for word in cell.split()}
    return VOC_CLASSES if words <= set(VOC_CLASSES) else ()


def _say_spaces(found: Found, path: Path, entries: list[Entry], names: list[Names]) -> None:
    """Ask about a label like "cat dog" or "cat/dog" beside labels "cat" and "dog", and about "7 1"."""
    all_names = {name for row in names for name in row or ()}
    for entry, row in zip(entries, names, strict=True):
        for name in row or ():
            splits = (name.split(), [part.strip() for part in _JOINED.split(name)])
            if any(len(s) > 1 and (all_names.issuperset(s) or all(map(str.isdecimal, s))) for s in splits):
                message = f"label '{name}' consists of other labels; only ; | and , separate labels"
                found.report("several-words", path.name, entry.place, message, "write ';' between them")


def _of_vectors(found: Found, path: Path, rows: list[tuple[int, ...]], listed: ClassList | None) -> list[Names]:
    """Return the classes of vectors with a 0 or 1 for each class of the class file."""
    length = max(map(len, rows))
    numbered = [name for _, name in sorted((listed.stated or listed.numbered).items())] if listed else []
    fitting = next((names for names in (numbered, listed.names if listed else ()) if len(names) == length), None)
    shown = " ".join(map(str, next(filter(None, rows))))
    if listed is None or fitting is None or all(row in ((), (0, 1)) for row in rows):  # 0 and 1 may be two numbers
        source = "no class file says which" if listed is None else f"{listed.source} has {len(listed.names)} classes"
        message = f"labels look like a 0 or 1 for each of {length} classes, such as '{shown}', and {source}"
        raise BadFileError(path, message, f"write names, or {length} names in classes.txt in this order")
    message = f"labels such as '{shown}' are read as a 0 or 1 for each class of {listed.source}"
    found.report("numbers", path.name, "", message, "write names if that is wrong", note=True)
    return [[name for name, bit in zip(fitting, row, strict=False) if bit] for row in rows]


def _numbers_named(found: Found, path: Path, names: list[Names], query: Query) -> list[Names]:
    """Replace numbers by the names in the class file, where all labels are numbers and it has no such names."""
    listed = query.listed
    used = {name for row in names for name in row or ()}
    if listed is None or not used or used & set(listed.names) or not all(name.isdecimal() for name in used):
        return names
    meaning = _meaning_of_numbers(path, sorted(map(int, used)), listed)
    first = min(number for number, name in meaning.items() if name in listed.names)
    how = "as it numbers them" if listed.stated else "counted along its lines"
    message = f"labels are numbers: {first} is '{meaning[first]}' of {listed.source}, {how}"
    found.report("numbers", path.name, "", message, "write names if that is wrong", note=True)
    return [None if row is None else [meaning[int(name)] for name in row] for row in names]


def _meaning_of_numbers(path: Path, used: list[int], listed: ClassList) -> Mapping[int, str]:
    """Return the class of each number: as the class file numbers them, else counted from 0 or from 1."""
    counted = (listed.numbered or dict(enumerate(listed.names)), dict(enumerate(listed.names, start=1)))
    fitting = [names for names in ((listed.stated,) if listed.stated else counted) if set(used) <= set(names)]
    if not fitting and listed.stated:
        number = next(number for number in used if number not in listed.stated)
        message = f"labels are the numbers {used[0]}..{used[-1]}, and {listed.source} has no number {number}"
        raise BadFileError(path, message, "correct the numbers, or write names")
    if not fitting or any(names[number] != fitting[0][number] for names in fitting for number in used):
        message = f"labels are the numbers {used[0]}..{used[-1]}, and {len(listed.names)} classes are listed"
        raise BadFileError(path, message, "write names, since numbers may begin at 0 or at 1")
    return fitting[0]


def _row(found: Found, folders: Folders, file: str, entry: Entry, located: Located) -> Row | None:
    name, place = entry.image, entry.place
    actual = located.names[name]
    if actual is None and name in located.why:
        message = f"image '{name}' {located.why[name]}"
        found.report("ambiguous-image", file, place, message, "the row is left out; give its path below the folder")
        return None
    if actual is None and inside(name) is None:
        message = f"image path '{name}' is empty or leaves the dataset's folder"
        found.report("unsafe-path", file, place, message, "give a path below the folder of the CSV")
        return None
    if actual is None:
        message = f"image '{name}' is not on disk{folders.other_case(inside(name) or '', IMAGE_FOLDERS)}"
        found.report("missing-image", file, place, message, "add the file or delete the row")
        return None
    split = split_name(entry.split)
    if split is None:
        message = f"split '{entry.split}' is not train, val or test"
        found.report("unknown-split", file, place, message, "the image is left out; correct the split")
        return None
    mask = _mask(found, folders, file, place, entry.mask)
    return Row(folders.root / actual, actual, (), split, mask, file, entry.line, group=entry.group)


def _mask(found: Found, folders: Folders, file: str, place: str, name: str) -> Path | None:
    if not name or is_empty(name):
        return None  # looked for by the image's name, once all images are known
    below = name.removeprefix(f"{folders.root}/")
    relative = inside(below)
    last = below.replace("\\", "/").rpartition("/")[2]
    tries = [text for text in (relative, last) if text]
    actual = next(filter(None, (folders.find(text, ("", "SegmentationClass", "masks")) for text in tries)), None)
    if actual is None:
        message = f"mask '{name}' " + ("leaves the dataset's folder" if relative is None else "is not on disk")
        found.report("missing-mask", file, place, message, "the image counts as one without a mask")
        return None
    return folders.root / actual


def _joined(found: Found, rows: list[Row]) -> list[Row]:
    """Join the rows of each image: a row a label, or a row a box."""
    by_path: dict[str, Row] = {}
    several: set[str] = set()
    for row in rows:
        first = by_path.setdefault(row.relative, row)
        if first is not row:
            several.add(row.relative)
            _join(found, first, row)
    if several:
        message = f"{len(several)} image(s) have several rows"
        found.report("rows", rows[0].file, "", message, "the labels of all of them count", note=True)
    return list(by_path.values())


def _join(found: Found, first: Row, row: Row) -> None:
    if row.split != first.split:
        message = f"image '{row.relative}' was listed before with another split ({first.place})"
        found.report("duplicate", row.file, row.place, message, "the first counts; list it in one split")
    if bool(row.names) != bool(first.names):
        message = f"image '{row.relative}' is listed with labels and without ({first.place})"
        found.report("contradiction", row.file, row.place, message, "its labels count; delete the other row")
    first.names = list(dict.fromkeys((*first.names, *row.names)))
    first.negative = not first.names
    first.group = first.group or row.group
    first.mask_path = first.mask_path or row.mask_path


def _say_unlisted(found: Found, folders: Folders, tables: list[str]) -> None:
    """Note how many pictures lie beside the listed ones without a row."""
    listed: dict[str, set[str]] = defaultdict(set)
    for row in found.rows:
        listed[row.relative.rpartition("/")[0]].add(text_of(row, "path")[1])
    reported = Counter(problem.kind for problem in found.problems)
    rest = [
        f"{folder}/{name}".strip("/")
        for folder, names in listed.items()
        for name in folders.files(folder).values()
        if is_picture(name) and name not in names and not is_mask_beside(name, names)
    ]
    left_out = sum(count for kind, count in reported.items() if kind in ("unknown-split", "bad-row"))
    if len(rest) > left_out:
        message = f"{len(rest)} picture(s) have no usable row, such as '{natural(rest)[0]}'"
        remedy = "they are left out; give those without any class a row with an empty label"
        found.report("unlisted", tables[0], "", message, remedy, note=True)


def cells(path: Path, found: Found) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, {"image": ..., "labels": ...}) of every row of a table image,labels."""
    columns, entries = read_table(path, found)
    if len(columns.labels) != 1:
        raise BadFileError(path, f"has no column 'labels'{did_you_mean('labels', ())}", "write image,labels")
    for entry in entries:
        yield entry.line, {"image": entry.image, "labels": entry.labels[0]}


def _listed_splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train", "val"):
        path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if path.is_file():
            for stem in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
                splits.setdefault(nfc(stem.strip()), split)
    return splits
