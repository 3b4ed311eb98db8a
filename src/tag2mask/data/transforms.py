"""Resizing, mirroring, normalising and cropping; every random choice is drawn first and can be replayed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data.records import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LONG_SIDE = (320, 640)  # pixels, both included: the classifier's training range
CROP_SIZE = 512
CropSize = int | tuple[int, int]  # pixels: both sides, or (H, W)

# (256, 3): the normalised value of every byte in every channel, computed in float64 and rounded once
_NORMALISED = ((np.arange(256)[:, None] / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).astype(
    np.float32
)


def normalise(image: np.ndarray) -> np.ndarray:
    """Map (H, W, 3) uint8 RGB to float32 with ImageNet's mean and standard deviation."""
    return _NORMALISED[image, np.arange(3)]


def resize(image: np.ndarray, size: tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """Resize (H, W[, 3]) uint8 to `size` = (H', W'), cubic by default, nearest for masks."""
    if image.shape[:2] == tuple(size):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(image).resize((size[1], size[0]), method))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (H, W) times `scale`, rounded half to even, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def rescale(image: np.ndarray, scale: float, *, nearest: bool = False) -> np.ndarray:
    """Resize (H, W[, 3]) uint8 by a factor, as for the test scales 1, 0.5, 1.5, 2."""
    return resize(image, scaled_size((image.shape[0], image.shape[1]), scale), nearest=nearest)


def resize_long(image: np.ndarray, long_side: int | None) -> np.ndarray:
    """Resize (H, W, 3) uint8 so that its longer side has `long_side` pixels, in proportion; None: as it is."""
    if long_side is None:
        return image
    return rescale(image, long_side / max(image.shape[:2]))


def random_resize_long(image: np.ndarray, rng: random.Random, long_side: tuple[int, int] = LONG_SIDE) -> np.ndarray:
    """Resize so that the longer side has a number of pixels drawn from `long_side` (both ends included)."""
    return resize_long(image, rng.randint(*long_side))


def draw_mirror(rng: random.Random) -> bool:
    """Draw whether to mirror: one random bit."""
    return bool(rng.getrandbits(1))


@dataclass(frozen=True)
class CropBox:
    """Where a crop lies: its size in pixels, its corner in the image and in the padded container."""

    height: int
    width: int
    image_top: int
    image_left: int
    top: int
    left: int


def draw_offset(rng: random.Random, side: int, crop_size: int) -> int:
    """Draw an offset for one side: into the image where it is larger than the crop, else into the container."""
    return rng.randrange(abs(side - crop_size) + 1)


def both_sides(crop_size: CropSize) -> tuple[int, int]:
    """(H, W) of a crop given by its one side or by both."""
    return crop_size if isinstance(crop_size, tuple) else (crop_size, crop_size)


def crop_box(size: tuple[int, int], crop_size: CropSize, left: int, top: int) -> CropBox:
    """Turn drawn offsets into a box; DataError when an offset is outside of what `size` allows."""
    (height, width), (tall, wide) = size, both_sides(crop_size)
    for name, side, whole, offset in (("left", width, wide, left), ("top", height, tall, top)):
        if not 0 <= offset <= abs(side - whole):
            raise DataError(
                f"crop offset {name}={offset} is outside 0..{abs(side - whole)} for an image of "
                f"{height} x {width} and a crop of {crop_size}; replay draws with the image they were made for"
            )
    return CropBox(
        height=min(tall, height),
        width=min(wide, width),
        image_top=top if height > tall else 0,
        image_left=left if width > wide else 0,
        top=0 if height > tall else top,
        left=0 if width > wide else left,
    )


def draw_crop_box(size: tuple[int, int], crop_size: CropSize, rng: random.Random) -> CropBox:
    """Draw a box: the offset of the left side first, then that of the top."""
    tall, wide = both_sides(crop_size)
    left = draw_offset(rng, size[1], wide)
    return crop_box(size, crop_size, left, draw_offset(rng, size[0], tall))


def crop(image: np.ndarray, box: CropBox, crop_size: CropSize, fill: float = 0) -> np.ndarray:
    """Cut (H, W[, C]) to (crop_size, crop_size[, C]); what the image doesn't cover is `fill`."""
    container = np.full((*both_sides(crop_size), *image.shape[2:]), fill, dtype=image.dtype)
    container[box.top : box.top + box.height, box.left : box.left + box.width] = image[
        box.image_top : box.image_top + box.height, box.image_left : box.image_left + box.width
    ]
    return container


def top_left_crop(image: np.ndarray, crop_size: int, fill: float = 0) -> np.ndarray:
    """Cut (H, W[, C]) to (crop_size, crop_size[, C]) from the corner, padding with `fill`."""
    return crop(image, crop_box((image.shape[0], image.shape[1]), crop_size, 0, 0), crop_size, fill)


@dataclass(frozen=True)
class Draws:
    """All random choices of one training sample; the offsets are for the image after resizing."""

    long_side: int  # pixels of the longer side
    mirror: bool
    left: int  # into the image when it is wider than the crop, else into the container
    top: int
    gains: tuple[float, ...] = ()  # factor of all values, or of each of red, green and blue; () = as they are

    @classmethod
    def draw(
        cls,
        rng: random.Random,
        size: tuple[int, int],
        *,
        long_side: tuple[int, int] = LONG_SIDE,
        crop_size: CropSize = CROP_SIZE,
        brightness: float = 0.0,
        colour: float = 0.0,
    ) -> Draws:
        """Draw for an image of `size` = (H, W): long side, mirror, left, top, brightness and colour, in this order.

        `brightness` is the most that values may grow or fall, as a share, `colour` that of each of red, green and
        blue on top of it; 0 draws nothing.
        """
        side = rng.randint(*long_side)
        height, width = scaled_size(size, side / max(size))
        tall, wide = both_sides(crop_size)
        mirror = draw_mirror(rng)
        left = draw_offset(rng, width, wide)
        top = draw_offset(rng, height, tall)
        gains: tuple[float, ...] = (rng.uniform(1 - brightness, 1 + brightness),) if brightness else ()
        if colour:
            tint = [rng.uniform(1 - colour, 1 + colour) for _ in range(3)]
            gains = tuple((gains[0] if gains else 1.0) * one for one in tint)
        return cls(side, mirror, left, top, gains)


def brightened(image: np.ndarray, gains: tuple[float, ...]) -> np.ndarray:
    """Multiply (H, W, 3) uint8 by one factor, or by one for each channel, rounded and cut off at 255."""
    return np.clip(np.rint(image * np.array(gains, np.float32)), 0, 255).astype(np.uint8)


def augment(image: np.ndarray, draws: Draws, crop_size: CropSize = CROP_SIZE) -> np.ndarray:
    """Make a training sample (3, crop_size, crop_size) or (3, *crop_size) float32 of (H, W, 3) uint8.

    Resize, mirror, brighten, normalise, crop; padding is zero after normalisation, that is, the mean colour.
    """
    resized = resize_long(image, draws.long_side)
    if draws.mirror:
        resized = resized[:, ::-1]
    if draws.gains:
        resized = brightened(resized, draws.gains)
    box = crop_box((resized.shape[0], resized.shape[1]), crop_size, draws.left, draws.top)
    return _channels_first(crop(normalise(resized), box, crop_size))


def random_augment(
    image: np.ndarray,
    rng: random.Random,
    *,
    long_side: tuple[int, int] = LONG_SIDE,
    crop_size: int = CROP_SIZE,
) -> np.ndarray:
    """Draw and `augment`: (H, W, 3) uint8 to (3, crop_size, crop_size) float32."""
    size = (image.shape[0], image.shape[1])
    return augment(image, Draws.draw(rng, size, long_side=long_side, crop_size=crop_size), crop_size)


def joint_augment(
    image: np.ndarray,
    mask: np.ndarray,
    rng: random.Random,
    *,
    crop_size: int,
    scales: tuple[float, float] = (0.5, 2.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Make a segmentation sample: image (3, crop, crop) float32 and mask (crop, crop) uint8.

    image: (H, W, 3) uint8; mask: (H, W) uint8. A scale drawn evenly from `scales`, mirroring and a crop are
    shared; the image is padded with zeros after normalisation, the mask with 255. Raises DataError when the
    sizes differ.
    """
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"the mask is {mask.shape[0]} x {mask.shape[1]} pixels but its image is {image.shape[0]} x "
            f"{image.shape[1]}; make the mask anew for this image"
        )
    scale = rng.uniform(*scales)
    image, mask = rescale(image, scale), rescale(mask, scale, nearest=True)
    if draw_mirror(rng):
        image, mask = image[:, ::-1], mask[:, ::-1]
    box = draw_crop_box((mask.shape[0], mask.shape[1]), crop_size, rng)
    sample = _channels_first(crop(normalise(image), box, crop_size))
    return sample, crop(mask, box, crop_size, IGNORED)


def pasted(
    pixels: np.ndarray, mask: np.ndarray, over_pixels: np.ndarray, over_mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the objects (1..254) of a second sample over a first: (3, S, S) float32 and (S, S) uint8 of both."""
    objects = (over_mask > 0) & (over_mask < IGNORED)
    return np.where(objects, over_pixels, pixels), np.where(objects, over_mask, mask)


def without_edges(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the mask (H, W) uint8 with 255 where a pixel of another value lies within `width` pixels (a square)."""
    highest = lowest = mask
    for axis in (0, 1):
        highest = _around(highest, width, axis).max(axis=-1)
        lowest = _around(lowest, width, axis).min(axis=-1)
    return np.where(highest == lowest, mask, np.uint8(IGNORED))


def _around(values: np.ndarray, width: int, axis: int) -> np.ndarray:
    """The values within `width` places along an axis, (H, W, 2 * width + 1); the border repeats its last value."""
    padding = [(width, width) if side == axis else (0, 0) for side in range(values.ndim)]
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, padding, mode="edge"), 2 * width + 1, axis=axis)


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)


def to_tensor(image: np.ndarray) -> Tensor:
    """ImageNet-normalised tensor (3, H, W) of an image (H, W, 3) uint8."""
    import torch  # seconds to load, and the rest of this module needs none of it

    return torch.from_numpy(np.ascontiguousarray(normalise(image).transpose(2, 0, 1)))
