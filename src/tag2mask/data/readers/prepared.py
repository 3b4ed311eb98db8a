"""What `tag2mask data prepare` wrote: an index of images, labels and masks that is read in a second."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write, parse_json, read_object
from tag2mask.data.readers import coco, voc
from tag2mask.data.readers.found import HELD_OUT, Folders, Found, Query, Row, check_complete, inside
from tag2mask.data.records import BadFileError

FOLDER = "tag2mask"  # inside the data set's folder
MANIFEST, INDEX = "prepared.json", "index.jsonl"
LOOKS_FOR = f"{FOLDER}/{MANIFEST} (written by 'tag2mask data prepare')"
_KINDS = {"voc": "voc2012", "coco": "coco2014"}  # what an index holds in place of a reader's own files
_AGAIN = "run 'tag2mask data prepare' again"


def matches(root: Path) -> bool:
    """Tell whether `root` is, or holds, what a preparation wrote."""
    return any((folder / MANIFEST).is_file() for folder in (root, root / FOLDER))


def folder_of(root: Path, reader: str = "") -> Path | None:
    """Return the folder with the index: `root`, `root`/tag2mask, or where the preparation writes it, given `root`.

    reader: "voc" or "coco" where only an index of such a set will do.
    """
    kinds = [_KINDS[reader]] if reader else list(_KINDS.values())
    homes = {"voc2012": voc.find_home(root), "coco2014": coco.home_of(root) if coco.matches(root) else None}
    deeper = [home / FOLDER for kind, home in homes.items() if home is not None and kind in kinds]
    for folder in (root, root / FOLDER, *deeper):
        if (folder / MANIFEST).is_file():
            manifest = read_object(folder / MANIFEST)
            whole = root.is_dir() or list(manifest.get("sources", ())) == [root.name]  # not one split's file of two
            if whole and manifest.get("kind") in kinds:
                return folder
    return None


def read(root: Path, query: Query) -> Found:
    """Read a finished index; images that have gone since then are reported."""
    folder = folder_of(root)
    if folder is None:
        raise DataError(f"{root}: no {MANIFEST}; run 'tag2mask data prepare' first")
    manifest = read_object(folder / MANIFEST)
    if not manifest.get("finished"):
        raise BadFileError(folder / MANIFEST, "the preparation was not finished", _AGAIN + ", it goes on from there")
    home = Path(os.path.normpath(folder / manifest["root"]))
    classes = tuple(manifest["classes"])
    found = Found(manifest["name"], known=classes, keep_unlabelled=HELD_OUT, voc_masks=manifest["kind"] == "voc2012")
    images, masks = Folders(home), Folders(folder)
    for number, entry in enumerate(_entries(folder / INDEX), start=1):
        place = f"{INDEX} line {number}"
        actual = images.find(_within(entry["image"], folder, place))
        if actual is None:
            message = f"image '{entry['image']}' is not on disk any more"
            found.report("missing-image", INDEX, f"line {number}", message, _AGAIN)
            continue
        row = Row(
            home / actual,
            actual,
            [classes[label] for label in entry["labels"]],
            entry["split"],
            None,
            INDEX,
            number,
        )
        if entry["mask"] is not None:
            row.mask_path = _mask(_within(entry["mask"], folder, place), home, folder, masks)
        found.rows.append(row)
    check_complete(found, INDEX)
    return found


def _within(name: str, folder: Path, place: str) -> str:
    """Return a path of the index with '/'; BadFileError where it would leave the data set's folder."""
    if name and not name.startswith("/") and not any(part in name for part in ("..", "\\", ":", "\0")):
        return name  # pathlib is slow for 100,000 names
    relative = inside(name)
    if relative is None:
        raise BadFileError(folder / MANIFEST, f"{place}: '{name}' leads out of the data set's folder", _AGAIN)
    return relative


def _mask(name: str, home: Path, folder: Path, made: Folders) -> Path | None:
    """Return a mask's path: "made/..." are those that the preparation rendered, others are the data set's own."""
    if name.startswith("made/"):
        actual = made.find(name.removeprefix("made/"))
        return None if actual is None else folder / actual
    return home / name


def _entries(path: Path) -> Iterable[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                yield parse_json(line, path)
    except (OSError, ValueError) as error:
        raise BadFileError(path, f"can't be read ({error})", _AGAIN) from error


def write_index(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write the index, whole or not at all; each entry has image, labels (numbers), split and mask (or None)."""
    with atomic_write(folder / INDEX) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for entry in entries:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
