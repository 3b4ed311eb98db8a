"""The files beside masks that say what their numbers are: for people, for this library and for annotation tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tag2mask.common.files import atomic_write
from tag2mask.data.masks import voc_palette
from tag2mask.data.records import IGNORED
from tag2mask.data.words import BACKGROUND, labelmap_name

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet


def write_class_files(folder: Path | str, classes: Sequence[str], *, background: bool = True) -> None:
    """Write classes.txt, labelmap.txt and classes.csv into a folder of masks, each whole or not at all.

    Masks hold 1..C in the order of `classes`, 0 background (unless there is none) and 255 ignored; colours are those
    of the masks' palette.
    """
    folder = Path(folder)
    _write(folder / "classes.txt", [" ".join(name.split()) for name in classes])
    lines = labelmap_lines(classes)
    _write(folder / "labelmap.txt", lines if background else [lines[0], *lines[2:]])
    write_value_table(folder / "classes.csv", classes, background=background)


def labelmap_lines(classes: Sequence[str]) -> list[str]:
    """The lines of labelmap.txt (NAME:R,G,B::, as CVAT reads it), the background first, in the colours of VOC."""
    names = map(labelmap_name, (BACKGROUND, *classes))
    table = [
        f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(names, class_colours(classes), strict=True)
    ]
    return ["# label:color_rgb:parts:actions", *table]


def class_colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Red, green and blue 0..255 of the background and of each class."""
    return [(int(red), int(green), int(blue)) for red, green, blue in voc_palette()[: len(classes) + 1]]


def write_value_table(path: Path, classes: Sequence[str], *, background: bool = True) -> None:
    """Write a CSV table value,name,red,green,blue of a mask's values, 255 (ignored) last."""
    names = [BACKGROUND, *(" ".join(name.split()) for name in classes), "ignored"]
    rows = zip([*range(len(classes) + 1), IGNORED], names, strict=True)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["value", "name", "red", "green", "blue"])
        table.writerows([v, cell(name), *voc_palette()[v].tolist()] for v, name in rows if v or background)


def cell(text: str) -> str:
    """Return a text that a spreadsheet shows and doesn't calculate: an apostrophe before what would be a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
