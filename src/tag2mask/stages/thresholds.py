"""Background scores without masks: found from CAM's own distribution, and carried over to other maps by their cover.

A score means another thing on other maps: RIB's are broader than CAM's, and those by affinity broader still. What
carries over is how much of the images lies above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for
from tag2mask.data import load_maps
from tag2mask.refine.threshold import COVER_STEPS, Cover, cover_by_score, otsu_score, score_of_equal_cover

LOOKED_AT = 500  # images at most; the cover of a set is a mean
FOUND = "found without masks: where CAM's values part (Otsu), carried over to these maps by equal cover"
FOUND_LOWERED = "found without masks: halfway between equal cover with CAM's cut (Otsu) and where these maps part"


def carried_over(
    localization: Path, maps: str, scores: Sequence[float], ids: Sequence[str], seed: int
) -> tuple[float, ...]:
    """For each of CAM's `scores` the one at which `maps` cover as much of the images, rounded to 0.001.

    `localization` is the folder that `localize` wrote, with cam/ and `maps`/; `ids` the images to look at, of which
    at most `LOOKED_AT` are taken, drawn by the seed. Images of which a file is missing or damaged are left out.
    ConfigError where none is left.
    """
    reference, own = _covers((localization / "cam", localization / maps), ids, seed)
    return tuple(round(score_of_equal_cover(score, reference, own), 3) for score in scores)


def automatic_threshold(
    cam: Path, maps: Path, ids: Sequence[str], seed: int, *, lowered: bool = False
) -> tuple[float, str]:
    """The background score for the folder `maps`, and how it was found, in words. No mask is read.

    That of equal cover with plain CAM (`cam`) at Otsu's score. Where maps were `lowered` to a floor (small things, of
    which CAM covers more than there is) Otsu parts their own values too, and the score is halfway between the two.
    Images and errors as for `carried_over`.
    """
    reference, own = _covers((cam, maps), ids, seed)
    score = score_of_equal_cover(otsu_score(reference), reference, own)
    if lowered:
        return round((score + otsu_score(own)) / 2, 3), FOUND_LOWERED
    return round(score, 3), FOUND


def _covers(folders: tuple[Path, Path], ids: Sequence[str], seed: int) -> tuple[Cover, Cover]:
    """Mean cover by score of the same images in two folders of maps."""
    chosen = sorted(ids)
    rng_for(seed, "carry-over").shuffle(chosen)
    totals = np.zeros((2, COVER_STEPS + 1))
    used = 0
    for image_id in track(chosen[:LOOKED_AT], total=min(LOOKED_AT, len(chosen)), description="cover of CAM"):
        try:
            pair = [load_maps(folder / f"{image_id}.npz").at_stride4() for folder in folders]
        except DataError:
            continue  # its own turn reports it
        totals += [cover_by_score(values) for values in pair]
        used += 1
    if not used:
        raise ConfigError(f"{folders[0]}: no image has whole maps there and in {folders[1]}; run localize again")
    reference, own = totals / used
    return reference, own
