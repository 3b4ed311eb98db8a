"""index.json: where a run's photos and true masks are, and their tags, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.values import as_count, as_dict, as_list, as_text
from tag2mask.data import Dataset, ImageRecord


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


def index_of(parts: Sequence[Dataset]) -> dict[str, Any]:
    """What index.json says of a run's data sets: training and held-out images."""
    images = {
        record.id: {
            "path": str(record.path),
            "labels": [dataset.classes[label] for label in record.labels],
            **_own_labels(record, dataset),
            "split": record.split,
            "mask": str(record.mask_path) if record.mask_path else None,
        }
        for dataset in parts
        for record in dataset.records
    }
    lut = [int(value) for value in parts[0].mask_lut]
    return {"classes": list(parts[0].classes), "images": images, "mask_lut": lut}


def _own_labels(record: ImageRecord, dataset: Dataset) -> dict[str, list[str]]:
    own = dataset.own_labels.get(record.id)
    return {} if own is None else {"own_labels": [dataset.classes[label] for label in own]}


def parse_index(value: Any) -> Index:
    """Read the value of an index.json, as far as it is one."""
    found = as_dict(value)
    images = {name: _image(name, as_dict(entry)) for name, entry in as_dict(found.get("images")).items()}
    return Index(tuple(map(str, as_list(found.get("classes")))), images, _lut(found.get("mask_lut")))


def _image(name: str, entry: dict[str, Any]) -> IndexedImage:
    path, mask = (Path(text) if (text := as_text(entry.get(key))) else None for key in ("path", "mask"))
    labels = tuple(map(str, as_list(entry.get("labels"))))
    own = tuple(map(str, as_list(entry["own_labels"]))) if "own_labels" in entry else labels
    return IndexedImage(name, path, labels, own, as_text(entry.get("split")), mask)


def _lut(value: Any) -> np.ndarray | None:
    numbers = [as_count(item) for item in as_list(value)]
    if len(numbers) != 256 or any(number is None or not 0 <= number <= 255 for number in numbers):
        return None
    return np.array(numbers, dtype=np.uint8)
