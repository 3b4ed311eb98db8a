"""PASCAL VOC 2012 as unpacked, with or without the augmented training list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tag2mask.common.errors import did_you_mean
from tag2mask.common.progress import track
from tag2mask.data.masks import read_mask
from tag2mask.data.prepare.common import Prepared, count_line, finish, image_problem, out_folder, start
from tag2mask.data.readers import csv_labels, voc
from tag2mask.data.readers.found import Found, Query, Row, assemble
from tag2mask.data.readers.prepared import write_index
from tag2mask.data.records import IGNORED, VOC_CLASSES, BadFileError, Dataset, ImageRecord, Problem

TRAIN, VAL, TRAINAUG = 1464, 1449, 10582  # images of the published lists
_AUG_MASKS = "SegmentationClassAug"


def prepare_voc(
    root: Path,
    out: Path | None = None,
    *,
    labels: Path | None = None,
    trainaug: Sequence[Path] = (),
    aug_masks: bool = False,
    allow_bad: bool = False,
) -> Prepared:
    """Check VOC 2012 at `root` and write its index to `out` (default: the folder tag2mask inside VOC2012).

    labels: a CSV image,labels for images without Annotations/ID.xml. trainaug: lists of training images besides those
    of train.txt (such as SBD's train.txt and val.txt), instead of a trainaug.txt in ImageSets; val's are taken out.
    aug_masks: use SegmentationClassAug for images without an official mask (seeds are then scored on these too).
    Raises DataError for a wrong folder, list or label file, with an index that is there left as it is, and, without
    `allow_bad`, for files that can't be used.
    """
    home = voc.voc_home(root.expanduser().absolute())
    prepared = Prepared("voc2012", out_folder(home, out), allow_bad)
    given = {} if labels is None else read_label_file(labels)
    lines = _lines(home, trainaug)
    start(prepared, home, VOC_CLASSES)  # from here on, an older index counts as unfinished
    query = Query(VOC_CLASSES, None)
    found = voc.read_lists(home, lines, query, given)
    dataset = assemble(replace(found), query)  # what was found is summed up below
    prepared.problems += dataset.problems
    records = [_with_aug_mask(record, home) if aug_masks else record for record in dataset.records]
    usable = []
    for record in track(records, total=len(records), description="checking VOC 2012"):
        problems = list(_problems(record, home))
        prepared.problems += problems
        if not any(problem.kind == "unreadable-image" for problem in problems):
            usable.append((record, bool(problems)))
    _summarise(prepared, home, found, dataset, given)
    write_index(prepared.folder, (_entry(record, home, bad) for record, bad in usable))
    return finish(prepared)


def read_label_file(path: Path) -> dict[str, list[str]]:
    """Return {image name without folder and suffix: labels} of a CSV image,labels; BadFileError for unknown names."""
    if path.suffix.lower() != ".csv":
        raise BadFileError(path, "is not a CSV", "write columns image,labels (pickled files aren't read)")
    if not path.is_file():
        raise BadFileError(path, "no such label file", "give a CSV with the columns image,labels")
    found = Found(path.name)
    labels: dict[str, list[str]] = {}
    for line, cells in csv_labels.cells(path, found):
        names = csv_labels.split_labels(cells["labels"], VOC_CLASSES)
        for name in names:
            if name not in VOC_CLASSES:
                message = f"line {line}: class '{name}' is not one of VOC's{did_you_mean(name, VOC_CLASSES)}"
                raise BadFileError(path, message, "correct it")
        stem = cells["image"].replace("\\", "/").rpartition("/")[2]
        labels[stem[:-4] if stem.lower().endswith(".jpg") else stem] = names
    if found.problems:
        raise BadFileError(path, found.problems[0].message, f"{found.problems[0].place}: {found.problems[0].remedy}")
    return labels


def _lines(home: Path, trainaug: Sequence[Path]) -> list[tuple[str, str, int, str]]:
    if not trainaug:
        return voc.listed(home, None)
    official = voc.listed(home, None, with_augmented=False)
    held_out = {stem for split, _, _, stem in official if split == "val"}
    lines = {stem: (split, name, line, stem) for split, name, line, stem in official}
    for path in trainaug:
        if not path.is_file():
            raise BadFileError(path, "no such list", "give a text file with one image's name a line")
        for row in voc.list_lines(path, "train"):
            if row[3] not in held_out:
                lines.setdefault(row[3], row)
    return list(lines.values())


def _with_aug_mask(record: ImageRecord, home: Path) -> ImageRecord:
    path = home / _AUG_MASKS / f"{record.id}.png"
    if record.mask_path is not None or not path.is_file():
        return record
    return ImageRecord(record.id, record.path, record.labels, record.split, path)


def _entry(record: ImageRecord, home: Path, bad: bool) -> dict[str, object]:
    mask = None if bad or record.mask_path is None else record.mask_path.relative_to(home).as_posix()
    image = record.path.relative_to(home).as_posix()
    return {"image": image, "labels": list(record.labels), "split": record.split, "mask": mask}


def _problems(record: ImageRecord, home: Path) -> Iterator[Problem]:
    shown = record.path.relative_to(home).as_posix()
    problem, size = image_problem(record.path, shown)
    if problem is not None:
        yield problem
    if record.mask_path is None or size is None:
        return
    shown = record.mask_path.relative_to(home).as_posix()
    try:
        mask = read_mask(record.mask_path)
    except BadFileError as error:
        yield Problem("unreadable-mask", shown, "", error.message, error.remedy)
        return
    if mask.shape != size:
        message = f"the mask is {mask.shape[0]} x {mask.shape[1]} pixels, its image {size[0]} x {size[1]}"
        yield Problem("mask-size", shown, "", message, "unpack the archive again")
    strange = [int(value) for value in np.unique(mask) if len(VOC_CLASSES) < value < IGNORED]
    if strange:
        message = f"holds the value(s) {', '.join(map(str, strange[:8]))}; VOC's are 0..20 and 255"
        yield Problem("mask-values", shown, "", message, "unpack the archive again, or rename the classes")


def _source(row: Row) -> str:
    return {"Annotations": "XML", "": "label file"}.get(row.label_file.partition("/")[0], "true masks")


def _summarise(prepared: Prepared, home: Path, found: Found, dataset: Dataset, given: dict[str, list[str]]) -> None:
    sizes = {split: sum(row.split == split for row in found.rows) for split in ("train", "val")}
    official = len(voc.listed_stems(home, "train"))
    masks = {s: sum(r.mask_path is not None and r.split == s for r in dataset.records) for s in ("train", "val")}
    sources = Counter(_source(row) for row in found.rows if row.names)
    unlabelled = [problem.message for problem in prepared.problems if problem.kind == "no-label"]
    lines = [count_line("list train", official, TRAIN), count_line("val", sizes["val"], VAL)]
    lines.append(count_line("training images (trainaug where listed)", sizes["train"], TRAINAUG))
    lines.append(f"true masks for scoring: {masks['train']:,} train, {masks['val']:,} val")
    lines.append("labels from " + ", ".join(f"{name}: {count:,}" for name, count in sources.items()))
    lines.append(f"images without any label: {len(unlabelled)}" + ("; give --labels FILE" if unlabelled else ""))
    prepared.lines = lines
    prepared.facts |= {
        "counts": {"train_list": official, "train": sizes["train"], "val": sizes["val"], "masks": masks},
        "published": {"train_list": TRAIN, "train": TRAINAUG, "val": VAL},
        "labels_from": dict(sources),
        "labels_given": len(given),
    }
