"""Decoding: any picture file a camera, scanner or web page makes becomes RGB, or is named with a remedy."""

from __future__ import annotations

import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.common.errors import DataError, GoneError
from tag2mask.common.files import GONE
from tag2mask.data import tiff
from tag2mask.data.records import MAX_PIXELS, BadFileError, ImageRecord, LongSide, Reading

_FRACTION = 64  # a JPEG can be decoded at an eighth of its sides
_WHOLE = 4  # others that are made smaller at once may take that much more memory for a moment
HEADER_PIXELS = MAX_PIXELS * _FRACTION  # where only the header is read
_SMALL_FILE = 10 * 2**20  # bytes; below, pixels without end are a bomb rather than a photo:
_SMALL_FILES_PIXELS = 80_000_000  # so many take less than a gigabyte
_STRIP = 4_000_000  # pixels that are converted at once
_AS_IT_IS = Reading()
_DEEP = "tag2mask: 16 bits a band"
_DEEP_COLOURS = re.compile(r"RGBA?;16")  # of grey with transparency Pillow gives the upper byte only
_EXIF_IN_PNG = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})  # chunks that may hold it
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".mpo"}
)
# Raster formats only: Pillow would hand others (EPS, WMF) to outside programs.
# (MPO, the two-picture JPEG of phones, comes through JPEG.)
Image.init()
_FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000") if name in Image.OPEN
]
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REPLACE = "replace the file by a whole copy or take it out of the set"
_opening = threading.Lock()


def decode_image(
    path: Path | str, *, max_pixels: int | None = None, long_side: LongSide = None, reading: Reading = _AS_IT_IS
) -> np.ndarray:
    """Decode a picture to (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Grey, palette, CMYK, 16-bit (`reading.value_range`, else the type's range, becomes 0..255) and float pictures are
    converted, transparency is laid over white, of an animation the first frame is taken. A fourth band that isn't
    transparency is left out; more than four need `reading.bands`. A picture whose longer side has more than
    `long_side` pixels is made smaller, to exactly that. Raises DataError (naming file and remedy) for a missing,
    empty, truncated, non-image or larger than `max_pixels` file.
    """
    path = Path(path)
    limit = reading.max_pixels if max_pixels is None else max_pixels
    header = _own_tiff(path, reading)
    if header is not None:
        return _limited(_of_bands(path, _all_bands(path, header, limit, long_side), reading), long_side)
    with open_picture(path, limit, long_side) as picture:
        width, height = limited_size(picture.size, long_side)
        if (width, height) == picture.size:
            return pixels_of(picture, path, reading)
        lying = _lies(path, picture)
        picture.draft("RGB", (width, height))  # a JPEG is decoded at a half, a quarter or an eighth of its size
        small = _small_enough(path, picture, reading)
        return np.array(small.resize((height, width) if lying else (width, height), Image.Resampling.BICUBIC))


def _small_enough(path: Path, picture: Image.Image, reading: Reading) -> Image.Image:
    """The picture in RGB, upright; a large one is let go of meanwhile."""
    if picture.size[0] * picture.size[1] <= _STRIP:
        return _to_rgb(path, _upright(picture), reading)
    pixels = pixels_of(picture, path, reading)
    picture.close()
    return Image.fromarray(pixels)


def pixels_of(picture: Image.Image, path: Path | str = "picture", reading: Reading = _AS_IT_IS) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an opened picture, upright and converted as by `decode_image`."""
    upright = _upright(picture)
    if upright.size[0] * upright.size[1] <= _STRIP:
        return np.array(_to_rgb(Path(path), upright, reading))  # a copy: it can be written to
    return _in_strips(Path(path), upright, reading)


def _in_strips(path: Path, picture: Image.Image, reading: Reading) -> np.ndarray:
    """As `_to_rgb`, without several copies of a large picture at once; values that depend on a whole one aren't."""
    whole = picture.mode.startswith("I") or picture.mode == "F" or reading.bands is not None
    if whole or (reading.value_range is not None and _is_deep_png(picture)):
        return np.array(_to_rgb(path, picture, reading))
    width, height = picture.size
    result = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    form = picture.format
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        strip.format = form
        result[top : top + rows] = np.asarray(_to_rgb(path, strip, reading))
    return result


def read_image(record: ImageRecord) -> np.ndarray:
    """Decode a record's picture (H, W, 3) uint8 within its size limit; raises DataError as `decode_image`."""
    return decode_image(record.path, long_side=record.long_side, reading=record.reading)


def limited_size(size: tuple[int, int], long_side: LongSide) -> tuple[int, int]:
    """Return two sides scaled so that the longer one lies within `long_side` pixels; rounded, at least 1."""
    least, most = bounds_of(long_side)
    side = min(max(max(size), least), most)
    if side == max(size):
        return size
    first, second = (max(1, round(one * side / max(size))) for one in size)
    return first, second


def bounds_of(long_side: LongSide) -> tuple[float, float]:
    """The fewest and the most pixels of a longer side."""
    if isinstance(long_side, tuple):
        return long_side[0], long_side[1]
    return 0, math.inf if long_side is None else long_side


def at_most(long_side: LongSide, most: int) -> LongSide:
    """The same bounds, and none of them above `most` pixels."""
    if isinstance(long_side, tuple):
        return tuple(min(one, most) for one in long_side)
    return most if long_side is None else min(long_side, most)


@contextmanager
def open_picture(path: Path | str, max_pixels: int = MAX_PIXELS, long_side: LongSide = None) -> Iterator[Image.Image]:
    """Yield the opened picture with its size checked but nothing decoded; failures become BadFileError.

    long_side: that it will be decoded for; a JPEG then takes a fraction of its pixels, others may have four times
    `max_pixels`.
    """
    path = Path(path)
    _check_file(path)
    most = max_pixels if long_side is None else max_pixels * _FRACTION
    try:
        with _open_header(path, most) as picture:
            if _decoded_pixels(picture, long_side) > max_pixels:
                raise _too_large(path, picture.size, max_pixels)
            _refuse_bomb(path, picture, max_pixels, long_side)
            yield picture
    except (BadFileError, GoneError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(path, str(error), max_pixels) from error
    except Image.UnidentifiedImageError as error:
        message = f"is not an image of a known kind (JPEG, PNG, TIFF, WebP, ...); it begins with {_head(path)}"
        raise BadFileError(path, message, "convert it or take it out of the set") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in GONE:
            raise GoneError(path.parent, f"can't be read ({error.strerror})") from error
        # decoders raise nearly anything on damaged bytes, and all of it means this
        raise BadFileError(path, f"is damaged or cut off ({_reason(error)})", _REPLACE) from error


def image_size(path: Path | str, *, max_pixels: int = HEADER_PIXELS) -> tuple[int, int]:
    """Return the (height, width) that `decode_image` would give, from the header alone."""
    header = _own_tiff(Path(path))
    if header is not None:
        height, width, turned = header.one(257), header.one(256), header.one(_ORIENTATION_TAG, 1) >= 5
        return (width, height) if turned else (height, width)
    with open_picture(path, max_pixels) as picture:
        width, height = picture.size
        return (width, height) if _lies(Path(path), picture) else (height, width)


def image_sizes(records: Sequence[ImageRecord], most: int) -> list[tuple[int, int]]:
    """(height, width) of about `most` pictures, or all, spread over the records; unreadable ones are left out."""
    found = []
    for record in records[:: max(1, len(records) // most)]:
        with suppress(DataError):
            found.append(image_size(record.path))
    return found


def stored_turned(path: Path | str) -> bool:
    """Tell whether EXIF turns this picture by a quarter, so that height and width change places."""
    with open_picture(path, HEADER_PIXELS) as picture:
        return _orientation(picture) >= 5


def _decoded_pixels(picture: Image.Image, long_side: LongSide) -> int:
    """Return the pixels that count against the limit once the picture is decoded for `long_side`."""
    width, height = picture.size
    small = limited_size((width, height), long_side)
    if max(small) >= max(width, height):
        return width * height
    if picture.format not in ("JPEG", "MPO"):
        return width * height // _WHOLE
    fits = min(width // small[0], height // small[1])
    step = next(scale for scale in (8, 4, 2, 1) if fits >= scale)
    whole = (
        _WHOLE if picture.info.get("progressive") else _FRACTION
    )  # a progressive one is held whole as coefficients
    return max(width * height // step**2, width * height // whole)


def _refuse_bomb(path: Path, picture: Image.Image, max_pixels: int, long_side: LongSide) -> None:
    """Raise BadFileError for a small file that would take more memory than its pixels are worth.

    Not where only its header is read, nor where the set's own limit was raised.
    """
    if max_pixels not in (MAX_PIXELS, MAX_PIXELS * _WHOLE) or path.stat().st_size >= _SMALL_FILE:
        return
    by_fraction = picture.format in ("JPEG", "MPO") and not picture.info.get("progressive")
    pixels = _decoded_pixels(picture, long_side) if by_fraction else picture.size[0] * picture.size[1]
    most = _SMALL_FILES_PIXELS * (2 if picture.mode in ("L", "P", "1") else 1)
    if pixels > most:
        width, height = picture.size
        message = f"{width} x {height} pixels in so small a file are over the limit of {most} pixels"
        smaller = "set data.long_side to work on it at that size, or " if by_fraction and long_side is None else ""
        raise BadFileError(path, message, f"{smaller}set data.max_pixels above {max_pixels} if you trust the file")


def _check_file(path: Path) -> None:
    if not path.exists():
        if not path.parent.exists():
            raise GoneError(path.parent)
        raise BadFileError(path, "does not exist", "check the name and the folder")
    if not path.is_file():
        raise BadFileError(path, "is not a file", "give the path of a picture")
    if path.stat().st_size == 0:
        raise BadFileError(path, "is empty (0 bytes)", _REPLACE)


def _open_header(path: Path, max_pixels: int) -> Image.Image:
    # Pillow's own limit and the warning filters are process-wide, hence the lock and the restoring.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            picture = Image.open(path, formats=_FORMATS)
            tiles = getattr(picture, "tile", None) or [("", (), 0, "")]
            picture.info[_DEEP] = _DEEP_COLOURS.match(str(tiles[0][3])) is not None  # it is gone once decoded
            return picture
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _too_large(path: Path, size: tuple[int, int] | str, max_pixels: int) -> BadFileError:
    given = re.search(r"\d+ pixels", size) if isinstance(size, str) else None  # in Pillow's words
    what = f"{size[0]} x {size[1]} pixels" if isinstance(size, tuple) else given[0] if given else "its size"
    message = f"{what} is over the limit of {max_pixels} pixels"
    return BadFileError(
        path, message, "set data.long_side to work on it at that size, or raise data.max_pixels if you trust the file"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _head(path: Path) -> str:
    with open(path, "rb") as stream:
        return repr(stream.read(12))


def _orientation(picture: Image.Image) -> int:
    if picture.format == "PNG" and not _may_hold_exif(picture):
        return 1  # Pillow would decode all of it to look behind the pixels
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block must not cost a picture that decodes
        return 1


def _may_hold_exif(picture: Image.Image) -> bool:
    """Whether a PNG holds, before or behind its pixels, what may be EXIF; its chunks' heads are looked at alone."""
    if {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & picture.info.keys():
        return True
    stream = getattr(picture, "fp", None)
    if stream is None:  # decoded before
        return True
    before = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            if head[4:] in _EXIF_IN_PNG and stream.tell() > before:
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
        return False
    finally:
        stream.seek(before)


def _lies(path: Path, picture: Image.Image) -> bool:
    """Tell whether the opened picture's height and width change places once it is upright."""
    header = _tiff_header(path) if picture.format == "TIFF" else None
    turned_by_pillow = header is not None and picture.size != (header.one(256), header.one(257))
    return _orientation(picture) >= 5 and not turned_by_pillow


def _upright(picture: Image.Image) -> Image.Image:
    _orientation(picture)  # which keeps it, where loading closes the file
    picture.load()
    method = _UPRIGHT.get(_orientation(picture))  # none any more for a TIFF, which newer Pillow turns itself
    return picture if method is None else picture.transpose(method)


def _to_rgb(path: Path, picture: Image.Image, reading: Reading) -> Image.Image:
    deep = reading.value_range is not None and _is_deep_png(picture)
    if reading.bands is not None or deep:
        return Image.fromarray(_of_bands(path, _deep_png(path) if deep else _bands_of(picture), reading))
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_to_8bit(np.asarray(picture), reading.value_range)).convert("RGB")
    if picture.mode in ("RGBA", "RGBX") and picture.format == "TIFF" and not _has_alpha(path):
        return Image.fromarray(np.ascontiguousarray(np.asarray(picture)[..., :3]))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("LA").convert("RGBA") if picture.mode == "La" else picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _to_8bit(values: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Scale integers from 16 bits (or floats from 0..1), or else from 0..their maximum, to 0..255.

    value_range: what becomes 0 and 255 instead; what lies outside of it becomes black or white.
    """
    if value_range is None:
        peak = max((float(_floats(strip).max(initial=0.0)) for strip in _strips(values)), default=0.0)
        natural = 65535.0 if np.issubdtype(values.dtype, np.integer) else 1.0
        value_range = (0.0, natural if peak <= natural else peak)
    low, high = value_range
    result = np.empty(values.shape, np.uint8)
    for strip, made in zip(_strips(values), _strips(result), strict=True):
        made[...] = np.clip(np.rint((_floats(strip) - low) * (255.0 / (high - low))), 0, 255)
    return result


def _floats(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _strips(values: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of an array (H, ...) of a few million values, as views: as floats all of it would take a gigabyte."""
    rows = max(1, _STRIP * len(values) // max(1, values.size))
    for top in range(0, len(values), rows):
        yield values[top : top + rows]


def raw_values(path: Path) -> np.ndarray | None:
    """Return all values (H, W, B) of a picture with more than 8 bits a band, None for others; raises BadFileError."""
    header = _own_tiff(path)
    if header is not None:
        return _all_bands(path, header, MAX_PIXELS * _WHOLE, None) if header.bits > 8 else None
    with open_picture(path, MAX_PIXELS * _WHOLE) as picture:
        if _is_deep_png(picture):
            return _deep_png(path)
        return _bands_of(picture) if picture.mode.startswith("I") or picture.mode == "F" else None


def extra_bands(path: Path) -> int:
    """Return how many bands a picture has that RGB leaves out, transparency not counted; from the header alone."""
    header = _tiff_header(path)
    if header is None or header.photometric not in (0, 1, 2):
        return 0
    return max(0, header.bands - header.alpha - 3)


# --- more or fewer bands than three, and more than 8 bits in each -----------------------------------------


def _own_tiff(path: Path, reading: Reading = _AS_IT_IS) -> tiff.TiffHeader | None:
    """Return the header of a TIFF whose bands Pillow can't give: five or more, two, or several of over 8 bits.

    So are four, where bands are chosen and the fourth isn't transparency.
    """
    header = _tiff_header(path)
    if header is None or header.photometric not in (0, 1, 2):
        return None
    several = header.bands > 1 and (header.bits > 8 or header.bands > 4 or (header.bands == 2 and not header.alpha))
    several |= header.bands == 4 and not header.alpha and reading.bands is not None
    return header if several and header.bits >= 8 else None


def _tiff_header(path: Path) -> tiff.TiffHeader | None:
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return None
    try:
        return tiff.read_header(path)
    except (OSError, struct.error):
        return None  # Pillow will say what is wrong


def _has_alpha(path: Path) -> bool:
    header = _tiff_header(path)
    return header is None or header.alpha


def _all_bands(path: Path, header: tiff.TiffHeader, max_pixels: int, long_side: LongSide) -> np.ndarray:
    """Return (H, W, B) upright."""
    size = (header.one(256), header.one(257))
    if size[0] * size[1] > max_pixels * (1 if max(size) <= bounds_of(long_side)[1] else _WHOLE):
        raise _too_large(path, size, max_pixels)
    depth = max(1, header.bands * header.bits // 8)
    if path.stat().st_size < _SMALL_FILE and size[0] * size[1] * depth > 4 * _SMALL_FILES_PIXELS:
        raise _too_large(path, size, 4 * _SMALL_FILES_PIXELS // depth)
    try:
        return turned(tiff.read_bands(path, header), header.one(_ORIENTATION_TAG, 1))
    except (zlib.error, struct.error, ValueError, IndexError, OSError) as error:
        raise BadFileError(path, f"is damaged or cut off ({_reason(error)})", _REPLACE) from error


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, B) as EXIF's `orientation` 1..8 says it is to be seen."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return stored[:: -1 if down else 1, :: -1 if across else 1]


def _of_bands(path: Path, stack: np.ndarray, reading: Reading) -> np.ndarray:
    """Make (H, W, 3) uint8 of all bands (H, W, B): the chosen ones, or the file's own red, green and blue."""
    count = stack.shape[2]
    bands = reading.bands
    if bands is None and (count > 4 or count == 2):
        example = "[0, 1, 2]" if count > 2 else "[0]"
        raise BadFileError(path, f"has {count} bands", f"say which to see as red, green, blue: data.bands: {example}")
    if bands is not None and max(bands) >= count:
        message = f"has {count} band(s), and data.bands asks for {list(bands)}"
        raise BadFileError(path, message, f"choose from 0..{count - 1}, or take the file out of the set")
    chosen = stack[..., list(bands)] if bands is not None else stack[..., : 3 if count >= 3 else 1]
    if chosen.dtype != np.uint8:
        chosen = _to_8bit(chosen, reading.value_range)
    return np.ascontiguousarray(np.broadcast_to(chosen, (*chosen.shape[:2], 3)))


def _bands_of(picture: Image.Image) -> np.ndarray:
    """Return all bands (H, W, B) of a picture as they are stored."""
    plain = {"P": "RGB", "PA": "RGBA", "1": "L"}.get(picture.mode)
    values = np.asarray(picture.convert(plain) if plain else picture)
    return values[..., None] if values.ndim == 2 else values


def _is_deep_png(picture: Image.Image) -> bool:
    return picture.format == "PNG" and picture.mode in ("RGB", "RGBA") and picture.info.get(_DEEP) is True


def _deep_png(path: Path) -> np.ndarray:
    """Return (H, W, 3) of a colour PNG of 16 bits a band: Pillow gives one byte of each value, asked twice."""
    halves = []
    for order in ("B", "L"):
        with Image.open(path, formats=["PNG"]) as picture:
            tile = picture.tile[0]
            picture.tile = [tile._replace(args=f"{picture.mode};16{order}")]
            upright = _upright(picture)
            halves.append(np.asarray(upright).astype(np.uint16)[..., :3])
    return halves[0] << 8 | halves[1]


def _limited(image: np.ndarray, long_side: LongSide) -> np.ndarray:
    height, width = limited_size((image.shape[0], image.shape[1]), long_side)
    if (height, width) == image.shape[:2]:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
