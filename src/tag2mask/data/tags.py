"""Tags of photos that a network is to segment: a label table, with the columns image,labels or a column a class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.readers.found import Found
from tag2mask.data.readers.labels import split_labels
from tag2mask.data.readers.tables import Entry, read_table
from tag2mask.data.records import BadFileError, Dataset, Problem, changed
from tag2mask.data.words import is_negative, nfc

_SHOWN = 5
Tags = Mapping[str, tuple[int, ...]]  # sorted class indices by what the file calls the image


def read_tags(path: Path, classes: Sequence[str]) -> Tags:
    """Read a tags file; DataError names file, line and value for a name that isn't one of the network's classes."""
    if not path.is_file():
        raise BadFileError(path, "does not exist", "make it, with the columns image,labels")
    tags: dict[str, tuple[int, ...]] = {}
    position = {nfc(name): index for index, name in enumerate(classes)}
    columns, entries = read_table(path, Found(path.name))
    for entry in (entry for entry in entries if not entry.absent):
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

    A row is of the photo with its path below `root`, with or without suffix, else of the only one with its name. What
    is of no photo is told among the set's problems. A photo that isn't listed isn't `told`, and may then have any
    label; one that is listed without a tag shows none of the classes.
    """
    base = root.parent if root.is_file() else root
    by_name = _by_name([PurePosixPath(record.path.relative_to(base).as_posix()) for record in photos.records])
    found: dict[int, set[int]] = {}
    unused = []
    for name, labels in tags.items():
        places = next((names[name] for names in by_name if name in names), [])
        if len(places) == 1:
            found.setdefault(places[0], set()).update(labels)
        else:
            unused.append(f"{name} (a name of {len(places)} photos)" if places else name)
    if not found:
        first = photos.records[0].path.name
        raise DataError(f"{source}: lists none of the {len(photos.records)} photos in {root}, e.g. {first}")
    records = [
        changed(record, labels=tuple(sorted(found.get(place, ()))), told=place in found)
        for place, record in enumerate(photos.records)
    ]
    problems = photos.problems
    if unused:
        message = f"{len(unused)} row(s) are of no photo there: {', '.join(unused[:_SHOWN])}"
        remedy = f"give paths below {base.name}, and delete rows without a photo"
        problems = (*problems, Problem("unused-row", source, "", message, remedy))
    return replace(photos, records=tuple(records), problems=problems)


def _by_name(paths: Sequence[PurePosixPath]) -> list[dict[str, list[int]]]:
    """The places of photos by each of the ways to name them, the most exact first."""
    ways: list[dict[str, list[int]]] = [{}, {}, {}, {}]
    for place, path in enumerate(paths):
        for names, name in zip(ways, (str(path), str(path.with_suffix("")), path.name, path.stem), strict=True):
            names.setdefault(nfc(name), []).append(place)
    return ways
