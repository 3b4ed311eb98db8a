"""Pre-annotations for Label Studio: a brush region for each class of a photo, and the labelling interface."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from tag2mask.common.files import atomic_folder
from tag2mask.data.class_files import class_colours
from tag2mask.data.masks import read_mask
from tag2mask.data.records import IGNORED
from tag2mask.exports.source import Photo, Source, add_source_options, out_of, source_of

LOCAL_FILES = "/data/local-files/?d="  # how Label Studio names files of its local storage
BUCKETS = ("s3://", "gs://", "azure-blob://")  # Label Studio takes what follows as it is
_SIZES = (3, 4, 8, 16)  # bits for the length of a run


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_source_options(command, "labelstudio")
    command.add_argument(
        "--prefix",
        default=LOCAL_FILES,
        metavar="ADDRESS",
        help=f"what stands before a photo's name in its address (default {LOCAL_FILES}, for local storage)",
    )


def export(options: argparse.Namespace) -> int:
    """Write the folder."""
    out, source = out_of(options), source_of(options)
    write_labelstudio(source, out, prefix=options.prefix)
    return source.report(out)


def write_labelstudio(source: Source, out: Path, *, prefix: str = LOCAL_FILES) -> None:
    """Write `out`/tasks.json, a task with one prediction for each photo, and label_config.xml.

    Scores are the mean confidence (0..1) over a region's pixels, and over the photo, where the masks have confidence
    maps. `prefix` and the photo's name make its address, as `address_of` has it.
    """
    with atomic_folder(out) as folder:
        (folder / "label_config.xml").write_text(_config(source.classes), encoding="utf-8")
        with (folder / "tasks.json").open("w", encoding="utf-8") as file:
            for number, (photo, mask) in enumerate(source):
                file.write("[\n" if number == 0 else ",\n")
                task = _task(photo, mask, source, address_of(photo.name, prefix))
                file.write(json.dumps(task, ensure_ascii=False))
            file.write("\n]\n")


def address_of(name: str, prefix: str) -> str:
    """The address of a photo: percent-encoded, but for keys in a bucket; a prefix with "://" ends in / or =."""
    if "://" in prefix and not prefix.endswith(("/", "=")):
        prefix += "/"
    return prefix + (name if prefix.startswith(BUCKETS) else quote(name))


def _config(classes: tuple[str, ...]) -> str:
    labels = [
        f'    <Label value={quoteattr(name)} background="#{bytes(colour).hex()}"/>'
        for name, colour in zip(classes, class_colours(classes)[1:], strict=True)
    ]
    head = [
        "<View>",
        '  <Image name="image" value="$image" zoom="true"/>',
        '  <BrushLabels name="label" toName="image">',
    ]
    return "\n".join([*head, *labels, "  </BrushLabels>", "</View>", ""])


def _task(photo: Photo, mask: np.ndarray, source: Source, address: str) -> dict[str, Any]:
    confidence = None if photo.confidence is None else read_mask(photo.confidence) / 255
    values = [int(value) for value in np.unique(mask) if value not in (0, IGNORED)]
    regions = [_region(mask == value, source.classes[value - 1], value, confidence) for value in values]
    prediction = {"model_version": source.title, "result": regions, **_score(confidence, None)}
    return {"data": {"image": address}, "predictions": [prediction]}


def _score(confidence: np.ndarray | None, pixels: np.ndarray | None) -> dict[str, float]:
    if confidence is None:
        return {}
    return {"score": round(float(confidence.mean() if pixels is None else confidence[pixels].mean()), 4)}


def _region(pixels: np.ndarray, name: str, value: int, confidence: np.ndarray | None) -> dict[str, Any]:
    return {
        "id": f"class-{value}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": pixels.shape[1],
        "original_height": pixels.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(brush_rle(pixels)), "brushlabels": [name]},
        **_score(confidence, pixels),
    }


def brush_rle(pixels: np.ndarray) -> bytes:
    """Label Studio's code of a region (H, W) bool: its RGBA values, all four 0 or 255, row by row.

    32 bits: how many values; 5 bits: bits of a value, less 1; 4 times 4 bits: bits of a length, less 1. Then runs:
    a 1, two bits for the kind of length, the length less 1, the value.
    """
    flat = pixels.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    bits = [f"{4 * flat.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts, np.diff(starts, append=flat.size), strict=True):
        bits += _run(4 * int(length), "11111111" if flat[start] else "00000000")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _run(length: int, value: str) -> list[str]:
    """The bits of a run, cut into several where it is longer than a length can say."""
    whole, rest = divmod(length, 1 << _SIZES[-1])
    lengths = [1 << _SIZES[-1]] * whole + ([rest] if rest else [])
    kinds = [next(kind for kind, size in enumerate(_SIZES) if part <= 1 << size) for part in lengths]
    return [f"1{kind:02b}{part - 1:0{_SIZES[kind]}b}{value}" for part, kind in zip(lengths, kinds, strict=True)]
