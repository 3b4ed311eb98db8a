"""An XML file of VOC's kind for each image, beside it or in a folder of annotations, without VOC's lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tag2mask.data.readers.found import MASK_PLACES, Folders, Found, Query, Row, names_of
from tag2mask.data.readers.mask_files import give_masks, is_mask_beside
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.readers.voc import object_names
from tag2mask.data.records import BadFileError
from tag2mask.data.words import natural, split_name

LOOKS_FOR = "an XML file for each image (beside it, or in annotations or Annotations)"
_FOLDERS = ("annotations", "Annotations", "xmls", "xml", "labels")


def matches(root: Path) -> bool:
    """Tell whether XML files lie beside images or in a folder of annotations."""
    return root.is_dir() and any(path is not None for _, path in _annotated(root))


def _annotated(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield (image, its XML file, if it has one)."""
    listed = _files_by_name(root)
    images = list(_images(root))
    alone = Counter(image.stem for image, _ in images)  # a file of a bare name is that of the only image called so
    for image, beside in images:
        whole, below, name = names_of(image.relative_to(root).as_posix())
        tried = (whole, below, *([name] if alone[name] == 1 else []))
        yield image, beside or next((listed[one] for one in tried if one in listed), None)


def _files_by_name(root: Path) -> dict[str, Path]:
    """The XML files in folders of annotations by their path there without suffix; by name alone where it is one's."""
    found: dict[str, Path] = {}
    for folder in (root / name for name in reversed(_FOLDERS) if (root / name).is_dir()):
        paths = sorted(folder.rglob("*.xml"))
        alone = Counter(path.stem for path in paths)
        found |= {path.stem: path for path in paths if alone[path.stem] == 1}
        found |= {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    return found


def _images(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield (image, the XML file beside it); masks aren't images."""
    for parent, names in walk(root):
        if any(part in MASK_PLACES for part in parent.relative_to(root).parts):
            continue
        there = set(names)
        for name in names:
            if is_picture(name) and not is_mask_beside(name, names):
                own = f"{os.path.splitext(name)[0]}.xml"
                yield parent / name, parent / own if own in there else None


def read(root: Path, query: Query) -> Found:
    """Read the names of the objects of every image that has a file; one without objects is a negative."""
    found = Found(root.name, ids_by_path=True, known_from="the annotations' names, sorted")
    for image, path in _annotated(root):
        relative = image.relative_to(root).as_posix()
        if path is None:
            message = f"image '{relative}' has no XML file"
            remedy = "the image is left out; write one, without objects where it shows none"
            found.report("no-label", relative, "", message, remedy)
            continue
        shown = path.relative_to(root).as_posix()
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
