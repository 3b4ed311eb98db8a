"""TIFF pictures that Pillow can't show as they are: any number of bands, 16 bits a band, floats.

Read after the TIFF 6.0 specification: strips and tiles, bands together or apart, without compression or with
deflate, LZW and PackBits, horizontal differences undone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.data.records import BadFileError

_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
_KINDS = {1: "u", 2: "i", 3: "f"}  # sample format
_CONVERT = "save it as TIFF without compression, or as PNG"
_TAGS = 512  # more in a directory is damage
_LARGEST_TILE = 4096  # pixels by which a tile may stand out


@dataclass(frozen=True)
class TiffHeader:
    """What the first directory of a TIFF says."""

    tags: dict[int, tuple[int, ...]]
    order: str  # "<" or ">"

    def one(self, tag: int, default: int = 0) -> int:
        """Return a tag's first value."""
        return self.tags.get(tag, (default,))[0]

    @property
    def bands(self) -> int:
        """Samples a pixel."""
        return self.one(277, 1)

    @property
    def bits(self) -> int:
        """Bits of the first sample."""
        return self.one(258, 1)

    @property
    def photometric(self) -> int:
        """0 and 1 grey, 2 RGB, 3 palette, ..."""
        return self.one(262, 1)

    @property
    def alpha(self) -> bool:
        """Whether the last band is said to be transparency."""
        return self.tags.get(338, (0,))[-1] in (1, 2)

    @property
    def kind(self) -> str:
        """The samples' type for NumPy, such as "u2"."""
        return f"{_KINDS.get(self.one(339, 1), 'u')}{self.bits // 8}"


def read_header(path: Path) -> TiffHeader | None:
    """Return a TIFF's first directory, None for other files and for BigTIFF."""
    with path.open("rb") as stream:
        head = stream.read(8)
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
        if order is None:
            return None
        stream.seek(struct.unpack(order + "I", head[4:])[0])
        raw = stream.read(2)
        count = struct.unpack(order + "H", raw)[0] if len(raw) == 2 else 0
        entries = stream.read(12 * count) if count <= _TAGS else b""
        tags = {}
        for at in range(0, len(entries) - 11, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", entries, at)
            size = struct.calcsize("<" + _TYPES.get(kind, "B")) * length
            if kind not in _TYPES or kind in (2, 5) or size > 1 << 26:
                continue
            data = entries[at + 8 : at + 8 + size]
            if size > 4:
                stream.seek(struct.unpack_from(order + "I", entries, at + 8)[0])
                data = stream.read(size)
            if len(data) == size:
                tags[tag] = struct.unpack(f"{order}{length}{_TYPES[kind]}", data)
    return TiffHeader(tags, order)


def read_bands(path: Path, header: TiffHeader) -> np.ndarray:
    """Return all bands (H, W, B) of the first picture in the file's own type; BadFileError for other kinds."""
    tags = header.tags
    if len(set(tags.get(258, (1,)))) > 1 or header.bits not in (8, 16, 32, 64):
        raise BadFileError(path, f"has bands of {tags.get(258)} bits", _CONVERT)
    height, width = header.one(257), header.one(256)
    apart = header.one(284, 1) == 2
    depth = 1 if apart else header.bands
    tiled = 322 in tags
    rows = header.one(323) if tiled else min(header.one(278, height), height)
    columns = header.one(322) if tiled else width
    offsets, lengths = (tags.get(324), tags.get(325)) if tiled else (tags.get(273), tags.get(279))
    if not (offsets and lengths and rows and columns and height and width):
        raise BadFileError(path, "lacks the places of its pixels", _CONVERT)
    if tiled and (rows >= height + _LARGEST_TILE or columns >= width + _LARGEST_TILE):
        raise BadFileError(path, f"has tiles of {columns} x {rows} pixels, far larger than itself", _CONVERT)
    result = np.zeros((height, width, header.bands), np.dtype(header.kind).newbyteorder("="))
    blocks = zip(_places(height, width, rows, columns, header.bands if apart else 1), offsets, lengths, strict=False)
    with path.open("rb") as stream:
        for (top, left, band), offset, length in blocks:
            stream.seek(offset)
            there = rows if tiled else min(rows, height - top)
            block = _block(path, header, stream.read(length), (there, columns, depth))
            part = block[: height - top, : width - left]
            bands = slice(band, band + 1) if apart else slice(None)
            result[top : top + part.shape[0], left : left + part.shape[1], bands] = part
    return result


def _places(height: int, width: int, rows: int, columns: int, planes: int) -> Iterator[tuple[int, int, int]]:
    for plane in range(planes):
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                yield top, left, plane


def _block(path: Path, header: TiffHeader, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    count = shape[0] * shape[1] * shape[2]
    size = count * header.bits // 8
    raw = _unpacked(path, header.one(259, 1), data, size)
    if len(raw) < size:
        raise BadFileError(
            path, "is damaged or cut off", "replace the file by a whole copy or take it out of the set"
        )
    values = np.frombuffer(raw, np.dtype(header.order + header.kind), count).reshape(shape)
    predictor = header.one(317, 1)
    if predictor == 2 and values.dtype.kind != "f":
        return np.cumsum(values, axis=1, dtype=values.dtype.newbyteorder("="))
    if predictor != 1:
        raise BadFileError(path, f"uses the predictor {predictor}", _CONVERT)
    return values


def _unpacked(path: Path, compression: int, data: bytes, size: int) -> bytes:
    if compression == 1:
        return data
    if compression in (8, 32946):
        return zlib.decompressobj().decompress(data, size)
    if compression == 5:
        return _lzw(data, size)
    if compression == 32773:
        return _packbits(data, size)
    raise BadFileError(path, f"is compressed in a way ({compression}) that isn't read with bands", _CONVERT)


def _lzw(data: bytes, size: int) -> bytes:
    """Undo LZW: codes of 9 to 12 bits, highest first; 256 clears the table, 257 ends."""
    result = bytearray()
    table: list[bytes] = []
    held = bits = 0
    width, before = 9, b""
    for byte in data:
        held, bits = (held << 8 | byte) & 0xFFFFFF, bits + 8
        if bits < width:
            continue
        bits -= width
        code = held >> bits & ((1 << width) - 1)
        if code == 257 or len(result) >= size:
            break
        if code == 256:
            table, width, before = [bytes([value]) for value in range(256)] + [b"", b""], 9, b""
            continue
        if not table or code > len(table):
            break
        entry = table[code] if code < len(table) else before + before[:1]
        result += entry
        if before and len(table) < 4096:
            table.append(before + entry[:1])
        before = entry
        width = 12 if len(table) >= 2047 else 11 if len(table) >= 1023 else 10 if len(table) >= 511 else 9
    return bytes(result)


def _packbits(data: bytes, size: int) -> bytes:
    result = bytearray()
    at = 0
    while at < len(data) and len(result) < size:
        count, at = data[at], at + 1
        if count < 128:
            result += data[at : at + count + 1]
            at += count + 1
        elif count > 128:
            result += data[at : at + 1] * (257 - count)
            at += 1
    return bytes(result)
