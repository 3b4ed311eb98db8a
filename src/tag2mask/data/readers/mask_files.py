"""Which mask file belongs to which image."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tag2mask.data.readers.found import IMAGE_FOLDERS, MASK_PLACES, Folders, Found, Row, names_of
from tag2mask.data.readers.tree import is_picture, walk
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
        self.exact: dict[str, list[Path]] = defaultdict(list)  # NAME.png, in the order of the folders
        self.loose: dict[str, list[Path]] = defaultdict(list)  # NAME_mask.png, NAME.jpg.png, NAME.tif, ...
        self.all: list[Path] = []
        seen = set()
        for base in (root / place for place in places):
            if base.is_dir() and (own := (base.stat().st_dev, base.stat().st_ino)) not in seen:
                seen.add(own)  # a file system may not tell masks from Masks
                self._list(base)

    def _list(self, base: Path) -> None:
        for parent, names in walk(base):
            inner = parent.relative_to(base).as_posix()
            for name in filter(is_picture, names):
                path = parent / name
                self.all.append(path)
                stem, suffix = os.path.splitext(nfc(name))
                place = "" if inner == "." else f"{nfc(inner)}/"
                if suffix == ".png":
                    self.exact[place + stem].append(path)
                for variant in _variants(stem, itself=suffix != ".png"):
                    self.loose[place + variant].append(path)

    def of(self, name: str) -> list[Path]:
        """Return the masks that an image of this name may have, the likeliest first."""
        return self.exact.get(name) or self.loose.get(name) or []


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
    names = {row.path: tuple(enumerate(names_of(row.relative))) for row in found.rows}
    users = Counter(name for own in names.values() for name in own)
    beside: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        masks = [(options, users[key]) for key in names[row.path] if (options := files.of(nfc(key[1])))]
        alone = next((options for options, count in masks if count == 1), None)
        if alone is not None and len({path.parent for path in alone}) < len(alone):
            shown = " and ".join(path.relative_to(folders.root).as_posix() for path in alone[:2])
            message = f"image '{row.relative}' has several masks: {shown}"
            found.report("ambiguous-mask", row.file, row.place, message, "not used; keep one of them")
        elif alone is not None:
            row.mask_path = alone[0]
        elif masks:
            options, count = masks[0]
            shown = options[0].relative_to(folders.root).as_posix()
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
    used = {row.mask_path for row in found.rows}
    taken = {path for path in used if path is not None}
    listed = {name for row in found.rows for name in names_of(row.relative)}
    for path in files.all:
        if path in taken:
            continue
        stem = os.path.splitext(path.name)[0]
        own = {stem, *_variants(nfc(stem), itself=True)}
        if own & listed or any(folders.image_by_stem(base, name) for base in IMAGE_FOLDERS for name in own):
            continue  # of an image that isn't listed, or one that was reported
        shown = path.relative_to(folders.root).as_posix()
        found.report("orphan-mask", shown, "", "is the mask of no image", "name it as its image, or delete it")
