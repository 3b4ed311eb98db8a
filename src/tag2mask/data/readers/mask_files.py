"""Which mask file belongs to which image."""

from __future__ import annotations

import os
import re
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from tag2mask.data.readers.found import IMAGE_FOLDERS, MASK_PLACES, Folders, Found, Row, names_of
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.records import text_of
from tag2mask.data.words import nfc

# what tools put after an image's name, or before it
_WORDS = "masks?|seg|segm|segmentations?|labels?|label_?ids|gt|ground[_ -]?truths?|annotations?|semantic|pixels"
_AFTER = re.compile(rf"(?<=.)[ _.\-](?:{_WORDS})(?:[ _.\-]?\d+)?$", re.IGNORECASE)
_WORD = re.compile(_WORDS, re.IGNORECASE)
_ENDING = re.compile(rf"(?:.+[ _.\-])?(?:{_WORDS})", re.IGNORECASE)
_BEFORE = re.compile(rf"^(?:{_WORDS})[ _.\-](?=.)", re.IGNORECASE)


class MaskFiles:
    """The files in the folders of masks, by the names of the images that they may belong to."""

    def __init__(self, root: Path, places: Iterable[str] = MASK_PLACES) -> None:
        self.listed: list[tuple[Path, list[str]]] = []  # folders, and the names of their files
        self._below: list[str] = []  # each folder below its place: "" or "day1/"
        self._starts: list[int] = []  # the number of its first file
        count, seen = 0, set()
        for base in (root / place for place in places):
            if base.is_dir() and (own := (base.stat().st_dev, base.stat().st_ino)) not in seen:
                seen.add(own)  # a file system may not tell masks from Masks
                for parent, files in walk(base):
                    names, inner = list(filter(is_picture, files)), parent.relative_to(base).as_posix()
                    self.listed.append((parent, names))
                    self._below.append("" if inner == "." else f"{nfc(inner)}/")
                    self._starts.append(count)
                    count += len(names)

    @cached_property
    def _named(self) -> _Named:
        found = _Named()
        for (_, names), below, start in zip(self.listed, self._below, self._starts, strict=True):
            for file, name in enumerate(names, start):
                stem, suffix = os.path.splitext(nfc(name))
                if suffix == ".png":
                    found.add(found.exact, below + stem, file)
                for variant in _variants(stem, itself=suffix != ".png"):
                    found.add(found.loose, below + variant, file)
        return found

    def key(self, name: str) -> int | None:
        """The number of the masks that an image of this name may have; None where there are none."""
        return self._named.exact.get(name, self._named.loose.get(name))

    def keys(self) -> int:
        """How many numbers there are."""
        return len(self._named.first)

    def of(self, key: int) -> list[Path]:
        """The masks of a number, the likeliest first."""
        return [self._path(file) for file in self._named.several.get(key, [self._named.first[key]])]

    def _path(self, file: int) -> Path:
        at = bisect_right(self._starts, file) - 1
        parent, names = self.listed[at]
        return parent / names[file - self._starts[at]]


class _Named:
    """Files, by number, of each name that an image may have: a million of them take no more than they must."""

    def __init__(self) -> None:
        self.exact: dict[str, int] = {}  # NAME.png -> key
        self.loose: dict[str, int] = {}  # NAME_mask.png, NAME.jpg.png, NAME.tif, ...
        self.first: array[int] = array("L")  # the first file of each key
        self.several: dict[int, list[int]] = {}  # all of those that have more, in the order of the folders

    def add(self, names: dict[str, int], name: str, file: int) -> None:
        """Let a file be one of a name's."""
        key = names.setdefault(name, len(self.first))
        if key == len(self.first):
            self.first.append(file)
        else:
            self.several.setdefault(key, [self.first[key]]).append(file)


def _variants(stem: str, *, itself: bool) -> Iterator[str]:
    if itself:
        yield stem
    bare = os.path.splitext(stem)[0] if is_picture(stem) else stem
    found = dict.fromkeys((bare, _AFTER.sub("", bare), _BEFORE.sub("", bare)))
    more = [os.path.splitext(name)[0] for name in found if is_picture(name)]  # 1.jpg_mask.png
    yield from (name for name in dict.fromkeys((*found, *more)) if name != stem)


def give_masks(found: Found, folders: Folders, rows: Iterable[Row], places: Iterable[str] = MASK_PLACES) -> None:
    """Find the masks of `rows`: under an image's path (masks/day1/IMG_1.png), else under its name alone.

    NAME_mask.png, NAME.jpg.png and the like count too, there and beside the image. A name that several of the found
    images share is nobody's: such a mask is reported and not used. Masks of no image are reported, too.
    """
    files = MaskFiles(folders.root, places)
    rows = list(rows)
    # by kind of name and by masks: how many images bear it
    users = [array("I", [0]) * files.keys() for _ in range(3)] if rows else []
    for row in found.rows if rows else ():
        for counts, name in zip(users, names_of(row.relative), strict=True):
            if (key := files.key(nfc(name))) is not None:
                counts[key] += 1
    beside: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        keys = [files.key(nfc(name)) for name in names_of(row.relative)]
        masks = [(key, counts[key]) for key, counts in zip(keys, users, strict=True) if key is not None]
        own = next((key for key, count in masks if count == 1), None)
        alone = None if own is None else files.of(own)
        if alone is not None and len({path.parent for path in alone}) < len(alone):
            shown = " and ".join(path.relative_to(folders.root).as_posix() for path in alone[:2])
            message = f"image '{row.relative}' has several masks: {shown}"
            found.report("ambiguous-mask", row.file, row.place, message, "not used; keep one of them")
        elif alone is not None:
            row.mask_path = alone[0]
        elif masks:
            key, count = masks[0]
            shown = files.of(key)[0].relative_to(folders.root).as_posix()
            message = f"mask '{shown}' may be that of {count} images, one of them '{row.relative}'"
            remedy = "not used; put masks under the images' paths (masks/day1/IMG_1.png)"
            found.report("ambiguous-mask", row.file, row.place, message, remedy)
        else:
            _give_beside(found, folders, row, beside)
    _say_orphans(found, folders, files)


def _give_beside(found: Found, folders: Folders, row: Row, beside: dict[str, dict[str, list[str]]]) -> None:
    """Take NAME_mask.png in the image's own folder; `beside` keeps {folder: {image's stem: its masks}}."""
    folder, _, name = row.relative.rpartition("/")
    if folder not in beside:
        beside[folder] = defaultdict(list)
        for there in filter(is_picture, folders.files(folder).values()):
            stem = os.path.splitext(nfc(there))[0]
            if bare_name(stem) != stem:
                beside[folder][bare_name(stem)].append(there)
    masks = beside[folder].get(os.path.splitext(nfc(name))[0], [])
    exact = [mask for mask in masks if mask.lower().endswith(".png")]
    if len(exact) == 1:
        row.mask_path = folders.root / folder / exact[0]
    elif masks:
        shown = " and ".join(masks[:2])
        message = (
            f"image '{row.relative}' has " + ("several masks" if exact else "a mask that is no PNG") + f": {shown}"
        )
        remedy = "not used; keep one, a PNG with a number for each class"
        found.report("ambiguous-mask", row.file, row.place, message, remedy)


def is_mask_beside(name: str, others: Iterable[str]) -> bool:
    """Tell NAME_mask.png, whose image is one of the other files of its folder, from an image."""
    stem = os.path.splitext(name)[0]
    bare = bare_name(stem)
    if bare == stem or not is_picture(name):
        return False
    return any(os.path.splitext(other)[0] == bare for other in others if is_picture(other))


def bare_name(stem: str) -> str:
    """Return what a mask's name says of its image: NAME of NAME_mask."""
    return _AFTER.sub("", stem)


def is_mask_folder(name: str, *, alone: bool = False) -> bool:
    """Tell a folder's name that is a word for masks, or, if not `alone`, ends in one (cat_masks)."""
    return (_WORD if alone else _ENDING).fullmatch(name) is not None


def _say_orphans(found: Found, folders: Folders, files: MaskFiles) -> None:
    used: dict[str, set[str]] = defaultdict(set)
    for folder, name in (text_of(row, "mask_path") for row in found.rows):
        used[folder].add(name)
    orphans = ((parent, name) for parent, names in files.listed for name in names if name not in used[str(parent)])
    listed: set[str] = set()
    for parent, name in orphans:
        listed = listed or {name for row in found.rows for name in names_of(row.relative)}
        stem = os.path.splitext(name)[0]
        own = {stem, *_variants(nfc(stem), itself=True)}
        if own & listed or any(folders.image_by_stem(base, name) for base in IMAGE_FOLDERS for name in own):
            continue  # of an image that isn't listed, or one that was reported
        shown = (parent / name).relative_to(folders.root).as_posix()
        found.report("orphan-mask", shown, "", "is the mask of no image", "name it as its image, or delete it")
