"""index.json: where a run's photos and true masks are, and their tags, both ways."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.files import atomic_write, json_text, parse_json
from tag2mask.common.values import as_count, as_dict, as_list, as_text
from tag2mask.data import Dataset, ImageRecord
from tag2mask.data.records import paths_as_text, text_of


@paths_as_text("path", "mask")
@dataclass(frozen=True)
class IndexedImage:
    """Where an image and its true mask are, and its tags."""

    id: str
    path: Path | None = None
    labels: tuple[str, ...] = ()
    own_labels: tuple[str, ...] = ()  # those of the data set itself, which a review may have corrected
    split: str = ""
    mask: Path | None = None


@dataclass(frozen=True)
class Index:
    """index.json as its readers use it."""

    classes: tuple[str, ...] = ()
    images: dict[str, IndexedImage] = field(default_factory=dict)
    mask_lut: np.ndarray | None = None  # (256,) uint8: what the values of true masks mean


def write_index(path: Path, parts: Sequence[Dataset]) -> None:
    """Write what is known of a run's data sets, training and held-out images, one by one."""
    lut = [int(value) for value in parts[0].mask_lut]
    rest = {"classes": list(parts[0].classes), "images": {}, "mask_lut": lut}
    head, tail = json_text(rest).split('"images": {}')
    entries = ((record.id, _entry(record, dataset)) for dataset in parts for record in dataset.records)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(head + '"images": {')
        comma = ""
        for name, entry in entries:
            inner = json_text(entry).rstrip("\n").replace("\n", "\n  ")
            stream.write(f"{comma}\n  {json_text(name).rstrip()}: {inner}")
            comma = ","
        stream.write(("\n }" if comma else "}") + tail)


def _entry(record: ImageRecord, dataset: Dataset) -> dict[str, Any]:
    return {
        "path": os.path.join(*text_of(record, "path")),
        "labels": [dataset.classes[label] for label in record.labels],
        **_own_labels(record, dataset),
        "split": record.split,
        "mask": os.path.join(*text_of(record, "mask_path")) or None,
    }


def _own_labels(record: ImageRecord, dataset: Dataset) -> dict[str, list[str]]:
    own = dataset.own_labels.get(record.id)
    return {} if own is None else {"own_labels": [dataset.classes[label] for label in own]}


def read_index(path: Path) -> Index:
    """Read an index.json, each of its images as it comes, as far as it is one; JSONError where it isn't JSON."""
    once: dict[Any, Any] = {}

    def image(entry: dict[str, Any]) -> IndexedImage | dict[str, Any]:
        return _image("", entry, once) if "path" in entry and "labels" in entry else entry

    return parse_index(parse_json(path.read_bytes(), path, image))


def parse_index(value: Any) -> Index:
    """Read the value of an index.json, as far as it is one."""
    found = as_dict(value)
    once: dict[Any, Any] = {}
    images = {}
    for name, entry in as_dict(found.get("images")).items():
        image = entry if isinstance(entry, IndexedImage) else _image("", as_dict(entry), once)
        object.__setattr__(image, "id", name)
        images[name] = image
    return Index(tuple(map(str, as_list(found.get("classes")))), images, _lut(found.get("mask_lut")))


def _image(name: str, entry: dict[str, Any], once: dict[Any, Any]) -> IndexedImage:
    path, mask = (Path(text) if (text := as_text(entry.get(key))) else None for key in ("path", "mask"))
    labels = tuple(map(str, as_list(entry.get("labels"))))
    own = tuple(map(str, as_list(entry["own_labels"]))) if "own_labels" in entry else labels
    labels, own, split = (once.setdefault(x, x) for x in (labels, own, as_text(entry.get("split"))))
    return IndexedImage(name, path, labels, own, split, mask)


def _lut(value: Any) -> np.ndarray | None:
    numbers = [as_count(item) for item in as_list(value)]
    if len(numbers) != 256 or any(number is None or not 0 <= number <= 255 for number in numbers):
        return None
    return np.array(numbers, dtype=np.uint8)
