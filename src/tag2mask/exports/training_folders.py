"""What YOLO's and Ultralytics' layouts share: folders of photos by split, and data.yaml."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tag2mask.common.errors import ConfigError
from tag2mask.common.seeding import rng_for
from tag2mask.exports.source import Photo, add_source_options


def add_training_options(command: argparse.ArgumentParser, out: str) -> None:
    """Add the options of exports that a training reads directly."""
    add_source_options(command, out)
    command.add_argument("--link", action="store_true", help="symbolic links to the photos instead of copies")
    command.add_argument(
        "--val",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="hold out this share (0..1) of the photos too, drawn by their names (default: the run's own val photos)",
    )


def splits_of(photos: list[Photo], share: float) -> dict[str, str]:
    """Whether each photo, by id, belongs to "train" or "val": as in the run, and `share` of those of train drawn.

    ConfigError for a share outside of 0..1.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"--val is {share}; expected a share from 0 to below 1, such as 0.1")
    return {
        photo.id: "val" if photo.split == "val" or rng_for(0, "val", photo.id).random() < share else "train"
        for photo in photos
    }


def place_photo(photo: Photo, folder: Path, *, link: bool) -> None:
    """Copy a photo to `folder`/NAME, or link to it."""
    path = folder / photo.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.symlink(photo.path, path)
    else:
        shutil.copyfile(photo.path, path)


def write_yaml(folder: Path, splits: dict[str, str], names: dict[int, str], **more: Any) -> None:
    """Write data.yaml; a training needs both splits, so where there is one, it stands for both."""
    there = set(splits.values())
    train, val = ("train" if "train" in there else "val"), ("val" if "val" in there else "train")
    text = "" if train != val else f"# all photos are of one split: training and validation are both on {train}\n"
    values = {"train": f"images/{train}", "val": f"images/{val}", **more, "names": names}
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
