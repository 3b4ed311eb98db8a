"""Decoding of every kind of picture that people have, and one clear line for what can't be decoded."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tag2mask.common.errors import DataError
from tag2mask.data import decode_image, image_size, limited_size
from tag2mask.data.images import at_most
from tag2mask.data.records import Reading


@pytest.fixture
def photo() -> np.ndarray:
    """(40, 60, 3) uint8, smooth, every corner different."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)


def with_text(key: str, text: str) -> PngInfo:
    """What a PNG says of itself."""
    info = PngInfo()
    info.add_itxt(key, text)
    return info


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return actual.shape == expected.shape and bool(
        np.abs(actual.astype(int) - expected.astype(int)).max() <= tolerance
    )


def png_of(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG of `rows`, whatever its header says of size and depth; kind 2: RGB, 4: grey with transparency."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def claims_size(path: Path, width: int, height: int) -> None:
    """Write a PNG of a few bytes whose header claims any size."""
    path.write_bytes(png_of(width, height, 8, 2, b"\0" * 64))


def test_rgb_png_is_exact(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "фото 1.png")
    decoded = decode_image(tmp_path / "фото 1.png")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, photo)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tiff", "ppm", "gif"])
def test_formats(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    Image.fromarray(photo).save(tmp_path / f"a.{suffix}", quality=95)
    assert close(decode_image(tmp_path / f"a.{suffix}"), photo, 40)


def test_grey_and_bilevel(tmp_path: Path, photo: np.ndarray) -> None:
    grey = photo[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(decode_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    assert np.array_equal(decode_image(tmp_path / "bits.png")[..., 0], np.where(grey > 100, 255, 0))


def test_cmyk(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert close(decode_image(tmp_path / "print.jpg"), photo, 16)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_range_is_scaled(tmp_path: Path, suffix: str) -> None:
    wide = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / f"scan.{suffix}")
    decoded = decode_image(tmp_path / f"scan.{suffix}")
    assert np.array_equal(decoded[..., 1], np.rint(wide / 257).astype(np.uint8))
    assert decoded.min() == 0
    assert decoded.max() == 255


def test_float_tiff(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "f.tiff")
    assert decode_image(tmp_path / "f.tiff")[..., 0].tolist() == [[0, 128], [255, 0]]


def test_deep_grey_with_transparency(tmp_path: Path) -> None:
    grey = np.tile(np.linspace(0, 65535, 64), (48, 1)).astype(np.uint16)
    rows = np.stack([grey, np.full_like(grey, 65535)], axis=2).astype(">u2")
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    (tmp_path / "a.png").write_bytes(png_of(64, 48, 16, 4, data))
    for reading in (Reading(), Reading(value_range=(0.0, 65535.0))):
        found = decode_image(tmp_path / "a.png", reading=reading)[..., 0]
        assert np.abs(found.astype(int) - (grey >> 8)).max() <= 1


def test_the_size_of_a_png_takes_no_decoding(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    turn = Image.Exif()
    turn[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "before.png", exif=turn)
    data = (tmp_path / "before.png").read_bytes()
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    rest = data.replace(chunk, b"")
    (tmp_path / "behind.png").write_bytes(rest.replace(rest[-12:], chunk + rest[-12:]))  # before IEND
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    Image.fromarray(photo).save(tmp_path / "xmp.png", pnginfo=with_text("XML:com.adobe.xmp", xmp.decode()))
    height, width = photo.shape[:2]
    assert decode_image(tmp_path / "xmp.png", long_side=30).shape[:2] == limited_size(
        image_size(tmp_path / "xmp.png"), 30
    )
    for name in ("before", "behind"):
        assert (
            image_size(tmp_path / f"{name}.png")
            == (width, height)
            == decode_image(tmp_path / f"{name}.png").shape[:2]
        )
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("was decoded"))
        assert image_size(tmp_path / "a.png") == (height, width)
        assert image_size(tmp_path / "before.png") == (width, height)


def test_palette(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).quantize(64).save(tmp_path / "p.png")
    assert close(decode_image(tmp_path / "p.png"), photo, 60)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    picture.putpixel((0, 0), (100, 100, 100, 255))
    picture.putpixel((1, 0), (0, 0, 0, 128))
    picture.convert(mode).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png")[0, :, 0].tolist() == [100, 127, 255, 255]


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.png", transparency=0)
    decoded = decode_image(tmp_path / "a.png")
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[0, 1].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    decoded = decode_image(path)
    assert decoded.shape == (20, 30, 3)
    assert close(decoded, np.full((20, 30, 3), (200, 0, 0)), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_makes_upright(tmp_path: Path, photo: np.ndarray, orientation: int) -> None:
    stored = {  # how a camera stores the upright photo, for each value of the tag
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(photo, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "a.png"), photo)
    assert image_size(tmp_path / "a.png") == (40, 60)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_matter(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xffrubbish")
    assert close(decode_image(tmp_path / "a.jpg"), photo, 12)


def test_result_can_be_changed_and_outlives_the_file(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert decoded[39, 59].tolist() == photo[39, 59].tolist()
    decoded[0, 0] = 7
    assert decoded[0, 0].tolist() == [7, 7, 7]


def bad_files(folder: Path) -> dict[str, str]:
    """Make bad files; return {name: a word that the error must hold}."""
    big = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(big).save(folder / "cut.jpg")
    Image.fromarray(big).save(folder / "cut.png")
    for name in ("cut.jpg", "cut.png"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html>404 not found</html>")
    (folder / "post.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (folder / "head.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "folder.jpg").mkdir()
    claims_size(folder / "bomb.png", 60_000, 60_000)
    claims_size(folder / "large.png", 10_500, 10_000)
    return {
        "cut.jpg": "cut off",
        "cut.png": "cut off",
        "zero.jpg": "0 bytes",
        "page.jpg": "not an image",
        "post.jpg": "not an image",
        "head.jpg": "not an image",
        "folder.jpg": "not a file",
        "bomb.png": "over the limit",
        "large.png": "over the limit",
        "gone.jpg": "does not exist",
    }


def test_bad_files_are_named_with_value_and_remedy(tmp_path: Path) -> None:
    for name, word in bad_files(tmp_path).items():
        with pytest.raises(DataError) as caught:
            decode_image(tmp_path / name)
        text = str(caught.value)
        assert name in text, text
        assert "; " in text, text
        assert "\n" not in text, text
        assert word in text, text


def test_size_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims_size(tmp_path / "bomb.png", 20_000, 20_000)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    with pytest.raises(DataError, match="over the limit of 100000000 pixels"):
        decode_image(tmp_path / "bomb.png")


def test_limit_can_be_set_either_way(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="max_pixels"):
        decode_image(tmp_path / "a.png", max_pixels=60 * 40 - 1)
    assert decode_image(tmp_path / "a.png", max_pixels=60 * 40).shape == (40, 60, 3)


def test_no_setting_of_pillow_or_of_warnings_is_left_changed(tmp_path: Path) -> None:
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    claims_size(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(DataError):
        decode_image(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS
    assert filters == list(warnings.filters)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_pictures_are_read_smaller(tmp_path: Path, suffix: str, orientation: int) -> None:
    y, x = np.mgrid[0:240, 0:481]
    large = np.stack([x // 2, y, (x + y) // 3], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(large).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    small = decode_image(tmp_path / f"a.{suffix}", long_side=60)
    assert small.shape == ((30, 60, 3) if orientation == 1 else (60, 30, 3))
    whole = decode_image(tmp_path / f"a.{suffix}")
    expected = np.array(Image.fromarray(whole).resize(small.shape[1::-1], Image.Resampling.BICUBIC))
    assert close(small, expected, 12)
    assert np.array_equal(decode_image(tmp_path / f"a.{suffix}", long_side=481), whole)


def test_bounds_of_size(tmp_path: Path, photo: np.ndarray) -> None:
    height, width = photo.shape[:2]
    Image.fromarray(photo).save(tmp_path / "a.png")
    least = 2 * max(height, width)
    assert decode_image(tmp_path / "a.png", long_side=(least, least + 9)).shape == (2 * height, 2 * width, 3)
    assert np.array_equal(decode_image(tmp_path / "a.png", long_side=(8, least)), photo)
    assert max(decode_image(tmp_path / "a.png", long_side=(8, 16)).shape) == 16
    assert limited_size((30, 10), (60, 90)) == (60, 20)
    assert limited_size((30, 10), None) == (30, 10)
    assert at_most((320, 640), 384) == (320, 384)
    assert at_most(None, 384) == at_most(500, 384) == 384


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16", "L"])
@pytest.mark.parametrize("long_side", [None, 20])
def test_strips_change_nothing(
    mode: str, long_side: int | None, tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour, path = Image.fromarray(photo), tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(photo[..., 0].astype(np.uint16) * 200).save(path)
    elif mode == "P":
        colour.quantize(16).save(path, transparency=3)
    else:
        faded = colour.convert("RGBA")
        faded.putalpha(Image.fromarray(photo[..., 1]))
        (faded if "A" in mode else colour).convert(mode).save(path)
    whole = decode_image(path, long_side=long_side)
    monkeypatch.setattr("tag2mask.data.images._STRIP", 100)
    assert np.array_equal(decode_image(path, long_side=long_side), whole)


def test_a_small_file_may_not_claim_what_takes_a_gigabyte(tmp_path: Path) -> None:
    claims_size(tmp_path / "bomb.png", 10_000, 9_000)
    with pytest.raises(DataError, match=r"over the limit of 80000000 pixels; set data\.max_pixels above"):
        decode_image(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="is damaged or cut off"):  # it is read where the limit was raised for it
        decode_image(tmp_path / "bomb.png", max_pixels=100_000_001)
