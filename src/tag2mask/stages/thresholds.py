"""Background scores without masks: found from CAM's own distribution, carried over by cover, raised by colours.

A score means another thing on other maps: RIB's are broader than CAM's, and those by affinity broader still. What
carries over is how much of the images lies above it. That much is taken by CAM's blobs, though, which are larger than
things that are thin; so the score rises from there to where the labels explain most of the photos' colours, if higher
scores surely explain more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for
from tag2mask.data import ImageRecord, LocalizationMaps, limited_size, load_maps, read_image
from tag2mask.refine.threshold import (
    COVER_STEPS,
    Cover,
    Labels,
    best_class,
    colours_explained,
    cover_by_score,
    otsu_score,
    score_of_equal_cover,
)

LOOKED_AT = 500  # images at most; the cover of a set is a mean
COMPARED = 40  # of them, those whose labels are made at several scores
COMPARED_AT = 480  # pixels of their longer side
SURROUNDINGS = 3  # positions among which colours are compared, in parts of those that equal cover takes
SHARES = 0.85 ** np.arange(10)  # covers to try, in the same parts
SURE = (
    2.0  # standard errors of the photos' differences: by so much labels must explain more, as chance mustn't decide
)
PATIENCE = 2  # scores in a row that explain no more, after which none is tried
SCORES = np.arange(COVER_STEPS + 1) / COVER_STEPS
BY_COVER = "found without masks: where CAM's values part (Otsu), carried over to these maps by equal cover"
BY_COLOUR = (
    "found without masks: raised from equal cover with CAM's cut (Otsu), as labels explain more of the colours"
)

# photo (H, W, 3) uint8, maps of its size, score -> labels (H, W)
LabelsAt = Callable[[np.ndarray, LocalizationMaps, float], Labels]


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
    cam: Path,
    maps: Path,
    records: Mapping[str, ImageRecord],
    seed: int,
    labels_at: LabelsAt,
    followed: Path | None = None,
    power: float = 1.0,
) -> tuple[float, str]:
    """The background score for the folder `maps`, rounded to 0.001, and how it was found, in words. No mask is read.

    At least that of equal cover with plain CAM (`cam`) at Otsu's score, of its values raised to `power`; for maps by
    an affinity with the mean of that cover and of what CAM by it (`followed`) covers at its own. Higher, where the
    labels, made by `labels_at` of some photos, explain most of their colours among the positions of the highest
    values, `SURROUNDINGS` times as many as equal cover takes, if some score surely explains more than that of equal
    cover. Images are drawn from `records`; those that can't be read are left out. ConfigError where none is left.
    """
    own, *references = _covers((maps, cam, *([followed] if followed else [])), list(records), seed)
    scores = [otsu_score(plain, power) for plain in references[:1]] + [otsu_score(other) for other in references[1:]]
    cover = float(np.mean([np.interp(score, SCORES, found) for score, found in zip(scores, references, strict=True)]))
    least = _score_of(cover, own) if own[0] > 0 else scores[0]
    photos = list(_photos(maps, records, seed, _score_of(SURROUNDINGS * cover, own)))
    best, most, in_vain, sure = least, 0.0, 0, False
    at_equal: npt.NDArray[np.float64] | None = None
    for share in track(SHARES if photos else (), total=len(SHARES), description="colours by score"):
        score = max(least, _score_of(share * cover, own))
        found = np.array(
            [colours_explained(photo[near], labels_at(photo, its, score)[near]) for photo, its, near in photos]
        )
        at_equal = found if at_equal is None else at_equal
        sure = sure or surely_more(found, at_equal)
        best, most, in_vain = (score, found.mean(), 0) if found.mean() > most else (best, most, in_vain + 1)
        if in_vain == PATIENCE:
            break
    return (round(best, 3), BY_COLOUR) if sure and best > least else (round(least, 3), BY_COVER)


def surely_more(found: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> bool:
    """Whether the mean of values (N,) lies above that of others of the same photos by `SURE` standard errors."""
    more = found - before
    return len(more) > 1 and float(more.mean()) > SURE * float(more.std(ddof=1)) / math.sqrt(len(more))


def unchanged_by_affinity(cam: Path, plain: Path, followed: Path, ids: Sequence[str], seed: int) -> float:
    """How much of what maps mark stays as it is when an affinity averages them, 0..1: compares maps without masks.

    `plain` holds maps, `followed` the same by the affinity, `cam` plain CAM by the affinity. Both are cut where they
    cover as much of the images as CAM does at Otsu's score; the IoU of the two labellings is averaged over the
    images, but those in which neither marks anything. What follows things is averaged among positions that look alike
    to nearly what it was; what spills over, or misses parts, isn't. Images are drawn, and left out, as for
    `automatic_threshold`. 0 where nothing is marked at all.
    """
    scores = []
    for maps in (plain, followed):
        reference, own = _covers((cam, maps), ids, seed)
        scores.append(score_of_equal_cover(otsu_score(reference), reference, own))
    same = []
    for _, found in _drawn((plain, followed), ids, seed, LOOKED_AT):
        best = [best_class(maps.at_stride4(), maps.classes) for maps in found]
        one, other = (np.where(value > score, label, 0) for (label, value), score in zip(best, scores, strict=True))
        marked = (one > 0) | (other > 0)
        if marked.any():
            same.append(float((one == other)[marked].mean()))
    return float(np.mean(same)) if same else 0.0


def _score_of(cover: float, own: Cover) -> float:
    """The score above which this much of the images lies."""
    return float(np.interp(cover, own[::-1], SCORES[::-1]))


def _photos(
    maps: Path, records: Mapping[str, ImageRecord], seed: int, around: float
) -> Iterator[tuple[np.ndarray, LocalizationMaps, np.ndarray]]:
    """Up to `COMPARED` photos, at most `COMPARED_AT` pixels wide or high, their maps, and where any exceeds `around`.

    Photos in which none does are left out.
    """
    for image_id, (found,) in _drawn((maps,), list(records), seed, COMPARED):
        try:
            photo = Image.fromarray(read_image(records[image_id]))
        except DataError:
            continue  # its own turn reports it
        height, width = limited_size((photo.height, photo.width), COMPARED_AT)
        small = photo.resize((width, height), Image.Resampling.BOX)
        own = found.at_size((height, width))
        near = best_class(own.full(), own.classes)[1] > around
        if near.any():
            yield np.asarray(small), own, near


def _covers(folders: Sequence[Path], ids: Sequence[str], seed: int) -> list[Cover]:
    """Mean cover by score of the same images in folders of maps, each read once; ConfigError where none is in all."""
    places = tuple(dict.fromkeys(folders))
    totals = np.zeros((len(places), COVER_STEPS + 1))
    used = 0
    drawn = _drawn(places, ids, seed, LOOKED_AT)
    for _, found in track(drawn, total=min(LOOKED_AT, len(ids)), description="cover of CAM"):
        totals += [cover_by_score(maps.at_stride4()) for maps in found]
        used += 1
    if not used:
        raise ConfigError(f"no image has whole maps in {' and '.join(map(str, places))}; run localize again")
    return [totals[places.index(folder)] / used for folder in folders]


def _drawn(
    folders: tuple[Path, ...], ids: Sequence[str], seed: int, most: int
) -> Iterator[tuple[str, list[LocalizationMaps]]]:
    """The maps in all `folders` of up to `most` images, drawn by the seed; images that lack one are left out."""
    chosen = sorted(ids)
    rng_for(seed, "carry-over").shuffle(chosen)
    for image_id in chosen[:most]:
        try:
            found = [load_maps(folder / f"{image_id}.npz") for folder in folders]
        except DataError:
            continue  # its own turn reports it
        yield image_id, found
