"""An XML file of VOC's kind for each image, beside it or in a folder of annotations, without VOC's lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tag2mask.data.readers.found import MASK_PLACES, Folders, Found, Query, Row
from tag2mask.data.readers.mask_files import give_masks, is_mask_beside
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.readers.voc import object_names
from tag2mask.data.records import BadFileError
from tag2mask.data.words import natural, split_name

LOOKS_FOR = "an XML file for each image (beside it, or in annotations or Annotations)"
_FOLDERS = ("annotations", "Annotations", "xmls", "labels")


def matches(root: Path) -> bool:
    """Tell whether XML files lie beside images or in a folder of annotations."""
    return root.is_dir() and next(_annotated(root), None) is not None


def _annotated(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (image, its XML file)."""
    folders = {name: {p.stem: p for p in (root / name).glob("*.xml")} for name in _FOLDERS if (root / name).is_dir()}
    for parent, names in walk(root):
        if any(part in MASK_PLACES for part in parent.relative_to(root).parts):
            continue
        there = set(names)
        for name in names:
            stem = os.path.splitext(name)[0]
            if not is_picture(name) or is_mask_beside(name, names):
                continue
            own = parent / f"{stem}.xml" if f"{stem}.xml" in there else None
            path = own or next((files[stem] for files in folders.values() if stem in files), None)
            if path is not None:
                yield parent / name, path


def read(root: Path, query: Query) -> Found:
    """Read the names of the objects of every image that has a file; one without objects is a negative."""
    found = Found(root.name, ids_by_path=True, known_from="the annotations' names, sorted")
    for image, path in _annotated(root):
        relative, shown = (p.relative_to(root).as_posix() for p in (image, path))
        split = next((name for part in Path(relative).parts[:-1] if (name := split_name(part))), "")
        try:
            names = object_names(path)
        except BadFileError as error:
            found.report("bad-annotation", shown, "", error.message, error.remedy)
            continue
        found.rows.append(Row(image, relative, names, split, None, relative, "", shown, negative=not names))
    found.known = natural({name for row in found.rows for name in row.names if not query.means_none(name)}) or None
    give_masks(found, Folders(root), found.rows)
    return found
