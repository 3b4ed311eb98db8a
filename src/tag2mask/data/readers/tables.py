"""Tables of images and labels as people, spreadsheets and labelling services write them: which column is what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tag2mask.common.errors import did_you_mean
from tag2mask.data.readers.found import Found
from tag2mask.data.readers.labels import binary
from tag2mask.data.readers.tree import is_picture
from tag2mask.data.records import BadFileError
from tag2mask.data.text import table_rows
from tag2mask.data.words import is_empty, nfc, split_name

# Names of columns, the surest first.
COLUMNS = {
    "image": (
        "image",
        "images",
        "image_path",
        "img_path",
        "image_name",
        "img_name",
        "image_file",
        "filename",
        "file_name",
        "file",
        "filepath",
        "file_path",
        "path",
        "img",
        "photo",
        "picture",
        "image_id",
        "img_id",
        "name",
        "id",
    ),
    "labels": (
        "labels",
        "label",
        "class",
        "classes",
        "class_name",
        "class_names",
        "tags",
        "tag",
        "category",
        "categories",
        "label_name",
        "label_names",
        "choice",
        "choices",
        "target",
        "targets",
        "finding_labels",
        "findings",
    ),
    "split": ("split", "set", "subset", "partition", "phase", "fold_name", "data_set", "dataset"),
    "mask": ("mask", "masks", "mask_path", "mask_name", "mask_file", "segmentation", "seg_path"),
    "group": (
        "group",
        "groups",
        "group_id",
        "patient",
        "patient_id",
        "patientid",
        "subject",
        "subject_id",
        "slide",
        "slide_id",
        "part",
        "part_id",
        "video",
        "video_id",
        "case_id",
    ),
}
_WITHOUT_MARKS = {name.replace("_", ""): name for names in COLUMNS.values() for name in names if "_" in name}
_SAID = ("value", "confidence", "presence", "present")  # of a row's label: 1 that it is there, 0 that it isn't
_NO_CLASS = frozenset({*COLUMNS["image"], "is_train", "is_test", "is_training"})
_ALSO_CLASSES = frozenset({"set", "mask", "masks"})  # where they hold yes and no they are nothing else
# names that are classes in Roboflow's table, which holds nothing else
_CLASSES_OF_ROBOFLOW = frozenset({"group", "slide", "part", "video", "patient", "subject"})
_HELD_OUT = ("is_valid", "is_val", "is_validation")
_TOOL = frozenset({"annotation_id", "annotator", "lead_time"})  # Label Studio's, whatever the others are called
_TOOL_MORE = frozenset({"created_at", "updated_at", "id", "agreement", "task_id", "project", "completed_by"})
TOOLS_OWN = _TOOL | _TOOL_MORE


_NUMBER = re.compile(r"-?\d+(\.\d*)?")
_NUMBERED = re.compile(r"_?\d+$")
# beginnings of columns that say yes and no of a box, not of a class
_FLAGS = ("is", "truncated", "occluded", "difficult", "verified", "crowd", *COLUMNS["image"])
_YES_OR_NO = "write 0 or 1 (CheXpert's -1 is 'uncertain': take its row out, or decide), or delete the column"


@dataclass
class Columns:
    """The places of the columns of one table; -1 where there is none."""

    image: int
    labels: list[int] = field(default_factory=list)
    one_hot: dict[int, str] = field(default_factory=dict)  # column -> class
    split: int = -1
    held_out: int = -1  # a column that says yes for images of val
    mask: int = -1
    group: int = -1
    last_counts: bool = False  # of several rows of an image only the last, not all
    left_out: list[str] = field(default_factory=list)  # columns that aren't read
    counted: list[str] = field(default_factory=list)  # those of them that hold 0 and larger numbers
    odd: dict[str, str] = field(default_factory=dict)  # those that nearly are classes -> which cell says otherwise
    said: int = -1  # a column that says yes or no of a row's labels
    taken_for_classes: list[str] = field(default_factory=list)  # although they are called otherwise
    empty: list[str] = field(default_factory=list)  # columns without any value
    not_read: list[str] = field(default_factory=list)  # columns beside those of labels that may hold labels too


@dataclass(frozen=True)
class Entry:
    """One row: an image's name, its cells by what they are, and its line."""

    place: str
    image: str
    labels: tuple[str, ...] = ()  # cells
    one_hot: tuple[str, ...] | None = None  # names of the classes that say yes
    split: str = ""
    mask: str = ""
    group: str = ""
    absent: bool = False  # the row says that the image doesn't show its labels


def is_label_table(path: Path) -> bool:
    """Tell by its first row whether a CSV of any name has columns of images and labels."""
    try:
        _, first = next(iter(table_rows(path)), (0, []))
    except (BadFileError, OSError):
        return False
    heads = [_head(cell) for cell in first]
    return any(head in COLUMNS["image"] for head in heads) and any(head in COLUMNS["labels"] for head in heads)


def read_table(path: Path, found: Found) -> tuple[Columns, list[Entry]]:
    """Return the columns and rows of a table; what is wrong with single rows is reported and they are left out."""
    rows = list(table_rows(path))
    if not rows:
        raise BadFileError(path, "is empty", "write a header image,labels and a row for each image")
    headless = _headless(rows)
    header = [""] * len(rows[0][1]) if headless else [nfc(cell) for cell in rows[0][1]]
    body = [(line, _fitted(cells, len(header))) for line, cells in (rows if headless else rows[1:])]
    fitting = [(line, cells) for line, cells in body if len(cells) == len(header)]
    columns = _of_headless(path, fitting) if headless else _columns(path, header, fitting)
    entries = []
    for line, cells in body:
        entry = _entry(found, path, columns, len(header), line, cells)
        if entry is not None:
            entries.append(entry)
    _say(found, path, columns, headless)
    return columns, entries


def _say(found: Found, path: Path, columns: Columns, headless: bool) -> None:
    if headless:
        shown = " and ".join(str(at + 1) for at in columns.labels)
        message = f"has no header; its first column is taken for the images, column {shown} for labels"
        found.report("header", path.name, "", message, "write image,labels above", note=True)
    for name, cell in columns.odd.items():
        message = f"column '{name}' holds {cell} beside yes and no, so it is no class and its photos may be negatives"
        found.report("header", path.name, "", message, _YES_OR_NO)
    if columns.one_hot and columns.left_out:
        shown = ", ".join(columns.left_out[:6])
        message = f"column(s) {shown} hold more than yes and no, so they are no classes"
        found.report("header", path.name, "", message, "write 0 or 1 in columns that are classes", note=True)
    if columns.one_hot and columns.empty:
        message = f"column(s) {', '.join(columns.empty[:6])} are empty, so they are no classes"
        found.report("header", path.name, "", message, "write 0 or 1 in columns that are classes", note=True)
    if columns.not_read:
        message = f"column(s) {', '.join(columns.not_read[:6])} may hold labels too, and aren't read"
        remedy = "keep either one column of labels or the columns of classes, and delete or rename the others"
        found.report("header", path.name, "", message, remedy)
    if columns.taken_for_classes:
        message = f"column(s) {', '.join(columns.taken_for_classes)} hold yes and no, so they are read as classes"
        found.report("header", path.name, "", message, "rename those that aren't", note=True)
    if columns.counted:
        message = f"column(s) {', '.join(columns.counted[:6])} hold 0 and larger numbers, so they are no classes"
        remedy = "if they count objects, write 1 for every number above 0, or their images may be negatives"
        found.report("counts", path.name, "", message, remedy)


def _head(cell: str) -> str:
    head = re.sub(r"[\s\-]+", "_", cell.strip().casefold())
    return _WITHOUT_MARKS.get(head, head)


def _fitted(cells: list[str], count: int) -> list[str]:
    """Pad a row's missing cells, and cut empty ones beyond the header."""
    extra = cells[count:]
    return cells[:count] + [""] * (count - len(cells)) if not any(extra) else cells


def _headless(rows: Sequence[tuple[int, list[str]]]) -> bool:
    first = rows[0][1]
    return is_picture(first[0]) and not any(_head(c) in COLUMNS["labels"] for c in first) and len(first) > 1


def _of_headless(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Columns:
    places = list(range(1, len(rows[0][1]))) if rows else []
    split = next((at for at in places if all(split_name(cells[at]) for _, cells in rows)), -1)
    places = [at for at in places if at != split]
    numbers = [at for at in places if _holds_numbers([cells[at] for _, cells in rows])]
    if numbers == places[:4] and len(places) == 5:  # a box and its class
        return Columns(0, places[4:], split=split)
    words = [at for at in places if at not in numbers and any(cells[at] for _, cells in rows)]
    if numbers and words:
        message = f"has no header, and column {numbers[0] + 1} holds numbers where column {words[0] + 1} holds words"
        raise BadFileError(path, message, "write a header above, with 'image' and 'labels' for these columns")
    return Columns(0, places, split=split)


def _holds_numbers(cells: Iterable[str]) -> bool:
    filled = [cell for cell in cells if not is_empty(cell)]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)


def _columns(path: Path, header: list[str], numbered: list[tuple[int, list[str]]]) -> Columns:
    rows = [cells for _, cells in numbered]
    heads = [_head(cell) for cell in header]
    if set(heads) >= _TOOL:
        return _of_tool(path, header, heads, rows)
    place = {what: next((heads.index(n) for n in names if n in heads), -1) for what, names in COLUMNS.items()}
    image = place["image"] if place["image"] >= 0 else _column_of_pictures(rows)
    if image < 0:
        message = f"the header {','.join(header)} has no column 'image'{did_you_mean('image', heads)}"
        raise BadFileError(path, message, "the columns are image, labels, split, mask and group; two are needed")
    columns = Columns(image, split=place["split"], mask=place["mask"], group=place["group"])
    columns.held_out = next((heads.index(name) for name in _HELD_OUT if name in heads), -1)
    columns.labels = [at for at in _label_columns(heads) if at != image]
    if columns.labels:
        taken = {image, columns.split, columns.held_out, columns.mask, columns.group, *columns.labels}
        others = [at for at, head in enumerate(heads) if head and at not in taken]
        named = [at for at in others if _NUMBERED.sub("", heads[at]) in COLUMNS["labels"]]
        answers = [
            at for at in others if not heads[at].startswith(_FLAGS) and _says_yes_and_no(row[at] for row in rows)
        ]
        said = [at for at in others if heads[at] in _SAID and at in answers and any(binary(r[at]) for r in rows)]
        columns.said = said[0] if said else -1
        columns.not_read = [header[at] for at in others if at in named or (at in answers and len(answers) > 1)]
        return columns
    for what in ("split", "mask", "group"):  # in a table of classes these may be classes too
        at = getattr(columns, what)
        names = _ALSO_CLASSES | (_CLASSES_OF_ROBOFLOW if path.name.casefold() == "_classes.csv" else set())
        if at >= 0 and heads[at] in names and _says_yes_and_no(row[at] for row in rows):
            setattr(columns, what, -1)
            columns.taken_for_classes.append(header[at])
    taken = {image, columns.split, columns.held_out, columns.mask, columns.group}
    for at in (at for at in range(len(header)) if at not in taken and heads[at] not in _NO_CLASS):
        if header[at] and _says_yes_and_no(row[at] for row in rows):
            columns.one_hot[at] = header[at]
        elif header[at] and all(is_empty(row[at]) for row in rows):
            columns.empty.append(header[at])
        elif header[at]:
            numbers = {row[at] for row in rows}
            odd = [f"'{row[at]}' in line {line}" for line, row in numbered if binary(row[at]) is None]
            if "0" in numbers and all(map(_is_count, numbers)):
                columns.counted.append(header[at])
            elif _nearly_says_yes_and_no([row[at] for row in rows]):
                columns.odd[header[at]] = odd[0] + (f" and {len(odd) - 1} more" if len(odd) > 1 else "")
            else:
                columns.left_out.append(header[at])
    if not columns.one_hot and columns.odd:
        name, cell = next(iter(columns.odd.items()))
        raise BadFileError(path, f"has no column 'labels', and '{name}' holds {cell} beside yes and no", _YES_OR_NO)
    if not columns.one_hot:
        message = f"the header {','.join(header)} has no column 'labels'{did_you_mean('labels', heads)}"
        raise BadFileError(path, message, "write image,labels, or a column of 0 and 1 for each class")
    return columns


def _label_columns(heads: Sequence[str]) -> list[int]:
    """Return the columns of the surest name that there is, such as label, label2 or label_1, label_2."""
    bases = [_NUMBERED.sub("", head) for head in heads]
    name = next((name for name in COLUMNS["labels"] if name in bases), None)
    return [at for at, base in enumerate(bases) if base == name]


def _says_yes_and_no(cells: Iterable[str]) -> bool:
    """Whether a column is one of a class: yes or no in every cell, and not all of them empty."""
    found = list(cells)
    return all(binary(cell) is not None for cell in found) and not all(map(is_empty, found))


def _nearly_says_yes_and_no(cells: Iterable[str]) -> bool:
    """Whether half or more of a column's filled cells say yes or no, and any of them yes."""
    answers = [binary(cell) for cell in cells if not is_empty(cell)]
    return True in answers and 2 * answers.count(None) <= len(answers)


def _is_count(cell: str) -> bool:
    return cell.isdecimal() or is_empty(cell)


def _of_tool(path: Path, header: list[str], heads: list[str], rows: list[list[str]]) -> Columns:
    """Columns of Label Studio's export: the image and the tags bear names that the user chose."""
    rest = [at for at, head in enumerate(heads) if head not in TOOLS_OWN]
    image = next((at for at in rest if heads[at] in COLUMNS["image"]), _column_of_pictures(rows))
    rest = [at for at in rest if at != image]
    labels = [at for at in rest if heads[at] in COLUMNS["labels"]] or rest
    if image < 0 or len(labels) != 1:
        shown = ", ".join(header[at] for at in rest)
        message = f"has {'no column of images' if image < 0 else f'the columns {shown}, of which one holds tags'}"
        raise BadFileError(path, message, "call them 'image' and 'labels'")
    return Columns(image, labels, last_counts=True)


def _column_of_pictures(rows: list[list[str]]) -> int:
    counts: Counter[int] = Counter(at for row in rows for at, cell in enumerate(row) if is_picture(cell))
    at, count = counts.most_common(1)[0] if counts else (-1, 0)
    return at if 2 * count > len(rows) else -1


def _entry(found: Found, path: Path, columns: Columns, width: int, line: int, cells: list[str]) -> Entry | None:
    place = f"line {line}"
    labels = columns.labels
    if len(cells) > width and not (labels and labels[-1] == width - 1):
        message = f"has {len(cells)} cells, the header {width}"
        remedy = "the row is left out; put several labels in quotes or separate them by ';'"
        found.report("bad-row", path.name, place, message, remedy)
        return None
    shown = tuple(cells[at] for at in labels)
    if len(cells) > width:  # image,cat,dog under image,labels: the last column goes on
        shown = (*shown[:-1], ",".join(cells[width - 1 :]))
    yes = tuple(name for at, name in columns.one_hot.items() if binary(cells[at]))
    split, mask, group, val = (
        cells[at] if at >= 0 else "" for at in (columns.split, columns.mask, columns.group, columns.held_out)
    )
    if columns.split < 0 <= columns.held_out:
        split = "val" if binary(val) else "train"
    group = "" if is_empty(group) else group
    absent = columns.said >= 0 and not is_empty(cells[columns.said]) and not binary(cells[columns.said])
    return Entry(place, cells[columns.image], shown, yes if columns.one_hot else None, split, mask, group, absent)
