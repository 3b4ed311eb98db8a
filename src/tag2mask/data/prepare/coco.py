"""COCO 2014 as unpacked: labels from the instances files, and semantic masks rendered from their outlines."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tag2mask.common.errors import DataError
from tag2mask.common.files import digest_file, read_object
from tag2mask.common.progress import track
from tag2mask.common.workers import WorkerPool, may_start_processes
from tag2mask.data.coco_index import CocoIndex, Id, scan_instances
from tag2mask.data.coco_masks import RULE, AnnotationError, check_segmentation, semantic_mask
from tag2mask.data.json_stream import read_elements
from tag2mask.data.masks import write_mask
from tag2mask.data.prepare.common import Prepared, count_line, finish, image_problem, out_folder, refuse, start
from tag2mask.data.readers import coco
from tag2mask.data.readers.found import HELD_OUT, Folders, inside
from tag2mask.data.readers.prepared import MANIFEST, write_index
from tag2mask.data.records import MAX_CLASSES, Problem

PUBLISHED = {"train": 82783, "val": 40504}
_CHUNK = 128  # images a job
_JOBS_WORTH_A_PROCESS = 1024  # images; starting a process takes seconds
_AHEAD = 4  # jobs waiting for each process, so that memory doesn't grow with the set


@dataclass(frozen=True)
class Image:
    """One image of an instances file that is on disk."""

    id: Id
    path: str  # below the data set's folder
    mask: str  # below the index' folder
    size: tuple[int, int]  # (height, width) as the instances file says; 0 where it doesn't


# Of each annotation: value 1..C, is crowd, byte offset and length in the instances file.
Regions = tuple[tuple[int, bool, int, int], ...]


@dataclass(frozen=True)
class Job:
    """Some images of one instances file, to be checked and rendered by one process."""

    file: Path
    home: Path
    out: Path
    tasks: tuple[tuple[Image, Regions], ...]


def prepare_coco(root: Path, out: Path | None = None, *, allow_bad: bool = False, processes: int = 0) -> Prepared:
    """Check COCO 2014 at `root`, render its masks and write the index to `out` (default: the folder tag2mask inside).

    Goes on where a killed preparation stopped: masks are written whole and are not rendered again. processes: 0 takes
    one a CPU core; the result doesn't depend on it. Raises DataError for a wrong folder and, without `allow_bad`, for
    files or annotations that can't be used (with it, outlines are cut at the border and malformed ones left out).
    """
    root = root.expanduser().absolute()
    files, home = coco.instance_files(root), coco.home_of(root)
    prepared = Prepared("coco2014", out_folder(home, out), allow_bad)
    prepared.facts["sources"] = {path.name: digest_file(path) for path in files}
    _refuse_other_sources(prepared)
    indices = [scan_instances(path) for path in files]
    categories: dict[Id, str] = {}
    for index in indices:
        coco.merge_categories(categories, index)
        prepared.problems += _unknown(index)
    classes = coco.ordered_classes(categories)
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{home}: {len(classes)} categories, but a mask file holds at most {MAX_CLASSES} classes")
    start(prepared, home, classes)
    refuse(prepared)
    value = {number: classes.index(name) + 1 for number, name in categories.items()}
    entries: list[dict[str, Any]] = []
    prepared.facts["counts"], prepared.facts["unlabelled"] = {}, {}
    masks: set[str] = set()
    for index in indices:
        entries += _prepare_split(prepared, home, index, value, masks, processes)
    prepared.facts |= {"mask_rule": RULE, "published": PUBLISHED}
    prepared.lines.append(f"{len(classes)} classes: mask values 1..{len(classes)} in the order of the category ids")
    prepared.lines.append(f"masks: {RULE}")
    write_index(prepared.folder, entries)
    return finish(prepared)


def _refuse_other_sources(prepared: Prepared) -> None:
    path = prepared.folder / MANIFEST
    old = read_object(path).get("sources") if path.is_file() else None
    if old not in (None, prepared.facts["sources"]):
        raise DataError(
            f"{prepared.folder}: holds masks rendered from other instances files; delete this folder, or choose "
            "another with --out"
        )


def _unknown(index: CocoIndex) -> Iterator[Problem]:
    for category, count in index.unknown_categories().items():
        message = f"category id {category} of {count} annotation(s) is not among the file's categories"
        yield Problem("unknown-class", index.path.name, "", message, "correct the id or add the category")


def _prepare_split(
    prepared: Prepared, home: Path, index: CocoIndex, value: dict[Id, int], masks: set[str], processes: int
) -> list[dict[str, Any]]:
    """Check and render one instances file; return its entries of the index. masks: the names taken so far."""
    split, _ = coco.split_and_folder(index.path.name)
    name = split or index.path.stem
    images = list(_images(prepared, home, index, masks))
    refuse(prepared)  # before the masks are rendered
    labels = [sorted({value[c] - 1 for c in index.labels(image.id) if c in value}) for image in images]
    jobs = (
        Job(
            index.path, home, prepared.folder, tuple((i, _regions(index, i, value)) for i in images[at : at + _CHUNK])
        )
        for at in range(0, len(images), _CHUNK)
    )
    results = (found for job in _run(jobs, _processes(processes, len(images))) for found in job)
    broken = []
    for problems in track(results, total=len(images), description=f"masks of {name}"):
        prepared.problems += problems
        broken.append(any(problem.kind in ("unreadable-image", "image-size") for problem in problems))
    unlabelled = [image.path for image, known in zip(images, labels, strict=True) if not known]
    prepared.facts["counts"][name], prepared.facts["unlabelled"][name] = len(images), unlabelled
    prepared.lines.append(count_line(f"{name} images", len(images), PUBLISHED.get(split, len(images))))
    fate = "kept for scoring, as background" if split in HELD_OUT else "left out of training"
    prepared.lines.append(f"  without any label: {len(unlabelled):,}, {fate}")
    return [
        {"image": image.path, "labels": known, "split": split, "mask": f"made/{image.mask}"}
        for image, known, bad in zip(images, labels, broken, strict=True)
        if not bad and (known or split in HELD_OUT)
    ]


def _images(prepared: Prepared, home: Path, index: CocoIndex, masks: set[str]) -> Iterator[Image]:
    """Yield the images that are on disk, each with a mask's name of its own; note the missing ones."""
    folders, file = Folders(home), index.path.name
    _, folder = coco.split_and_folder(file)
    seen: set[str] = set()
    for number, (image_id, name, height, width) in enumerate(index.images):
        relative = inside(name)
        actual = None if relative is None else folders.find(relative, coco.image_bases(folder))
        if relative is None or actual is None or actual in seen:
            message = f"image '{name}' " + ("comes twice" if actual else f"is not in {folder} or images/{folder}")
            kind, remedy = ("duplicate", "only the first counts") if actual else ("missing-image", "unpack it again")
            prepared.problems.append(Problem(kind, file, f"images[{number}]", message, remedy))
            continue
        seen.add(actual)
        mask = str(PurePosixPath("masks", folder, relative).with_suffix(".png"))
        while mask in masks:  # images that differ in their suffix only
            mask += ".png"
        masks.add(mask)
        yield Image(image_id, actual, mask, (height, width))


def _regions(index: CocoIndex, image: Image, value: dict[Id, int]) -> Regions:
    rows = (row for row in index.rows.get(image.id, ()) if index.crowd[row] or index.category[row] in value)
    return tuple(
        (value.get(index.category[r], 0), bool(index.crowd[r]), index.start[r], index.length[r]) for r in rows
    )


def _processes(asked: int, tasks: int) -> int:
    if not may_start_processes():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(asked or cores, tasks // _JOBS_WORTH_A_PROCESS if not asked else tasks))


def _run(jobs: Iterable[Job], processes: int) -> Iterator[list[list[Problem]]]:
    """Run jobs over processes, in order, only a few ahead of the one that is waited for."""
    if processes == 1:
        yield from map(render_job, jobs)
        return
    waiting: deque[Future] = deque()
    with WorkerPool(processes) as pool:
        for job in jobs:
            waiting.append(pool.submit(render_job, job))
            if len(waiting) > _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def render_job(job: Job) -> list[list[Problem]]:
    """Check the images of a job and write the masks that aren't there; return the problems of each."""
    return [list(_render(job, image, regions)) for image, regions in job.tasks]


def _render(job: Job, image: Image, regions: Regions) -> Iterator[Problem]:
    problem, size = image_problem(job.home / image.path, image.path)
    if problem is not None or size is None:
        if problem is not None:
            yield problem
        return
    if all(image.size) and size != image.size:
        message = f"is {size[0]} x {size[1]} pixels, {job.file.name} says {image.size[0]} x {image.size[1]}"
        yield Problem("image-size", image.path, "", message, "use images and annotations of one release")
        return
    elements = read_elements(job.file, [(start, length) for _, _, start, length in regions])
    usable = []
    for (value, crowd, _, _), element in zip(regions, elements, strict=True):
        segmentation = element.get("segmentation")
        try:
            check_segmentation(segmentation, *size)
        except AnnotationError as error:
            place = f"annotation {element.get('id', '?')} of {PurePosixPath(image.path).name}"
            remedy = f"repair it; with --allow-bad it is {'cut at the border' if error.cut else 'left out'}"
            yield Problem("bad-annotation", job.file.name, place, str(error), remedy)
            if not error.cut:
                continue
        usable.append((value, crowd, segmentation))
    path = job.out / image.mask
    if not path.is_file():
        write_mask(path, semantic_mask(usable, *size))
