"""YOLO's folders: images, a text file of boxes or polygons for each, and data.yaml with the classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tag2mask.common.errors import DataError
from tag2mask.data.classes import ClassList, find_class_list, load_yaml_mapping, of_yaml
from tag2mask.data.readers.found import Folders, Found, Query, Row, inside
from tag2mask.data.readers.mask_files import give_masks
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.records import BadFileError
from tag2mask.data.words import is_background, split_name

LOOKS_FOR = "data.yaml (or classes.txt) with folders images and labels, a text file for each image"
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml")
_SPLITS = ("train", "val", "valid", "test")


def matches(root: Path) -> bool:
    """Tell whether there are label files: a folder 'labels' with text files of numbers."""
    if root.is_file():
        return root.suffix.lower() in (".yaml", ".yml")
    return _label_file(root) is not None and (_yaml(root) is not None or find_class_list(root) is not None)


def _yaml(root: Path) -> Path | None:
    return next((root / name for name in _YAMLS if (root / name).is_file()), None)


def _label_file(root: Path) -> Path | None:
    """Return a text file of labels of the usual places."""
    for pattern in ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt"):
        for path in root.glob(pattern):
            if path.name != "classes.txt":
                return path
    return None


def read(root: Path, query: Query) -> Found:
    """Read the tags of every image from the first field of each line of its label file.

    An image whose file is empty or missing is a negative, as YOLO takes it; missing ones are counted.
    """
    home = root.parent if root.is_file() else root
    path = root if root.is_file() else _yaml(home)
    settings = load_yaml_mapping(path) if path is not None else {}
    listed = of_yaml(path, settings.get("names")) if path is not None else find_class_list(home)
    if listed is None:
        raise DataError(f"{home}: no data.yaml and no classes.txt names the classes; write one")
    found = Found(home.name, ids_by_path=True, known=listed.names, known_from=listed.source)
    images = list(_images(found, home, settings)) if path is not None else []
    images = images or [(split_name(_part(rel)) or "", rel) for rel in _pictures(home, "")]
    files = {relative: _labels_of(home, relative) for _, relative in images}
    users = Counter(files[relative] for relative in {os.path.splitext(name)[0]: name for name in files}.values())
    missing: Counter[str] = Counter()
    seen: set[str] = set()
    again = 0
    for split, relative in images:
        if relative in seen:  # where a set has no val, data.yaml names train twice
            again += 1
            continue
        row = Row(home / relative, relative, [], split, None, relative)
        labels = files[relative]
        if labels is not None and users[labels] > 1:
            message = f"label file '{labels}' may be that of {users[labels]} images, one of them '{relative}'"
            remedy = "left out; put label files under the images' paths (labels/train/1.txt)"
            found.report("bad-annotation", labels, "", message, remedy)
            continue
        if labels is None:
            missing[split] += 1
            row.negative = True
        elif not _fill(found, row, home / labels, labels, listed):
            continue
        seen.add(relative)
        found.rows.append(row)
    if 0 < again < len(seen):
        message = f"{again} image(s) are listed more than once, as in two splits"
        found.report("duplicate", found.name, "data.yaml", message, "only the first counts; list each once")
    _say_missing(found, missing)
    give_masks(found, Folders(home), found.rows)
    return found


def _part(relative: str) -> str:
    """Return the folder of a path that is called as a split, "" without one."""
    return next((part for part in PurePosixPath(relative).parts[:-1] if split_name(part)), "")


def _images(found: Found, home: Path, settings: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield (split, image) for what the YAML file's train, val and test name."""
    base = str(settings.get("path") or "")
    for key in _SPLITS:
        given = settings.get(key)
        for entry in [given] if isinstance(given, str) else given if isinstance(given, list) else ():
            place = _place(home, base, str(entry))
            if place is not None and (home / place).is_dir() and _names_split(str(entry)) and not _names_split(place):
                place = None  # the folder that is left may hold all splits
            split = split_name(key) or ""
            if place is None:
                message = f"{key}: '{entry}' is not in the data set's folder"
                found.report("missing-split", found.name, "data.yaml", message, "left out; correct the path")
            elif (home / place).is_dir():
                yield from ((split, relative) for relative in _pictures(home, place))
            else:
                yield from ((split, image) for image in _list(found, home, base, place))


def _place(home: Path, base: str, entry: str) -> str | None:
    """Return a path of data.yaml below `home`: as written, without leading '..', or by its last folders."""
    parts = [part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in (".", "/")]
    within = [part for part in PurePosixPath(base.replace("\\", "/")).parts if part not in (".", "/", "..")]
    plain = [part for part in parts if part != ".."]
    tails = [plain[at:] for at in range(len(plain))]
    for tried in ([*within, *plain], *tails):
        relative = inside("/".join(tried)) if tried else None
        if relative is not None and (home / relative).exists():
            return relative
    return "" if parts and not plain else None


def _names_split(path: str) -> bool:
    return any(split_name(part) for part in PurePosixPath(path.replace("\\", "/")).parts)


def _pictures(home: Path, place: str) -> Iterator[str]:
    for parent, names in walk(home / place):
        for name in filter(is_picture, names):
            yield (parent / name).relative_to(home).as_posix()


def _list(found: Found, home: Path, base: str, place: str) -> Iterator[str]:
    """Yield the images that a text file lists."""
    text = (home / place).read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        own = _place(home, base, line.strip())
        if own is None or not (home / own).is_file():
            message = f"image '{line.strip()}' is not on disk"
            found.report("missing-image", place, f"line {number}", message, "add the file or delete the line")
        else:
            yield own


def _labels_of(home: Path, relative: str) -> str | None:
    """Return the label file of an image: labels/ in place of images/, beside the image, or in labels/ alone."""
    stem = os.path.splitext(relative)[0]
    head, found, tail = stem.rpartition("images/")
    tries = [f"{head}labels/{tail}.txt"] if found and (not head or head.endswith("/")) else []
    tries += [f"{stem}.txt", f"labels/{stem}.txt", f"labels/{stem.rpartition('/')[2]}.txt"]
    return next((text for text in tries if (home / text).is_file()), None)


def _fill(found: Found, row: Row, path: Path, shown: str, listed: ClassList) -> bool:
    """Put the tags into a row; report and return False for a file that isn't YOLO's."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        numbers = {_class_of(fields) for fields in lines}
    except (ValueError, OverflowError) as error:
        found.report("bad-annotation", shown, "", f"is no label file ({error})", "left out; export it again")
        return False
    named = listed.numbered or dict(enumerate(listed.names))
    outside = sorted(numbers - named.keys())
    if outside:
        message = f"class {outside[0]} is not one of the {len(named)} in {listed.source}"
        found.report("unknown-class", shown, "", message, "the image is left out; add the class", fatal=True)
        return False
    names = [named[number] for number in sorted(numbers)]
    row.names = [name for name in names if name in listed.names]
    row.negative, row.label_file = all(map(is_background, names)), shown
    return True


def _class_of(fields: list[str]) -> int:
    """Return the first number of a line; ValueError where the line has none that counts a class."""
    number = float(fields[0])
    if number != int(number) or 1 < len(fields) < 5:
        raise ValueError(f"'{' '.join(fields[:5])}' is no class with a box or a polygon")
    return int(number)


def _say_missing(found: Found, missing: Counter[str]) -> None:
    count = sum(missing.values())
    if not count:
        return
    if count == len(found.rows):
        raise BadFileError(
            Path(found.name), "no image has a label file", "put labels/NAME.txt beside images/NAME.jpg"
        )
    message = f"{count} of {len(found.rows)} images have no label file"
    found.report(
        "no-label-file", found.name, "", message, "read as negatives, as YOLO does", note=2 * count <= len(found.rows)
    )
