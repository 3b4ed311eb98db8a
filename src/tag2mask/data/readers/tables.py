"""Tables of images and labels as people, spreadsheets and labelling services write them: which column is what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

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
KEPT_ONCE = 10_000  # different texts of cells
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: an image's name, its cells by what they are, and its line."""

    line: int
    image: str
    labels: tuple[str, ...] = ()  # cells
    one_hot: tuple[str, ...] | None = None  # names of the classes that say yes
    split: str = ""
    mask: str = ""
    group: str = ""
    absent: bool = False  # the row says that the image doesn't show its labels

    @property
    def place(self) -> str:
        """The row's line, as messages name it."""
        return f"line {self.line}"


class _Cells:
    """What the cells of one column hold, which tells what the column is."""

    def __init__(self) -> None:
        self.rows = self.empty = self.yes = self.pictures = self.numbers = self.splits = 0
        self.counts = 0  # cells that are whole numbers, or empty
        self.zero = False  # one of them is 0
        self.filled = False  # one of them has any text
        self.first_picture = 0  # the row of the first name of a picture
        self.odd = 0  # cells that say neither yes nor no
        self.first_odd = ""

    def add(self, line: int, cell: str) -> None:
        """Count one more cell."""
        empty, answer, picture, number, split, count = _kind(cell)
        if picture and not self.pictures:
            self.first_picture = self.rows
        self.rows += 1
        self.filled = self.filled or bool(cell)
        self.empty += empty
        self.pictures += picture
        self.numbers += number and not empty
        self.splits += split
        self.counts += count
        self.zero = self.zero or cell == "0"
        if answer is None:
            self.odd += 1
            self.first_odd = self.first_odd or f"'{cell}' in line {line}"
        else:
            self.yes += answer

    @property
    def all_empty(self) -> bool:
        return self.empty == self.rows

    @property
    def hold_numbers(self) -> bool:
        return not self.all_empty and self.numbers + self.empty == self.rows

    @property
    def say_yes_and_no(self) -> bool:
        """Whether the column is one of a class: yes or no in every cell, and not all of them empty."""
        return not self.odd and not self.all_empty

    @property
    def nearly_say_yes_and_no(self) -> bool:
        """Whether half or more of the filled cells say yes or no, and any of them yes."""
        return self.yes > 0 and 2 * self.odd <= self.rows - self.empty

    @property
    def are_counts(self) -> bool:
        return self.zero and self.counts == self.rows


@lru_cache(maxsize=4096)
def _kind(cell: str) -> tuple[bool, bool | None, bool, bool, bool, bool]:
    """What a cell is: empty, an answer yes or no, a picture's name, a number, a split's name, a count."""
    empty = is_empty(cell)
    number = _NUMBER.fullmatch(cell) is not None
    return empty, binary(cell), is_picture(cell), number, bool(split_name(cell)), empty or cell.isdecimal()


def is_label_table(path: Path) -> bool:
    """Tell by its first row whether a CSV of any name has columns of images and labels."""
    try:
        _, first = next(iter(table_rows(path)), (0, []))
    except (BadFileError, OSError):
        return False
    heads = [_head(cell) for cell in first]
    return any(head in COLUMNS["image"] for head in heads) and any(head in COLUMNS["labels"] for head in heads)


def read_table(path: Path, found: Found) -> tuple[Columns, list[Entry]]:
    """Return the columns and rows of a table; what is wrong with single rows is reported and they are left out.

    The file is gone through twice, for what its columns hold and for its rows, so that no row is kept as it is.
    """
    first = next(table_rows(path), None)
    if first is None:
        raise BadFileError(path, "is empty", "write a header image,labels and a row for each image")
    headless = _headless(first[1])
    header = [""] * len(first[1]) if headless else [nfc(cell) for cell in first[1]]
    cells = [_Cells() for _ in header]
    for line, row in _body(path, headless, len(header)):
        if len(row) == len(header):
            for own, cell in zip(cells, row, strict=True):
                own.add(line, cell)
    columns = _of_headless(path, cells) if headless else _columns(path, header, cells)
    once: dict[str | tuple[str, ...], Any] = {}
    rows = (_entry(found, path, columns, len(header), *row, once) for row in _body(path, headless, len(header)))
    entries = [entry for entry in rows if entry is not None]
    _say(found, path, columns, headless)
    return columns, entries


def _body(path: Path, headless: bool, width: int) -> Iterator[tuple[int, list[str]]]:
    rows = islice(table_rows(path), 0 if headless else 1, None)
    return ((line, _fitted(cells, width)) for line, cells in rows)


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


def _headless(first: Sequence[str]) -> bool:
    return is_picture(first[0]) and not any(_head(c) in COLUMNS["labels"] for c in first) and len(first) > 1


def _of_headless(path: Path, cells: Sequence[_Cells]) -> Columns:
    places = list(range(1, len(cells) if cells[0].rows else 1))
    split = next((at for at in places if cells[at].splits == cells[at].rows), -1)
    places = [at for at in places if at != split]
    numbers = [at for at in places if cells[at].hold_numbers]
    if numbers == places[:4] and len(places) == 5:  # a box and its class
        return Columns(0, places[4:], split=split)
    words = [at for at in places if at not in numbers and cells[at].filled]
    if numbers and words:
        message = f"has no header, and column {numbers[0] + 1} holds numbers where column {words[0] + 1} holds words"
        raise BadFileError(path, message, "write a header above, with 'image' and 'labels' for these columns")
    return Columns(0, places, split=split)


def _columns(path: Path, header: list[str], cells: Sequence[_Cells]) -> Columns:
    heads = [_head(cell) for cell in header]
    if set(heads) >= _TOOL:
        return _of_tool(path, header, heads, cells)
    place = {what: next((heads.index(n) for n in names if n in heads), -1) for what, names in COLUMNS.items()}
    image = place["image"] if place["image"] >= 0 else _column_of_pictures(cells)
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
        answers = [at for at in others if not heads[at].startswith(_FLAGS) and cells[at].say_yes_and_no]
        said = [at for at in others if heads[at] in _SAID and at in answers and cells[at].yes]
        columns.said = said[0] if said else -1
        columns.not_read = [header[at] for at in others if at in named or (at in answers and len(answers) > 1)]
        return columns
    for what in ("split", "mask", "group"):  # in a table of classes these may be classes too
        at = getattr(columns, what)
        names = _ALSO_CLASSES | (_CLASSES_OF_ROBOFLOW if path.name.casefold() == "_classes.csv" else set())
        if at >= 0 and heads[at] in names and cells[at].say_yes_and_no:
            setattr(columns, what, -1)
            columns.taken_for_classes.append(header[at])
    taken = {image, columns.split, columns.held_out, columns.mask, columns.group}
    for at in (at for at in range(len(header)) if at not in taken and heads[at] not in _NO_CLASS):
        own = cells[at]
        if header[at] and own.say_yes_and_no:
            columns.one_hot[at] = header[at]
        elif header[at] and own.all_empty:
            columns.empty.append(header[at])
        elif header[at] and own.are_counts:
            columns.counted.append(header[at])
        elif header[at] and own.nearly_say_yes_and_no:
            columns.odd[header[at]] = own.first_odd + (f" and {own.odd - 1} more" if own.odd > 1 else "")
        elif header[at]:
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


def _of_tool(path: Path, header: list[str], heads: list[str], cells: Sequence[_Cells]) -> Columns:
    """Columns of Label Studio's export: the image and the tags bear names that the user chose."""
    rest = [at for at, head in enumerate(heads) if head not in TOOLS_OWN]
    image = next((at for at in rest if heads[at] in COLUMNS["image"]), _column_of_pictures(cells))
    rest = [at for at in rest if at != image]
    labels = [at for at in rest if heads[at] in COLUMNS["labels"]] or rest
    if image < 0 or len(labels) != 1:
        shown = ", ".join(header[at] for at in rest)
        message = f"has {'no column of images' if image < 0 else f'the columns {shown}, of which one holds tags'}"
        raise BadFileError(path, message, "call them 'image' and 'labels'")
    return Columns(image, labels, last_counts=True)


def _column_of_pictures(cells: Sequence[_Cells]) -> int:
    at = max(range(len(cells)), key=lambda at: (cells[at].pictures, -cells[at].first_picture, -at))
    return at if 2 * cells[at].pictures > cells[at].rows else -1


def _entry(
    found: Found,
    path: Path,
    columns: Columns,
    width: int,
    line: int,
    cells: list[str],
    once: dict[str | tuple[str, ...], Any],
) -> Entry | None:
    labels = columns.labels
    if len(cells) > width and not (labels and labels[-1] == width - 1):
        message = f"has {len(cells)} cells, the header {width}"
        remedy = "the row is left out; put several labels in quotes or separate them by ';'"
        found.report("bad-row", path.name, f"line {line}", message, remedy)
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
    if len(once) < KEPT_ONCE:  # what many rows hold is kept once
        shown, yes, split, group = (once.setdefault(value, value) for value in (shown, yes, split, group))
    else:
        shown, yes, split, group = (once.get(value, value) for value in (shown, yes, split, group))
    return Entry(line, cells[columns.image], shown, yes if columns.one_hot else None, split, mask, group, absent)
