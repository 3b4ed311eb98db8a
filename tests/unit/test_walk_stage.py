"""The random walk as maps: joined with those by affinity, kept at their height, refined by another method."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refine_world import SIZE, make_world

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import Dataset, LocalizationMaps, load_maps, read_image, read_mask, save_maps
from tag2mask.engine.execution import Execution
from tag2mask.networks import build_boundary_network, save_module
from tag2mask.runs.scores import kind_of, place_of
from tag2mask.stages.refine import RefineConfig, refine, title_of
from tag2mask.stages.refinements import plan
from tag2mask.stages.stage import Planned
from tag2mask.stages.train_boundary import load_boundary
from tag2mask.stages.train_classifier import ClassifierConfig
from tag2mask.stages.walk import STAGE, WalkConfig, joined, walk, walked

HERE = Execution(device="cpu", processes=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    dataset, localization = make_world(tmp_path_factory.mktemp("world"))
    home = localization.parent
    write_json(
        home / "boundary" / "manifest.json",
        {"stage": "train-boundary", "config": {"backbone": "resnet18", "crop_size": 48}, "finished": True},
    )
    save_module(build_boundary_network("resnet18", "none", seed=1), home / "boundary" / "weights.safetensors")
    for record in dataset.records:
        maps = load_maps(localization / "rib" / f"{record.id}.npz")
        save_maps(home / "affinity" / "rib" / f"{record.id}.npz", maps)
    made = {"stage": "affinity", "config": {"stride": 8}, "inputs": {"classifier": "0"}, "finished": True}
    write_json(home / "affinity" / "manifest.json", made)
    return dataset, home


def run(world: tuple[Dataset, Path], out: Path, config: WalkConfig) -> None:
    dataset, home = world
    affinity = home / "affinity"
    walk(dataset, home / "localization", home / "boundary", out, config, affinity=affinity, execution=HERE)


@pytest.fixture(scope="module")
def maps(world: tuple[Dataset, Path]) -> Path:
    dataset, home = world
    out = home / "walk_rib"
    walk(
        dataset,
        home / "localization",
        home / "boundary",
        out,
        WalkConfig(),
        affinity=home / "affinity",
        execution=HERE,
    )
    return out


def test_the_mean_of_walk_and_affinity_keeps_its_height(world: tuple[Dataset, Path], maps: Path) -> None:
    dataset, home = world
    record = dataset.records[1]
    stored = load_maps(home / "localization" / "rib" / f"{record.id}.npz")
    network = load_boundary(home / "boundary")
    _, plain = walked(network, read_image(record), stored, WalkConfig(), 48)
    expected = (plain / plain.max()).numpy() / 2 + stored.on_grid((12, 16)) / 2
    found = load_maps(maps / "rib" / f"{record.id}.npz")
    assert found.absolute
    np.testing.assert_allclose(found.at_stride4(), expected, atol=1e-3)
    assert found.full().shape == (2, *SIZE)
    assert found.full().max() < 1  # the second class's peaks lie apart


@pytest.mark.parametrize("times", [3, 0.5])
def test_photos_are_walked_over_at_the_size_that_they_are_worked_on_at(
    world: tuple[Dataset, Path], maps: Path, tmp_path: Path, times: float
) -> None:
    """Larger and smaller photos, brought to the same size, have the same maps, and masks in their own size."""
    dataset, home = world
    size = (round(times * SIZE[0]), round(times * SIZE[1]))
    shutil.copytree(home / "localization", tmp_path / "localization")
    shutil.copytree(home / "affinity", tmp_path / "affinity")
    records = []
    for record in dataset.records[:3]:
        path = tmp_path / record.path.name
        Image.open(record.path).resize(size[::-1], Image.Resampling.BOX).save(path)
        records.append(dataclasses.replace(record, path=path, mask_path=None))
        for stored in (f"localization/{kind}/{record.id}.npz" for kind in ("cam", "rib")):
            save_maps(tmp_path / stored, load_maps(home / stored).at_size(size))
        stored = f"affinity/rib/{record.id}.npz"
        save_maps(tmp_path / stored, load_maps(home / stored).at_size(size))
    resized = dataclasses.replace(dataset, records=tuple(records)).worked_on_at((SIZE[1], SIZE[1]))
    places = (tmp_path / "localization", home / "boundary", tmp_path / "walked", WalkConfig())
    walk(resized, *places, affinity=tmp_path / "affinity", execution=HERE)
    refine(resized, tmp_path / "walked", tmp_path / "out", RefineConfig(method="irn+none"), execution=HERE)
    for record in records:
        before, after = (load_maps(place / "rib" / f"{record.id}.npz") for place in (maps, tmp_path / "walked"))
        assert after.size == size
        assert after.sums[0].shape == before.sums[0].shape
        assert np.abs(after.sums[0] - before.sums[0]).mean() < (0.01 if times > 1 else 0.03)
        assert read_mask(tmp_path / "out" / "masks" / f"{record.id}.png").shape == size


def test_joined_scores() -> None:
    walk_maps = np.zeros((1, 3, 4), np.float32)
    walk_maps[0, 1, 2] = 5.0
    alone = joined(walk_maps, (10, 15), None, 0.5)
    assert alone.shape == (1, 4, 4)
    assert alone.max() == 1
    other = LocalizationMaps(np.array([0]), (10, 15), (1.0,), [np.full((1, 4, 4), 3.0, np.float32)])
    np.testing.assert_allclose(joined(walk_maps, (10, 15), other, 0.25), 0.75 * alone + 0.25, atol=1e-5)
    assert not joined(np.zeros((1, 3, 4), np.float32), (10, 15), None, 0.5).any()


def test_scores_outlive_their_file(tmp_path: Path) -> None:
    values = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)).numpy() / 2
    for absolute in (False, True):
        save_maps(tmp_path / "x.npz", LocalizationMaps(np.array([0, 3]), (12, 16), (1.0,), [values], absolute))
        found = load_maps(tmp_path / "x.npz")
        assert found.absolute is absolute
        expected = values if absolute else values / values.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found.at_stride4(), expected, atol=1e-3)


def test_broken_photos_are_noted_and_the_rest_refined(
    world: tuple[Dataset, Path], maps: Path, tmp_path: Path
) -> None:
    dataset, home = world
    made = read_json(maps / "manifest.json")
    assert {i for i, s in made["images"].items() if s["status"] == "failed"} == {"image 5"}
    config = RefineConfig(method="irn+pamr", threshold="auto")
    refine(dataset, maps, tmp_path / "out", config, cam=home / "localization" / "cam", execution=HERE)
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["title"] == "RIB+IRN+PAMR"
    assert 0 < manifest["threshold"] < 1
    assert "walk" not in manifest["config"]  # told by the maps' settings
    mask = read_mask(tmp_path / "out" / "masks" / "image 0.png")
    assert mask.shape == SIZE
    assert set(np.unique(mask)) <= {0, 1}


def test_other_settings_are_refused(world: tuple[Dataset, Path], maps: Path) -> None:
    with pytest.raises(ConfigError, match="affinity"):
        run(world, maps, WalkConfig(affinity=0.3))
    run(world, maps, WalkConfig(threshold=0.9))  # which has no effect here


def test_masks_of_another_boundary_network_are_refused(
    world: tuple[Dataset, Path], maps: Path, tmp_path: Path
) -> None:
    dataset, _ = world
    config = RefineConfig(method="irn+none", threshold=0.4)
    shutil.copytree(maps, tmp_path / "walk_rib")
    refine(dataset, tmp_path / "walk_rib", tmp_path / "out", config, execution=HERE)
    path = tmp_path / "walk_rib" / "manifest.json"
    made = read_json(path)
    write_json(path, {**made, "inputs": {**made["inputs"], "boundary": "another"}})
    with pytest.raises(ConfigError, match="walk"):
        refine(dataset, tmp_path / "walk_rib", tmp_path / "out", config, execution=HERE)


def test_what_a_refinement_needs_first() -> None:
    ours = RefineConfig(method="irn+crf")
    comparisons = {
        "pamr": RefineConfig(method="irn+pamr"),
        "walk_alone": RefineConfig(method="irn+crf", walk=WalkConfig(affinity=0)),
        "irn": RefineConfig(method="irn"),
    }
    found = {one.name: one for one in plan(ours, comparisons, ClassifierConfig())}
    assert {one.boundary for one in found.values()} == {"boundary_rib"}
    assert [found[name].walk for name in ("", "pamr", "walk_alone", "irn")] == [
        "walk_rib",
        "walk_rib",
        "walk_rib_walk_alone",
        None,
    ]
    assert title_of(ours) == "RIB+IRN+CRF"
    with pytest.raises(ConfigError, match=r"irn\+pamr"):
        RefineConfig(method="irn+nothing").check_relations()


def test_a_walk_by_a_network_of_its_own_is_a_row_beside_the_first() -> None:
    own, other = (
        STAGE.score_keys(Planned(STAGE, folder, WalkConfig()), None)  # type: ignore[arg-type]
        for folder in ("walk_cam", "walk_cam_its_45")
    )
    assert (own, other) == (["seed_cam_walk"], ["seed_cam_walk_its_45"])
    assert kind_of(own[0]) is kind_of(other[0])
    assert place_of(other[0]) < place_of("segmentation_val")
