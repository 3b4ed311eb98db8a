"""Decoding: any picture file a camera, scanner or web page makes becomes RGB, or is named with a remedy."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data.records import BadFileError, ImageRecord

MAX_PIXELS = 100_000_000  # a file that claims more is refused before any memory is taken for it
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


def decode_image(path: Path | str, *, max_pixels: int = MAX_PIXELS, long_side: int | None = None) -> np.ndarray:
    """Decode a picture to (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Grey, palette, CMYK, 16-bit (its range scaled to 0..255) and float pictures are converted, transparency
    is laid over white, of an animation the first frame is taken. A picture whose longer side has more than
    `long_side` pixels is made smaller, to exactly that. Raises DataError (naming file and remedy)
    for a missing, empty, truncated, non-image or larger than `max_pixels` file.
    """
    with open_picture(path, max_pixels) as picture:
        if long_side is None or max(picture.size) <= long_side:
            return pixels_of(picture)
        width, height = limited_size(picture.size, long_side)
        lying = _orientation(picture) >= 5
        picture.draft("RGB", (width, height))  # a JPEG is decoded at a half, a quarter or an eighth of its size
        small = _to_rgb(_upright(picture))
        return np.array(small.resize((height, width) if lying else (width, height), Image.Resampling.BICUBIC))


def pixels_of(picture: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an opened picture, upright and converted as by `decode_image`."""
    return np.array(_to_rgb(_upright(picture)))  # a copy: it can be written to


def read_image(record: ImageRecord) -> np.ndarray:
    """Decode a record's picture (H, W, 3) uint8 within its size limit; raises DataError as `decode_image`."""
    return decode_image(record.path, long_side=record.long_side)


def limited_size(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """Return two sides scaled so that the longer one has at most `long_side` pixels; rounded, at least 1."""
    if long_side is None or max(size) <= long_side:
        return size
    first, second = (max(1, round(side * long_side / max(size))) for side in size)
    return first, second


@contextmanager
def open_picture(path: Path | str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Yield the opened picture with its size checked but nothing decoded; failures become BadFileError."""
    path = Path(path)
    _check_file(path)
    try:
        with _open_header(path, max_pixels) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise _too_large(path, f"{width} x {height} pixels", max_pixels)
            yield picture
    except BadFileError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(path, "its size", max_pixels) from error
    except Image.UnidentifiedImageError as error:
        message = f"is not an image of a known kind (JPEG, PNG, TIFF, WebP, ...); it begins with {_head(path)}"
        raise BadFileError(path, message, "convert it or take it out of the set") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes, and all of it means this
        raise BadFileError(path, f"is damaged or cut off ({_reason(error)})", _REPLACE) from error


def image_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return the (height, width) that `decode_image` would give, from the header alone."""
    with open_picture(path, max_pixels) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


def _check_file(path: Path) -> None:
    if not path.exists():
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
            return Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _too_large(path: Path, what: str, max_pixels: int) -> BadFileError:
    message = f"{what} is over the limit of {max_pixels} pixels"
    return BadFileError(path, message, "make the picture smaller, or raise max_pixels if you trust the file")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _head(path: Path) -> str:
    with open(path, "rb") as stream:
        return repr(stream.read(12))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block must not cost a picture that decodes
        return 1


def _upright(picture: Image.Image) -> Image.Image:
    method = _UPRIGHT.get(_orientation(picture))
    picture.load()
    return picture if method is None else picture.transpose(method)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_to_8bit(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("LA").convert("RGBA") if picture.mode == "La" else picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _to_8bit(values: np.ndarray) -> np.ndarray:
    """Scale (H, W) integers from 16 bits (or floats from 0..1), or else from 0..their maximum, to 0..255."""
    floats = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(floats.max(initial=0.0))
    natural = 65535.0 if np.issubdtype(values.dtype, np.integer) else 1.0
    top = natural if peak <= natural else peak
    return np.clip(np.rint(floats * (255.0 / top)), 0, 255).astype(np.uint8)
