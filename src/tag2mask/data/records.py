"""What a dataset is to the rest of the package: images with ids, labels and (for scoring) masks."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.common.files import digest_value
from tag2mask.common.seeding import rng_for

IGNORED = 255  # mask value of pixels that take part in nothing
MAX_CLASSES = 254  # 0 is background and 255 is ignored in an 8-bit mask

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def printable(text: object) -> str:
    """Return text that any terminal and JSON file takes: bytes of a file name that aren't UTF-8 are written out."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class BadFileError(DataError):
    """One file that cannot be used: which one, what is wrong with it, and the remedy."""

    def __init__(self, path: Path | str, message: str, remedy: str) -> None:
        self.path, self.message, self.remedy = Path(path), message, remedy
        super().__init__(printable(f"{path}: {' '.join(message.split())}; {remedy}"))  # what it quotes may have lines

    def __reduce__(self) -> tuple[type[BadFileError], tuple[Path, str, str]]:
        """Let it cross from one process to another."""
        return BadFileError, (self.path, self.message, self.remedy)


MAX_PIXELS = 100_000_000  # a file that claims more is refused before any memory is taken for it


@dataclass(frozen=True)
class Reading:
    """How the pictures of a set become 8-bit RGB; one for the whole set."""

    max_pixels: int = MAX_PIXELS  # a picture that decodes to more is refused
    bands: tuple[int, ...] | None = None  # which three bands (or one) to take, from 0; None = the file's own RGB
    # values that become black and white where a file has more than 8 bits; None = each file's own type
    value_range: tuple[float, float] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Reading:
        """Take up what `facts` told."""
        bands, values = facts.get("bands"), facts.get("value_range")
        return cls(bands=bands and tuple(bands), value_range=values and (float(values[0]), float(values[1])))

    def facts(self) -> dict[str, Any]:
        """Return what decides the pixels, without what is as usual: {} for most sets."""
        found: dict[str, Any] = {} if self.bands is None else {"bands": list(self.bands)}
        return found if self.value_range is None else found | {"value_range": list(self.value_range)}


AS_USUAL = Reading()

# Pixels of the longer side that pictures are worked on at: at most so many; (least, most), so that smaller ones are
# enlarged; or None, all at their own size.
LongSide = int | tuple[int, ...] | None
MAX_SIDE = 10**9  # pixels: longer than any picture
T = TypeVar("T")


class _PathAsText:
    """Keeps a path as two texts, of its folder (one for all that lie in it) and its name."""

    def __init__(self, field_name: str) -> None:
        self.folder, self.name = f"_{field_name}_folder", f"_{field_name}_name"

    def __get__(self, record: object, owner: type) -> Any:
        name = getattr(record, self.name, None)
        return None if name is None else Path(getattr(record, self.folder), name)

    def __set__(self, record: object, value: Path | str | None) -> None:
        folder, name = (None, None) if value is None else os.path.split(str(os.fspath(value)))
        object.__setattr__(record, self.folder, folder and sys.intern(folder))
        object.__setattr__(record, self.name, name)


def paths_as_text(*names: str) -> Callable[[type[T]], type[T]]:
    """Let a dataclass keep these fields, of paths, as text.

    Path objects take 500 bytes each, which a million images and as many masks have no room for.
    """

    def with_text(kind: type[T]) -> type[T]:
        for name in names:
            setattr(kind, name, _PathAsText(name))
        return kind

    return with_text


def text_of(record: object, name: str) -> tuple[str, str]:
    """The folder and the name of a path that is kept as text, empty without a path: cheaper than the path."""
    return getattr(record, f"_{name}_folder") or "", getattr(record, f"_{name}_name") or ""


@paths_as_text("path", "mask_path")
@dataclass(frozen=True)
class ImageRecord:
    """One image; `labels` are sorted 0-based indices into `Dataset.classes`, none for a negative."""

    id: str  # unique in the dataset and safe as a file name
    path: Path  # absolute
    labels: tuple[int, ...]
    split: str = ""  # "train", "val", or "" when unspecified
    mask_path: Path | None = None
    long_side: LongSide = None  # the size that the picture is read at
    group: str = ""  # images of one patient, slide, part or video stay on one side of a split; "" = alone
    reading: Reading = Reading()
    told: bool = True  # False: a photo to segment of whose labels nothing is known


_KEPT = tuple(
    kept
    for item in fields(ImageRecord)
    for kept in ((f"_{item.name}_folder", f"_{item.name}_name") if item.name.endswith("path") else (item.name,))
)


def changed(record: ImageRecord, **changes: Any) -> ImageRecord:
    """As `dataclasses.replace`, in half the time, and with the texts of its paths shared."""
    new = object.__new__(ImageRecord)
    for name in _KEPT:
        object.__setattr__(new, name, getattr(record, name))
    for name, value in changes.items():
        object.__setattr__(new, name, value)
    return new


def record_like(row: object, record_id: str, labels: tuple[int, ...], split: str, group: str) -> ImageRecord:
    """A record with the paths of `row`, which keeps them as text too: the same texts, and no path is made of them."""
    record = ImageRecord(record_id, Path(), labels, split, group=group)
    for name in _KEPT:
        if name.startswith("_"):
            object.__setattr__(record, name, getattr(row, name))
    return record


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input; `fatal` ones leave nothing to work with."""

    kind: str  # "missing-image", "unreadable-image", "unknown-class", "duplicate", "no-label", ...
    file: str  # e.g. "labels.csv"
    place: str  # e.g. "line 14"; "" when the whole file is meant
    message: str
    remedy: str
    fatal: bool = False
    note: bool = False  # worth saying, but nothing is wrong

    def __str__(self) -> str:
        where = " ".join(part for part in (self.file, self.place) if part)
        return printable(" ".join(f"{where}: {self.message}; {self.remedy}".split()))


def own_lut(classes: Sequence[str]) -> np.ndarray:
    """Return the (256,) uint8 table for masks whose values 1..C are `classes` in order."""
    return lut_between(classes, classes)


def lut_between(mask_classes: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return the (256,) uint8 table from mask values (1..N name `mask_classes`) to 1..C of `classes`.

    Classes that are only in `mask_classes` become background; values that name nothing become 255.
    """
    lut = np.full(256, IGNORED, dtype=np.uint8)
    lut[0] = 0
    position = {name: index + 1 for index, name in enumerate(classes[:MAX_CLASSES])}
    for value, name in enumerate(mask_classes[:MAX_CLASSES], start=1):
        lut[value] = position.get(name, 0)
    return lut


@dataclass(frozen=True)
class Dataset:
    """Labelled images, the names of their classes, what was wrong with the input, and how to read masks.

    `mask_lut` (256,) uint8 maps a value in a mask file to 0 background, 1..C = class index + 1, or 255
    ignored; without it, mask values 1..C are taken to be `classes` in order. A record without labels is a negative:
    its picture holds none of the classes. Images of which nothing is known are not in a data set.
    """

    name: str
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    problems: tuple[Problem, ...] = ()
    mask_lut: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8), compare=False, repr=False)
    class_source: str = field(default="", compare=False)  # where the order of the classes is from, in words
    background: bool = True  # False: every pixel belongs to a class, so no mask has a value 0
    # Of photos whose tags a person has corrected in a review: the labels that the set itself has.
    own_labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.mask_lut.size == 0:
            object.__setattr__(self, "mask_lut", own_lut(self.classes))

    def __len__(self) -> int:
        return len(self.records)

    def select(self, split: str) -> Dataset:
        """Return the records of one split ("train", "val", ""); DataError when there are none."""
        kept = tuple(record for record in self.records if record.split == split)
        if not kept:
            there = ", ".join(sorted({record.split or "(unspecified)" for record in self.records})) or "none"
            raise DataError(
                f"{self.name}: no image belongs to split '{split}'; splits there are: {there}; "
                "add a 'split' column, split lists or train/val folders"
            )
        return replace(self, records=kept)

    def restrict(self, classes: Sequence[str]) -> Dataset:
        """Return the dataset with these classes only, in this order.

        Labels of other classes are dropped, images with labels of other classes alone are left out (negatives stay),
        and other classes' pixels become background. Raises DataError for an unknown or repeated name.
        """
        for name in classes:
            if name not in self.classes:
                raise DataError(f"{self.name}: no class '{name}'{did_you_mean(name, self.classes)}")
        if len(set(classes)) != len(classes) or not classes:
            raise DataError(f"{self.name}: the class list {list(classes)} is empty or repeats a name")
        position = {self.classes.index(name): new for new, name in enumerate(classes)}
        kept = []
        for record in self.records:
            labels = tuple(sorted(position[label] for label in record.labels if label in position))
            if labels or not record.labels:
                kept.append(changed(record, labels=labels))
        lut = self.mask_lut.copy()
        for old in range(len(self.classes)):
            lut[self.mask_lut == old + 1] = position.get(old, -1) + 1
        return replace(self, classes=tuple(classes), records=tuple(kept), mask_lut=lut)

    def limit(self, n: int, seed: int = 0) -> Dataset:
        """Return at most `n` records, class-balanced, the same for the same records and seed.

        Each pick serves the class with the fewest images so far; negatives keep their share. With splits, call
        `select` first.
        """
        if n < 1:
            raise DataError(f"a limit of {n} images leaves nothing; give 1 or more")
        if n >= len(self.records):
            return self
        chosen = _balanced(self.records, len(self.classes), n, rng_for(seed, "limit"))
        return replace(self, records=tuple(r for i, r in enumerate(self.records) if i in chosen))

    def label_matrix(self) -> np.ndarray:
        """Return (N, C) bool: which class is present in which image."""
        matrix = np.zeros((len(self.records), len(self.classes)), dtype=bool)
        for row, record in enumerate(self.records):
            matrix[row, list(record.labels)] = True
        return matrix

    def digest(self) -> str:
        """Return the sha256 over ids, labels, splits, classes and the size limit, for manifests.

        Labels are those of the set itself: what a review corrects in some photos leaves what was made of others.
        """
        own = self.own_labels
        rows = [(record.id, list(own.get(record.id, record.labels)), record.split) for record in self.records]
        limits = sorted({record.long_side for record in self.records if record.long_side is not None}, key=str)
        more: dict[str, Any] = {"long_side": limits} if limits else {}
        for reading in {record.reading for record in self.records}:
            more |= reading.facts()
        if not self.background:
            more["background"] = False
        return digest_value({"classes": list(self.classes), "records": rows} | more)

    def corrected_tags(self) -> dict[str, list[str]]:
        """Return the tags of the photos that a review has given others than the set has, by id."""
        changed = (record for record in self.records if record.id in self.own_labels)
        return {record.id: [self.classes[label] for label in record.labels] for record in changed}

    def negatives(self) -> int:
        """Return how many images hold none of the classes."""
        return sum(not record.labels for record in self.records)

    def positives(self) -> Dataset:
        """The images that hold any class: those that there are maps of."""
        return replace(self, records=tuple(record for record in self.records if record.labels))

    def read_as(self, reading: Reading) -> Dataset:
        """The same set, whose pictures are read in this way."""
        return self._with(reading=reading)

    def _with(self, **changes: Any) -> Dataset:
        """The same set with these values in every record."""
        if all(getattr(record, name) == value for record in self.records for name, value in changes.items()):
            return self
        return replace(self, records=tuple(changed(record, **changes) for record in self.records))

    @property
    def reading(self) -> Reading:
        """How the set's pictures are read."""
        return self.records[0].reading if self.records else Reading()

    def not_reduced(self) -> Dataset:
        """The same set, whose pictures are read at their own size, however large; small ones enlarged as before."""
        records = (
            changed(r, long_side=(r.long_side[0], MAX_SIDE) if isinstance(r.long_side, tuple) else None)
            for r in self.records
        )
        return replace(self, records=tuple(records))

    def worked_on_at(self, long_side: LongSide) -> Dataset:
        """The same set, whose pictures are resized as they are read where the longer side lies beyond `long_side`."""
        return self._with(long_side=long_side)


def _balanced(records: Sequence[ImageRecord], class_count: int, n: int, rng: random.Random) -> set[int]:
    order = sorted(range(len(records)), key=lambda index: records[index].id)
    rng.shuffle(order)
    queues: list[list[int]] = [[] for _ in range(class_count)]
    for index in reversed(order):  # queues are read from their end
        for label in records[index].labels:
            queues[label].append(index)
    chosen: set[int] = set()
    counts = [0] * class_count
    negatives = [index for index in order if not records[index].labels]
    share = round(n * len(negatives) / len(records))
    chosen.update(negatives[: share if len(negatives) == len(records) else min(share, n - 1)])
    while len(chosen) < n:
        for queue in queues:
            while queue and queue[-1] in chosen:
                queue.pop()
        open_classes = [label for label in range(class_count) if queues[label]]
        if not open_classes:
            rest = [index for index in negatives if index not in chosen]
            chosen.update(rest[: n - len(chosen)])
            break
        index = queues[min(open_classes, key=lambda label: (counts[label], label))].pop()
        chosen.add(index)
        for label in records[index].labels:
            counts[label] += 1
    return chosen
