"""The settings of a data set: which images and classes, how pictures and masks are read, what is held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tag2mask.config import Ranges, check_ranges
from tag2mask.data import ranges
from tag2mask.data.readers import read_dataset
from tag2mask.data.records import MAX_PIXELS, Dataset, Reading
from tag2mask.data.splits import with_held_out

_RANGES: Ranges = {
    "long_side": (lambda v: v is None or v >= 32, "32 pixels or more, or null"),
    "max_pixels": (lambda v: v >= 1, "1 pixel or more"),
    "val_fraction": (lambda v: 0 <= v < 1, "0 or more, below 1"),
    "val_limit": (lambda v: v is None or v >= 1, "1 image or more, or null"),
    "bands": (
        lambda v: v is None or (len(v) in (1, 3) and min(v) >= 0),
        "three band numbers from 0, or one, or null",
    ),
    "value_range": (lambda v: v is None or (len(v) == 2 and v[0] < v[1]), "[black, white], ascending, or null"),
}


@dataclass(frozen=True)
class DataConfig:
    """Which images, which classes, which splits."""

    reader: str = "auto"  # auto, or a name in READERS (csv, folders, voc, coco, ...)
    classes: tuple[str, ...] | None = None  # a restriction; pixels of other classes count as background
    # names of mask values 1..N, or by value ({0: cat, 255: background}); "voc" for VOC's twenty, "binary" for 0/255
    mask_classes: str | tuple[str, ...] | dict[str, str] | None = None
    train_split: str = "train"
    val_split: str = "val"
    val_limit: int | None = None  # predict and score only so many held-out images, for a quick try
    # Photos whose longer side has more pixels are worked on at this size; masks come back in the photo's own. null =
    # all at their own size, as published.
    long_side: int | None = None
    # Photos without any class: true = learn from them, false = leave them out; or labels and folders for "none".
    negatives: bool | str | tuple[str, ...] = True
    background: bool = True  # false: every pixel belongs to one of its image's classes
    val_fraction: float = 0.0  # share of the images held out where a set has no val, by tags, groups and seed
    pattern: str | None = None  # of file names that carry their labels, such as "{label}_*"
    bands: tuple[int, ...] | None = None  # of files with more: which three (or one) to see, from 0; null = RGB
    # Values that become black and white in pictures of more than 8 bits; null = 0 and the 99.9 % point of the set.
    value_range: tuple[float, ...] | None = None
    max_pixels: int = MAX_PIXELS  # of a picture as it is decoded; larger ones are refused

    def __post_init__(self) -> None:
        """Raise ConfigError for values that can't work."""
        check_ranges("data", self, _RANGES)

    def how_to_read(self) -> dict[str, Any]:
        """Return the arguments of `read_dataset`."""
        return {
            "reader": self.reader,
            "classes": list(self.classes) if self.classes else None,
            "mask_classes": self.mask_classes,
            "negatives": self.negatives,
            "pattern": self.pattern,
            "background": self.background,
        }

    def reading(self) -> Reading:
        """Return how pictures are read, as far as the settings say it."""
        given = None if self.value_range is None else (self.value_range[0], self.value_range[1])
        return Reading(self.max_pixels, self.bands, given)

    def applied(self, dataset: Dataset, seed: int) -> Dataset:
        """Return a data set that was read, with its pictures read as set and what is to be held out held out."""
        dataset = dataset.at_most(self.long_side).read_as(self.reading())
        if self.value_range is None:
            found = ranges.value_range(dataset)
            dataset = dataset if found is None else dataset.read_as(replace(dataset.reading, value_range=found))
        return with_held_out(dataset, self.val_fraction, seed)


def read_set(root: Path | str, config: DataConfig, seed: int = 0) -> Dataset:
    """Read a data set with the settings of a recipe; raises DataError."""
    return config.applied(read_dataset(root, **config.how_to_read()), seed)
