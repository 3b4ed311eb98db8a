"""Mask files: values survive, colours are VOC's, and pictures that aren't masks are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data import read_mask, resize_labels, voc_palette, write_mask


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 21, (30, 40)).astype(np.uint8)


def test_palette_is_vocs() -> None:
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette[[0, 1, 2, 3, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


def test_round_trip(tmp_path: Path, mask: np.ndarray) -> None:
    mask[0] = 255
    write_mask(tmp_path / "masks" / "кот 1.png", mask)
    assert np.array_equal(read_mask(tmp_path / "masks" / "кот 1.png"), mask)
    with Image.open(tmp_path / "masks" / "кот 1.png") as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((0, 0)) == (224, 224, 192)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["кот 1.png"]


def test_real_mask_palette(animals_dir: Path) -> None:
    path = sorted((animals_dir / "SegmentationClass").iterdir())[0]
    with Image.open(path) as picture:
        expected = np.array(picture)
    assert np.array_equal(read_mask(path), expected)


def test_lookup_table(tmp_path: Path) -> None:
    lut = np.zeros(256, np.uint8)
    lut[8], lut[255] = 1, 255
    write_mask(tmp_path / "m.png", np.array([[0, 8], [15, 255]]))
    assert read_mask(tmp_path / "m.png", lut).tolist() == [[0, 1], [0, 255]]


@pytest.mark.parametrize("kind", ["grey", "bits", "wide", "rgb-grey", "grey-alpha"])
def test_grey_masks_of_all_kinds(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    picture = {
        "grey": lambda: Image.fromarray(values),
        "bits": lambda: Image.fromarray(values.astype(bool)),
        "wide": lambda: Image.fromarray(values.astype(np.uint16)),
        "rgb-grey": lambda: Image.fromarray(np.repeat(values[..., None], 3, axis=2)),
        "grey-alpha": lambda: Image.fromarray(values).convert("LA"),
    }[kind]()
    picture.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == values.tolist()


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_grey_values_are_not_spread(tmp_path: Path, bits: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = [0, 1, 2, 3]
    packed = 0
    for value in values:
        packed = packed << bits | value
    row = b"\0" + packed.to_bytes(4 * bits // 8, "big")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    body = header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert read_mask(tmp_path / "m.png").tolist() == [values]


def test_colours_of_voc_are_refused_with_the_remedy(tmp_path: Path, mask: np.ndarray) -> None:
    Image.fromarray(voc_palette()[mask]).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colours of PASCAL VOC .* palette indices; save it as a palette") as e:
        read_mask(tmp_path / "colour.png")
    assert "colour.png" in str(e.value)


def test_photo_as_mask_is_refused(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match="colour picture with 400 colours"):
        read_mask(tmp_path / "photo.png")
    Image.fromarray(photo[..., 0]).save(tmp_path / "mask.jpg")
    with pytest.raises(DataError, match="JPEG, which alters"):
        read_mask(tmp_path / "mask.jpg")


def test_values_over_a_byte_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256]], dtype=np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"0\.\.256"):
        read_mask(tmp_path / "m.png")


def test_truncated_mask(tmp_path: Path, mask: np.ndarray) -> None:
    write_mask(tmp_path / "m.png", mask)
    data = (tmp_path / "m.png").read_bytes()
    (tmp_path / "m.png").write_bytes(data[: len(data) - 200])
    with pytest.raises(DataError, match=r"m\.png.*cut off"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 3)), np.full((2, 2), 256), np.full((2, 2), -1), np.zeros((0, 2))])
def test_writing_refuses_what_is_no_mask(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="a mask must be"):
        write_mask(tmp_path / "m.png", bad)
    assert not (tmp_path / "m.png").exists()


def test_labels_are_resized_without_new_values() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 6:18], labels[5:15, 18:25], labels[0, 0] = 7, 200, 255
    large = resize_labels(labels, (200, 300))
    assert large.shape == (200, 300)
    assert set(np.unique(large)) == {0, 7, 200, 255}
    assert large[60:140, 70:170].min() == large[60:140, 70:170].max() == 7  # well inside
    back = resize_labels(large, (20, 30))
    assert (back == labels).mean() > 0.99
    assert resize_labels(labels, (20, 30)) is labels


def test_enlarged_edges_are_smooth() -> None:
    """A slanted edge, eight times larger, is nearer to the straight line than the steps of the nearest pixel."""

    def half(size: int) -> np.ndarray:
        y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
        return (y > 0.3 + 0.37 * x).astype(np.uint8)

    truth, nearest = half(320), np.kron(half(40), np.ones((8, 8), np.uint8))
    assert (resize_labels(half(40), (320, 320)) != truth).mean() < 0.8 * (nearest != truth).mean()
