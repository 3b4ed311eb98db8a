"""What an instances file of COCO lists, without the outlines: these stay in the file, found again by their place."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag2mask.data.json_stream import stream_json
from tag2mask.data.records import BadFileError

_FIELDS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
Id = int | str


@dataclass
class CocoIndex:
    """Images, categories and annotations of one instances file; some 30 bytes an annotation."""

    path: Path
    images: list[tuple[Id, str, int, int]] = field(default_factory=list)  # id, file name, height, width (0: not said)
    categories: dict[Id, str] = field(default_factory=dict)  # id -> name
    parents: dict[Id, str] = field(default_factory=dict)  # id -> name of the supercategory, where one is said
    rows: dict[Id, array[int]] = field(default_factory=dict)  # image id -> numbers of its annotations
    category: list[Id] = field(default_factory=list)  # of each annotation, as are the following
    crowd: bytearray = field(default_factory=bytearray)
    start: array[int] = field(default_factory=lambda: array("q"))  # byte offset in the file
    length: array[int] = field(default_factory=lambda: array("q"))  # bytes

    def add_annotation(self, value: dict[str, Any], start: int, length: int) -> None:
        """Note one annotation and where it stands in the file."""
        self.rows.setdefault(value["image_id"], array("q")).append(len(self.category))
        self.category.append(value["category_id"])
        self.crowd.append(value.get("iscrowd") not in (None, 0, "", "0", "false", "False"))  # some write it as text
        self.start.append(start)
        self.length.append(length)

    def labels(self, image: Id) -> set[Id]:
        """Return the categories of an image's annotations, crowd regions left out."""
        return {self.category[row] for row in self.rows.get(image, ()) if not self.crowd[row]}

    def crowded(self, image: Id) -> bool:
        """Tell an image that has crowd regions: without other annotations it isn't one without any class."""
        return any(self.crowd[row] for row in self.rows.get(image, ()))

    def unknown_categories(self) -> dict[Id, int]:
        """Return {category id that the file doesn't define: number of its annotations}, crowd regions left out."""
        counts: dict[Id, int] = {}
        for category, crowd in zip(self.category, self.crowd, strict=True):
            if not crowd and category not in self.categories:
                counts[category] = counts.get(category, 0) + 1
        return counts


def scan_instances(path: Path) -> CocoIndex:
    """Go through an instances file once; memory stays far below the file's size.

    Raises BadFileError for what isn't a whole instances file, naming the entry.
    """
    index = CocoIndex(path)
    lists = set()
    for key, number, value, start, length in stream_json(path, tuple(_FIELDS)):
        if number < 0:
            lists.add(key)
            continue
        _check(path, key, number, value)
        if key == "images":
            height, width = (value.get(side) for side in ("height", "width"))
            index.images.append((value["id"], str(value["file_name"]), _side(height), _side(width)))
        elif key == "categories":
            before = index.categories.setdefault(value["id"], str(value["name"]))
            if before != str(value["name"]):
                message = f"categories[{number}]: id {value['id']} is '{value['name']}' here, '{before}' before"
                raise BadFileError(path, message, "give each category an id of its own")
            index.parents[value["id"]] = str(value.get("supercategory") or "")
        else:
            index.add_annotation(value, start, length)
    for key in _FIELDS:
        if key not in lists:
            raise BadFileError(path, f"has no list '{key}'", "give an instances file, not captions or results")
    return index


def _check(path: Path, key: str, number: int, value: Any) -> None:
    fields = _FIELDS[key]
    if not isinstance(value, dict) or not all(isinstance(value.get(name), (int, str)) for name in fields):
        raise BadFileError(path, f"{key}[{number}] lacks {' or '.join(fields)}", "repair or export it again")


def _side(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
