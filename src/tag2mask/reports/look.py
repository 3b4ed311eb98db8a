"""A look at a run's masks: how much they cover, which tags have no pixel, and where its steps disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.common.files import ids_in
from tag2mask.data import read_mask
from tag2mask.data.records import IGNORED
from tag2mask.reports.pick import even_draw
from tag2mask.runs.index import Index

PHOTOS = 500  # looked at, at most, drawn evenly over the classes
PIXELS = 400_000_000  # of all their masks, after which no further photo is taken: some seconds
COMPARED_AT = 200  # pixels a side, at which two masks are compared
FINAL, OWN = "masks", "pseudo_masks"  # folders of a run
_DIFFERING = 6  # photos that are shown side by side


@dataclass
class MaskFigures:
    """What one folder of masks holds, over the tagged photos looked at."""

    tags: Counter[str] = field(default_factory=Counter)  # by class
    lost: Counter[str] = field(default_factory=Counter)  # of these, those without a pixel
    pixels: Counter[str] = field(default_factory=Counter)  # sum over these photos of the class's share, 0..1

    def add(self, mask: np.ndarray, labels: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
        """Count the mask (H, W) uint8 of a photo; return its tags without a pixel."""
        counts = np.bincount(mask.ravel(), minlength=256)
        shares = {name: counts[classes.index(name) + 1] / mask.size for name in labels if name in classes}
        self.tags.update(shares.keys())
        self.pixels.update(shares)
        lost = tuple(name for name, share in shares.items() if not share)
        self.lost.update(lost)
        return lost

    def cover(self, name: str) -> float | None:
        """Mean share 0..1 of the pixels that a class has in the photos tagged with it; None without any."""
        return float(self.pixels[name] / self.tags[name]) if self.tags[name] else None


@dataclass(frozen=True)
class Doubt:
    """Why a photo's masks are doubtful."""

    id: str
    lost: tuple[str, ...] = ()  # tags without a pixel
    agreement: float | None = None  # of final mask and pseudo-mask, 0..1

    @property
    def weight(self) -> float:
        """How doubtful: a tag without a pixel weighs more than any disagreement."""
        return len(self.lost) + 1 - (1.0 if self.agreement is None else self.agreement)

    @property
    def reason(self) -> str:
        """In words."""
        parts = [f"no pixel for {', '.join(self.lost)}"] if self.lost else []
        if self.agreement is not None:
            parts.append(f"network and pseudo-mask agree on {100 * self.agreement:.0f} % of what either marks")
        return "; ".join(parts)


@dataclass(frozen=True)
class Look:
    """What a look showed."""

    photos: int = 0  # looked at
    available: int = 0  # tagged photos with a mask
    figures: dict[str, MaskFigures] = field(default_factory=dict)  # by folder
    doubts: tuple[Doubt, ...] = ()  # the most doubtful first
    differing: tuple[str, ...] = ()  # photos on which the refinements differ most

    @property
    def best(self) -> MaskFigures:
        """Of the masks that the run ends with, as far as it is."""
        return self.figures.get(FINAL) or self.figures.get(OWN) or MaskFigures()


def look(run: Path, index: Index, seed: int) -> Look:
    """Read the masks of up to `PHOTOS` tagged photos in every folder; those that can't be read are passed over."""
    folders = mask_folders(run)
    base = OWN if OWN in folders else FINAL
    names = ids_in(run / base / "masks", ".png") if folders else set()
    labels = {i: image.labels for i, image in index.images.items() if image.labels and i in names}
    figures = {folder: MaskFigures() for folder in folders}
    doubts: list[Doubt] = []
    differences: dict[str, float] = {}
    pixels = 0
    for photo in even_draw(labels, PHOTOS, seed, "look"):
        masks = dict(_masks(run, folders, photo))
        lost = {f: figures[f].add(mask, labels[photo], index.classes) for f, mask in masks.items()}
        small = {folder: _small(mask) for folder, mask in masks.items()}
        doubts.append(_doubt(photo, lost, small))
        others = [agreement(small[OWN], small[f]) for f in small if OWN in small and f.startswith(f"{OWN}_")]
        if others:
            differences[photo] = min(others)
        pixels += sum(mask.size for mask in masks.values())
        if pixels > PIXELS:
            break
    ranked = sorted((one for one in doubts if one.weight > 0), key=lambda one: (-one.weight, one.id))
    differing = sorted(differences, key=lambda photo: (differences[photo], photo))[:_DIFFERING]
    return Look(len(doubts), len(labels), figures, tuple(ranked), tuple(differing))


def mask_folders(run: Path) -> list[str]:
    """The folders of a run with masks of tagged photos: pseudo-masks, further ones, final masks."""
    named = sorted(path.name for path in run.glob(f"{OWN}_*"))
    return [folder for folder in (OWN, *named, FINAL) if (run / folder / "masks").is_dir()]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share 0..1 of the pixels that either mask (H, W) uint8 marks on which both name the same class.

    Pixels that either leaves unsure (255) don't count; 1 where nothing is marked.
    """
    if one.shape != other.shape:
        return 0.0
    marked = ((one > 0) | (other > 0)) & (one != IGNORED) & (other != IGNORED)
    count = int(marked.sum())
    return float((marked & (one == other)).sum() / count) if count else 1.0


def _masks(run: Path, folders: Sequence[str], photo: str) -> Iterator[tuple[str, np.ndarray]]:
    for folder in folders:
        path = run / folder / "masks" / f"{photo}.png"
        try:
            if path.is_file():
                yield folder, read_mask(path)
        except DataError:
            continue  # named where it is shown


def _small(mask: np.ndarray) -> np.ndarray:
    step = max(1, max(mask.shape) // COMPARED_AT)
    return mask[::step, ::step]


def _doubt(photo: str, lost: Mapping[str, tuple[str, ...]], small: Mapping[str, np.ndarray]) -> Doubt:
    last = FINAL if FINAL in lost else OWN
    both = FINAL in small and OWN in small
    return Doubt(photo, lost.get(last, ()), agreement(small[FINAL], small[OWN]) if both else None)
