"""Map files: small, close to what was saved, and sound for odd maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tag2mask.common.errors import DataError
from tag2mask.data import LocalizationMaps, at_full, at_stride4, load_maps, save_maps

SCALES = (1.0, 0.5, 1.5, 2.0)


def make(size: tuple[int, int] = (50, 75), count: int = 2, stride: int = 16) -> LocalizationMaps:
    rng = np.random.default_rng(0)
    shapes = [(max(1, round(size[0] * s / stride)), max(1, round(size[1] * s / stride))) for s in SCALES]
    sums = [(rng.gamma(1.0, 40.0, (count, *shape))).astype(np.float32) for shape in shapes]
    return LocalizationMaps(np.arange(count) * 3, size, SCALES, sums)


def test_round_trip(tmp_path: Path) -> None:
    maps = make()
    save_maps(tmp_path / "a.npz", maps)
    loaded = load_maps(tmp_path / "a.npz")
    assert loaded.classes.tolist() == maps.classes.tolist()
    assert (loaded.size, loaded.scales) == (maps.size, maps.scales)
    for ours, theirs in zip(loaded.sums, maps.sums, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=2**-11, atol=maps.sums[0].max() * 2**-24)
    assert loaded.at_stride4().shape == (2, 13, 19)
    assert loaded.full().shape == (2, 50, 75)
    np.testing.assert_allclose(loaded.full(), maps.full(), atol=6e-4)


def test_files_of_equal_maps_are_equal(tmp_path: Path) -> None:
    save_maps(tmp_path / "a.npz", make())
    save_maps(tmp_path / "b.npz", make())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(("stride", "count"), [(16, 5), (8, 4)])
def test_voc_image_takes_under_300_kb(tmp_path: Path, stride: int, count: int) -> None:
    save_maps(tmp_path / "a.npz", make((375, 500), count, stride))  # noise, the worst for compression
    assert (tmp_path / "a.npz").stat().st_size < 300_000


def test_joined_maps_follow_the_definition() -> None:
    maps = make((37, 41))
    total = torch.zeros(2, 37, 41)
    for scale_sum in maps.sums:
        up = F.interpolate(torch.from_numpy(scale_sum)[None], (48, 48), mode="bilinear", align_corners=False)
        total += up[0, :, :37, :41]
    expected = total / (total.flatten(1).max(dim=1).values[:, None, None] + 1e-5)
    torch.testing.assert_close(torch.from_numpy(maps.full()), expected)
    assert maps.at_stride4().shape == (2, 10, 11)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_empty_and_non_finite_maps_stay_finite(tmp_path: Path, value: float) -> None:
    maps = make()
    maps.sums = [s.copy() for s in maps.sums]
    for scale_sum in maps.sums:
        scale_sum[0] = value
    save_maps(tmp_path / "a.npz", maps)
    for read in (maps, load_maps(tmp_path / "a.npz")):
        for joined in (read.at_stride4(), read.full()):
            assert np.isfinite(joined).all()
            assert joined[0].max() == 0
            assert joined[1].max() == pytest.approx(1, abs=1e-4)


def test_image_without_classes(tmp_path: Path) -> None:
    maps = make(count=0)
    save_maps(tmp_path / "a.npz", maps)
    assert load_maps(tmp_path / "a.npz").full().shape == (0, 50, 75)


def test_functions_take_unsaved_tensors() -> None:
    maps = make()
    sums = [torch.from_numpy(s) for s in maps.sums]
    assert torch.equal(at_stride4(sums, maps.size), torch.from_numpy(maps.at_stride4()))
    assert torch.equal(at_full(sums, maps.size), torch.from_numpy(maps.full()))


def test_maps_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not fit 3 classes"):
        save_maps(tmp_path / "a.npz", replace(make(), classes=np.arange(3)))
    with pytest.raises(DataError, match="at 2 scales"):
        save_maps(tmp_path / "a.npz", replace(make(), scales=(1.0, 2.0)))
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save_maps(tmp_path / "a.npz", make())
    data = (tmp_path / "a.npz").read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", peak=np.array([{}], dtype=object))
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "zero.npz").write_bytes(b"")
    for number, place in enumerate(range(len(data) // 4, len(data) // 2, 25)):  # bits that a failing disk turned
        (tmp_path / f"bits {number}.npz").write_bytes(data[:place] + b"\xff" * 20 + data[place + 20 :])
        with pytest.raises(DataError, match="no whole map file"):
            load_maps(tmp_path / f"bits {number}.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        text = {**stored, "classes": np.frombuffer(b"\xff\xff\xff\x7f" * 2, "<U1")}  # no characters at all
    np.savez(tmp_path / "text.npz", **text)
    for name in ("cut.npz", "zero.npz", "other.npz", "pickle.npz", "text.npz", "gone.npz"):
        with pytest.raises(DataError, match=f"{name}.*; .*run"):
            load_maps(tmp_path / name)


def test_maps_that_cover_the_image_exactly(tmp_path: Path) -> None:
    maps = replace(make((50, 75)), whole=True)
    total = torch.zeros(2, 50, 75)
    for scale_sum in maps.sums:
        total += F.interpolate(torch.from_numpy(scale_sum)[None], (50, 75), mode="bilinear", align_corners=False)[0]
    expected = total / (total.flatten(1).max(dim=1).values[:, None, None] + 1e-5)
    torch.testing.assert_close(torch.from_numpy(maps.full()), expected)
    save_maps(tmp_path / "a.npz", maps)
    loaded = load_maps(tmp_path / "a.npz")
    assert loaded.whole
    assert not loaded.absolute
    np.testing.assert_allclose(loaded.full(), maps.full(), atol=6e-4)
    # a grid over sides raised to 64 x 80: beyond the image the edge goes on
    assert np.allclose(maps.on_grid((64, 80))[:, :50, :75], maps.full(), atol=1e-5)
    assert np.array_equal(
        maps.on_grid((64, 80))[:, 50:, :75], np.repeat(maps.on_grid((64, 80))[:, 49:50, :75], 14, 1)
    )
    assert replace(maps, absolute=True).full().max() <= 1
