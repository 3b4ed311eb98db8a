"""Small pictures as data: URIs: photos, heat maps and mask overlays that are laid over the photo."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, features

from tag2mask.data.records import IGNORED
from tag2mask.reports.palette import class_colour, heat_table

PHOTO_SIDE = 512  # pixels, long side: sharp when enlarged, about 40 KB
HEAT_SIDE = 144  # pixels: the maps have some 30..120 positions a side, the browser smooths the rest
FRAME_SIDE = 96  # pixels: one frame of the steps
PALE = (246, 246, 248)
_TABLE = heat_table()


def photo_uri(image: np.ndarray, side: int = PHOTO_SIDE, quality: int = 76) -> str:
    """Encode an RGB image (H, W, 3) uint8 as JPEG, its long side at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(picture, "JPEG", quality=quality, optimize=True)


def heat_uri(heat: np.ndarray, side: int = HEAT_SIDE) -> str:
    """Encode a map (h, w) in 0..1 as a translucent heat picture; its aspect ratio follows the map's.

    Weak evidence is the more transparent, so that the photo below stays readable.
    """
    values = np.nan_to_num(np.clip(heat.astype(np.float32), 0, 1))
    grey = Image.fromarray((255 * values).round().astype(np.uint8))
    grey = grey.resize(_fit(grey.size, side), Image.Resampling.BICUBIC)
    level = np.asarray(grey)
    alpha = (110 + 110 * (level / 255.0)).round().astype(np.uint8)
    rgba = np.dstack([_TABLE[level], alpha])
    picture = Image.fromarray(rgba)
    if features.check("webp"):
        return _uri(picture, "WEBP", quality=70, method=2)
    return _uri(picture.quantize(64, method=Image.Quantize.FASTOCTREE), "PNG", optimize=True)


def mask_uri(mask: np.ndarray, side: int = PHOTO_SIDE) -> str:
    """Encode a mask (H, W) uint8 (0 background, c+1 classes, 255 ignored or unsure) as a translucent overlay.

    Classes are filled with their colour and have an opaque edge; background is clear; ignored pixels are pale,
    and hatched away from their edge, so that thin seams along objects stay calm. Only the classes that occur
    take palette entries, so any number of classes fits.
    """
    values = _sized(mask, side)
    indices = np.zeros(values.shape, dtype=np.uint8)
    palette, alphas = [0, 0, 0, *PALE, *PALE], [0, 95, 185]
    rows, columns = np.indices(values.shape)
    ignored = values == IGNORED
    indices[ignored] = 1
    indices[ignored & ((rows + columns) % 9 < 2) & ~_edges(values, 4)] = 2
    edge = _edges(values, 2)
    for value in [int(value) for value in np.unique(values) if value not in (0, IGNORED)][:120]:
        fill = len(alphas)
        indices[values == value] = fill
        indices[(values == value) & edge] = fill + 1
        palette += 2 * class_colour(value - 1)
        alphas += [145, 255]
    picture = Image.fromarray(indices)
    picture.putpalette(palette)
    return _uri(picture, "PNG", transparency=bytes(alphas), optimize=True)


def differences(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: where `mask` and `truth` name different classes, ignored pixels of truth left out."""
    return (mask != truth) & (truth != IGNORED)


def difference_uri(wrong: np.ndarray, side: int = PHOTO_SIDE) -> str:
    """Encode where a prediction is wrong (H, W) bool as a bright overlay on a dimmed photo."""
    small = Image.fromarray(_sized(wrong.astype(np.uint8), side))
    small.putpalette([0, 0, 0, 255, 64, 129])
    return _uri(small, "PNG", transparency=bytes([120, 225]), optimize=True)


def _edges(values: np.ndarray, width: int) -> np.ndarray:
    """Pixels within `width` of a pixel of another value; the picture's own border is no edge."""
    edge = np.zeros(values.shape, dtype=bool)
    for shift in range(1, width + 1):
        down, right = values[shift:] != values[:-shift], values[:, shift:] != values[:, :-shift]
        edge[shift:] |= down
        edge[:-shift] |= down
        edge[:, shift:] |= right
        edge[:, :-shift] |= right
    return edge


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _sized(mask: np.ndarray, side: int) -> np.ndarray:
    """Bring a mask (H, W) to at most `side` pixels; small ones grow by whole factors, so that edges stay thin."""
    height, width = mask.shape
    size = _fit((width, height), side)
    if max(height, width) <= side:
        factor = max(1, side // max(height, width))
        size = (width * factor, height * factor)
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"


def heat_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map (H, W) in 0..1 over its photo (H, W, 3) uint8 as a heat picture; returns (H, W, 3) uint8."""
    values = np.nan_to_num(np.clip(heat.astype(np.float32), 0, 1))
    colours = _TABLE[(255 * values).round().astype(np.uint8)].astype(np.float32)
    weight = (110 + 110 * values)[..., None] / 255
    return (image * (1 - weight) + colours * weight).round().astype(np.uint8)


def mask_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay a mask (H, W) uint8 over its photo (H, W, 3) uint8, classes in their colours; returns (H, W, 3) uint8."""
    picture = image.astype(np.float32)
    for value in np.unique(mask[(mask != 0) & (mask != IGNORED)]):
        colour = np.asarray(class_colour(int(value) - 1), np.float32)
        picture[mask == value] = 0.5 * picture[mask == value] + 0.5 * colour
    picture[_edges(mask, 2) & (mask != 0)] = PALE
    return picture.round().astype(np.uint8)
