"""MNIST from a local folder of its original files: bounded, nothing in them is trusted."""

from __future__ import annotations

import gzip
import struct
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError

MOST_BYTES = 256 * 2**20  # of one unpacked file; MNIST's largest has 47 MB
_IMAGES, _LABELS = 0x803, 0x801  # magic numbers: bytes in three dimensions, in one
_REMEDY = "get the four original MNIST files again"

Pixels = npt.NDArray[np.uint8]


def read_mnist(folder: Path, part: str) -> tuple[Pixels, Pixels]:
    """Read images (N, H, W) and labels (N,) of `part`, "train" or "t10k", from idx files, plain or .gz.

    Raises DataError naming the file for missing, damaged, foreign or overlong ones.
    """
    images = read_idx(_find(folder, f"{part}-images", "idx3-ubyte"), _IMAGES)
    labels = read_idx(_find(folder, f"{part}-labels", "idx1-ubyte"), _LABELS)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images and {len(labels)} labels in '{part}'; {_REMEDY}")
    return images, labels


def read_idx(path: Path, magic: int) -> Pixels:
    """Read one idx file of bytes; the low byte of `magic` is its number of dimensions."""
    try:
        with open(path, "rb") as file, ExitStack() as stack:
            stream = cast(BinaryIO, stack.enter_context(gzip.open(file)) if path.suffix == ".gz" else file)
            shape = _shape(path, stream, magic)
            expected = int(np.prod(shape, dtype=object))
            if expected > MOST_BYTES:
                raise DataError(f"{path}: announces {expected} bytes, more than {MOST_BYTES}; {_REMEDY}")
            data = stream.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be unpacked ({error}); {_REMEDY}") from error
    if len(data) != expected:
        much = "more than" if len(data) > expected else f"{len(data)} of"
        raise DataError(f"{path}: holds {much} the {expected} bytes it announces; {_REMEDY}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, stream: BinaryIO, magic: int) -> tuple[int, ...]:
    count = 1 + (magic & 0xFF)
    header = stream.read(4 * count)
    if len(header) != 4 * count:
        raise DataError(f"{path}: ends within its header; {_REMEDY}")
    found, *shape = struct.unpack(f">{count}I", header)
    if found != magic or 0 in shape:
        raise DataError(f"{path}: begins with {found:#x} and sizes {shape}, expected {magic:#x}; {_REMEDY}")
    return tuple(shape)


def _find(folder: Path, name: str, kind: str) -> Path:
    for middle in ("-", "."):  # both spellings are about
        for ending in ("", ".gz"):
            path = folder / f"{name}{middle}{kind}{ending}"
            if path.is_file():
                return path
    raise DataError(f"{folder}: has no file {name}-{kind} or {name}-{kind}.gz; give the folder of MNIST's four files")
