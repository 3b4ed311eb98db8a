"""The pixels that the page asks for, never more than it can show."""

from __future__ import annotations

import io
import threading

import numpy as np
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data.images import image_size
from tag2mask.data.masks import read_mask
from tag2mask.data.records import BadFileError
from tag2mask.refine.threshold import best_class
from tag2mask.review.maps import over_photo, sampled, within
from tag2mask.review.subjects import Subject, Subjects

SIDES = (320, 1280, 4096)  # pixels of a photo's longer side
MASK_SIDES = (160, 2048)  # of a mask: on a tile, and to be corrected
CUT_SIDES = (160, 640)  # of maps
_decoding = threading.Semaphore(2)  # a large photo takes 100 MB while it is decoded


def photo_jpeg(subjects: Subjects, subject: Subject, side: int) -> bytes:
    """The photo as a JPEG, upright, within one of `SIDES`; raises DataError."""
    with _decoding:
        pixels = subjects.pixels(subject, _one_of(side, SIDES))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def mask_pixels(subjects: Subjects, subject: Subject, layer: str, side: int) -> np.ndarray:
    """A mask (h, w) uint8 within one of `MASK_SIDES`; all background where there is none. Raises DataError."""
    side = _one_of(side, MASK_SIDES)
    if layer == "none":
        return np.zeros(within(image_size(subject.path), side), np.uint8)
    path = subjects.mask_file(subject, layer)
    if not path.is_file():
        raise BadFileError(path, "does not exist", "run that step, or look at another mask")
    with _decoding:
        mask = read_mask(path)
    return sampled(mask, within((mask.shape[0], mask.shape[1]), side))


def strongest(subjects: Subjects, subject: Subject, kind: str, side: int) -> np.ndarray:
    """(2, h, w) uint8 within one of `CUT_SIDES`: the strongest class's mask value, and its score as 0..255."""
    side = _one_of(side, CUT_SIDES)
    maps = subjects.maps_of(subject, kind)
    best, value = best_class(over_photo(maps, within(maps.size, side)), maps.classes)
    return np.stack([best, np.rint(255 * np.clip(value, 0, 1)).astype(np.uint8)])


def _one_of(side: int, sides: tuple[int, ...]) -> int:
    if side not in sides:
        raise DataError(f"no picture of {side} pixels; there are {', '.join(map(str, sides))}")
    return side
