"""Tags of photos that a network is to segment: a label table, with the columns image,labels or a column a class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.readers.found import Found
from tag2mask.data.readers.labels import split_labels
from tag2mask.data.readers.tables import Entry, read_table
from tag2mask.data.records import BadFileError, Dataset
from tag2mask.data.words import is_negative, nfc

Tags = Mapping[str, tuple[int, ...]]  # sorted class indices by what the file calls the image


def read_tags(path: Path, classes: Sequence[str]) -> Tags:
    """Read a tags file; DataError names file, line and value for a name that isn't one of the network's classes."""
    if not path.is_file():
        raise BadFileError(path, "does not exist", "make it, with the columns image,labels")
    tags: dict[str, tuple[int, ...]] = {}
    position = {nfc(name): index for index, name in enumerate(classes)}
    columns, entries = read_table(path, Found(path.name))
    for entry in entries:
        names = [
            name for name in _names(entry, position) if name in position or name not in columns.taken_for_classes
        ]
        for name in names:
            if name not in position and not is_negative(name):
                near = did_you_mean(name, position)
                raise DataError(f"{path.name} {entry.place}: the network knows no class '{name}'{near}")
        image = nfc(entry.image.replace("\\", "/"))
        found = {position[name] for name in names if name in position}
        tags[image] = tuple(sorted(found | set(tags.get(image, ()))))
    return tags


def _names(entry: Entry, known: Collection[str]) -> Sequence[str]:
    if entry.one_hot is not None:
        return entry.one_hot
    return [name for cell in entry.labels for name in split_labels(cell, known)]


def with_tags(photos: Dataset, root: Path, tags: Tags, source: str) -> Dataset:
    """Return the photos, which lie below `root`, with their tags; DataError where none of them is in the file.

    A photo is looked up by its path below `root`, with and without suffix, then by its name alone. One that isn't
    listed isn't `told`, and may then have any label; one that is listed without a tag shows none of the classes.
    """
    base = root.parent if root.is_file() else root
    found = [_looked_up(PurePosixPath(record.path.relative_to(base).as_posix()), tags) for record in photos.records]
    records = [
        replace(record, labels=labels or (), told=labels is not None)
        for record, labels in zip(photos.records, found, strict=True)
    ]
    if not any(record.told for record in records):
        raise DataError(f"{source}: lists none of the {len(records)} photos in {root}, e.g. {records[0].path.name}")
    return replace(photos, records=tuple(records))


def _looked_up(path: PurePosixPath, tags: Tags) -> tuple[int, ...] | None:
    for name in (str(path), str(path.with_suffix("")), path.name, path.stem):
        if nfc(name) in tags:
            return tags[nfc(name)]
    return None
