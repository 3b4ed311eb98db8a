"""The files that say which classes there are, in which order, and which value or colour each has in a mask."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from tag2mask.common.errors import DataError
from tag2mask.common.yaml_files import as_written, parse_yaml
from tag2mask.data.records import IGNORED, MAX_CLASSES, BadFileError
from tag2mask.data.text import read_text, table_rows
from tag2mask.data.words import BACKGROUND, is_background, is_ignored, labelmap_name, nfc, plain

Colour = tuple[int, int, int]
LISTS = ("classes.txt", "class_names.txt", "labels.txt", "obj.names")
LABELMAPS = ("labelmap.txt", "label_map.txt", "class_dict.csv")
YAMLS = ("data.yaml", "data.yml")
VALUE_TABLES = ("_classes.csv", "classes.csv")  # value,name[,red,green,blue]
PLACES = ("masks", "segmentationclass", "labels", "annotations")
_NUMBERED = re.compile(r"(\d+)(?:\s*[\s:,;=\t]\s*|[.)]\s+)(.+)")
_PICTURE = re.compile(r"\.(jpe?g|png|bmp|gif|tiff?|webp)\b", re.IGNORECASE)
_MEANINGS = {BACKGROUND: 0, "ignored": IGNORED}


@dataclass(frozen=True)
class ClassList:
    """The classes in order, and how masks show them."""

    names: tuple[str, ...]  # without background
    source: str  # the file's name
    # of a mask value: its class, "background" or "ignored"
    values: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[Colour, int] = field(default_factory=dict)  # colour in a mask -> its value
    # as label files count the names: from 0, or as the file numbers them, with background and what is ignored
    numbered: Mapping[int, str] = field(default_factory=dict)
    # the numbers that the file itself gives; {} for mere lists
    stated: Mapping[int, str] = field(default_factory=dict)


def lut_of(values: Mapping[int, str], classes: Iterable[str], *, background: bool = True) -> list[int]:
    """Return, for mask values 0..255, 0 background, 1..C of `classes` or 255; unnamed values are 255.

    Names that aren't in `classes` become background; without `background`, both they and value 0 are ignored.
    """
    position = {name: index + 1 for index, name in enumerate(classes)}
    nothing = 0 if background else IGNORED
    lut = [nothing] + [IGNORED] * 255
    for value, name in values.items():
        lut[value] = position.get(name, _MEANINGS.get(name, 0)) or nothing
    return lut


def find_class_list(root: Path) -> ClassList | None:
    """Return the first class list at `root` or where tools put it: a list, a label map, a table, data.yaml.

    Raises BadFileError for a file that can't be used, DataError where two files contradict each other.
    """
    files = _class_files(root)
    listed = next((found for path in files if _is(path, LISTS) and (found := read_list(path))), None)
    mapped = next((read_labelmap(path) for path in files if _is(path, LABELMAPS)), None)
    if listed and mapped and tuple(map(labelmap_name, listed.names)) != tuple(map(labelmap_name, mapped.names)):
        raise DataError(
            f"{root}: {listed.source} says {', '.join(listed.names[:4])} and {mapped.source} says "
            f"{', '.join(mapped.names[:4])}; classes have one order: make them equal, or delete one"
        )
    if listed or mapped:
        return listed or mapped
    tables = (found for path in files if _is(path, VALUE_TABLES) and (found := read_value_table(path)))
    return next(tables, None) or next((read_yaml(path) for path in files if _is(path, YAMLS)), None)


def _is(path: Path, names: tuple[str, ...]) -> bool:
    return path.name.casefold() in names


def _class_files(root: Path) -> list[Path]:
    """Return the files at `root` and in the usual places below that may name classes, in the order of their kinds."""
    kinds = (*LISTS, *LABELMAPS, *VALUE_TABLES, *YAMLS)
    try:
        there = {name.casefold(): name for name in sorted(os.listdir(root))}
    except OSError:
        return []
    found = [root / there[name] for name in kinds if name in there]
    deeper = [root / there[place] / name for place in PLACES if place in there for name in kinds]
    return [path for path in (*found, *deeper) if path.is_file()]


def read_list(path: Path) -> ClassList | None:
    """Read a name a line, perhaps numbered, perhaps with the background first; None where these are no classes."""
    lines = [nfc(line.strip().rstrip(",;").strip("\"'")) for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if not lines or any(_PICTURE.search(line) or "\0" in line for line in lines) or len(lines) > MAX_CLASSES + 2:
        return None
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(lines) and numbers[0] in (0, 1) and numbers == sorted(set(numbers)):
        return _of_numbers(path, {int(match[1]): match[2].strip() for match in numbered if match})
    return of_names(path.name, dict(enumerate(lines)), path)


def of_names(source: str, numbered: Mapping[int, str], path: Path, *, stated: bool = False) -> ClassList:
    """Return the list of classes whose masks hold 1..C in this order; `stated`: the file gives the numbers."""
    kept = [name for name in numbered.values() if not is_background(name) and not is_ignored(name)]
    values = dict(enumerate(kept, start=1))
    return ClassList(_checked(path, kept), source, values, numbered=numbered, stated=numbered if stated else {})


def _of_numbers(path: Path, names: Mapping[int, str]) -> ClassList:
    """Numbers are mask values where they leave 0 to the background; else they count from 0 and masks from 1."""
    if 0 in names and not any(map(is_background, names.values())):
        return of_names(path.name, names, path, stated=True)
    if max(names) > IGNORED:
        raise BadFileError(path, f"has the value {max(names)}", "masks hold 0..255")
    values = {number: _meaning(name) for number, name in names.items()}
    kept = [name for name in values.values() if name not in _MEANINGS]
    numbered = names if 0 in names else dict(enumerate(names.values()))
    return ClassList(_checked(path, kept), path.name, values, numbered=numbered, stated=names)


def _meaning(name: str) -> str:
    return BACKGROUND if is_background(name) else "ignored" if is_ignored(name) else name


def _checked(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    kept = tuple(names)
    repeated = next((name for name in kept if kept.count(name) > 1), None)
    if repeated is not None:
        raise BadFileError(path, f"names '{repeated}' twice", "name each class once")
    if not kept:
        raise BadFileError(path, "names no class", "write a name a line, or delete the file")
    return kept


def read_labelmap(path: Path) -> ClassList:
    """Read `name:red,green,blue:...` a line (CVAT) or name,red,green,blue a row; values are 1..C in this order."""
    rows = list(_table_colours(path) if path.suffix.lower() == ".csv" else _labelmap_colours(path))
    names, colours = [], {}
    for place, name, colour in rows:
        if colour in colours:
            raise BadFileError(path, f"{place}: the colour {colour} is another class's too", "give each its own")
        meaning = _meaning(name)
        if meaning not in _MEANINGS:
            names.append(name)
        colours[colour] = _MEANINGS.get(meaning, len(names))
    kept = _checked(path, names)
    return ClassList(kept, path.name, dict(enumerate(kept, start=1)), colours)


def _labelmap_colours(path: Path) -> Iterable[tuple[str, str, Colour]]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        text = line.strip()
        name, _, rest = text.partition(":")
        if not text or (text.startswith("#") and not rest[:1].isdecimal()):  # else a class whose name begins so
            continue
        yield f"line {number}", nfc(name.strip()), _colour(path, number, rest.partition(":")[0].split(","))


def _table_colours(path: Path) -> Iterable[tuple[str, str, Colour]]:
    for number, (line, cells) in enumerate(table_rows(path)):
        if number or cells[1].isdecimal():
            yield f"line {line}", nfc(cells[0]), _colour(path, line, cells[1:4])


def _colour(path: Path, line: int, parts: list[str]) -> Colour:
    numbers = [int(part) for part in map(str.strip, parts) if part.isdecimal()]
    if len(parts) != 3 or len(numbers) != 3 or max(numbers) > 255:
        shown = ",".join(parts)
        raise BadFileError(path, f"line {line}: '{shown}' is no colour", "write name:red,green,blue:: with 0..255")
    return numbers[0], numbers[1], numbers[2]


def read_value_table(path: Path) -> ClassList | None:
    """Read a table of mask values and names ("Pixel Value, Class"); None for a table of something else."""
    rows = list(table_rows(path))
    head = [plain(cell) for cell in rows[0][1]] if rows else []
    if len(head) < 2 or head[0] not in ("pixel value", "value", "id", "index") or head[1] not in _NAME_HEADS:
        return None
    names = {}
    for line, cells in rows[1:]:
        if len(cells) < 2 or not cells[0].isdecimal() or int(cells[0]) > IGNORED:
            raise BadFileError(path, f"line {line}: '{cells[0]}' is no mask value", "write value,name with 0..255")
        names[int(cells[0])] = nfc(cells[1].removeprefix("'"))
    return _of_numbers(path, names)


_NAME_HEADS = ("class", "name", "label", "class name")


def read_yaml(path: Path) -> ClassList:
    """Read the `names` of a data.yaml: a list, or names by number."""
    return of_yaml(path, load_yaml_mapping(path).get("names"))


def of_yaml(path: Path, names: object) -> ClassList:
    """Return the classes of data.yaml's `names`; with the background among them numbers are mask values."""
    listed = list(names) if isinstance(names, list) else None
    by_number = dict(enumerate(listed)) if listed is not None else names
    if not isinstance(by_number, dict) or not all(str(key).isdecimal() for key in by_number):
        raise BadFileError(path, "has no list 'names'", "write names: [cat, dog], or names by number")
    ordered = sorted((int(key), nfc(str(name).strip())) for key, name in by_number.items())
    if any(is_background(name) for _, name in ordered):
        return _of_numbers(path, dict(ordered))
    return of_names(path.name, dict(ordered), path, stated=listed is None)


def load_yaml_mapping(path: Path) -> dict[str, object]:
    """Read a YAML mapping of data; BadFileError for anything else."""
    try:
        values, node = parse_yaml(read_text(path))
    except (yaml.YAMLError, ValueError) as error:
        raise BadFileError(path, f"is not valid YAML ({' '.join(str(error).split())})", "repair it") from error
    if not isinstance(values, dict):
        raise BadFileError(path, "is no mapping", "write names: and train: lines")
    names = as_written(node, "names")
    return values if names is None else {**values, "names": names}


def colours_beside(mask: Path) -> Mapping[Colour, int]:
    """Return what the label map beside a mask's folder, or in it, says of colours; {} without one."""
    for folder in mask.absolute().parents[:3]:
        for name in LABELMAPS:
            try:
                changed = (folder / name).stat().st_mtime_ns
            except OSError:
                continue
            return _colours_of(folder / name, changed)
    return {}


@lru_cache(maxsize=16)
def _colours_of(path: Path, changed: int) -> Mapping[Colour, int]:
    return read_labelmap(path).colours
