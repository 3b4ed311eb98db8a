"""COCO's instances JSON: the labels of an image are the categories of its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.coco_index import CocoIndex, Id, scan_instances
from tag2mask.data.readers.found import HELD_OUT, Folders, Found, Query, Row, check_complete, inside
from tag2mask.data.readers.located import Located
from tag2mask.data.readers.tree import subfolders
from tag2mask.data.records import BadFileError
from tag2mask.data.words import nfc, split_name, split_word

LOOKS_FOR = "annotations/instances_*.json (such as instances_train2014.json), or such a file in each split's folder"
_YEARS = ("2014", "2017")
_USUAL = ("images", "", "JPEGImages")  # folders of images, whatever the file is called
_SNIFFED = 1 << 16  # bytes at either end of a JSON file
_AT_ONCE = 1 << 22  # bytes, where a key is looked for in all of it


@dataclass(frozen=True)
class Source:
    """One instances file: its split, and where its images may lie."""

    path: Path
    split: str
    bases: tuple[str, ...]  # folders below the data set's
    below: str = ""  # the folder in which images may be found by name alone


def matches(root: Path) -> bool:
    """Tell whether `root` holds, or is, an instances file."""
    if root.is_file():
        return root.suffix.lower() == ".json" and (root.name.startswith("instances") or is_coco(root))
    return any(root.glob("annotations/instances*.json")) or bool(_exports(root))


def is_coco(path: Path) -> bool:
    """Tell, mostly by its beginning and end, whether a JSON file lists images, annotations and categories."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_SNIFFED)
            stream.seek(max(0, path.stat().st_size - _SNIFFED))
            ends = head + stream.read(_SNIFFED)
            there = [f'"{key}"'.encode() in ends for key in ("images", "categories")]
            if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or not any(there):
                return False
            return all(there) or _holds(stream, b'"images"' if there[1] else b'"categories"')
    except OSError:
        return False


def _holds(stream: BinaryIO, key: bytes) -> bool:
    """Whether a file holds a key anywhere: some tools write categories between images and annotations."""
    stream.seek(0)
    before = b""
    while part := stream.read(_AT_ONCE):
        if key in before + part:
            return True
        before = part[-len(key) :]
    return False


def read(root: Path, query: Query) -> Found:
    """Read the instances files of one year (2014 before 2017, the paper's choice), or of every split.

    Classes come in the order of the category ids, as is usual for COCO; crowd regions don't count. Images without any
    annotation are negatives, except in COCO's own files, where they are kept only where they are scored (val, test).
    Masks are not rendered here: `tag2mask data prepare coco2014` does that.
    """
    files, home = sources(root), home_of(root)
    found = Found(home.name, keep_unlabelled=HELD_OUT)
    folders = Folders(home)
    indices = [scan_instances(source.path) for source in files]
    categories: dict[Id, str] = {}
    for index in indices:
        merge_categories(categories, index)
    _leave_out_root(found, categories, indices)
    _say_no_split(found, files)
    for source, index in zip(files, indices, strict=True):
        _read_one(found, folders, source, index)
    found.known = ordered_classes(categories)
    found.known_from = f"the categories of {files[0].path.name}"
    check_complete(found, files[0].path.name)
    for name in query.classes or ():
        if name not in found.known:
            raise DataError(f"{files[0].path.name}: no category '{name}'{did_you_mean(name, found.known)}")
    return found


def sources(root: Path) -> list[Source]:
    """Return the instances files at `root`; DataError, naming the right folder where there is one near."""
    exports = [] if root.is_file() or any(root.glob("annotations/instances*.json")) else _exports(root)
    return exports or [_source(path) for path in instance_files(root)]


def _source(path: Path) -> Source:
    split, folder = split_and_folder(path.name)
    home = home_of(path)
    bases = image_bases(folder)
    own = next((base for base in bases[: -len(_USUAL)] if (home / base).is_dir()), "")
    return Source(path, split, bases, own)


def _exports(root: Path) -> list[Source]:
    """Return the files that services export: one in each split's folder, or some beside the images."""
    inner = [(split_name(folder.name), folder) for folder in subfolders(root)]
    found = [
        Source(path, split, (folder.name, f"{folder.name}/images", "images", ""), folder.name)
        for split, folder in inner
        if split
        for path in sorted(folder.glob("*.json"))
        if is_coco(path)
    ]
    if found:
        return found
    paths = [path for place in ("", "annotations") for path in sorted((root / place).glob("*.json")) if is_coco(path)]
    return [_source(path) for path in paths]


def _leave_out_root(found: Found, categories: dict[Id, str], indices: Sequence[CocoIndex]) -> None:
    """Take out a category that owns no annotation and is what the others belong to, as services write it."""
    used = {category for index in indices for category in index.category}
    parents = {number: nfc(parent) for index in indices for number, parent in index.parents.items()}
    for number, name in sorted(categories.items(), key=str):
        below = [other for other, parent in parents.items() if parent == name and other != number]
        if number not in used and below:
            del categories[number]
            message = f"category {number} '{name}' owns no annotation and is the others' supercategory"
            file = indices[0].path.name
            found.report("root-category", file, "", message, "left out of the classes", note=True)


def _say_no_split(found: Found, files: Sequence[Source]) -> None:
    rest = [source.path.name for source in files if not source.split]
    if rest and len(files) > 1:
        message = f"{len(rest)} of {len(files)} files are called as no split is, such as '{rest[0]}'"
        remedy = "if one is for scoring, call it so: instances_val.json"
        found.report("split", found.name, "", message, remedy, note=True)


def home_of(root: Path) -> Path:
    """Return the folder above 'annotations' of a data set given by folder or by instances file."""
    if root.is_dir():
        return root
    return root.parent.parent if root.parent.name == "annotations" else root.parent


def instance_files(root: Path) -> list[Path]:
    """Return the instances files of one year; DataError, naming the right folder where there is one near."""
    if root.is_file():
        return [root]
    paths = sorted(root.glob("annotations/instances*.json"))
    if not paths:
        near = [*root.glob("instances*.json"), *root.parent.glob("annotations/instances*.json")]
        near += [*root.glob("*/annotations/instances*.json"), *root.glob("*/*/annotations/instances*.json")]
        remedy = f"give {near[0].parent.parent} instead" if near else "give the folder above 'annotations'"
        raise DataError(f"{root}: no annotations/instances_*.json; {remedy}")
    for year in _YEARS:
        chosen = [path for path in paths if path.stem.endswith(year)]
        if chosen:
            return chosen
    return paths


def merge_categories(categories: dict[Id, str], index: CocoIndex) -> None:
    """Add a file's categories to those of the files before it; BadFileError when they contradict each other."""
    for number, name in index.categories.items():
        if categories.setdefault(number, nfc(name)) != nfc(name):
            message = f"category {number} is '{name}' here, '{categories[number]}' before"
            raise BadFileError(index.path, message, "use files with the same categories")


def ordered_classes(categories: dict[Id, str]) -> tuple[str, ...]:
    """Return the names in the order of their ids: mask value 1 is the lowest id. Ids of one name are one class."""
    numbers = sorted(categories, key=lambda n: (isinstance(n, str), n))
    return tuple(dict.fromkeys(categories[number] for number in numbers))


def split_and_folder(file: str) -> tuple[str, str]:
    """Return (split, name of the images' folder) of an instances file: "train" and "train2014"."""
    folder = file.removeprefix("instances").removesuffix(".json").lstrip("_")
    return split_name(split_word(folder)) or "", folder


def image_bases(folder: str) -> tuple[str, ...]:
    """Return the folders, below the data set's, in which an instances file's images may lie."""
    named = dict.fromkeys(name for name in (folder, split_word(folder)) if name)
    return (*(base for name in named for base in (name, f"images/{name}")), *_USUAL)


def _read_one(found: Found, folders: Folders, source: Source, index: CocoIndex) -> None:
    file = source.path.name if source.path.parent.name != source.below else f"{source.below}/{source.path.name}"
    for category, count in index.unknown_categories().items():
        message = f"category id {category} of {count} annotation(s) is not among the file's categories"
        found.report("unknown-class", file, "", message, "correct the id or add the category", fatal=True)
    published = any(source.path.stem.endswith(year) for year in _YEARS)
    located = Located.find(folders, (name for _, name, _, _ in index.images), source.bases, source.below)
    located.say(found, file)
    seen: set[Id] = set()
    for number, (image_id, name, _, _) in enumerate(index.images):
        place = f"images[{number}]"
        if image_id in seen:
            message, remedy = f"image id {image_id} comes twice", "only the first counts; make ids unique"
            found.report("duplicate", file, place, message, remedy)
            continue
        seen.add(image_id)
        actual = located.names[name]
        if actual is None:
            _report_missing(found, file, place, name, source.bases, located)
            continue
        known = sorted({nfc(index.categories[c]) for c in index.labels(image_id) if c in index.categories})
        negative = not published and not known and not index.crowded(image_id)
        row = Row(folders.root / actual, actual, known, source.split, None, file, place, negative=negative)
        found.rows.append(row)
    lost = len(index.rows.keys() - seen)
    if lost:
        message = f"annotations name {lost} image id(s) that the file doesn't list"
        found.report("missing-image", file, "", message, "export the file again")


def _report_missing(found: Found, file: str, place: str, name: str, bases: Sequence[str], located: Located) -> None:
    if name in located.why:
        message = f"image '{name}' {located.why[name]}"
        found.report("ambiguous-image", file, place, message, "it is left out; give its path below the folder")
    elif inside(name) is None:
        message = f"image path '{name}' is empty or leaves the dataset's folder"
        found.report("unsafe-path", file, place, message, "give a path below the images' folder")
    else:
        message = f"image '{name}' is not on disk (looked in {', '.join(b or 'the root' for b in bases)})"
        found.report("missing-image", file, place, message, "add the file or delete its entry")
