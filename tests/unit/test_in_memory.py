"""One photo in memory: the same maps as the stage's, from any kind of picture, and errors that say what to give."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from rib_tiny import tiny_classifier
from tag2mask import in_memory, localize_image
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import write_json
from tag2mask.data import Dataset, ImageRecord
from tag2mask.networks import CAMClassifier, build_classifier, save_module
from tag2mask.rib import PartnerGradients, RIBConfig
from tag2mask.stages.localize import LocalizeConfig, Localizer

NAMES = ["cat", "cow", "dog", "horse", "sheep"]
ALONE = RIBConfig(steps=3, partners="none", learning_rate=1e-3, guard_share=1.0)


@pytest.fixture(scope="module")
def network() -> CAMClassifier:
    return tiny_classifier().float()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def others(count: int = 3) -> list[tuple[np.ndarray, list[str]]]:
    rng = np.random.default_rng(1)
    return [(rng.integers(0, 256, (40, 56, 3), np.uint8), [NAMES[place % 2]]) for place in range(count)]


def same(left, right) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left.sums, right.sums, strict=True))


def test_the_example_in_the_docstring() -> None:
    found = doctest.testmod(in_memory)
    assert found.attempted > 5
    assert found.failed == 0


def test_the_same_maps_as_the_stage(network, photo, tmp_path: Path) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    record = ImageRecord("a", tmp_path / "a.png", (0, 2))
    stage = Localizer(
        Dataset("one", tuple(NAMES), (record,)), network, tmp_path, LocalizeConfig(rib=ALONE), seed=0
    ).maps_of(photo, record)
    maps = localize_image(network, tmp_path / "a.png", [2, 0], ALONE, classes=NAMES)
    for sums, theirs in ((maps.cam.sums, stage.cam_sums), (maps.rib.sums, stage.rib_sums)):
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(sums, theirs, strict=True))
    assert maps.tags == ("cat", "dog")
    assert not same(maps.cam, maps.rib)
    assert maps.rib.full().shape == (2, 64, 96)
    assert maps.rib.full().max() == pytest.approx(1.0, abs=1e-3)
    assert maps.result.steps_run == 3


def test_any_kind_of_picture_and_tag(network, photo, tmp_path: Path) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    maps = localize_image(network, photo, "cow", ALONE, classes=NAMES)
    for picture in (Image.fromarray(photo), tmp_path / "a.png", str(tmp_path / "a.png")):
        for tags in (1, [1], {"cow"}, np.asarray([1])):
            assert same(localize_image(network, picture, tags, ALONE, classes=NAMES).rib, maps.rib)
    assert localize_image(network, photo, 1, ALONE).tags == ("1",)
    grey = Image.fromarray(photo[:, :, 0])
    assert localize_image(network, grey, 1, ALONE).rib.size == (64, 96)


def test_a_large_photo_is_passed_smaller_and_comes_back_in_its_size(network, photo) -> None:
    small = localize_image(network, photo, 0, ALONE, long_side=48)
    assert small.rib.sums[0].shape == (1, 2, 3)
    assert small.rib.full().shape == (1, 64, 96)
    assert localize_image(network, photo, 0, ALONE, long_side=None).rib.sums[0].shape == (1, 4, 6)


def test_the_folder_of_a_run_or_of_its_classifier(photo, tmp_path: Path) -> None:
    network = build_classifier("resnet18", len(NAMES), weights="none")
    folder = tmp_path / "run" / "classifier"
    folder.mkdir(parents=True)
    save_module(network, folder / "weights.safetensors")
    manifest = {"stage": "train-classifier", "config": {"backbone": "resnet18"}, "classes": NAMES, "finished": True}
    write_json(folder / "manifest.json", manifest)
    expected = localize_image(network, photo, 2, ALONE)
    for given in (folder, str(tmp_path / "run")):
        maps = localize_image(given, photo, "dog", ALONE)
        assert maps.tags == ("dog",)
        np.testing.assert_allclose(maps.cam.full(), expected.cam.full(), atol=1e-4)
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        localize_image(tmp_path, photo, "dog")

    Image.fromarray(photo[:, :, 0].astype(np.uint16) * 8).save(tmp_path / "deep.png")  # read as the run's own were
    write_json(tmp_path / "run" / "run.json", {"name": "deep", "data": {"value_range": [0.0, 8 * 255.0]}})
    deep = localize_image(folder, tmp_path / "deep.png", "dog", ALONE)
    grey = localize_image(folder, Image.fromarray(photo[:, :, 0]), "dog", ALONE)
    np.testing.assert_allclose(deep.cam.sums[0], grey.cam.sums[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("partners", ["amortised", "disjoint", "any"])
def test_partners_take_part_by_the_seed_and_leave_the_network_alone(network, photo, partners) -> None:
    config = ALONE.replace(partners=partners, batch_size=2)
    before = [value.clone() for value in network.state_dict().values()]
    maps, again, other = (
        localize_image(network, photo, "dog", config, classes=NAMES, partners=others(), seed=seed)
        for seed in (0, 0, 1)
    )
    alone = localize_image(network, photo, "dog", config, classes=NAMES)
    assert same(maps.rib, again.rib)
    assert not same(maps.rib, other.rib)
    assert not same(maps.rib, alone.rib)
    assert same(maps.cam, alone.cam)
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


def test_only_partners_without_a_shared_tag_count(network, photo) -> None:
    def sums(partners, **changes):
        config = ALONE.replace(partners="disjoint", batch_size=2, **changes)
        return localize_image(network, photo, ["cat", "cow"], config, classes=NAMES, partners=partners).rib

    assert same(sums(others()), sums(()))
    with pytest.raises(DataError, match="not one partner batch"):
        sums(others(), exhausted="stop")


def test_expected_gradients_are_taken_as_given(network, photo) -> None:
    size = sum(p.numel() for group in network.tuned_parameters() for p in group)
    rows = 0.01 * torch.randn(len(NAMES), size, generator=torch.Generator().manual_seed(0))
    given = PartnerGradients(rows.bfloat16(), np.eye(len(NAMES), dtype=bool))
    alone, both = (localize_image(network, photo, 0, partners=partners) for partners in ((), given))
    assert not same(alone.rib, both.rib)


@pytest.mark.parametrize(
    ("image", "tags", "message"),
    [
        (None, "dgo", "did you mean 'dog'"),
        (None, 5, r"tag 5 is outside the classifier's classes 0\.\.4"),
        (None, [], "without tags"),
        (np.zeros((8, 8), np.uint8), 0, r"uint8 of shape \(8, 8\); expected uint8 RGB"),
        (np.zeros((8, 8, 3)), 0, "is float64"),
        ("nowhere.jpg", 0, r"nowhere\.jpg: does not exist"),
    ],
)
def test_what_cannot_be_used_is_named(network, photo, image, tags, message) -> None:
    with pytest.raises(DataError, match=message):
        localize_image(network, photo if image is None else image, tags, classes=NAMES)


def test_names_need_names(network, photo) -> None:
    with pytest.raises(ConfigError, match=r"give classes=\[\.\.\.\] or its number"):
        localize_image(network, photo, "dog")
    with pytest.raises(ConfigError, match="2 names for a network of 5 classes"):
        localize_image(network, photo, "dog", classes=NAMES[:2])


def test_it_is_a_public_name() -> None:
    assert "localize_image" in tag2mask.__all__
