"""Finding listed images: by their path, or else by their file name, never outside the folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from tag2mask.data.readers.found import IMAGE_FOLDERS, MASK_PLACES, Folders, Found, inside
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.words import nfc

SUFFIXES_TO_TRY = ("", ".jpg", ".jpeg", ".png", ".JPG", ".tif", ".tiff", ".bmp", ".webp")
# what Label Studio puts before an upload's name; a date is part of a name
_UPLOADED = re.compile(r"^(?!(?:19|20)\d\d(?:0[1-9]|1[0-2])[0-3]\d-)[0-9a-f]{8}-(?=.)")


@dataclass
class Located:
    """The images of one table, found in two steps so that nobody's image is taken by another's name."""

    folders: Folders
    below: str = ""  # only images of this folder are found by their names
    names: dict[str, str | None] = field(default_factory=dict)  # as listed -> path inside the folder
    why: dict[str, str] = field(default_factory=dict)  # what is wrong with those that weren't found
    by_name: dict[str, str] = field(default_factory=dict)  # those that were found by file name alone

    @classmethod
    def find(
        cls, folders: Folders, names: Iterable[str], bases: Sequence[str] = IMAGE_FOLDERS, below: str = ""
    ) -> Located:
        """Find every name; `bases` are the folders that paths may be relative to."""
        located = cls(folders, below)
        for name in dict.fromkeys(names):
            located.names[name] = _by_path(folders, name, bases)
        rest = [name for name, path in located.names.items() if path is None]
        if rest:
            located._find_by_name(rest)
        return located

    def _find_by_name(self, rest: list[str]) -> None:
        taken = {path for path in self.names.values() if path is not None}
        index = _index(self.folders, self.below)
        used = {str(PurePosixPath(path).parent) for path in taken}
        there = {PurePosixPath(path).parent.name for paths in index.values() for path in paths}
        found = {
            name: [p for p in _candidates(index, name) if p not in taken and not _elsewhere(name, p, used, there)]
            for name in rest
        }
        users: dict[str, list[str]] = defaultdict(list)
        for name, paths in found.items():
            if len(paths) == 1:
                users[paths[0]].append(name)
            elif paths:
                self.why[name] = f"may be any of {len(paths)} images, such as '{paths[0]}' and '{paths[1]}'"
        for path, names in users.items():
            for name in names:
                if len(names) == 1:
                    self.names[name] = self.by_name[name] = path
                else:
                    self.why[name] = f"and '{names[names[0] == name]}' may both be '{path}'"

    def say(self, found: Found, file: str) -> None:
        """Note once how many images were found by their names alone; say which files others hide."""
        for twin in self.folders.twins:
            message = "is called as another file there, with accents written otherwise"
            found.report("same-name", twin, "", message, "it is left out; rename one of the two")
        if self.by_name:
            name, path = next(iter(self.by_name.items()))
            message = f"{len(self.by_name)} path(s) lead elsewhere, such as '{name}'"
            remedy = f"their images were found by file name ('{path}')"
            found.report("path", file, "", message, remedy, note=True)


def _by_path(folders: Folders, name: str, bases: Sequence[str]) -> str | None:
    relative = inside(name) or _below(folders, name)
    if relative is None:
        return None
    path = next(filter(None, (folders.find(relative + suffix, bases) for suffix in SUFFIXES_TO_TRY)), None)
    return name if path == name else path  # one text for both


def _below(folders: Folders, name: str) -> str | None:
    """Return an absolute path that lies inside the folder as a relative one."""
    for root in {str(folders.root), os.path.realpath(folders.root)}:
        if name.startswith(root.rstrip("/\\") + os.sep):
            return inside(name[len(root.rstrip("/\\")) + 1 :])
    return None


def _index(folders: Folders, below: str) -> dict[str, list[str]]:
    """Return the images below the folder by file name, in any case, and without suffix; masks are left out."""
    index: dict[str, list[str]] = defaultdict(list)
    for parent, names in walk(folders.root / below):
        relative = parent.relative_to(folders.root).as_posix()
        if any(part in MASK_PLACES for part in parent.relative_to(folders.root).parts):
            continue
        for name in filter(is_picture, names):
            path = name if relative == "." else f"{relative}/{name}"
            for key in dict.fromkeys((nfc(name), nfc(name).casefold(), nfc(os.path.splitext(name)[0]))):
                index[key].append(path)
    return index


def _candidates(index: dict[str, list[str]], name: str) -> list[str]:
    """Return the images that bear a path's file name; of several, those that share most of its folders."""
    for text in dict.fromkeys((name, *_of_url(name))):
        parts = PurePosixPath(nfc(text.replace("\\", "/"))).parts
        last = parts[-1] if parts else ""
        for wanted in dict.fromkeys((last, _UPLOADED.sub("", last), last.casefold())):
            paths = list(dict.fromkeys(index.get(wanted, ())))
            shared = [_shared(PurePosixPath(path).parts[:-1], parts[:-1]) for path in paths]
            best = [path for path, count in zip(paths, shared, strict=True) if count == max(shared)]
            if best:
                return best
    return []


def _elsewhere(name: str, path: str, used: Collection[str], there: Collection[str]) -> bool:
    """Whether a listed path means another folder of the set than that of an image with its name.

    used: folders of images that were found as listed, so that paths are right as they are; there: names of folders.
    """
    asked, own = PurePosixPath(nfc(name.replace("\\", "/"))), PurePosixPath(path)
    if not asked.parent.name or own.parent.name in IMAGE_FOLDERS or _shared(own.parts[:-1], asked.parts[:-1]):
        return False
    return asked.parent.name in there or (inside(name) is not None and str(own.parent) in used)


def _of_url(name: str) -> list[str]:
    """Return the paths that a URL may mean: of "?d=...", as Label Studio writes local files, or its path."""
    try:
        parts = urlsplit(name)
        given = parse_qs(parts.query).get("d", [])
    except ValueError:
        return []
    return [*given, unquote(parts.path), unquote(name)]


def _shared(own: tuple[str, ...], asked: tuple[str, ...]) -> int:
    count = 0
    while count < min(len(own), len(asked)) and own[-1 - count] == asked[-1 - count]:
        count += 1
    return count
