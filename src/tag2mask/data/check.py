"""Looking a dataset through before anything is trained: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.common.files import digest_file
from tag2mask.common.progress import track
from tag2mask.data.images import decode_image, image_size, open_picture
from tag2mask.data.masks import read_mask
from tag2mask.data.records import IGNORED, BadFileError, Dataset, ImageRecord, Problem

SMALLEST_SIDE = 32  # pixels; smaller images leave 2 x 2 positions or fewer at stride 16
_RARE = 2  # images; a class this rare whose name is nearly that of a commoner one is probably a slip
_ALIKE = 0.8  # difflib's ratio; two swapped letters in a word of five give 0.8
_SHOWN = 5  # problems of a kind in the summary


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found."""

    name: str
    images: int
    masks: int
    problems: tuple[Problem, ...]
    counts: dict[str, dict[str, int]]  # split ("" = unspecified) -> class -> number of images
    split_sizes: dict[str, int]
    decoded: bool  # False when files were not opened

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def by_kind(self) -> dict[str, list[Problem]]:
        """Return the problems in groups, the largest first."""
        groups: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            groups[problem.kind].append(problem)
        return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))

    def summary(self) -> list[str]:
        """Return the report as lines of text: sizes, class counts for each split, problems by kind."""
        sizes = ", ".join(f"{split or 'no split'} {count}" for split, count in self.split_sizes.items())
        classes = list(next(iter(self.counts.values()), {}))
        lines = [f"{self.name}: {self.images} images ({sizes}), {len(classes)} classes, {self.masks} masks"]
        width = max(map(len, [*classes, "class"]))
        columns = [split or "images" for split in self.counts]
        lines.append("  ".join(["class".ljust(width), *(f"{column:>7}" for column in columns)]))
        for name in classes:
            cells = [f"{count[name]:>7}" for count in self.counts.values()]
            lines.append("  ".join([name.ljust(width), *cells]))
        if not self.decoded:
            lines.append("files were not opened, so damaged ones were not looked for")
        lines.append(f"{len(self.problems)} problem(s)" + (":" if self.problems else " found"))
        for kind, problems in self.by_kind().items():
            lines.append(f"{len(problems)} x {kind}")
            lines += [f"  {problem}" for problem in problems[:_SHOWN]]
            if len(problems) > _SHOWN:
                lines.append(f"  ... and {len(problems) - _SHOWN} more")
        return lines


def check_dataset(dataset: Dataset, *, decode: bool = True, progress: bool = True) -> CheckReport:
    """Look for what would spoil or stop a training; nothing is changed and nothing is raised for bad files.

    Adds to the reader's problems: classes without images or with a suspicious name, files with the same
    content and, with `decode`, unreadable or tiny images and masks that don't fit. `progress` shows a bar.
    """
    problems = [*dataset.problems, *_class_problems(dataset), *_same_content(dataset)]
    if decode:
        records: Iterable[ImageRecord] = dataset.records
        if progress:
            records = track(dataset.records, total=len(dataset), description="checking images")
        for record in records:
            problems += _file_problems(record, dataset.mask_lut)
    splits = sorted({record.split for record in dataset.records})
    return CheckReport(
        name=dataset.name,
        images=len(dataset),
        masks=sum(record.mask_path is not None for record in dataset.records),
        problems=tuple(problems),
        counts={split: _count(dataset, split) for split in splits},
        split_sizes=dict(sorted(Counter(record.split for record in dataset.records).items())),
        decoded=decode,
    )


def check_masks(dataset: Dataset) -> list[Problem]:
    """Look at the headers of all true masks: colours instead of numbers, lossy formats, another size.

    Some tenths of a millisecond a mask; nothing is decoded, except a suspicious mask. Returned problems are fatal.
    """
    found: list[Problem] = []
    for record in dataset.records:
        if record.mask_path is None:
            continue
        try:
            size = image_size(record.path)
        except BadFileError:
            continue  # reported where the image is used
        try:
            found += _header_problems(record.mask_path, size)
        except BadFileError as error:
            found.append(
                Problem("unreadable-mask", record.mask_path.name, "", error.message, error.remedy, fatal=True)
            )
    return found


def _header_problems(path: Path, size: tuple[int, int]) -> Iterator[Problem]:
    with open_picture(path) as picture:
        suspicious = picture.mode not in ("P", "L", "1") or picture.format != "PNG"
        height, width = picture.size[::-1]
    if suspicious:
        height, width = read_mask(path).shape
    if (height, width) != size:
        message = f"the mask is {height} x {width} pixels, its image {size[0]} x {size[1]}"
        yield Problem("mask-size", path.name, "", message, "make it anew at the image's size", fatal=True)


def _count(dataset: Dataset, split: str | None) -> dict[str, int]:
    labels = Counter(label for record in dataset.records if split in (None, record.split) for label in record.labels)
    return {name: labels[index] for index, name in enumerate(dataset.classes)}


def _class_problems(dataset: Dataset) -> Iterator[Problem]:
    everywhere = _count(dataset, None)
    has_train = any(record.split == "train" for record in dataset.records)
    training = _count(dataset, "train") if has_train else everywhere
    for name, count in everywhere.items():
        if training[name] == 0:
            where = " in the train split" if count else ""
            remedy = "add images of it, or take it out of the class list"
            yield Problem("empty-class", dataset.name, "", f"class '{name}' has no image{where}", remedy)
        twin = _twin(name, everywhere)
        if twin is not None:
            message = f"class '{name}' ({count} image(s)) is nearly '{twin}' ({everywhere[twin]} image(s))"
            remedy = f"if it is a slip, write '{twin}'"
            yield Problem("suspect-class", dataset.name, "", message, remedy)


def _twin(name: str, counts: dict[str, int]) -> str | None:
    """Return the commoner class of which `name` is probably a misspelling."""
    for other, count in counts.items():
        same_letters = other.casefold() == name.casefold()
        alike = difflib.SequenceMatcher(None, name.casefold(), other.casefold()).ratio() >= _ALIKE
        rare = 0 < counts[name] <= _RARE
        if other != name and count > counts[name] and (same_letters or (alike and rare)):
            return other
    return None


def _same_content(dataset: Dataset) -> Iterator[Problem]:
    """Compare files by digest, but only those that share their length with another."""
    by_length: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in dataset.records:
        length = _length(record.path)
        if length:
            by_length[length].append(record)
    for records in by_length.values():
        first: dict[str, ImageRecord] = {}
        for record in records if len(records) > 1 else ():
            twin = first.setdefault(digest_file(record.path), record)
            if twin is not record:
                yield _duplicate(dataset, record, twin)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reported as unreadable when it is decoded


def _duplicate(dataset: Dataset, record: ImageRecord, twin: ImageRecord) -> Problem:
    message = f"has the same content as '{twin.path.name}'"
    remedy = "keep one of them"
    if record.split != twin.split:
        message += f" of the {twin.split or 'unspecified'} split (this is {record.split or 'unspecified'})"
        remedy = "keep one, or the scores are measured on training images"
    if record.labels != twin.labels:
        names = [" ".join(dataset.classes[label] for label in r.labels) for r in (record, twin)]
        message += f", but other labels ({names[0]} and {names[1]})"
    return Problem("duplicate", record.path.name, "", message, remedy)


def _file_problems(record: ImageRecord, lut: np.ndarray) -> Iterator[Problem]:
    size: tuple[int, int] | None = None
    try:
        height, width = decode_image(record.path).shape[:2]
        size = (height, width)
        if min(size) < SMALLEST_SIDE:
            message = f"is {height} x {width} pixels, under {SMALLEST_SIDE}"
            yield Problem("small-image", record.path.name, "", message, "use a larger picture")
    except BadFileError as error:
        yield Problem("unreadable-image", record.path.name, "", error.message, error.remedy)
    if record.mask_path is None:
        return
    try:
        yield from _mask_problems(record.mask_path, read_mask(record.mask_path), size, lut)
    except BadFileError as error:
        yield Problem("unreadable-mask", record.mask_path.name, "", error.message, error.remedy)


def _mask_problems(path: Path, mask: np.ndarray, size: tuple[int, int] | None, lut: np.ndarray) -> Iterator[Problem]:
    if size is not None and mask.shape != size:
        message = f"the mask is {mask.shape[0]} x {mask.shape[1]} pixels, its image {size[0]} x {size[1]}"
        yield Problem("mask-size", path.name, "", message, "make it anew at the image's size (upright by EXIF)")
    strange = [int(v) for v in np.unique(mask) if v != IGNORED and lut[v] == IGNORED]
    if strange:
        shown = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
        message = f"value(s) {shown} name no class"
        yield Problem("mask-values", path.name, "", message, "such pixels are ignored; name them in mask_classes")
