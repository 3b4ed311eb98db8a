"""Names and colours of a mask's values, beside the masks: classes.txt and labelmap.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tag2mask.common.files import atomic_write
from tag2mask.data.masks import voc_palette

BACKGROUND = "background"


def write_class_files(folder: Path, classes: Sequence[str]) -> None:
    """Write classes.txt (line v + 1 names the value v) and labelmap.txt (NAME:R,G,B::, as CVAT reads it).

    A ':' in a name, which separates fields there, becomes a space in labelmap.txt.
    """
    names = [BACKGROUND, *classes]
    colours = [",".join(str(int(part)) for part in colour) for colour in voc_palette()[: len(names)]]
    table = [
        f"{' '.join(name.replace(':', ' ').split())}:{colour}::" for name, colour in zip(names, colours, strict=True)
    ]
    _write(folder / "classes.txt", names)
    _write(folder / "labelmap.txt", ["# label:color_rgb:parts:actions", *table])


def _write(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
