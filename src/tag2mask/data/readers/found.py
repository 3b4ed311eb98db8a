"""What every reader shares: the question, the rows found, listed folders, and making a Dataset of them."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.classes import ClassList, lut_of
from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.readers.ids import unique_ids
from tag2mask.data.readers.tree import not_listed
from tag2mask.data.records import (
    MAX_CLASSES,
    VOC_CLASSES,
    Dataset,
    Problem,
    paths_as_text,
    printable,
    record_like,
    text_of,
)
from tag2mask.data.words import BACKGROUND, is_background, is_negative, is_unlabelled, natural, nfc, plain

BINARY = "(the one class)"  # stands for it among the values of a mask
_COPY = re.compile(r"(.+_(?:jpe?g|png|bmp|tiff?|webp))\.rf\.[0-9A-Za-z]+\.\w+", re.IGNORECASE)
MASK_FOLDERS = ("SegmentationClass", "masks")
MASK_PLACES = (*MASK_FOLDERS, "Masks", "mask", "SegmentationClassPNG", "segmentation", "segmentations", "annotations")
IMAGE_FOLDERS = ("", "JPEGImages", "images", "Images", "imgs", "photos", "data")
HELD_OUT = frozenset({"val", "test"})  # splits that are only predicted and scored
_FEW = 20  # missing images below which a list may just be out of date


@dataclass(frozen=True)
class Query:
    """What the caller asked for; None means that the reader decides."""

    classes: tuple[str, ...] | None = None
    # of a mask value: its class, "background" or "ignored"; BINARY: any value for the one class
    mask_values: Mapping[int, str] | None = None
    split: str | None = None
    listed: ClassList | None = None  # the file beside the data that says the classes
    # labels and folders that mean none of the classes; None: images without any class are left out
    negatives: tuple[str, ...] | None = ()
    pattern: str | None = None  # of file names that carry their labels
    background: bool = True

    def known(self) -> frozenset[str]:
        """Return names that are right even where they are not asked for; empty when anything may come."""
        listed = self.listed.names if self.listed else ()
        named = [name for name in (self.mask_values or {}).values() if name not in (BACKGROUND, "ignored", BINARY)]
        if self.classes is None:
            return frozenset((*named, *listed))
        voc = VOC_CLASSES if set(self.classes) <= set(VOC_CLASSES) else ()
        return frozenset((*self.classes, *named, *listed, *voc))

    def means_none(self, name: str) -> bool:
        """Tell a label or folder that says "none of the classes", unless it is the name of a class."""
        if name in (self.classes or ()) or (self.listed is not None and name in self.listed.names):
            return False
        return is_negative(name) or plain(name) in {plain(given) for given in self.negatives or ()}


@paths_as_text("path", "mask_path")
@dataclass
class Row:
    """One image as a reader found it, its labels still names."""

    path: Path
    relative: str  # path inside the dataset, with '/'
    names: Sequence[str]
    split: str = ""
    mask_path: Path | None = None
    file: str = ""  # where it was listed, for messages
    at: str | int = ""  # where in it; a number is a line
    label_file: str = ""  # where its labels were read, if that is another file
    negative: bool = False  # known to hold none of the classes, if it has no names
    group: str = ""  # patient, slide, part or video

    @property
    def place(self) -> str:
        """Where in its file the image was listed, as messages name it."""
        return self.at if isinstance(self.at, str) else f"line {self.at}"

    def label_place(self) -> tuple[str, str]:
        """Return the file and place that a message about the labels should name."""
        return (self.label_file, "") if self.label_file else (self.file, self.place)


@dataclass
class Found:
    """All that a reader found in a folder."""

    name: str
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    known: tuple[str, ...] | None = None  # all classes in order, where the format says them
    known_from: str = "the names, sorted"  # who says so, in words
    voc_masks: bool = False  # masks are probably numbered as in VOC
    ids_by_path: bool = False  # ids from the relative path instead of the stem
    keep_unlabelled: frozenset[str] = frozenset()  # splits whose images count without any label too

    def report(
        self, kind: str, file: str, place: str, message: str, remedy: str, fatal: bool = False, note: bool = False
    ) -> None:
        """Note one problem; a `fatal` one lets the data set be looked at, but not be trained on."""
        self.problems.append(Problem(kind, file, place, message, remedy, fatal, note))


def inside(name: str) -> str | None:
    """Return a relative path with '/' and without '.', or None when it would leave the dataset's folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or drive or ".." in path.parts or "\0" in name or not path.parts:
        return None
    return str(path)


class Folders:
    """The files below a root; each folder is listed once, when first asked for, with no look at the files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, dict[str, str]] = {}
        self.twins: list[str] = []  # files that another one hides, whose accents are written otherwise
        self._stems: dict[str, dict[str, str]] = {}

    def files(self, folder: str) -> dict[str, str]:
        """Return {name with joined accents: name on disk} of the visible files in a folder; {} without it."""
        if folder not in self._files:
            try:
                with os.scandir(self.root / folder) as entries:
                    names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())
            except PermissionError as error:
                raise not_listed(self.root / folder) from error
            except (OSError, ValueError):  # not there, not a folder, or a name that no file system takes
                names = []
            self._files[folder] = {nfc(name): name for name in names}
            if len(self._files[folder]) < len(names):
                self.twins += [f"{folder}/{n}".strip("/") for n in names if self._files[folder][nfc(n)] != n]
        return self._files[folder]

    def find(self, relative: str, bases: Iterable[str] = ("",)) -> str | None:
        """Return the path on disk, relative to the root, of a file looked for in each of `bases`."""
        inner, _, wanted = nfc(relative).rpartition("/")  # plain text: pathlib is slow for 100,000 names
        for base in bases:
            folder = f"{base}/{inner}" if base and inner else base or inner
            name = self.files(folder).get(wanted)
            if name is not None:
                return f"{folder}/{name}" if folder else name
        return None

    def image_by_stem(self, folder: str, stem: str) -> str | None:
        """Return the path, relative to the root, of the image with this stem in a folder, or in one below it."""
        inner, _, stem = stem.rpartition("/")
        folder = f"{folder}/{inner}".strip("/") if inner else folder
        if folder not in self._stems:
            images = [n for n in self.files(folder).values() if Path(n).suffix.lower() in IMAGE_SUFFIXES]
            self._stems[folder] = {nfc(Path(name).stem): name for name in images}
        name = self._stems[folder].get(nfc(stem))
        return None if name is None else str(PurePosixPath(folder, name))

    def mask(self, stem: str, bases: Iterable[str] = MASK_FOLDERS) -> Path | None:
        """Return the mask file STEM.png in one of `bases`."""
        found = self.find(f"{stem}.png", bases)
        return None if found is None else self.root / found

    def other_case(self, relative: str, bases: Iterable[str]) -> str:
        """Return "; did you mean 'X'?" when only upper and lower case differ, else ""."""
        wanted = PurePosixPath(nfc(relative))
        for base in bases:
            for name in self.files(str(PurePosixPath(base, wanted.parent)).removeprefix(".")):
                if name.casefold() == wanted.name.casefold():
                    return f"; did you mean '{name}'?"
        return ""


def names_of(relative: str) -> tuple[str, str, str]:
    """Return an image's path without suffix, the same below a usual image folder, and its name alone."""
    whole = os.path.splitext(relative)[0]
    first, _, rest = whole.partition("/")
    return whole, rest if rest and first in IMAGE_FOLDERS else whole, whole.rpartition("/")[2]


def check_complete(found: Found, listed_in: str) -> None:
    """Raise DataError when so many listed images are missing that the set can't be whole: over 1 % and 20 images."""
    missing = [problem for problem in found.problems if problem.kind == "missing-image" and problem.place]
    total = len(found.rows) + len(missing)
    if len(missing) >= _FEW and len(missing) > total / 100:
        first = "; ".join(problem.message for problem in missing[:3])
        raise DataError(
            f"{found.name}: {len(missing)} of {total} listed images are missing (first in {listed_in}: {first}); "
            "the archive is only half unpacked, or this is another folder: unpack it again"
        )


def assemble(found: Found, query: Query) -> Dataset:
    """Make the dataset: classes, label numbers, ids and the table for masks; DataError if nothing is left.

    Takes the rows out of `found`, as rows and records of a million images are too much at once.
    """
    count = len(found.rows)
    _read_negatives(found, query)
    classes, source = _classes(found, query)
    _check_classes(classes)
    known = query.known() | set(classes) | set(found.known or ())
    rows = [row for row in found.rows if _usable(found, row, classes, known, query)]
    _say_not_asked_for(found, rows, classes, source, query)
    position = {name: index for index, name in enumerate(classes)}
    rows = _without_repeats(found, rows)
    ids = unique_ids([row.relative for row in rows], by_path=found.ids_by_path)
    found.rows = []
    rows.reverse()
    records = []
    labels_of: dict[tuple[int, ...], tuple[int, ...]] = {}
    for record_id in ids:
        row = rows.pop()
        labels = tuple(sorted({position[name] for name in row.names if name in position}))
        if labels or not row.names:  # else it has only classes that are known but not asked for
            labels = labels_of.setdefault(labels, labels)
            records.append(record_like(row, record_id, labels, row.split, _group(row)))
    if not records:
        raise _nothing_left(found, count, classes, source)
    lut = np.array(lut_of(_mask_values(found, query, classes), classes, background=query.background), np.uint8)
    return Dataset(
        printable(found.name), tuple(classes), tuple(records), tuple(found.problems), lut, source, query.background
    )


def _read_negatives(found: Found, query: Query) -> None:
    """Take the labels that mean "none" out of the rows; what is left without any is a negative."""
    words: Counter[str] = Counter()
    known = query.known()
    names = {name for row in found.rows for name in row.names}
    say_none = {name for name in names if query.means_none(name)}
    say_nothing = {name for name in names - say_none - known if is_unlabelled(name)}
    for row in found.rows:
        none = [name for name in row.names if name in say_none]
        unlabelled = [name for name in row.names if name in say_nothing]
        if none or unlabelled:
            words.update(none)
            row.names = [name for name in row.names if name not in none and name not in unlabelled]
            row.negative = bool(none)
    for word, count in words.items():
        message = f"'{word}' on {count} image(s) is read as none of the classes"
        remedy = "if it is a class, name it in data.classes or classes.txt"
        found.report("negatives", found.name, "", message, remedy, note=True)


def _classes(found: Found, query: Query) -> tuple[Sequence[str], str]:
    """Return the classes in their one order, and where it is from."""
    if query.classes is not None:
        return query.classes, "the recipe's data.classes"
    if query.listed is not None:
        return query.listed.names, query.listed.source
    classes = tuple(name for name in found.known or () if not is_background(name))
    if classes:  # masks may count the background all the same
        return classes, found.known_from
    return natural({name for row in found.rows for name in row.names}), "the names, sorted"


def _group(row: Row) -> str:
    """Return a row's group; copies that Roboflow made of one photo (NAME_jpg.rf.HASH.jpg) are one too."""
    copied = _COPY.fullmatch(row.relative.rpartition("/")[2])
    return row.group or (copied[1] if copied else "")


def _check_classes(classes: Sequence[str]) -> None:
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{len(classes)} classes, but a mask file holds at most {MAX_CLASSES}; name the wanted ones in 'classes'"
        )
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated or BACKGROUND in classes or any(not name for name in classes):
        wrong = f"repeats '{repeated[0]}'" if repeated else f"holds an empty name or '{BACKGROUND}'"
        raise DataError(f"the class list {wrong}; name each class once, without the background")


def _usable(found: Found, row: Row, classes: Sequence[str], known: Iterable[str], query: Query) -> bool:
    unknown = [name for name in row.names if name not in known]
    for name in unknown:
        message = f"class '{name}' is not in the class list{did_you_mean(name, classes)}"
        remedy = "the image is left out; correct the name, or add the class to the list"
        found.report("unknown-class", *row.label_place(), message, remedy)
    negative = row.negative and query.negatives is not None
    if not row.names and not negative and row.split not in found.keep_unlabelled:
        remedy = "the image is left out; give it at least one class"
        found.report("no-label", *row.label_place(), f"image '{row.relative}' has no label", remedy)
        return False
    return not unknown


def _say_not_asked_for(found: Found, rows: Sequence[Row], classes: Sequence[str], source: str, query: Query) -> None:
    """Name the classes that images have and the class list has not; only data.classes leaves them out on purpose."""
    counts = Counter(name for row in rows for name in dict.fromkeys(row.names))
    unused = [name for name in classes if name not in counts]
    for name, count in counts.items():
        if name in classes:
            continue
        near = did_you_mean(name, unused)
        message = f"class '{name}' of {count} image(s) is not in {source}{near}"
        remedy = "they are left out where they have no other class; add it if it is wanted"
        found.report("unlisted-class", found.name, "", message, remedy, note=query.classes is not None)


def _without_repeats(found: Found, rows: Sequence[Row]) -> list[Row]:
    """Keep the first row of each image; the CSV reader has joined rows with one label each before."""
    first: dict[str, dict[str, Row]] = defaultdict(dict)
    kept = []
    for row in rows:
        folder, name = text_of(row, "path")
        earlier = first[folder].setdefault(name, row)
        if earlier is row:
            kept.append(row)
        else:
            where = " ".join(part for part in (earlier.file, earlier.place) if part)
            message = f"image '{row.relative}' was listed before ({where})"
            remedy = "only the first counts; list it once, with all of its labels"
            found.report("duplicate", row.file, row.place, message, remedy)
    return kept


def _mask_values(found: Found, query: Query, classes: Sequence[str]) -> Mapping[int, str]:
    """Return what mask values mean: as the recipe says, else the class file, VOC, or the classes in order."""
    if query.mask_values is not None:
        return _of_binary(query.mask_values, classes)
    if query.listed is not None:
        return query.listed.values
    names = found.known or classes
    if found.voc_masks and set(classes) <= set(VOC_CLASSES):
        names = VOC_CLASSES
    return dict(enumerate(names, start=1))


def _of_binary(values: Mapping[int, str], classes: Sequence[str]) -> Mapping[int, str]:
    """Put the one class in place of BINARY."""
    if BINARY not in values.values():
        return values
    if len(classes) != 1:
        raise DataError(
            f"mask_classes: binary is for one class, there are {len(classes)} ({', '.join(classes[:6])}); save masks "
            "with a number for each class, or name one in data.classes"
        )
    return {value: classes[0] if name == BINARY else name for value, name in values.items()}


def _nothing_left(found: Found, count: int, classes: Sequence[str], source: str) -> DataError:
    shown = " | ".join(str(problem) for problem in found.problems[:3])
    more = f" (and {len(found.problems) - 3} more)" if len(found.problems) > 3 else ""
    reason = shown + more if shown else f"no image has any of the classes {', '.join(classes)} (from {source})"
    return DataError(f"{found.name}: no usable image is left of {count} found; {reason}")
