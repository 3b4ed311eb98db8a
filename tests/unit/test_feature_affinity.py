"""Affinity of frozen features: maps spread over what looks alike, on a bounded grid."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.refine.feature_affinity import (
    AffinityConfig,
    affinity,
    descriptors,
    lowered,
    spread,
    tapped,
    working_size,
)


def two_things(height: int = 6, width: int = 8) -> Tensor:
    """Features (1, 4, h, w): one texture on the left half, another on the right, with a little noise."""
    noise = 0.05 * torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(0))
    noise[:, 0, :, : width // 2] += 1
    noise[:, 1, :, width // 2 :] += 1
    return noise


def test_a_blob_fills_the_thing_it_lies_on():
    maps = torch.zeros(1, 6, 8)
    maps[0, 2:4, 1] = 1  # a part of the left half
    found = spread(maps, descriptors([two_things()], (6, 8)), AffinityConfig())[0]
    assert found[:, :4].min() > 5 * found[:, 4:].max()


def test_rows_of_the_affinity_sum_to_one_and_alike_positions_take_from_each_other():
    takes = affinity(descriptors([two_things()], (6, 8)), 0.1)
    assert takes.shape == (48, 48)
    assert torch.allclose(takes.sum(dim=1), torch.ones(48), atol=1e-5)
    left = torch.arange(48) % 8 < 4
    assert takes[left][:, left].sum(dim=1).min() > 0.95


def test_affinity_is_what_its_formula_says():
    looks = descriptors([torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(1))], (3, 4))
    kernel = torch.exp(looks @ looks.T / 0.3)
    balanced = kernel / kernel.sum(dim=0)
    assert torch.allclose(affinity(looks, 0.3), balanced / balanced.sum(dim=1, keepdim=True), atol=1e-6)


def test_what_there_is_much_of_draws_nothing_by_its_number():
    looks = torch.tensor([[1.0, 0.0]] * 90 + [[0.0, 1.0]] * 10)  # 90 positions of a wall, 10 of a thing
    takes = affinity(looks, 0.5)
    assert takes[-1, 90:].sum() > 0.75  # by number it would be 0.45


def test_products_of_descriptors_are_mean_cosines_over_taps():
    generator = torch.Generator().manual_seed(2)
    fine, coarse = torch.randn(1, 3, 8, 12, generator=generator), torch.randn(1, 7, 2, 3, generator=generator)
    looks = descriptors([fine, coarse], (4, 6))
    assert looks.shape == (24, 10)
    alone = [descriptors([tap], (4, 6)) for tap in (fine, coarse)]
    mean = sum(each @ each.T for each in alone) / 2
    assert torch.allclose(looks @ looks.T, mean, atol=1e-5)
    assert torch.allclose((looks @ looks.T).diagonal(), torch.ones(24), atol=1e-5)


def test_a_photo_without_any_contrast_gives_the_maps_mean():
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3))
    found = spread(maps, descriptors([torch.ones(1, 5, 6, 8)], (3, 4)), AffinityConfig())
    assert torch.allclose(found, maps.mean(dim=(1, 2), keepdim=True).expand_as(maps), atol=1e-6)


def test_maps_stay_within_their_range_and_no_product_leaves_them_alone():
    maps = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(4))
    looks = descriptors([two_things()], (6, 8))
    found = spread(maps, looks, AffinityConfig(products=3))
    assert maps.min() <= found.min()
    assert found.max() <= maps.max()
    assert torch.equal(spread(maps, looks, AffinityConfig(products=0)), maps)
    assert spread(maps[:0], looks, AffinityConfig()).shape == (0, 6, 8)


def test_later_stages_do_not_run():
    class Refuses(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("this stage is after the last tap")

    stages = [nn.AvgPool2d(2), nn.AvgPool2d(2), Refuses()]
    features = tapped(stages, torch.ones(1, 3, 8, 8), (1, 0))
    assert [tuple(tap.shape) for tap in features] == [(1, 3, 2, 2), (1, 3, 4, 4)]
    with pytest.raises(ConfigError, match=r"taps is \[3\]; this backbone has the stages 0 to 2"):
        tapped(stages, torch.ones(1, 3, 8, 8), (3,))


@pytest.mark.parametrize("size", [(320, 240), (375, 500), (4000, 3000), (1, 90_000), (7, 5)])
def test_a_large_photo_gets_a_grid_that_fits(size: tuple[int, int]):
    config = AffinityConfig()
    height, width = working_size(size, config)
    grid = -(-height // config.stride), -(-width // config.stride)
    assert grid[0] * grid[1] <= config.positions
    if -(-size[0] // 8) * -(-size[1] // 8) <= config.positions:
        assert (height, width) == size
    else:
        assert grid[0] * grid[1] > 0.9 * config.positions


def test_a_grid_that_is_too_large_or_of_another_photo_is_refused():
    looks = descriptors([two_things()], (6, 8))
    with pytest.raises(DataError, match="affinity of 48 positions"):
        spread(torch.ones(1, 6, 9), looks, AffinityConfig())
    with pytest.raises(DataError, match=r"at most affinity\.positions, 40"):
        spread(torch.ones(1, 6, 8), looks, AffinityConfig(positions=40))


@pytest.mark.parametrize(
    "values",
    [{"taps": ()}, {"taps": (1, 1)}, {"taps": (-1,)}, {"scale": 0.0}, {"temperature": 0.0}, {"stride": 0}],
)
def test_settings_that_cannot_work_are_named(values: dict):
    with pytest.raises(ConfigError, match=r"affinity.*" + next(iter(values))):
        AffinityConfig(**values)


def test_the_floor_takes_off_what_empty_leaf_shows():
    """Spots half as unlike a leaf as can be: the averages leave some of their class all over it."""
    leaf, spot, backdrop = torch.tensor([1.0, 0, 0]), torch.tensor([0.9, 0.436, 0]), torch.tensor([0, 0, 1.0])
    looks = torch.stack([*[backdrop] * 8, *[leaf] * 36, *[spot] * 4])
    maps = torch.zeros(2, 6, 8)
    maps.flatten(1)[0, -4:] = 1
    settings = AffinityConfig(taps=(0,), temperature=0.1, products=1)
    plain, found = (spread(maps, looks, dataclasses.replace(settings, floor=floor)).flatten(1) for floor in (0, 0.9))
    assert plain[0, 8:44].min() > 0.2 * plain[0].max()
    assert found[0, :44].max() == 0
    assert found[0, -4:].min() > 0.3
    assert not found[1].any()


def test_the_floor_holds_without_products():
    maps = torch.zeros(1, 4, 4)
    maps[0, 0], maps[0, 1] = 1.0, 0.05
    looks = torch.ones(16, 3)
    config = AffinityConfig(products=0, floor=0.9, positions=16)
    assert torch.equal(spread(maps, looks, config), lowered(maps, maps, 0.9))
    assert not torch.equal(spread(maps, looks, config), maps)


def test_a_class_that_is_everywhere_or_nowhere_has_no_floor():
    looks = torch.stack([*[torch.tensor([1.0, 0])] * 5, *[torch.tensor([0, 1.0])] * 7])
    everywhere = torch.full((1, 3, 4), 0.7)
    config = AffinityConfig(floor=0.9)
    assert torch.allclose(spread(everywhere, looks, config), everywhere)
    assert not spread(torch.zeros(1, 3, 4), looks, config).any()
    assert torch.equal(spread(everywhere, looks, dataclasses.replace(config, products=0)), everywhere)
