"""Ultralytics' layout for semantic segmentation, lossless: photos, a grey mask for each, and data.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from tag2mask.common.files import atomic_folder
from tag2mask.data.words import BACKGROUND
from tag2mask.exports.source import Source, out_of, source_of
from tag2mask.exports.training_folders import add_training_options, place_photo, splits_of, write_yaml


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_training_options(command, "ultralytics")


def export(options: argparse.Namespace) -> int:
    """Write the folder."""
    out, source = out_of(options), source_of(options)
    write_ultralytics(source, out, val=options.val, link=options.link)
    return source.report(out, "255 there too, which its training ignores")


def write_ultralytics(source: Source, out: Path, *, val: float = 0.0, link: bool = False) -> None:
    """Write `out`/images/SPLIT/NAME, masks/SPLIT/NAME.png (grey: 0 background, class + 1, 255 ignored) and data.yaml.

    `val` and `link` as in `training_folders`. Raises ConfigError, DataError.
    """
    source.check_stems("Ultralytics")
    source.leave_out_missing()
    splits = splits_of(source.photos, val)
    with atomic_folder(out) as folder:
        for photo, mask in source:
            split = splits[photo.id]
            place_photo(photo, folder / "images" / split, link=link)
            path = folder / "masks" / split / f"{photo.stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
        write_yaml(folder, splits, dict(enumerate((BACKGROUND, *source.classes))), masks_dir="masks")
