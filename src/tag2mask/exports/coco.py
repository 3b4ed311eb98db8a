"""COCO's JSON: an annotation for each connected part of a class, and panoptic masks where they are wanted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.common.files import atomic_folder
from tag2mask.data.class_files import class_colours
from tag2mask.data.records import IGNORED
from tag2mask.data.words import BACKGROUND
from tag2mask.exports.shapes import Parts, compressed, parts_of, polygons, run_lengths
from tag2mask.exports.source import Photo, Source, add_source_options, out_of, source_of

Json = dict[str, Any]


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_source_options(command, "coco")
    command.add_argument("--rle", action="store_true", help="run-length codes instead of polygons (both exact)")
    command.add_argument("--panoptic", action="store_true", help="panoptic masks and their JSON too")


def export(options: argparse.Namespace) -> int:
    """Write a folder with `annotations`."""
    out, source = out_of(options), source_of(options)
    write_coco(source, out, rle=options.rle, panoptic=options.panoptic)
    return source.report(out, "in no annotation" + (", void in the panoptic masks" if options.panoptic else ""))


def write_coco(source: Source, out: Path, *, rle: bool = False, panoptic: bool = False) -> None:
    """Write `out`/annotations/instances.json of all photos and, with `panoptic`, panoptic.json and panoptic/NAME.png.

    Classes have the ids 1..C, photos and annotations count from 1. Each 4-connected part of a class is an instance,
    since masks don't tell touching objects apart. Polygons run along the edges of pixels, a hole joined to its
    outline by a doubled edge: they give the same pixels as `rle`. In the panoptic masks the background is category
    C + 1 and unsure pixels are void.
    """
    if panoptic:
        source.check_stems("a panoptic mask")
    with atomic_folder(out) as folder:
        annotations = folder / "annotations"
        annotations.mkdir()
        rows = (_instances(number, *pair, rle=rle) for number, pair in enumerate(source, 1))
        _write(annotations / "instances.json", source, _categories(source.classes), rows)
        if panoptic:
            masks = annotations / "panoptic"
            rows = (_panoptic(number, *pair, masks, len(source.classes)) for number, pair in enumerate(source, 1))
            _write(annotations / "panoptic.json", source, _categories(source.classes, panoptic=True), rows)


def _write(path: Path, source: Source, categories: list[Json], rows: Iterable[tuple[Json, list[Json]]]) -> None:
    """Write a JSON file of photos and their annotations, which come one photo at a time."""
    head = json.dumps({"info": {"description": source.title}, "categories": categories}, ensure_ascii=False)
    images, count = [], 0
    with path.open("w", encoding="utf-8") as file:
        file.write(head[:-1] + ',\n"annotations": [')
        for image, annotations in rows:
            images.append(json.dumps(image, ensure_ascii=False))
            for annotation in annotations:
                file.write(
                    (",\n" if count else "\n") + json.dumps({"id": count + 1} | annotation, ensure_ascii=False)
                )
                count += 1
        file.write('\n],\n"images": [\n' + ",\n".join(images) + "\n]}\n")


def _categories(classes: tuple[str, ...], *, panoptic: bool = False) -> list[Json]:
    things: list[Json] = [{"id": value, "name": name} for value, name in enumerate(classes, 1)]
    if not panoptic:
        return things
    background, *colours = (list(colour) for colour in class_colours(classes))
    things = [thing | {"isthing": 1, "color": colour} for thing, colour in zip(things, colours, strict=True)]
    return [*things, {"id": len(classes) + 1, "name": BACKGROUND, "isthing": 0, "color": background}]


def _image(number: int, photo: Photo, mask: np.ndarray) -> Json:
    return {"id": number, "file_name": photo.name, "width": mask.shape[1], "height": mask.shape[0]}


def _instances(number: int, photo: Photo, mask: np.ndarray, *, rle: bool) -> tuple[Json, list[Json]]:
    """A photo and its parts."""
    parts = parts_of(mask)
    shapes: dict[int, Any]
    if rle:
        codes = run_lengths(parts.labels)
        shapes = {part: {"size": list(mask.shape), "counts": compressed(codes[part])} for part in codes}
    else:
        shapes = {part: [points.ravel().tolist()] for part, points in polygons(parts.labels).items()}
    annotations = [
        {"image_id": number, "segmentation": shapes[part], **_facts(parts, part)}
        for part in range(1, len(parts.values) + 1)
    ]
    return _image(number, photo, mask), annotations


def _facts(parts: Parts, part: int) -> Json:
    box = parts.boxes[part - 1].tolist()
    return {
        "category_id": int(parts.values[part - 1]),
        "area": int(parts.areas[part - 1]),
        "bbox": box,
        "iscrowd": 0,  # of run-length codes too: trainers skip crowds
    }


def _panoptic(number: int, photo: Photo, mask: np.ndarray, folder: Path, classes: int) -> tuple[Json, list[Json]]:
    """A photo and its segments, the background last; writes its PNG, where R + 256 G + 65536 B is the segment."""
    parts = parts_of(mask)
    count = len(parts.values)
    segments: list[Json] = [{"id": part, **_facts(parts, part)} for part in range(1, count + 1)]
    background = mask == 0
    if background.any():
        rows, columns = np.flatnonzero(background.any(axis=1)), np.flatnonzero(background.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        area = int(background.sum())
        segments.append({"id": count + 1, "category_id": classes + 1, "area": area, "bbox": box, "iscrowd": 0})
    numbers = np.where(background, count + 1, parts.labels)
    assert not numbers[mask == IGNORED].any()  # void
    path = folder / f"{photo.stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)).save(path)
    annotation = {"image_id": number, "file_name": f"{photo.stem}.png", "segments_info": segments}
    return _image(number, photo, mask), [annotation]
