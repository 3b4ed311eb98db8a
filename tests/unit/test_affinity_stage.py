"""Maps by affinity as a stage: what it writes, that it lies on the photo, that refinements work on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from refine_world import make_world

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset, LocalizationMaps, load_maps
from tag2mask.engine.execution import Execution
from tag2mask.recipe import Recipe, load_recipe
from tag2mask.stages import stage_named
from tag2mask.stages.affinity import AffinityStageConfig, Follower, follow
from tag2mask.stages.refine import RefineConfig, refine
from tag2mask.stages.stage import Context

HERE = Execution(device="cpu", workers=0, processes=1, trace=0)
CONFIG = AffinityStageConfig(backbone="resnet18", weights="none", stride=4, taps=(0,))


@pytest.fixture
def world(tmp_path: Path) -> Dataset:
    return make_world(tmp_path)[0]


def test_followed_maps_lie_where_the_maps_lay(world: Dataset, tmp_path: Path) -> None:
    still = dataclasses.replace(CONFIG, products=0)
    follow(world, tmp_path / "localization", tmp_path / "still", still, execution=HERE)
    follow(world, tmp_path / "localization", tmp_path / "affinity", CONFIG, execution=HERE)
    moved = 0
    for record in world.records[:3]:
        for kind in ("cam", "rib"):
            before, same, after = (
                load_maps(tmp_path / folder / kind / f"{record.id}.npz")
                for folder in ("localization", "still", "affinity")
            )
            assert same.size == after.size == before.size
            assert after.classes.tolist() == before.classes.tolist()
            np.testing.assert_allclose(same.full(), before.full(), atol=0.35)  # only the grid is another
            assert np.corrcoef(same.full().ravel(), before.full().ravel())[0, 1] > 0.9
            assert after.full().shape == before.full().shape
            moved += not np.allclose(after.full(), same.full(), atol=1e-3)
    assert moved > 0
    manifest = read_json(tmp_path / "affinity" / "manifest.json")
    assert manifest["stage"] == "affinity"
    assert manifest["finished"]
    other = dataclasses.replace(CONFIG, temperature=0.2)
    with pytest.raises(ConfigError, match=r"temperature: 0.12 there, 0.2 now"):
        follow(world, tmp_path / "localization", tmp_path / "affinity", other, execution=HERE)


def test_maps_lie_on_the_photo_at_the_size_that_it_is_worked_on_at(world: Dataset, tmp_path: Path) -> None:
    """Maps that cover their photo exactly say its own size, of which another share is filled up to whole cells."""
    follower = Follower({}, tmp_path, tmp_path, [], CONFIG)
    image = np.random.default_rng(0).integers(0, 255, (46, 62, 3), dtype=np.uint8)
    sums = [np.random.default_rng(1).random((1, 6, 8)).astype(np.float32)]
    seen = LocalizationMaps(np.array([0]), (46, 62), (1.0,), sums, whole=True)
    same, own = follower.followed(image, [seen, seen.at_size((460, 620))])
    np.testing.assert_array_equal(own.sums[0], same.sums[0])
    assert (same.size, own.size) == ((46, 62), (460, 620))


def test_random_weights_have_to_be_asked_for(world: Dataset, tmp_path: Path) -> None:
    for null in ({"weights": None}, {"backbone": None}):
        with pytest.raises(ConfigError, match="the classifier's in a recipe only"):
            follow(
                world, tmp_path / "localization", tmp_path / "no", dataclasses.replace(CONFIG, **null), execution=HERE
            )
    assert not (tmp_path / "no").exists()


def test_refinements_work_on_followed_maps(world: Dataset, tmp_path: Path) -> None:
    follow(world, tmp_path / "localization", tmp_path / "affinity", CONFIG, execution=HERE)
    config = RefineConfig(method="none", threshold=0.45)
    refine(world, tmp_path / "affinity", tmp_path / "masks", config, execution=HERE)
    assert read_json(tmp_path / "masks" / "manifest.json")["finished"]
    recipe = load_recipe("photos", ["affinity.backbone=resnet18", "affinity.weights=none", "refine.method=none"])
    plain = dataclasses.replace(recipe, affinity=None)
    for asked, folder in ((recipe, "affinity"), (plain, "localization")):
        context = Context(asked, world, None, tmp_path / "run", HERE)
        (entry,) = stage_named("refine").entries(context)
        assert entry.reads["localization"] == folder
        assert len(list(stage_named("affinity").entries(context))) == (folder == "affinity")


def test_a_stage_that_the_backbone_lacks_shows_before_any_work(world: Dataset, tmp_path: Path) -> None:
    recipe = Recipe("x", affinity=dataclasses.replace(CONFIG, backbone="resnet18", weights="nowhere.pth"))
    context = Context(recipe, world, None, tmp_path / "run", HERE)
    (entry,) = stage_named("affinity").entries(context)
    with pytest.raises(Exception, match=r"nowhere.pth: no such weights file"):
        entry.stage.check(entry, context)
