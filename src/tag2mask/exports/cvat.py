"""A zip that CVAT imports as "Segmentation mask 1.1": masks of classes and of objects beside the task's photos."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write
from tag2mask.data.class_files import labelmap_lines
from tag2mask.data.masks import palette_picture
from tag2mask.data.records import IGNORED
from tag2mask.data.words import BACKGROUND, labelmap_name
from tag2mask.exports.shapes import parts_of
from tag2mask.exports.source import Source, add_source_options, out_of, source_of

_MOST_OBJECTS = 255  # colours that CVAT knows objects by
_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks give the same bytes


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_source_options(command, "cvat.zip")


def export(options: argparse.Namespace) -> int:
    """Write the zip."""
    out, source = out_of(options), source_of(options)
    write_cvat(source, out)
    return source.report(out)


def write_cvat(source: Source, out: Path) -> None:
    """Write labelmap.txt, ImageSets, SegmentationClass and SegmentationObject of all photos as one zip.

    Each 4-connected part of a class is an object; in a photo with more than 255 parts, each class is. Unsure pixels
    (255), which would fail the import, become background. Names are without suffix, as CVAT finds its photos by.
    Raises DataError for classes or photos that CVAT can't tell apart.
    """
    source.check_stems("CVAT")
    _check_names(source.classes)
    with atomic_write(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, "labelmap.txt", "\n".join([*labelmap_lines(source.classes), ""]).encode())
        names = "\n".join([*(photo.stem for photo in source.photos), ""])
        _add(archive, "ImageSets/Segmentation/default.txt", names.encode())
        for photo, mask in source:
            _add(archive, f"SegmentationClass/{photo.stem}.png", _png(np.where(mask == IGNORED, 0, mask)))
            _add(archive, f"SegmentationObject/{photo.stem}.png", _png(_objects(mask)))


def _check_names(classes: tuple[str, ...]) -> None:
    seen = {BACKGROUND: BACKGROUND}
    for name in classes:
        short = labelmap_name(name)
        if short in seen:
            clash = f"class '{name}' is written like '{seen[short]}' in CVAT's labelmap.txt"
            raise DataError(f"{clash}; export to another format, or rename it")
        seen[short] = name


def _objects(mask: np.ndarray) -> np.ndarray:
    """Numbers of objects (H, W) uint8, from 1 on."""
    parts = parts_of(mask)
    if len(parts.values) <= _MOST_OBJECTS:
        return parts.labels.astype(np.uint8)
    return np.where(mask == IGNORED, 0, mask)


def _png(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    palette_picture(mask).save(stream, format="PNG")
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    packed = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    archive.writestr(zipfile.ZipInfo(name, _DATE), data, packed)
