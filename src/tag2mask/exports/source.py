"""What an export is made of: the masks of a run, or of photos that its network predicted, one by one."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import __version__
from tag2mask.common.errors import ConfigError, DataError, did_you_mean
from tag2mask.common.files import read_object, refuse_existing
from tag2mask.common.progress import track
from tag2mask.common.values import as_dict, as_text
from tag2mask.data.classes import read_list
from tag2mask.data.images import image_size
from tag2mask.data.masks import read_mask
from tag2mask.data.records import AS_USUAL, IGNORED, BadFileError, Reading, printable
from tag2mask.data.settings import reading_of_run
from tag2mask.runs.decisions import mask_path, read_decisions
from tag2mask.runs.folder import is_finished
from tag2mask.runs.index import Index, parse_index, read_index

HELD_OUT = "predictions"  # folder of a run, for the masks of its held-out photos
BEST_FIRST = ("masks", "pseudo_masks", HELD_OUT)  # folders of a run, where none is asked for
_SHOWN = 5


@dataclass(frozen=True)
class Photo:
    """One photo and its mask."""

    id: str
    path: Path
    name: str  # path below the photos' folder, with '/'
    split: str  # "train", "val" (as whatever a run predicted held out) or ""
    mask: Path
    confidence: Path | None  # grey PNG, 255 for a probability of 1, where there is one
    step: str = ""  # folder of the run that the mask is of, or was before a review corrected it
    wrong: tuple[int, ...] = ()  # mask values of tags that a review has taken away: background

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return os.path.splitext(self.name)[0]


@dataclass
class Source:
    """Masks to be exported; iterating yields (photo, mask (H, W) uint8: 0, class + 1, or 255 unsure) and counts."""

    folder: Path  # that holds masks/ID.png, of held-out photos perhaps another one of the run
    title: str  # what made the masks: model version, run and step
    classes: tuple[str, ...]  # in the order of the mask values 1..C
    photos: list[Photo]
    failed: list[str]  # ids of photos that have no mask
    reviewed: str = ""  # what a review changed, in words
    reading: Reading = AS_USUAL  # how the photos become 8-bit RGB
    empty: int = 0  # photos without any object, so far
    unsure: dict[str, int] = field(default_factory=dict)  # pixels by id, so far
    missing: list[Path] = field(default_factory=list)  # photos that are not where they were, so far
    left_out: list[Path] = field(default_factory=list)  # the same, where an export needs the photos themselves

    def __iter__(self) -> Iterator[tuple[Photo, np.ndarray]]:
        self.empty, self.unsure, self.missing = 0, {}, []
        for photo in track(self.photos, total=len(self.photos), description="export"):
            mask = read_mask(photo.mask)
            self._check(photo, mask)
            mask = np.where(np.isin(mask, photo.wrong), np.uint8(0), mask) if photo.wrong else mask
            self._count(photo, mask)
            yield photo, mask

    def _check(self, photo: Photo, mask: np.ndarray) -> None:
        """Raise DataError for a mask of other classes, or of a photo of another size."""
        strange = mask[(mask > len(self.classes)) & (mask != IGNORED)]
        if strange.size:
            message = f"holds the value {strange[0]}, but there are {len(self.classes)} classes"
            raise BadFileError(photo.mask, message, "delete it and have it made again")
        if not photo.path.is_file():
            self.missing.append(photo.path)
        elif image_size(photo.path) != mask.shape:
            message = f"is {mask.shape[0]} x {mask.shape[1]} pixels, its photo {photo.path} is of another size"
            raise BadFileError(photo.mask, message, "delete the mask and have it made again")

    def _count(self, photo: Photo, mask: np.ndarray) -> None:
        unsure = int(np.count_nonzero(mask == IGNORED))
        self.empty += np.count_nonzero(mask) == unsure
        if unsure:
            self.unsure[photo.id] = unsure

    def leave_out_missing(self) -> None:
        """Go on without the photos that are not where they were; ConfigError where that is all of them."""
        self.left_out = [photo.path for photo in self.photos if not photo.path.is_file()]
        if len(self.left_out) == len(self.photos):
            lost = f"{self.left_out[0]}: is not there, nor is any other of the {len(self.photos)} photos"
            raise ConfigError(f"{lost}; --photos DIR says where the photos lie by now")
        self.photos = [photo for photo in self.photos if photo.path.is_file()]

    def check_stems(self, wanted_by: str) -> None:
        """Raise DataError where two photos differ only in their suffix, which the format `wanted_by` doesn't keep."""
        seen: dict[str, Photo] = {}
        for photo in self.photos:
            other = seen.setdefault(photo.stem, photo)
            if other is not photo:
                raise DataError(
                    f"{photo.path}: differs only in its suffix from {other.path.name}, and {wanted_by} knows photos "
                    "by their name without it; rename one and run again"
                )

    def report(self, out: Path, unsure: str = "left out, so background there") -> int:
        """Print what was exported to `out`, and what of it is lost (`unsure`: where unsure pixels went); return 0."""
        print(f"{out}: {len(self.photos)} photos, {self.empty} of them without any object; {self.title}")
        steps = Counter(photo.step for photo in self.photos)
        if len(steps) > 1:
            print("from " + ", ".join(f"{step}: {count}" for step, count in steps.items()) + "; --of takes one alone")
        if self.reviewed:
            print(f"as reviewed: {self.reviewed}; --unreviewed exports the masks as they were made")
        notes = [
            (self.unsure, f"photos have unsure pixels (255), {sum(self.unsure.values())} in all: {unsure}"),
            (self.failed, "photos have no mask, since they failed, and are left out"),
            (self.left_out, "photos are not where they were, and are left out"),
            (self.missing, "photos are not where they were; --photos DIR says where they lie by now"),
        ]
        for found, text in notes:
            if found:
                shown = ", ".join(map(printable, list(found)[:_SHOWN]))
                print(f"! {len(found)} {text}; e.g. {shown}", file=sys.stderr)
        return 0


def add_source_options(command: argparse.ArgumentParser, out: str) -> None:
    """Add the options that `source_of` and `out_of` read; `out` is the default's name in RUN/exports."""
    command.add_argument("run", type=Path, help="the run, or a folder of masks that 'predict --images' wrote")
    command.add_argument(
        "--of",
        metavar="NAME",
        help=f"which masks of the run (default: the first there of {', '.join(BEST_FIRST)}, and the last of these "
        "for held-out photos)",
    )
    command.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="the folder below which photos have their names, or where they lie by now (default: that of all)",
    )
    command.add_argument(
        "--unreviewed", action="store_true", help="the masks as they were made, whatever 'review' decided on them"
    )
    command.add_argument("--out", type=Path, help=f"where it goes (default RUN/exports/{out})")
    command.set_defaults(default_out=out)


def out_of(options: argparse.Namespace) -> Path:
    """Where the export goes; ConfigError where something is there already."""
    out = Path(options.out or options.run / "exports" / options.default_out)
    refuse_existing(out, "--out")
    return out


def source_of(options: argparse.Namespace) -> Source:
    """The masks that the options ask for."""
    return open_source(options.run, options.of, options.photos, reviewed=not getattr(options, "unreviewed", False))


def open_source(
    folder: Path | str, of: str | None = None, photos: Path | str | None = None, *, reviewed: bool = True
) -> Source:
    """Open the masks of a run's folder, or of one that `predict --images` wrote.

    of: which folder of the run; None takes the best that is there, and for held-out photos their predictions, once
    they are finished. photos: the folder below which the photos' names count; where they have moved, the one they
    lie in now. reviewed: without the photos that a review rejected, and with the masks and tags that it corrected.
    Raises ConfigError, DataError.
    """
    folder = Path(folder)
    info = _json(folder / "run.json")
    if info:
        index = read_index(folder / "index.json") if (folder / "index.json").is_file() else Index()
        classes, run = index.classes, str(info.get("name"))
        known = {image.id: (image.path, image.split) for image in index.images.values()}
        steps = _chosen(folder, of)
    else:
        classes, run, steps = _classes(folder), folder.name, [""]
        photos_of = as_dict(_json(folder / "manifest.json").get("photos"))
        known = {image.id: (image.path, "") for image in parse_index({"images": photos_of}).images.values()}
        if of is not None or not known:
            raise ConfigError(f"{folder}: {_no_run(of)}")
    states: dict[str, tuple[str, str]] = {}  # step and state by id
    for step in steps:
        for image_id, state in _states(folder / step, known).items():
            states.setdefault(image_id, (step, state))
    done = {image_id: step for image_id, (step, state) in states.items() if state == "done"}
    if not done:
        raise DataError(f"{folder / steps[0]}: no photo has a mask there; see its manifest.json for what failed")
    paths = {image_id: _photo_path(folder, image_id, path) for image_id, (path, _) in known.items()}
    root = Path(os.path.commonpath([path.parent for path in paths.values()]))
    placed = _placed([paths[image_id] for image_id in done], root, photos)
    found = [
        _photo(folder, image_id, step, place, known[image_id][1])
        for (image_id, step), place in zip(done.items(), placed, strict=True)
    ]
    title = f"tag2mask {__version__}: {printable(run)}" + (
        f", {' and '.join(dict.fromkeys(done.values()))}" if info else ""
    )
    failed = [image_id for image_id in states if image_id not in done]
    source = Source(folder / steps[0], title, classes, found, failed, reading=reading_of_run(info))
    return _as_reviewed(source, folder) if info and reviewed else source


def _photo(folder: Path, image_id: str, step: str, place: tuple[Path, str], split: str) -> Photo:
    mask, confidence = (folder / step / kind / f"{image_id}.png" for kind in ("masks", "confidence"))
    split = "val" if step == HELD_OUT else split  # whatever the data set calls it
    return Photo(image_id, *place, split, mask, confidence if confidence.is_file() else None, step)


def _photo_path(folder: Path, image_id: str, path: Path | None) -> Path:
    """Where a photo lies; DataError for what no run writes: a name that leads elsewhere, a path that is none."""
    whole = None if path is None or "\0" in str(path) else Path(os.path.normpath(path))
    if whole is None or not whole.is_absolute() or not whole.name or Path(image_id).name != image_id:
        raise DataError(f"{folder}: its list of photos is damaged at {image_id[:80]!r}; take a whole copy")
    return whole


def _as_reviewed(source: Source, run: Path) -> Source:
    """The source after what was decided on its photos; DataError where every photo was rejected."""
    decisions = read_decisions(run)
    kept = [photo for photo in source.photos if photo.id not in decisions.rejected]
    if source.photos and not kept:
        raise DataError(f"{run}: every photo was rejected in the review; --unreviewed exports them all the same")
    values = {name: value for value, name in enumerate(source.classes, 1)}
    photos, corrected, retagged = [], 0, 0
    for photo in kept:
        tags = decisions.tags.get(photo.id, {})
        wrong = tuple(values[tag] for tag, there in tags.items() if not there and tag in values)
        if photo.id in decisions.masks:
            photo, corrected = replace(photo, mask=mask_path(run, photo.id), confidence=None), corrected + 1
        elif wrong:
            photo, retagged = replace(photo, wrong=wrong), retagged + 1
        photos.append(photo)
    counts = {
        "rejected": len(source.photos) - len(kept),
        "corrected by hand": corrected,
        "without a wrong tag": retagged,
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return replace(source, photos=photos, reviewed=told)


def _json(path: Path) -> dict[str, Any]:
    return dict(read_object(path)) if path.is_file() else {}


def _no_run(of: str | None) -> str:
    if of is not None:
        return "is no run's folder (no run.json), so there is nothing to choose from; leave out --of"
    return "is neither a run's folder (no run.json) nor one that 'predict --images' wrote; give one of these"


def _chosen(folder: Path, of: str | None) -> list[str]:
    """Which folders of a run the masks are taken from; an earlier one's count before those of a later one."""
    there = [path.parent.name for path in sorted(folder.glob("*/masks")) if (path.parent / "manifest.json").is_file()]
    if of is None:
        found = [name for name in BEST_FIRST if name in there]
        if not found:
            raise ConfigError(f"{folder}: has no masks yet; run it until {' or '.join(BEST_FIRST[1:])} is there")
        return [found[0], *(name for name in found[1:] if name == HELD_OUT and is_finished(folder / name))]
    if of not in there:
        raise ConfigError(f"{folder}: has no masks in '{of}'{did_you_mean(of, there)}")
    return [of]


def _states(masks: Path, known: Container[str]) -> dict[str, str]:
    """The state of every photo by id; ConfigError where the step isn't finished, DataError for unknown photos."""
    manifest = _json(masks / "manifest.json")
    if not manifest.get("finished"):
        raise ConfigError(f"{masks}: is not finished; run '{manifest.get('stage')}' to its end first")
    images = as_dict(manifest.get("images"))
    states = {image_id: as_text(as_dict(state).get("status")) for image_id, state in images.items()}
    unknown = next((image_id for image_id in states if image_id not in known), None)
    if unknown is not None:
        raise DataError(
            f"{masks}: has '{unknown}', which the run's index.json doesn't list; give the run's own folder"
        )
    return states


def _classes(folder: Path) -> tuple[str, ...]:
    """The classes beside masks of photos, as classes.txt names them."""
    path = folder / "classes.txt"
    found = read_list(path) if path.is_file() else None
    if found is None:
        raise ConfigError(f"{folder}: {_no_run(None)}")
    return tuple(found.names)


def _placed(paths: Sequence[Path], root: Path, photos: Path | str | None) -> list[tuple[Path, str]]:
    """Where each photo lies, and its name: below `photos`, else below `root`, the deepest folder that holds all."""
    home = root if photos is None else Path(photos).expanduser().absolute()
    outside = [path for path in paths if not path.is_relative_to(home)]
    if len(outside) == len(paths):  # they have moved
        paths = [home / path.relative_to(root) for path in paths]
    elif outside:
        raise ConfigError(
            f"{outside[0]}: lies outside of --photos {photos}, others don't; give the folder above both"
        )
    return [(path, printable(path.relative_to(home).as_posix())) for path in paths]
