"""The settings of a data set: which images and classes, how pictures and masks are read, what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tag2mask.common.values import as_dict
from tag2mask.config import Free, Range, SettingError, Settings, build
from tag2mask.data import ranges
from tag2mask.data.readers import read_dataset
from tag2mask.data.records import MAX_PIXELS, Dataset, Reading
from tag2mask.data.splits import with_held_out

WHEN_READ = Free("looked up in the data set when it is read, before anything is computed")


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which images, which classes, which splits."""

    reader: Annotated[str, WHEN_READ] = "auto"  # auto, or a name in READERS (csv, folders, voc, coco, ...)
    classes: Annotated[tuple[str, ...] | None, WHEN_READ] = None  # a restriction; others count as background
    # names of mask values 1..N, or by value ({0: cat, 255: background}); "voc" for VOC's twenty, "binary" for 0/255
    mask_classes: Annotated[str | tuple[str, ...] | dict[str, str] | None, WHEN_READ] = None
    train_split: Annotated[str, WHEN_READ] = "train"
    val_split: Annotated[str, Free("a data set may do without held-out images")] = "val"
    # predict and score only so many held-out images, for a quick try
    val_limit: Annotated[int | None, Range(ge=1)] = None
    # Photos whose longer side has more pixels are worked on at this size; masks come back in the photo's own. Of two
    # numbers, [least, most], photos with fewer pixels than the first are enlarged to it. null = all at their own
    # size, as published.
    long_side: Annotated[
        int | tuple[int, ...] | None, Range(ge=32, le=65_536, note="pixels", items=(2, 2), single=True)
    ] = None
    # Photos without any class: true = learn from them, false = leave them out; or labels and folders for "none".
    negatives: Annotated[bool | str | tuple[str, ...], WHEN_READ] = True
    background: bool = True  # false: every pixel belongs to one of its image's classes
    # share of the images held out where a set has no val, by tags, groups and seed
    val_fraction: Annotated[float, Range(ge=0, lt=1)] = 0.0
    pattern: Annotated[str | None, WHEN_READ] = None  # of file names that carry their labels, such as "{label}_*"
    # of files with more: which three (or one) to see, from 0; null = RGB
    bands: Annotated[tuple[int, ...] | None, Range(ge=0, le=65_535, items=(1, 3))] = None
    # Values that become black and white in pictures of more than 8 bits; null = 0 and the 99.9 % point of the set.
    value_range: Annotated[tuple[float, ...] | None, Range(ge=-1e12, le=1e12, items=(2, 2))] = None
    # of a picture as it is decoded; larger ones are refused
    max_pixels: Annotated[int, Range(ge=1, le=10**12, note="pixels")] = MAX_PIXELS

    def check_relations(self) -> None:
        """Raise ConfigError for two bands and for a range of sizes or values that isn't one."""
        if isinstance(self.long_side, tuple) and self.long_side[0] > self.long_side[1]:
            raise SettingError(self, ("long_side",), "[least, most], ascending")
        if self.bands is not None and len(self.bands) == 2:
            raise SettingError(self, ("bands",), "three band numbers from 0, or one, or null")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise SettingError(self, ("value_range",), "[black, white], ascending, or null")

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

    def reading_again(self, facts: Mapping[str, Any]) -> Reading:
        """Return how the pictures of a finished run were read, for new ones; `facts` are run.json's on its data."""
        reading, found = self.reading(), facts.get("value_range")
        return reading if found is None else replace(reading, value_range=(float(found[0]), float(found[1])))

    def applied(self, dataset: Dataset, seed: int) -> Dataset:
        """Return a data set that was read, with its pictures read as set and what is to be held out held out."""
        dataset = dataset.worked_on_at(self.long_side).read_as(self.reading())
        if self.value_range is None:
            found = ranges.value_range(dataset)
            dataset = dataset if found is None else dataset.read_as(replace(dataset.reading, value_range=found))
        return with_held_out(dataset, self.val_fraction, seed)


def reading_of_run(info: Mapping[str, Any]) -> Reading:
    """How the pictures of a run were read, from its run.json; ConfigError where its settings can't be read."""
    config = build(DataConfig, as_dict(as_dict(info.get("recipe")).get("data")), source="run.json", place=("data",))
    return config.reading_again(as_dict(info.get("data")))


def read_set(root: Path | str, config: DataConfig, seed: int = 0) -> Dataset:
    """Read a data set with the settings of a recipe; raises DataError."""
    return config.applied(read_dataset(root, **config.how_to_read()), seed)
