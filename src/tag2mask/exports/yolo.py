"""YOLO's layout for segmentation: photos, a text file of polygons for each, and data.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath

import numpy as np

from tag2mask.common.files import atomic_folder
from tag2mask.exports.shapes import parts_of, polygons
from tag2mask.exports.source import Source, out_of, source_of
from tag2mask.exports.training_folders import add_training_options, place_photo, splits_of, write_yaml


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_training_options(command, "yolo")


def export(options: argparse.Namespace) -> int:
    """Write the folder."""
    out, source = out_of(options), source_of(options)
    write_yolo(source, out, val=options.val, link=options.link)
    return source.report(out)


def write_yolo(source: Source, out: Path, *, val: float = 0.0, link: bool = False) -> None:
    """Write `out`/images/SPLIT/NAME, labels/SPLIT/NAME.txt and data.yaml; classes count from 0.

    A line is a 4-connected part of a class: its exact outline in shares of width and height. A photo without any
    object has an empty file. `val` and `link` as in `training_folders`. Raises ConfigError, DataError.
    """
    source.check_stems("YOLO")
    source.leave_out_missing()
    splits = splits_of(source.photos, val)
    with atomic_folder(out) as folder:
        for photo, mask in source:
            split = splits[photo.id]
            place_photo(photo, folder / "images" / split, link=link)
            path = _label_path(folder / "images" / split, photo.stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_lines(mask)), encoding="utf-8")
        write_yaml(folder, splits, dict(enumerate(source.classes)))


def _label_path(photos: Path, stem: str) -> Path:
    """Where YOLO looks for a photo's labels: with the last folder `images` of its path replaced by `labels`."""
    parts = [*photos.parts, *PurePosixPath(f"{stem}.txt").parts]
    last = len(parts) - 2 - parts[-2::-1].index("images")
    return Path(*parts[:last], "labels", *parts[last + 1 :])


def _lines(mask: np.ndarray) -> list[str]:
    parts = parts_of(mask)
    size = (mask.shape[1], mask.shape[0])
    return [
        f"{parts.values[part - 1] - 1} " + " ".join(f"{share:.7g}" for share in (points / size).ravel()) + "\n"
        for part, points in sorted(polygons(parts.labels).items())
    ]
