"""Background scores without masks: found from CAM's own distribution, carried over by cover, raised by colours.

A score means another thing on other maps: RIB's are broader than CAM's, and those by affinity broader still. What
carries over is how much of the images lies above it. That much is taken by CAM's blobs, though, which are larger than
things that are thin or small; so the score rises from there to where the labels explain most of the photos' colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for
from tag2mask.data import ImageRecord, LocalizationMaps, load_maps, read_image
from tag2mask.refine.threshold import (
    COVER_STEPS,
    Cover,
    cover_by_score,
    explained_by_score,
    otsu_score,
    score_of_equal_cover,
)

LOOKED_AT = 500  # images at most; the cover of a set is a mean
SURROUNDINGS = 3  # positions among which colours are compared, in parts of those that equal cover takes
BY_COVER = "found without masks: where CAM's values part (Otsu), carried over to these maps by equal cover"
BY_COLOUR = "found without masks: from equal cover with CAM's cut (Otsu) up to where labels explain the colours best"


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


def automatic_threshold(cam: Path, maps: Path, records: Mapping[str, ImageRecord], seed: int) -> tuple[float, str]:
    """The background score for the folder `maps`, rounded to 0.001, and how it was found, in words. No mask is read.

    At least that of equal cover with plain CAM (`cam`) at Otsu's score; from there up to where the labels explain
    most of the photos' colours (`explained_by_score`) among the positions of the highest values, `SURROUNDINGS`
    times as many as equal cover takes. Images are drawn from `records`, and errors are as for `carried_over`; photos
    that can't be read are left out.
    """
    reference, own = _covers((cam, maps), list(records), seed)
    least = score_of_equal_cover(otsu_score(reference), reference, own)
    scores = np.arange(COVER_STEPS + 1) / COVER_STEPS
    around = float(np.interp(SURROUNDINGS * np.interp(least, scores, own), own[::-1], scores[::-1]))
    explained = np.zeros(COVER_STEPS + 1)
    for image_id, (found,) in _drawn((maps,), list(records), seed, "colours"):
        values = found.at_stride4()
        try:
            photo = Image.fromarray(read_image(records[image_id]))
        except DataError:
            continue  # its own turn reports it
        pixels = np.asarray(photo.resize(values.shape[:0:-1], Image.Resampling.BOX))
        explained += explained_by_score(pixels, values, found.classes, around)
    higher = scores >= least
    best = float(scores[higher][explained[higher].argmax()]) if higher.any() else least
    return (round(best, 3), BY_COLOUR) if explained[higher].any() else (round(least, 3), BY_COVER)


def _covers(folders: tuple[Path, Path], ids: Sequence[str], seed: int) -> tuple[Cover, Cover]:
    """Mean cover by score of the same images in two folders of maps; ConfigError where none has whole maps."""
    totals = np.zeros((2, COVER_STEPS + 1))
    used = 0
    for _, found in _drawn(folders, ids, seed, "cover of CAM"):
        totals += [cover_by_score(maps.at_stride4()) for maps in found]
        used += 1
    if not used:
        raise ConfigError(f"{folders[0]}: no image has whole maps there and in {folders[1]}; run localize again")
    reference, own = totals / used
    return reference, own


def _drawn(
    folders: tuple[Path, ...], ids: Sequence[str], seed: int, description: str
) -> Iterator[tuple[str, list[LocalizationMaps]]]:
    """The maps in all `folders` of up to `LOOKED_AT` images, drawn by the seed; images that lack one are left out."""
    chosen = sorted(ids)
    rng_for(seed, "carry-over").shuffle(chosen)
    for image_id in track(chosen[:LOOKED_AT], total=min(LOOKED_AT, len(chosen)), description=description):
        try:
            found = [load_maps(folder / f"{image_id}.npz") for folder in folders]
        except DataError:
            continue  # its own turn reports it
        yield image_id, found
