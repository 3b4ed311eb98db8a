"""Names and colours of a mask's values, beside the masks: classes.txt, labelmap.txt and a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tag2mask.common.files import atomic_write
from tag2mask.data.masks import voc_palette
from tag2mask.data.records import IGNORED
from tag2mask.data.words import BACKGROUND, labelmap_name

_FORMULAS = ("=", "+", "-", "@")


def write_class_files(folder: Path, classes: Sequence[str]) -> None:
    """Write classes.txt (line v + 1 names the value v) and labelmap.txt (NAME:R,G,B::, as CVAT reads it)."""
    _write(folder / "classes.txt", [BACKGROUND, *classes])
    _write(folder / "labelmap.txt", labelmap_lines(classes))


def labelmap_lines(classes: Sequence[str]) -> list[str]:
    """The lines of labelmap.txt, the background first, in the colours of PASCAL VOC."""
    names = map(labelmap_name, (BACKGROUND, *classes))
    table = [
        f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(names, class_colours(classes), strict=True)
    ]
    return ["# label:color_rgb:parts:actions", *table]


def class_colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Red, green and blue 0..255 of the background and of each class."""
    return [(int(red), int(green), int(blue)) for red, green, blue in voc_palette()[: len(classes) + 1]]


def write_value_table(path: Path, classes: Sequence[str]) -> None:
    """Write a CSV table value,name,red,green,blue of a mask's values, 255 (ignored) last.

    A name that a spreadsheet would take for a formula has a "'" before it.
    """
    names = [f"'{name}" if name.startswith(_FORMULAS) else name for name in (BACKGROUND, *classes, "ignored")]
    values = [*range(len(classes) + 1), IGNORED]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["value", "name", "red", "green", "blue"])
        table.writerows([value, name, *voc_palette()[value]] for value, name in zip(values, names, strict=True))


def _write(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
