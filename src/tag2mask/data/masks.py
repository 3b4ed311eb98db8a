"""Mask files: 8-bit PNGs whose values are class numbers, shown in the colours of PASCAL VOC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write
from tag2mask.data.classes import colours_beside
from tag2mask.data.images import open_picture
from tag2mask.data.records import IGNORED, MAX_PIXELS, BadFileError

_MASK_PIXELS = 4 * MAX_PIXELS  # one byte a pixel, where a picture takes three or more

_FIXED = {(0, 0, 0): 0, (224, 224, 192): IGNORED}  # black and VOC's outline, unless a label map names them
_SPREAD = {"L;2": 85, "L;4": 17}  # Pillow spreads grey values of 2 and 4 bits over 0..255
_SAVE_AS_INDICES = "save it as a palette or grey PNG whose pixel values are class numbers (0 background, 255 ignored)"


def voc_palette() -> np.ndarray:
    """Return the (256, 3) uint8 RGB colours of PASCAL VOC.

    The bits of an index go in threes, lowest first, to the highest free bits of red, green and blue.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            if 3 * bit + channel < 8:
                palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def read_mask(path: Path | str, lut: np.ndarray | None = None) -> np.ndarray:
    """Read a palette or grey mask as (H, W) uint8, its values passed through `lut` (256,) when given.

    Where a labelmap.txt lies in the mask's folder or above it, the colours that it names count: the first class is 1.
    Raises DataError for unreadable files, other colour pictures, lossy formats and values above 255.
    """
    with open_picture(path, _MASK_PIXELS) as picture:
        if picture.format in ("JPEG", "MPO", "JPEG2000"):
            raise BadFileError(path, f"is a {picture.format}, which alters mask values", _SAVE_AS_INDICES)
        spread = _spread(picture)
        picture.load()
        values = _indices(Path(path), picture) // np.uint8(spread)
    return values if lut is None else np.asarray(lut, dtype=np.uint8)[values]


def has_one_channel(path: Path | str) -> bool:
    """Tell from its header a picture of one channel or with a palette, as masks are; not one that can't be opened."""
    try:
        with open_picture(path, _MASK_PIXELS) as picture:
            return len(picture.getbands()) == 1
    except DataError:
        return False


def write_mask(path: Path | str, mask: np.ndarray) -> None:
    """Write (H, W) integers 0..255 as a palette PNG in VOC colours, whole or not at all."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0 or mask.min() < 0 or mask.max() > 255:
        raise DataError(f"{path}: a mask must be (H, W) with values 0..255, got shape {mask.shape}")
    with atomic_write(path) as temporary:
        palette_picture(mask).save(temporary, format="PNG")


def palette_picture(mask: np.ndarray) -> Image.Image:
    """A mask (H, W) of 0..255 as a picture of palette indices in VOC colours."""
    picture = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    picture.putpalette(voc_palette().tobytes())
    return picture


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a mask (H, W) uint8 to `size` = (H', W') without inventing values.

    Where it becomes smaller, the nearest pixel is taken. Where it becomes larger, every value is enlarged linearly as
    a picture of its own and the strongest wins, so that edges become smoother than steps.
    """
    if labels.shape == tuple(size):
        return labels
    wanted = (size[1], size[0])
    if size[0] * size[1] <= labels.size:
        return np.array(Image.fromarray(labels).resize(wanted, Image.Resampling.NEAREST))
    values = np.unique(labels)
    result = np.full(size, values[0], np.uint8)
    strongest = np.zeros(size, np.uint8)
    for value in values:
        part = Image.fromarray(np.uint8(255) * (labels == value))
        share = np.asarray(part.resize(wanted, Image.Resampling.BILINEAR))
        ahead = share > strongest
        result[ahead], strongest[ahead] = value, share[ahead]
    return result


def _spread(picture: Image.Image) -> int:
    tiles = getattr(picture, "tile", None)  # (decoder, box, offset, raw mode or options) before loading
    raw_mode = tiles[0][3] if tiles else None
    return _SPREAD.get(raw_mode, 1) if isinstance(raw_mode, str) else 1


def _indices(path: Path, picture: Image.Image) -> np.ndarray:
    if picture.mode in ("P", "L", "1"):
        values = np.array(picture, dtype=np.uint8)
        return values if picture.mode != "P" else _by_palette(path, picture, values)
    if picture.mode in ("LA", "PA"):
        return np.array(picture.getchannel(0), dtype=np.uint8)
    values = np.asarray(picture)
    if values.ndim == 2:
        if values.min() < 0 or values.max() > 255 or np.any(values != np.floor(values)):
            message = f"holds values {values.min()}..{values.max()}, outside 0..255"
            raise BadFileError(path, message, _SAVE_AS_INDICES)
        return values.astype(np.uint8)
    return _grey_of_colour(path, np.asarray(picture.convert("RGB")))


def _by_palette(path: Path, picture: Image.Image, values: np.ndarray) -> np.ndarray:
    """Let the palette's colours count where a label map names all that are used, else the indices."""
    colours = colours_beside(path)
    if not colours:
        return values
    flat = picture.getpalette() or []
    palette = [tuple(flat[at : at + 3]) for at in range(0, len(flat), 3)]
    table = np.arange(256, dtype=np.uint8)
    for index in np.flatnonzero(np.bincount(values.ravel(), minlength=256)):
        colour = palette[index] if index < len(palette) else ()
        if colour not in colours and colour not in _FIXED:
            return values
        table[index] = colours.get(colour, _FIXED.get(colour, 0))  # type: ignore[arg-type]
    return table[values]


def _by_labelmap(path: Path, rgb: np.ndarray) -> np.ndarray | None:
    """Return the values of the label map's colours, None without one; BadFileError for a colour it doesn't name."""
    colours = colours_beside(path)
    if not colours:
        return None
    codes = _codes(rgb)
    values, known = np.zeros(codes.shape, np.uint8), np.zeros(codes.shape, bool)
    for colour, value in {**_FIXED, **colours}.items():
        here = codes == (colour[0] << 16 | colour[1] << 8 | colour[2])
        values[here] = value
        known |= here
    if not known.all():
        strange = np.unique(codes[~known])
        colour = (int(strange[0] >> 16), int(strange[0] >> 8 & 255), int(strange[0] & 255))
        message = f"has {len(strange)} colour(s) that the label map doesn't name, such as {colour}"
        raise BadFileError(path, message, "add it to labelmap.txt, or save the mask without blending colours")
    return values


def _grey_of_colour(path: Path, rgb: np.ndarray) -> np.ndarray:
    named = _by_labelmap(path, rgb)
    if named is not None:
        return named
    if np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2]):
        return np.array(rgb[..., 0])
    codes = _codes(rgb)
    if np.isin(codes, _codes(voc_palette())).all():
        message = "holds the colours of PASCAL VOC as RGB instead of palette indices"
    else:
        message = f"is a colour picture with {len(np.unique(codes))} colours instead of class numbers"
    raise BadFileError(path, message, _SAVE_AS_INDICES)


def _codes(rgb: np.ndarray) -> np.ndarray:
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
