"""Pictures of more than 8 bits, of more or fewer bands than three, and of more pixels than fit."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.data import ImageRecord, Reading, decode_image, image_size, read_image
from tag2mask.data.findings import before_training
from tag2mask.data.settings import DataConfig, read_set

RNG = np.random.default_rng(0)


def write_tiff(
    path: Path,
    values: np.ndarray,
    *,
    extra: tuple[int, ...] = (),
    order: str = "<",
    compression: int = 1,
    apart: bool = False,
    photometric: int = 1,
    orientation: int = 1,
    tile: int = 0,
    predictor: int = 1,
) -> None:
    """Write (H, W, B) as a TIFF with strips of 16 rows or square tiles, bands together or apart."""
    height, width, bands = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    stored = values.copy()
    if predictor == 2:
        stored[:, 1:] = values[:, 1:] - values[:, :-1]
    planes = [stored[..., b : b + 1] for b in range(bands)] if apart else [stored]
    blocks = []
    for plane in planes:
        if tile:
            whole = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            blocks += [
                whole[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)
            ]
        else:
            blocks += [plane[y : y + 16] for y in range(0, height, 16)]
    raw = [np.ascontiguousarray(b).astype(b.dtype.newbyteorder(order)).tobytes() for b in blocks]
    data = [zlib.compress(part) if compression == 8 else part for part in raw]
    offsets, at = [], 8
    for part in data:
        offsets.append(at)
        at += len(part)
    places = (
        {324: offsets, 325: [len(p) for p in data], 322: [tile], 323: [tile]}
        if tile
        else {273: offsets, 279: [len(p) for p in data], 278: [16]}
    )
    tags = {
        256: [width],
        257: [height],
        258: [values.dtype.itemsize * 8] * bands,
        259: [compression],
        262: [photometric],
        274: [orientation],
        277: [bands],
        284: [2 if apart else 1],
        317: [predictor],
        339: [kind] * bands,
        **places,
    }
    if extra:
        tags[338] = list(extra)
    entries, after, base = b"", b"", at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        packed = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        place = packed if len(packed) <= 4 else struct.pack(order + "I", base + len(after))
        after += packed if len(packed) > 4 else b""
        entries += struct.pack(order + "HHI", tag, 4, len(tags[tag])) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    path.write_bytes(head + b"".join(data) + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + after)


def bands(count: int, dtype: type = np.uint8, top: int = 256) -> np.ndarray:
    return RNG.integers(0, top, (40, 50, count)).astype(dtype)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"order": ">"},
        {"apart": True},
        {"compression": 8},
        {"tile": 16},
        {"compression": 8, "predictor": 2},
        {"apart": True, "tile": 16, "compression": 8},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_five_bands(tmp_path: Path, how: dict, dtype: type) -> None:
    if dtype is np.float32 and "predictor" in how:
        pytest.skip("differences of floats are another predictor")
    values = bands(5, dtype)
    write_tiff(tmp_path / "a.tif", values, **how)
    with pytest.raises(DataError, match=r"a\.tif: has 5 bands; .*data\.bands: \[0, 1, 2\]"):
        decode_image(tmp_path / "a.tif")
    reading = Reading(bands=(4, 0, 2), value_range=None if dtype is np.uint8 else (0.0, 255.0))
    assert np.array_equal(decode_image(tmp_path / "a.tif", reading=reading), values[..., [4, 0, 2]].astype(np.uint8))
    one = Reading(bands=(3,), value_range=reading.value_range)
    assert np.array_equal(decode_image(tmp_path / "a.tif", reading=one)[..., 1], values[..., 3].astype(np.uint8))
    assert image_size(tmp_path / "a.tif") == (40, 50)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "raw"])
def test_compressions_of_other_writers(tmp_path: Path, compression: str) -> None:
    """What libtiff wrote, read without it."""
    from tag2mask.data import tiff

    y, x = np.mgrid[0:300, 0:400]
    smooth = np.stack([x // 2, y % 256, (x * y) % 251, np.full_like(x, 7)], axis=-1).astype(np.uint8)
    smooth[100:200] = RNG.integers(0, 256, (100, 400, 4))
    Image.fromarray(smooth).save(tmp_path / "a.tif", compression=compression)
    header = tiff.read_header(tmp_path / "a.tif")
    assert header is not None
    assert (header.bands, header.alpha) == (4, True)
    assert np.array_equal(tiff.read_bands(tmp_path / "a.tif", header), smooth)


@pytest.mark.parametrize("extra", [(), (0,)])
def test_a_fourth_band_is_no_transparency_unless_it_is(tmp_path: Path, extra: tuple[int, ...]) -> None:
    values = bands(4)
    write_tiff(tmp_path / "a.tif", values, photometric=2, extra=extra)
    assert np.array_equal(decode_image(tmp_path / "a.tif"), values[..., :3])
    write_tiff(tmp_path / "b.tif", values, photometric=2, extra=(2,))
    over = values[..., :3] * (values[..., 3:] / 255.0) + 255 - values[..., 3:]
    assert np.abs(decode_image(tmp_path / "b.tif") - over).max() <= 1.01
    near_infrared = Reading(bands=(3, 0, 1))
    assert np.array_equal(decode_image(tmp_path / "a.tif", reading=near_infrared), values[..., [3, 0, 1]])


def test_a_fourth_band_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    for name in ("cat/a", "cat/b", "dog/c"):
        write_tiff(tmp_path / f"{name}.tif", bands(4), photometric=2)
    notes = [str(problem) for problem in before_training(read_set(tmp_path, DataConfig()), None)]
    assert len(notes) == 1
    assert "and 2 more have a fourth band that isn't transparency" in notes[0]


def test_bands_that_a_picture_lacks(tmp_path: Path) -> None:
    Image.fromarray(bands(3)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"has 3 band\(s\), and data\.bands asks for \[0, 1, 3\]"):
        decode_image(tmp_path / "a.png", reading=Reading(bands=(0, 1, 3)))
    values = bands(4)
    Image.fromarray(values).save(tmp_path / "b.png")
    assert np.array_equal(decode_image(tmp_path / "b.png", reading=Reading(bands=(0, 1, 2))), values[..., :3])
    with pytest.raises(ConfigError, match=r"data\.bands is \[0, 1\]; expected three band numbers"):
        DataConfig(bands=(0, 1))


@pytest.mark.filterwarnings("ignore")
def test_damaged_bands_are_named(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", bands(5), compression=8)
    data = (tmp_path / "a.tif").read_bytes()
    for cut in (b"II*\0\xff\xff\xff\xff", data[:8] + b"\0" * 200 + data[208:]):
        (tmp_path / "a.tif").write_bytes(cut)
        with pytest.raises(DataError, match=r"a\.tif: "):
            decode_image(tmp_path / "a.tif", reading=Reading(bands=(0, 1, 2)))


def test_turned_bands(tmp_path: Path) -> None:
    values = bands(5)
    for orientation in range(1, 9):
        write_tiff(tmp_path / "five.tif", values, orientation=orientation)
        write_tiff(tmp_path / "three.tif", values[..., :3].copy(), orientation=orientation, photometric=2)
        five = decode_image(tmp_path / "five.tif", reading=Reading(bands=(0, 1, 2)))
        assert np.array_equal(five, decode_image(tmp_path / "three.tif"))
        assert image_size(tmp_path / "five.tif") == five.shape[:2]


# ---------------------------------------------------------------- more than 8 bits


def deep_png(path: Path, values: np.ndarray) -> None:
    """Write (H, W, 3) uint16 as a PNG of 16 bits a band with every kind of filter."""
    height, width = values.shape[:2]
    rows, before = b"", np.zeros(width * 6, np.int64)
    for number, line in enumerate(values.astype(">u2")):
        raw = np.frombuffer(line.tobytes(), np.uint8).astype(np.int64)
        left = np.concatenate([np.zeros(6, np.int64), raw[:-6]])
        corner = np.concatenate([np.zeros(6, np.int64), before[:-6]])
        p = left + before - corner
        near = np.abs(np.stack([p - left, p - before, p - corner])).argmin(axis=0)
        paeth = np.choose(near, [left, before, corner])
        guess = [np.zeros_like(raw), left, before, (left + before) // 2, paeth][number % 5]
        rows += bytes([number % 5]) + ((raw - guess) % 256).astype(np.uint8).tobytes()
        before = raw

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_colour_pngs_of_16_bits_keep_all_of_them(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (20, 30, 3)).astype(np.uint16)
    deep_png(tmp_path / "a.png", values)
    decoded = decode_image(tmp_path / "a.png", reading=Reading(value_range=(0.0, 4095.0)))
    assert np.array_equal(decoded, np.rint(values * (255.0 / 4095)).astype(np.uint8))
    assert decode_image(tmp_path / "a.png").max() <= 16  # its own type's range, where nothing says another


@pytest.mark.parametrize(
    "kind", ["uint16 png", "uint16 tif", "int16 tif", "float tif", "colour png", "two bands tif"]
)
def test_a_set_has_one_range(tmp_path: Path, kind: str) -> None:
    """A dark picture stays darker than a bright one; the range doesn't depend on order or workers."""
    dtype = {"int16 tif": np.int16, "float tif": np.float32}.get(kind, np.uint16)
    for number, top in enumerate((500, 1000, 2000, 4000)):
        folder = tmp_path / ("cat" if number % 2 else "background")
        folder.mkdir(exist_ok=True)
        values = np.linspace(0, top, 40 * 50).reshape(40, 50).astype(dtype)
        if kind == "colour png":
            deep_png(folder / f"{number}.png", np.repeat(values[..., None], 3, axis=2))
        elif kind == "uint16 png":
            Image.fromarray(values).save(folder / f"{number}.png")
        elif kind == "two bands tif":
            write_tiff(folder / f"{number}.tif", np.stack([values, values], axis=-1))
        else:
            write_tiff(folder / f"{number}.tif", values[..., None])
    config = DataConfig(bands=(1,) if kind == "two bands tif" else None)
    dataset = read_set(tmp_path, config)
    value_range = dataset.reading.value_range
    assert value_range is not None
    assert value_range[0] == 0
    assert 3900 < value_range[1] <= 4000
    peaks = sorted(int(read_image(record).max()) for record in dataset.records)
    assert np.abs(np.array(peaks) - [32, 64, 128, 255]).max() <= 2
    assert read_set(tmp_path, config).digest() == dataset.digest()
    assert pickle.loads(pickle.dumps(dataset)).records == dataset.records
    pinned = read_set(tmp_path, DataConfig(bands=config.bands, value_range=(0.0, 8000.0)))
    assert pinned.digest() != dataset.digest()
    assert max(int(read_image(record).max()) for record in pinned.records) in (127, 128)
    said = [p for p in before_training(dataset, None) if p.kind == "value-range"]
    assert len(said) == 1
    assert said[0].note


def test_negative_values_have_their_place(tmp_path: Path) -> None:
    """Hounsfield units: air is -1000, and not as dark as water."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a/1", "b/2"):
        write_tiff(tmp_path / f"{name}.tif", np.linspace(-1000, 1000, 2000).reshape(40, 50, 1).astype(np.int16))
    dataset = read_set(tmp_path, DataConfig())
    picture = read_image(dataset.records[0])
    assert picture[0, 0, 0] == 0
    assert abs(int(picture[20, 0, 0]) - 128) <= 2


def test_sets_of_8_bits_are_read_as_ever(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(bands(3)).save(tmp_path / name)
    dataset = read_set(tmp_path, DataConfig())
    assert dataset.reading == Reading()
    assert dataset.reading.facts() == {}


# ---------------------------------------------------------------- huge


def test_a_huge_jpeg_is_decoded_at_a_fraction(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), (120, 60, 60)).save(tmp_path / "a.jpg", quality=30)
    with pytest.raises(
        DataError, match=r"12000000 pixels is over the limit .*; set data\.long_side .*data\.max_pixels"
    ):
        decode_image(tmp_path / "a.jpg", max_pixels=1_000_000)
    assert decode_image(tmp_path / "a.jpg", max_pixels=1_000_000, long_side=640).shape == (480, 640, 3)
    with pytest.raises(DataError, match="over the limit"):  # at 3000 nearly all of it would be decoded
        decode_image(tmp_path / "a.jpg", max_pixels=1_000_000, long_side=3000)
    assert image_size(tmp_path / "a.jpg") == (3000, 4000)
    record = ImageRecord("a", tmp_path / "a.jpg", (), reading=Reading(max_pixels=1_000_000))
    with pytest.raises(DataError, match="over the limit"):
        read_image(record)


def test_huge_files_that_are_held_whole(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1500), (120, 60, 60)).save(tmp_path / "a.png")
    Image.new("RGB", (2000, 1500), (120, 60, 60)).save(tmp_path / "b.jpg", progressive=True)
    for name in ("a.png", "b.jpg"):
        assert decode_image(tmp_path / name, max_pixels=1_000_000, long_side=200).shape == (150, 200, 3)
        with pytest.raises(DataError, match="over the limit"):  # memory is bounded all the same
            decode_image(tmp_path / name, max_pixels=500_000, long_side=200)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_tiffs_made_smaller(tmp_path: Path, orientation: int) -> None:
    values = np.repeat(np.linspace(0, 255, 400).reshape(1, 400, 1), 200, axis=0).repeat(3, axis=2).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", values, photometric=2, orientation=orientation)
    whole = decode_image(tmp_path / "a.tif")
    small = decode_image(tmp_path / "a.tif", long_side=100)
    assert whole.shape[:2] == ((400, 200) if orientation >= 5 else (200, 400)) == image_size(tmp_path / "a.tif")
    assert small.shape[:2] == ((100, 50) if orientation >= 5 else (50, 100))
    expected = np.array(Image.fromarray(whole).resize(small.shape[1::-1], Image.Resampling.BICUBIC))
    assert np.abs(small.astype(int) - expected).max() <= 3
