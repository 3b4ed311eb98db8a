"""A folder for each class, perhaps under train and val folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.common.files import digest_file
from tag2mask.data.masks import has_one_channel
from tag2mask.data.readers.found import MASK_FOLDERS, Folders, Found, Query, Row
from tag2mask.data.readers.ids import decoded
from tag2mask.data.readers.mask_files import bare_name, give_masks, is_mask_beside, is_mask_folder
from tag2mask.data.readers.tree import is_picture, subfolders, visible_folders, walk, written_by_run
from tag2mask.data.readers.unread import unread_labels
from tag2mask.data.words import natural, nfc, split_name

LOOKS_FOR = "a folder for each class with pictures in it (or such folders under train and val)"
_NOT_CLASSES = frozenset(
    {
        "images",
        "image",
        "img",
        "imgs",
        "jpegimages",
        "jpeg",
        "jpegs",
        "jpg",
        "jpgs",
        "png",
        "photos",
        "pictures",
        "mask",
        "masks",
        "labels",
        "annotations",
    }
)
_IF_CLASSES = "or, if every folder is a class, say so by --set data.reader=folders"


def matches(root: Path) -> bool:
    """Tell whether any folder below `root`, one or two levels down, holds a picture."""
    return root.is_dir() and any(
        _has_picture(inner) for folder in _class_folders(root) for inner in (folder, *_class_folders(folder))
    )


def refuse_other_layouts(root: Path) -> None:
    """Raise DataError where the folders, though pictures lie in them, are probably not classes.

    That is: beside a CSV of another name than labels.csv or labels in a form that isn't read, called images and the
    like, splits and others mixed, or one folder around all others. Reader "folders" skips this.
    """
    inner = _class_folders(root)
    for place in (root, *(folder for folder in inner if split_name(folder.name))):
        tables = sorted(name for name in Folders(place).files("").values() if name.lower().endswith((".csv", ".tsv")))
        if tables and "labels.csv" not in tables:
            other = "give this file instead of the folder, " if place == root else ""
            raise DataError(
                f"{place / tables[0]}: may hold the labels, but only labels.csv (columns image,labels) is read by "
                f"itself; rename it, {other}{_IF_CLASSES}"
            )
    unread = unread_labels(root)
    if unread is not None:
        raise DataError(f"{unread}, {_IF_CLASSES}")
    _refuse_mixed_splits(root, inner)
    filled = [f for _, parent in _split_folders(root) for f in _class_folders(parent) if _holds_picture(f)]
    if filled and all(_is_usual(folder.name) for folder in filled):
        raise DataError(
            f"{filled[0]}: '{filled[0].name}' is no class, nor is any other folder with pictures; write "
            f"{root / 'labels.csv'} (columns image,labels), sort the pictures into a folder for each class, give "
            f"{filled[0]}, if the folders in it are that, {_IF_CLASSES}"
        )
    around = [folder for folder in inner if _holds_picture(folder)]
    if len(around) == 1 and split_name(around[0].name) is None and not _has_picture(around[0]):
        raise DataError(
            f"{root}: only '{around[0].name}' has pictures, and all in further folders; give {around[0]} instead, "
            f"{_IF_CLASSES}"
        )


def _is_usual(name: str) -> bool:
    """Tell a name that folders of pictures have whatever is on them: images, or COCO's train2014."""
    bare = name.rstrip("0123456789")
    return name.casefold() in _NOT_CLASSES or (bare != name and bool(split_name(bare)))


def _refuse_mixed_splits(root: Path, inner: Sequence[Path]) -> None:
    splits = [folder for folder in inner if split_name(folder.name) and _is_split(folder)]
    others = [folder for folder in inner if split_name(folder.name) is None]
    if splits and others:
        raise DataError(
            f"{root}: '{splits[0].name}' is a split and '{others[0].name}' isn't, so these folders are neither all "
            f"splits nor all classes; move '{others[0].name}' elsewhere, {_IF_CLASSES}"
        )


def _is_split(folder: Path) -> bool:
    """Tell a split from VOC's class "train", which has its pictures directly inside."""
    return folder.name.casefold() != "train" or not _has_picture(folder)


def read(root: Path, query: Query) -> Found:
    """Read class folders; folders below a class's folder belong to it."""
    if not root.is_dir():
        raise DataError(f"{root}: is a file; give the folder that holds the class folders")
    found = Found(root.name, voc_masks=(root / "SegmentationClass").is_dir(), ids_by_path=True)
    classes: set[str] = set()
    places: list[Path] = []
    for split, parent in _split_folders(root):
        _report_loose(found, root, parent)
        inner = _class_folders(parent)
        masks = [] if all(is_mask_folder(folder.name) for folder in inner) else _masks_among(found, root, inner)
        places += masks
        for folder in (folder for folder in inner if folder not in masks):
            name = decoded(nfc(folder.name))
            if not query.means_none(name):
                classes.add(name)
            found.rows += _read_class(found, root, folder, name, split)
    found.known, found.known_from = natural(classes), "the folders' names, sorted"
    _report_absent(found, query)
    found.rows = _join_same_files(found, found.rows)
    give_masks(found, Folders(root), found.rows, (*MASK_FOLDERS, *(_relative(root, place) for place in places)))
    return found


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    inner = _class_folders(root)
    splits = [(split_name(folder.name), folder) for folder in inner]
    if inner and all(split is not None for split, _ in splits):
        return [(split or "", folder) for split, folder in splits]
    return [("", root)]


def _class_folders(folder: Path) -> list[Path]:
    """Return the folders that may be classes or splits: no masks, and none that only holds what runs wrote."""
    inner = (path for path in subfolders(folder) if path.name not in MASK_FOLDERS)
    return [path for path in inner if not _holds_runs_only(path)]


def _holds_runs_only(folder: Path) -> bool:
    return any(map(written_by_run, visible_folders(folder))) and not _holds_picture(folder)


def _has_picture(folder: Path) -> bool:
    return any(is_picture(name) for name in Folders(folder).files(""))


def _holds_picture(folder: Path) -> bool:
    return any(is_picture(name) for _, names in walk(folder) for name in names)


def _read_class(found: Found, root: Path, folder: Path, label: str, split: str) -> list[Row]:
    rows = []
    strange: Counter[str] = Counter()
    masks = _masks_inside(folder)
    for place in masks:
        message = f"its pictures are called as those of {_relative(root, folder)}/, so they are taken for their masks"
        remedy = "left out; to be scored, masks of all classes lie in a folder 'masks' beside the classes'"
        found.report("masks", _relative(root, place) + "/", "", message, remedy)
    for parent, names in walk(folder):
        if any(parent.is_relative_to(place) for place in masks):
            continue
        for name in names:
            if is_mask_beside(name, names):
                continue
            if not is_picture(name):
                strange[os.path.splitext(name)[1].lower() or "no suffix"] += 1
                continue
            relative = _relative(root, parent / name)
            rows.append(Row(parent / name, relative, [label], split, None, relative))
    for suffix, count in strange.items():
        remedy = "left out; convert them to JPEG or PNG if they are pictures"
        message = f"{count} file(s) that are not pictures by their name ({suffix})"
        found.report("not-an-image", _relative(root, folder) + "/", "", message, remedy)
    return rows


def _masks_inside(folder: Path) -> list[Path]:
    """The folders below a class's that are called as one of masks and hold pictures of its photos' names."""
    stems: dict[Path, set[str]] = {}  # by folder of masks; the folder itself stands for all photos outside of them
    for parent, names in walk(folder):
        parts = parent.relative_to(folder).parts
        at = next((number for number, part in enumerate(parts, 1) if is_mask_folder(part)), 0)
        place = folder.joinpath(*parts[:at])
        stems.setdefault(place, set()).update(os.path.splitext(name)[0] for name in names if is_picture(name))
    photos = stems.pop(folder, set())
    return [place for place, masks in stems.items() if masks and 2 * len(masks & photos) > len(masks)]


def _masks_among(found: Found, root: Path, inner: Sequence[Path]) -> list[Path]:
    """The folders beside the classes' that are called as one of masks and hold PNGs of the photos' names.

    Where the photos are PNGs too, only PNGs of one channel are certain. Another folder that is called so is a class,
    and asked about.
    """
    called = [folder for folder in inner if is_mask_folder(folder.name)]
    photos = [path for folder in inner if folder not in called for path in _pictures(folder)]
    of_photos = {path.stem for path in photos}
    differs = any(path.suffix.lower() != ".png" for path in photos)
    masks = []
    for folder in called:
        pictures = _pictures(folder)
        own = [p for p in pictures if p.suffix.lower() == ".png" and {p.stem, bare_name(p.stem)} & of_photos]
        place = _relative(root, folder) + "/"
        if 2 * len(own) > len(pictures) and (differs or has_one_channel(own[0])):
            masks.append(folder)
            message = "its PNGs are called as the photos, so they are taken for their masks"
            found.report("masks", place, "", message, "call the folder 'masks'; if it is a class, rename it")
        elif pictures and is_mask_folder(folder.name, alone=True):
            message = "is read as a class, and folders of masks are called so"
            found.report("masks", place, "", message, "if it holds masks, call it 'masks'; if not, rename it")
    return masks


def _pictures(folder: Path) -> list[Path]:
    return [parent / name for parent, names in walk(folder) for name in names if is_picture(name)]


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _report_loose(found: Found, root: Path, parent: Path) -> None:
    loose = [n for n in Folders(parent).files("").values() if is_picture(n)]
    if loose:
        message = f"{len(loose)} picture(s) lie beside the class folders (such as '{loose[0]}')"
        where = _relative(root, parent) if parent != root else root.name
        found.report("no-label", where + "/", "", message, "left out; move them into a class's folder")


def _report_absent(found: Found, query: Query) -> None:
    for name in query.classes or ():
        if name not in (found.known or ()):
            near = did_you_mean(name, found.known or ())
            remedy = "rename the folder, or take the class out of the list"
            found.report("unknown-class", found.name + "/", "", f"class '{name}' has no folder{near}", remedy)


def _join_same_files(found: Found, rows: list[Row]) -> list[Row]:
    """Give an image that lies under the same name and with the same bytes in several classes all their labels.

    Only files of equal name and length are compared, so nothing is opened in the usual case.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.split, _below_class(row)), []).append(row)
    dropped: set[Path] = set()
    for group in groups.values():
        first_of: dict[str, Row] = {}
        for row in group if _equal_lengths(group) else ():
            first = first_of.setdefault(digest_file(row.path), row)
            if first is not row:
                first.names = [*first.names, *row.names]
                dropped.add(row.path)
                message = f"is the same file as {first.relative}"
                remedy = "counted once, with both labels; use a label CSV for images with several labels"
                found.report("duplicate", row.relative, "", message, remedy)
    return [row for row in rows if row.path not in dropped]


def _below_class(row: Row) -> str:
    parts = PurePosixPath(row.relative).parts
    return str(PurePosixPath(*parts[2 if row.split else 1 :]))


def _equal_lengths(group: list[Row]) -> bool:
    lengths = [row.path.stat().st_size for row in group] if len(group) > 1 else []
    return len(set(lengths)) < len(lengths)
