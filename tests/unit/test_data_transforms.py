"""Augmentation: replayable draws, right padding, image and mask kept together."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tag2mask.common.errors import DataError
from tag2mask.data import Draws, augment, joint_augment, normalise, random_augment, rescale
from tag2mask.data.transforms import crop, crop_box, draw_crop_box, resize_long, scaled_size, without_edges


def photo(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_normalise() -> None:
    ours = normalise(np.array([[[0, 128, 255]]], dtype=np.uint8))
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[0, 0], expected, rtol=1e-6)


def test_sizes_round_half_to_even_and_never_vanish() -> None:
    assert scaled_size((375, 5), 0.5) == (188, 2)
    assert scaled_size((1, 1), 0.1) == (1, 1)
    assert rescale(photo(3, 400), 0.1).shape == (1, 40, 3)


def test_resize_long() -> None:
    assert resize_long(photo(40, 60), 30).shape == (20, 30, 3)
    assert resize_long(photo(60, 40), 30).shape == (30, 20, 3)
    assert resize_long(photo(60, 40), 30).flags.writeable  # else torch warns
    image = photo()
    assert resize_long(image, 60) is image


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (5, 700)])
def test_drawn_samples_fit_any_image(size: tuple[int, int]) -> None:
    for seed in range(5):
        draws = Draws.draw(random.Random(seed), size, long_side=(30, 90), crop_size=48)
        sample = augment(photo(*size), draws, 48)
        assert sample.shape == (3, 48, 48)
        assert sample.dtype == np.float32
        assert sample.flags.c_contiguous
        again = random_augment(photo(*size), random.Random(seed), long_side=(30, 90), crop_size=48)
        assert np.array_equal(sample, again)


def test_padding_is_zero_after_normalisation() -> None:
    image = photo(20, 30)
    sample = augment(image, Draws(long_side=30, mirror=False, left=4, top=7), 50)
    assert np.array_equal(sample[:, 7:27, 4:34], normalise(image).transpose(2, 0, 1))
    sample[:, 7:27, 4:34] = 0
    assert not sample.any()


def test_mirror_comes_before_the_crop() -> None:
    image = photo(20, 30)
    sample = augment(image, Draws(long_side=30, mirror=True, left=3, top=0), 20)
    assert np.array_equal(sample, normalise(image[:, ::-1][:, 3:23]).transpose(2, 0, 1))


def test_draws_of_another_image_are_refused() -> None:
    with pytest.raises(DataError, match=r"left=11 is outside 0\.\.10"):
        augment(photo(20, 30), Draws(30, False, 11, 0), 20)
    with pytest.raises(DataError, match="top=-1"):
        crop_box((20, 30), 20, 0, -1)


def test_crop_keeps_all_of_a_smaller_image() -> None:
    image = np.ones((10, 12), np.uint8)
    for seed in range(10):
        box = draw_crop_box((10, 12), 16, random.Random(seed))
        cut = crop(image, box, 16, 255)
        assert (cut == 1).sum() == 120
        assert (cut == 255).sum() == 256 - 120


def test_joint_augment_keeps_image_and_mask_together() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 1
    image = np.where(mask[..., None] == 1, 255, 0).astype(np.uint8).repeat(3, axis=2)
    for seed in range(20):
        sample, cut = joint_augment(image, mask, random.Random(seed), crop_size=64)
        assert sample.shape == (3, 64, 64)
        assert cut.shape == (64, 64)
        assert cut.dtype == np.uint8
        assert (sample[:, cut == 255] == 0).all()
        bright = sample[0] > 0
        agree = bright[cut != 255] == (cut[cut != 255] == 1)
        assert agree.mean() > 0.97  # cubic resizing softens the edge by a pixel
        assert set(np.unique(cut)) <= {0, 1, 255}


def test_joint_augment_uses_the_whole_range_of_scales() -> None:
    areas = []
    for seed in range(40):
        _, cut = joint_augment(
            photo(20, 20), np.zeros((20, 20), np.uint8), random.Random(seed), crop_size=64, scales=(0.5, 2.0)
        )
        areas.append(int((cut == 0).sum()))
    assert min(areas) < 15**2
    assert max(areas) > 35**2


def test_joint_augment_refuses_another_size() -> None:
    with pytest.raises(DataError, match="the mask is 60 x 40 pixels but its image is 40 x 60"):
        joint_augment(photo(), np.zeros((60, 40), np.uint8), random.Random(0), crop_size=64)


@pytest.mark.parametrize("width", [1, 3])
def test_edges_become_unsure_within_a_width(width: int) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (5, 6)).repeat(6, axis=0).repeat(6, axis=1).astype(np.uint8)
    found = without_edges(mask, width)
    for y, x in np.ndindex(mask.shape):
        around = mask[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        assert found[y, x] == (mask[y, x] if (around == mask[y, x]).all() else 255)
    assert 0 < (found == 255).sum() < found.size
    assert (without_edges(np.full((4, 9), 3, np.uint8), width) == 3).all()
