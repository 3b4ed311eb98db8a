"""What looks like the point of a photo that was clicked: by the frozen features that maps are averaged with."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json
from tag2mask.common.values import as_dict
from tag2mask.config import build
from tag2mask.refine.threshold import cover_by_score, otsu_score
from tag2mask.review.maps import covered, interpolated
from tag2mask.review.subjects import Subject, Subjects

if TYPE_CHECKING:
    from tag2mask.stages.affinity import Follower

SIDE = 1280  # pixels of a photo's longer side at which it is looked at
POSITIONS = 6400  # of its grid at most, more than maps need: a click is more exact
KEPT = 8  # photos whose looks are kept, 2 MB each

Looks = npt.NDArray[np.float32]


class Alike:
    """Cosines to a clicked point; the network is built at the first click, so that the page waits for no torch."""

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects
        self.turn = threading.Lock()  # one photo at a time: each takes all processors
        self.kept: OrderedDict[str, tuple[Looks, tuple[int, int], tuple[int, int]]] = OrderedDict()

    def to(
        self, subject: Subject, place: tuple[float, float], size: tuple[int, int]
    ) -> tuple[npt.NDArray[np.uint8], float]:
        """How alike each pixel of a photo, seen at `size` (h, w), is to the one at `place`, and where that parts.

        `place`: (y, x) as shares of the photo's height and width. Returns (h, w) uint8, 255 for a cosine of 1 and 0
        for 0 or less, and the cosine that parts these best into two groups (Otsu). Raises DataError for a photo
        that can't be read, WeightsError where the network's weights aren't at hand.
        """
        with self.turn:
            looks, grid, seen = self._looks(subject)
        values = cosines(looks, grid, seen, place, size)
        return np.rint(255 * values).astype(np.uint8), otsu_score(cover_by_score(values[None]))

    def _looks(self, subject: Subject) -> tuple[Looks, tuple[int, int], tuple[int, int]]:
        """Of a photo: looks (h * w, C), the grid (h, w), and the size (H, W) that the photo was seen at."""
        if subject.id not in self.kept:
            pixels = self.subjects.pixels(subject, SIDE)
            looks, grid = self._follower.looks(pixels)
            self.kept[subject.id] = looks.cpu().numpy(), grid, (pixels.shape[0], pixels.shape[1])
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(subject.id)
        return self.kept[subject.id]

    @cached_property
    def _follower(self) -> Follower:
        """The network and settings of the run's affinity; of a run without it, those that it would have."""
        from tag2mask.stages.affinity import AffinityStageConfig, Follower, filled_in
        from tag2mask.stages.train_classifier import ClassifierConfig

        path = self.subjects.run / "run.json"
        recipe = as_dict(as_dict(read_json(path)).get("recipe"))
        classifier = build(
            ClassifierConfig, as_dict(recipe.get("classifier")), source=str(path), place=("classifier",)
        )
        own = build(AffinityStageConfig, as_dict(recipe.get("affinity")), source=str(path), place=("affinity",))
        config = filled_in(dataclasses.replace(own, positions=max(POSITIONS, own.positions)), classifier)
        assert config is not None
        return Follower({}, self.subjects.run, self.subjects.run, [], config)


def cosines(
    looks: Looks, grid: tuple[int, int], seen: tuple[int, int], place: tuple[float, float], size: tuple[int, int]
) -> Looks:
    """Cosines (h, w), at least 0, of each pixel's looks and those at `place`, in parts of the one at `place` itself.

    `looks`: (h' * w', C) of a `grid` (h', w') over a photo of the size `seen` (H, W), with unit length. Raises
    DataError for a place outside of the photo.
    """
    if not all(0 <= share < 1 for share in place):
        raise DataError(f"the point {place[0]:.3f}, {place[1]:.3f} lies outside of the photo; click inside")
    parts = covered(seen)
    row, column = (int(share * part * count) for share, part, count in zip(place, parts, grid, strict=True))
    alike = (looks @ looks[row * grid[1] + column]).reshape(1, *grid)
    values = np.maximum(interpolated(alike, size, parts)[0], 0)
    own = values[int(place[0] * size[0]), int(place[1] * size[1])]  # below 1 between positions of the grid
    return np.minimum(values / own, 1) if own > 0 else values
