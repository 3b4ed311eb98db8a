"""Looking a dataset through before anything is trained: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tag2mask.common.files import digest_file
from tag2mask.common.progress import track
from tag2mask.data import agreement, ranges
from tag2mask.data.check_masks import check_masks, size_problem
from tag2mask.data.findings import grouped, of_set
from tag2mask.data.images import image_size, read_image
from tag2mask.data.masks import read_mask
from tag2mask.data.records import IGNORED, BadFileError, Dataset, ImageRecord, Problem, printable, text_of
from tag2mask.data.words import plain

SMALLEST_SIDE = 32  # pixels; smaller images leave 2 x 2 positions or fewer at stride 16
_RARE = 2  # images; a class this rare whose name is nearly that of a commoner one is probably a slip
_EXAMPLES = 10
_ALIKE = 0.8  # difflib's ratio; two swapped letters in a word of five give 0.8

__all__ = ["SMALLEST_SIDE", "CheckReport", "check_dataset", "check_masks"]


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
    negatives: dict[str, int] = field(default_factory=dict)  # split -> images without any class
    class_source: str = ""  # where the order of the classes is from
    mask_values: dict[str, tuple[int, ...]] = field(default_factory=dict)  # class -> its numbers in mask files
    examples: tuple[str, ...] = ()  # photos with their tags, some of each class

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; notes don't count."""
        return not self.found

    @property
    def found(self) -> list[Problem]:
        """The problems without the notes."""
        return [problem for problem in self.problems if not problem.note]

    def by_kind(self) -> dict[str, list[Problem]]:
        """Return the problems in groups, the largest first."""
        groups: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.found:
            groups[problem.kind].append(problem)
        return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))

    def summary(self) -> list[str]:
        """Return the report as lines of text: sizes, class counts for each split, notes, findings with examples."""
        sizes = ", ".join(f"{split or 'no split'} {count}" for split, count in self.split_sizes.items())
        classes = list(next(iter(self.counts.values()), {}))
        lines = [f"{self.name}: {self.images} images ({sizes}), {len(classes)} classes, {self.masks} masks"]
        lines += self._table(classes)
        lines.append(f"order of the classes: {self.class_source or 'as given'}")
        negatives = sum(self.negatives.values())
        if negatives:
            share = 100 * negatives / self.images
            lines.append(f"negatives (none of the classes): {negatives} of {self.images} images, {share:.0f} %")
        if not self.decoded:
            lines.append("files were not opened, so damaged ones were not looked for")
        lines += ["read, for example:", *(f"  {line}" for line in self.examples)]
        lines += [f"note: {line}" for line in grouped(problem for problem in self.problems if problem.note)]
        lines.append(f"{len(self.found)} problem(s)" + (":" if self.found else " found"))
        for kind, problems in self.by_kind().items():
            lines.append(f"{len(problems)} x {kind}")
            lines += [f"  {line.removeprefix(f'{len(problems)} x {kind}: ')}" for line in grouped(problems)]
        return lines

    def _table(self, classes: Sequence[str]) -> list[str]:
        """Return the images of each class by split, with the class's numbers in masks."""
        width = max(map(len, [*classes, "class", "(none)"]))
        columns = [split or "images" for split in self.counts]
        lines = ["  ".join(["class".ljust(width), *(f"{column:>7}" for column in columns), "mask value"])]
        for name in classes:
            cells = [f"{count[name]:>7}" for count in self.counts.values()]
            lines.append("  ".join([name.ljust(width), *cells, _short(self.mask_values.get(name, ()))]))
        if sum(self.negatives.values()):
            cells = [f"{self.negatives.get(split, 0):>7}" for split in self.counts]
            lines.append("  ".join(["(none)".ljust(width), *cells]))
        return lines


def _short(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:3])) + ("..." if len(values) > 3 else "")


def check_dataset(dataset: Dataset, *, decode: bool = True, progress: bool = True) -> CheckReport:
    """Look for what would spoil or stop a training; nothing is changed and nothing is raised for bad files.

    Adds to the reader's problems: classes without images or with a suspicious name, files with the same
    content and, with `decode`, unreadable or tiny images and masks that don't fit. `progress` shows a bar.
    """
    problems = [*dataset.problems, *_class_problems(dataset), *_same_content(dataset), *of_set(dataset)]
    problems += _without_split(dataset)
    if decode:
        problems += _decoded_problems(dataset, progress)
    splits = sorted({record.split for record in dataset.records})
    return CheckReport(
        name=dataset.name,
        images=len(dataset),
        masks=sum(record.mask_path is not None for record in dataset.records),
        problems=tuple(problems),
        counts={split: _count(dataset, split) for split in splits},
        split_sizes=dict(sorted(Counter(record.split for record in dataset.records).items())),
        decoded=decode,
        negatives={split: sum(r.split == split and not r.labels for r in dataset.records) for split in splits},
        class_source=dataset.class_source,
        mask_values={
            name: tuple(np.flatnonzero(dataset.mask_lut == index + 1).tolist())
            for index, name in enumerate(dataset.classes)
        },
        examples=_examples(dataset),
    )


def _examples(dataset: Dataset) -> tuple[str, ...]:
    """Return some photos of each of the first classes and a negative, with their tags: what was read."""
    none = len(dataset.classes)
    each = max(1, (_EXAMPLES - 1) // max(1, none))
    chosen: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in dataset.records:
        for label in record.labels or (none,):
            if len(chosen[label]) < (1 if label == none else each):
                chosen[label].append(record)
    negatives = chosen.pop(none, [])
    positives = [record for label in sorted(chosen) for record in chosen[label]][: _EXAMPLES - 1]
    shown = {record.id: record for record in (*positives, *negatives)}
    base = _base(dataset)
    return tuple(
        printable(
            f"{record.path.relative_to(base).as_posix()} -> "
            f"{'; '.join(dataset.classes[label] for label in record.labels) or '(none)'}"
        )
        for record in shown.values()
    )


def _base(dataset: Dataset) -> str:
    """Return the folder that holds all photos."""
    folders = {text_of(record, "path")[0] for record in dataset.records}
    return os.path.commonpath(folders) if folders else ""


def _decoded_problems(dataset: Dataset, progress: bool) -> list[Problem]:
    """Decode every image and mask once; compare tags and masks."""
    problems = list(ranges.said(dataset))
    masks = sum(record.mask_path is not None for record in dataset.records)
    compared = agreement.Agreement(dataset, masks)
    records: Iterable[ImageRecord] = dataset.records
    if progress:
        records = track(dataset.records, total=len(dataset), description="checking images")
    for record in records:
        problems += _file_problems(record, compared)
    return [*problems, *agreement.findings(compared)]


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


def _without_split(dataset: Dataset) -> Iterator[Problem]:
    rest = [record for record in dataset.records if not record.split]
    if rest and any(record.split == "train" for record in dataset.records):
        message = f"{len(rest)} of {len(dataset)} images name no split where others name train"
        remedy = "a run leaves them out; write train, val or test for each"
        yield Problem("split", dataset.name, "", message, remedy, note=True)


def _twin(name: str, counts: dict[str, int]) -> str | None:
    """Return the class of which `name` is another spelling, or probably a slip: the commoner one."""
    for other, count in counts.items():
        same_words = plain(other) == plain(name) and (count, other) > (counts[name], name)
        alike = difflib.SequenceMatcher(None, name.casefold(), other.casefold()).ratio() >= _ALIKE
        rare = 0 < counts[name] <= _RARE
        if other != name and (same_words or (count > counts[name] and alike and rare)):
            return other
    return None


def _same_content(dataset: Dataset) -> Iterator[Problem]:
    """Compare files by digest, but only those that share their length with another."""
    by_length: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in dataset.records:
        length = _length(record.path)
        if length:
            by_length[length].append(record)
    base = _base(dataset)
    for records in by_length.values():
        first: dict[str, ImageRecord] = {}
        for record in records if len(records) > 1 else ():
            twin = first.setdefault(digest_file(record.path), record)
            if twin is not record:
                yield _duplicate(dataset, base, record, twin)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reported as unreadable when it is decoded


def _duplicate(dataset: Dataset, base: str, record: ImageRecord, twin: ImageRecord) -> Problem:
    shown, other = (r.path.relative_to(base).as_posix() for r in (record, twin))
    message = f"has the same content as '{other}'"
    remedy = "keep one of them"
    if record.split != twin.split:
        message += f" of the {twin.split or 'unspecified'} split (this is {record.split or 'unspecified'})"
        remedy = "keep one, or the scores are measured on training images"
    if record.labels != twin.labels:
        names = [" ".join(dataset.classes[label] for label in r.labels) for r in (record, twin)]
        message += f", but other labels ({names[0]} and {names[1]})"
    return Problem("duplicate", shown, "", message, remedy)


def _file_problems(record: ImageRecord, compared: agreement.Agreement) -> Iterator[Problem]:
    size: tuple[int, int] | None = None
    try:
        height, width = read_image(record).shape[:2]
        size = image_size(record.path)
        if min(height, width) < SMALLEST_SIDE:
            message = f"is {height} x {width} pixels, under {SMALLEST_SIDE}"
            yield Problem("small-image", record.path.name, "", message, "use a larger picture")
    except BadFileError as error:
        yield Problem("unreadable-image", record.path.name, "", error.message, error.remedy)
    if record.mask_path is None:
        return
    try:
        mask = read_mask(record.mask_path)
        compared.add(record, mask)
        yield from _mask_problems(record, mask, size, compared.dataset.mask_lut)
    except BadFileError as error:
        yield Problem("unreadable-mask", record.mask_path.name, "", error.message, error.remedy)


def _mask_problems(
    record: ImageRecord, mask: np.ndarray, size: tuple[int, int] | None, lut: np.ndarray
) -> Iterator[Problem]:
    assert record.mask_path is not None
    if size is not None:
        yield from size_problem(record.mask_path, (mask.shape[0], mask.shape[1]), record.path, size)
    strange = [int(v) for v in np.unique(mask) if v not in (0, IGNORED) and lut[v] == IGNORED]
    if strange:
        shown = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
        message = f"value(s) {shown} name no class"
        remedy = "such pixels are ignored; name them in mask_classes"
        yield Problem("mask-values", record.mask_path.name, "", message, remedy)
