"""Background scores of CAM, carried over to other maps of the same images: no mask is needed for that.

A score that was found for CAM means another thing on RIB's maps, which are broader; how much broader depends on RIB's
settings. What carries over is how much of the images lies above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for
from tag2mask.data import load_maps
from tag2mask.refine.threshold import COVER_STEPS, cover_by_score, score_of_equal_cover

LOOKED_AT = 500  # images at most; the cover of a set is a mean


def carried_over(
    localization: Path, maps: str, scores: Sequence[float], ids: Sequence[str], seed: int
) -> tuple[float, ...]:
    """For each of CAM's `scores` the one at which `maps` cover as much of the images, rounded to 0.001.

    `localization` is the folder that `localize` wrote, with cam/ and `maps`/; `ids` the images to look at, of which
    at most `LOOKED_AT` are taken, drawn by the seed. Images of which a file is missing or damaged are left out.
    ConfigError where none is left.
    """
    chosen = sorted(ids)
    rng_for(seed, "carry-over").shuffle(chosen)
    totals = np.zeros((2, COVER_STEPS + 1))
    used = 0
    for image_id in track(chosen[:LOOKED_AT], total=min(LOOKED_AT, len(chosen)), description="cover of CAM"):
        try:
            pair = [load_maps(localization / kind / f"{image_id}.npz").at_stride4() for kind in ("cam", maps)]
        except DataError:
            continue  # its own turn reports it
        totals += [cover_by_score(values) for values in pair]
        used += 1
    if not used:
        raise ConfigError(f"{localization}: no image has whole maps in both cam/ and {maps}/; run localize again")
    reference, own = totals / used
    return tuple(round(score_of_equal_cover(score, reference, own), 3) for score in scores)
