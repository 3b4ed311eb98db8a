"""COCO's instances JSON: the labels of an image are the categories of its annotations."""

from __future__ import annotations

import re
from pathlib import Path

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.coco_index import CocoIndex, Id, scan_instances
from tag2mask.data.readers.found import HELD_OUT, Folders, Found, Query, Row, check_complete, inside, nfc, split_name
from tag2mask.data.records import BadFileError

LOOKS_FOR = "annotations/instances_*.json (such as instances_train2014.json)"
_YEARS = ("2014", "2017")


def matches(root: Path) -> bool:
    """Tell whether `root` holds, or is, an instances file."""
    if root.is_file():
        return root.suffix.lower() == ".json" and root.name.startswith("instances")
    return any(root.glob("annotations/instances*.json"))


def read(root: Path, query: Query) -> Found:
    """Read the instances files of one year (2014 before 2017, the paper's choice); crowd regions don't count.

    Classes come in the order of the category ids, as is usual for COCO. Images without any label are kept where they
    are only scored (val, test). Masks are not rendered here: `tag2mask data prepare coco2014` does that.
    """
    files = instance_files(root)
    home = home_of(root)
    found = Found(home.name, keep_unlabelled=HELD_OUT)
    folders = Folders(home)
    categories: dict[Id, str] = {}
    for path in files:
        index = scan_instances(path)
        merge_categories(categories, index)
        _read_one(found, folders, index)
    found.known = ordered_classes(categories)
    check_complete(found, files[0].name)
    for name in query.classes or ():
        if name not in found.known:
            raise DataError(f"{files[0].name}: no category '{name}'{did_you_mean(name, found.known)}")
    return found


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
    """Return the names in the order of their ids: mask value 1 is the lowest id."""
    return tuple(categories[number] for number in sorted(categories, key=lambda n: (isinstance(n, str), n)))


def split_and_folder(file: str) -> tuple[str, str]:
    """Return (split, name of the images' folder) of an instances file: "train" and "train2014"."""
    folder = file.removeprefix("instances").removesuffix(".json").lstrip("_")
    return split_name(re.sub(r"\d+$", "", folder)) or "", folder


def image_bases(folder: str) -> tuple[str, ...]:
    """Return the folders, below the data set's, in which an instances file's images may lie."""
    return (folder, f"images/{folder}", "images", "", "JPEGImages")


def _read_one(found: Found, folders: Folders, index: CocoIndex) -> None:
    file = index.path.name
    for category, count in index.unknown_categories().items():
        message = f"category id {category} of {count} annotation(s) is not among the file's categories"
        found.report("unknown-class", file, "", message, "correct the id or add the category", fatal=True)
    split, folder = split_and_folder(file)
    bases = image_bases(folder)
    seen: set[Id] = set()
    for number, (image_id, name, _, _) in enumerate(index.images):
        place = f"images[{number}]"
        if image_id in seen:
            message, remedy = f"image id {image_id} comes twice", "only the first counts; make ids unique"
            found.report("duplicate", file, place, message, remedy)
            continue
        seen.add(image_id)
        relative = inside(name)
        actual = None if relative is None else folders.find(relative, bases)
        if actual is not None:
            known = sorted(nfc(index.categories[c]) for c in index.labels(image_id) if c in index.categories)
            found.rows.append(Row(folders.root / actual, actual, known, split, None, file, place))
        elif relative is None:
            message = f"image path '{name}' is empty or leaves the dataset's folder"
            found.report("unsafe-path", file, place, message, "give a path below the images' folder")
        else:
            message = f"image '{name}' is not on disk (looked in {', '.join(b or 'the root' for b in bases)})"
            found.report("missing-image", file, place, message, "add the file or delete its entry")
    lost = len(index.rows.keys() - seen)
    if lost:
        message = f"annotations name {lost} image id(s) that the file doesn't list"
        found.report("missing-image", file, "", message, "export the file again")
