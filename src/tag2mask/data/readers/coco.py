"""COCO's instances JSON: the labels of an image are the categories of its annotations."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.readers.found import Folders, Found, Query, Row, inside, nfc, split_name
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

    Classes come in the order of the category ids, as is usual for COCO. Masks are not rendered.
    """
    files = [root] if root.is_file() else _files(root)
    home = root if root.is_dir() else root.parent.parent if root.parent.name == "annotations" else root.parent
    found = Found(home.name)
    categories: dict[int, str] = {}
    for path in files:
        content = _load(path)
        for category in content["categories"]:
            if categories.setdefault(category["id"], nfc(category["name"])) != nfc(category["name"]):
                message = (
                    f"category {category['id']} is '{category['name']}' here, '{categories[category['id']]}' before"
                )
                raise BadFileError(path, message, "use files with the same categories")
        _read_one(found, Folders(home), path.name, content)
    found.known = tuple(categories[number] for number in sorted(categories))
    for name in query.classes or ():
        if name not in found.known:
            raise DataError(f"{files[0].name}: no category '{name}'{did_you_mean(name, found.known)}")
    return found


def _files(root: Path) -> list[Path]:
    paths = sorted(root.glob("annotations/instances*.json"))
    if not paths:
        raise DataError(f"{root}: no annotations/instances_*.json; give the folder above 'annotations'")
    for year in _YEARS:
        chosen = [path for path in paths if path.stem.endswith(year)]
        if chosen:
            return chosen
    return paths


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadFileError(path, f"is not valid JSON ({error})", "download or export it again") from error
    if not isinstance(content, dict):
        raise BadFileError(path, "is not a COCO file (no object at the top)", "give an instances file")
    for key, fields in (("images", ("id", "file_name")), ("annotations", ("image_id", "category_id")),
                        ("categories", ("id", "name"))):  # fmt: skip
        entries = content.get(key)
        if not isinstance(entries, list):
            raise BadFileError(path, f"has no list '{key}'", "give an instances file, not captions or results")
        bad = next((i for i, e in enumerate(entries) if not _has(e, fields)), None)
        if bad is not None:
            raise BadFileError(path, f"{key}[{bad}] lacks {' or '.join(fields)}", "repair or export it again")
    return content


def _has(entry: Any, fields: tuple[str, ...]) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), (int, str)) for name in fields)


def _read_one(found: Found, folders: Folders, file: str, content: dict[str, Any]) -> None:
    labels = _labels(found, file, content)
    year_split = file.removeprefix("instances").removesuffix(".json").lstrip("_")
    split = split_name(re.sub(r"\d+$", "", year_split)) or ""
    bases = (year_split, f"images/{year_split}", "images", "", "JPEGImages")
    seen: set[int] = set()
    for number, image in enumerate(content["images"]):
        name, place = str(image["file_name"]), f"images[{number}]"
        if image["id"] in seen:
            message, remedy = f"image id {image['id']} comes twice", "only the first counts; make ids unique"
            found.report("duplicate", file, place, message, remedy)
            continue
        seen.add(image["id"])
        relative = inside(name)
        actual = None if relative is None else folders.find(relative, bases)
        if actual is not None:
            names = sorted(labels.get(image["id"], ()))
            found.rows.append(Row(folders.root / actual, actual, names, split, None, file, place))
        elif relative is None:
            message = f"image path '{name}' is empty or leaves the dataset's folder"
            found.report("unsafe-path", file, place, message, "give a path below the images' folder")
        else:
            message = f"image '{name}' is not on disk (looked in {', '.join(b or 'the root' for b in bases)})"
            found.report("missing-image", file, place, message, "add the file or delete its entry")
    lost = len(labels.keys() - seen)
    if lost:
        message = f"annotations name {lost} image id(s) that the file doesn't list"
        found.report("missing-image", file, "", message, "export the file again")


def _labels(found: Found, file: str, content: dict[str, Any]) -> dict[int, set[str]]:
    names = {category["id"]: nfc(category["name"]) for category in content["categories"]}
    labels: dict[int, set[str]] = defaultdict(set)
    unknown: Counter[int] = Counter()
    for annotation in content["annotations"]:
        if annotation.get("iscrowd"):
            continue
        name = names.get(annotation["category_id"])
        if name is None:
            unknown[annotation["category_id"]] += 1
        else:
            labels[annotation["image_id"]].add(name)
    for category, count in unknown.items():
        message = f"category id {category} of {count} annotation(s) is not among the file's categories"
        found.report("unknown-class", file, "", message, "they are left out; add the category")
    return labels
