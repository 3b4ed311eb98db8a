"""The files beside masks that say what their numbers are: for people, for this library and for annotation tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tag2mask.common.files import atomic_write
from tag2mask.data.classes import labelmap_name
from tag2mask.data.masks import voc_palette
from tag2mask.data.records import IGNORED
from tag2mask.data.words import BACKGROUND

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet


def write_class_files(folder: Path | str, classes: Sequence[str], *, background: bool = True) -> None:
    """Write classes.txt, labelmap.txt and classes.csv (value,name,red,green,blue) into a folder of masks.

    Masks hold 1..C in the order of `classes`, 0 background (unless there is none) and 255 ignored; colours are those of
    the masks' palette. Each file is written whole or not at all.
    """
    folder, palette = Path(folder), voc_palette().tolist()
    names = [" ".join(name.split()) for name in classes]
    _write(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    numbered = [(0, BACKGROUND)] if background else []
    numbered += list(enumerate(names, start=1))
    lines = [f"{labelmap_name(name)}:{','.join(map(str, palette[value]))}::\n" for value, name in numbered]
    _write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))
    with atomic_write(folder / "classes.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["value", "name", "red", "green", "blue"])
        table.writerows([value, cell(name), *palette[value]] for value, name in [*numbered, (IGNORED, "ignored")])


def cell(text: str) -> str:
    """Return a text that a spreadsheet shows and doesn't calculate: an apostrophe before what would be a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
