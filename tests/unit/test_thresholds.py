"""CAM's background scores on RIB's maps: by what they cover, without a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from refine_world import make_world

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data import LocalizationMaps, load_maps, read_mask, save_maps
from tag2mask.engine.execution import Execution
from tag2mask.refine.threshold import cover_by_score, otsu_score
from tag2mask.stages.affinity import AffinityStageConfig, follow
from tag2mask.stages.confident import ConfidentConfig, confident
from tag2mask.stages.refine import RefineConfig, background_of, refine
from tag2mask.stages.thresholds import automatic_threshold, carried_over

HERE = Execution(device="cpu", processes=1)
CAM = ConfidentConfig(foreground=0.5, background=0.2, scale="cam", refinement="none")


@pytest.fixture
def world(tmp_path: Path):
    """A world whose RIB maps are the square roots of its CAMs: broader, in the same order."""
    dataset, localization = make_world(tmp_path)
    for path in (localization / "cam").iterdir():
        maps = load_maps(path)
        smooth = [np.sqrt(values + np.linspace(0, 0.2, values.shape[2], dtype=np.float32)) for values in maps.sums]
        save_maps(path, LocalizationMaps(maps.classes, maps.size, maps.scales, smooth))
        broad = [values**0.5 for values in smooth]
        save_maps(localization / "rib" / path.name, LocalizationMaps(maps.classes, maps.size, maps.scales, broad))
    return dataset, localization


def test_the_labels_are_those_of_cam(world, tmp_path: Path) -> None:
    """Maps in the same order give the same labels once the scores are carried over, and others if they aren't."""
    dataset, localization = world
    for name, maps, config in (
        ("cam", "cam", CAM),
        ("rib", "rib", CAM),
        ("own", "rib", ConfidentConfig(0.5, 0.2, "own", "none")),
    ):
        confident(dataset, localization, tmp_path / name, config, maps=maps, execution=HERE)
    found = {
        name: np.stack([read_mask(path) for path in sorted((tmp_path / name / "masks").iterdir())])
        for name in ("cam", "rib", "own")
    }
    assert (found["rib"] == found["cam"]).mean() > 0.97
    assert (found["own"] == found["cam"]).mean() < 0.9
    noted = read_json(tmp_path / "rib" / "manifest.json")["carried_over"]
    assert noted["foreground"] == pytest.approx(0.5**0.5, abs=0.03)
    assert noted["background"] == pytest.approx(0.2**0.5, abs=0.03)
    assert "carried_over" not in read_json(tmp_path / "cam" / "manifest.json")


def test_an_unsure_band_fits_the_score_that_was_found(world, tmp_path: Path) -> None:
    dataset, localization = world
    config = RefineConfig(maps="cam", method="none", threshold="auto", unsure=0.45)
    refine(dataset, localization, tmp_path / "out", config, execution=HERE)
    made = read_json(tmp_path / "out" / "manifest.json")
    room = min(made["threshold"], 1 - made["threshold"])
    assert made["unsure"] == pytest.approx(min(0.45, 0.9 * room), abs=1e-3)
    assert made["unsure"] < room < 0.5
    labels = {int(v) for path in (tmp_path / "out" / "masks").glob("*.png") for v in np.unique(read_mask(path))}
    assert {0, 255} < labels


def test_damaged_maps_are_left_out_and_nothing_left_is_an_error(world) -> None:
    dataset, localization = world
    ids = [record.id for record in dataset.records]
    (localization / "rib" / f"{ids[0]}.npz").write_bytes(b"no map")
    rest = carried_over(localization, "rib", (0.5,), ids, seed=0)
    assert rest == carried_over(localization, "rib", (0.5,), ids[1:], seed=0)
    assert rest == carried_over(localization, "rib", (0.5,), ids[::-1], seed=0)  # whatever their order
    with pytest.raises(ConfigError, match="no image has whole maps there and in"):
        carried_over(localization, "rib", (0.5,), ids[:1], seed=0)


def test_otsu_parts_two_groups() -> None:
    values = np.concatenate([np.full(700, 0.1), np.full(300, 0.8)]).reshape(1, 20, 50)
    assert 0.1 <= otsu_score(cover_by_score(values)) < 0.8
    assert otsu_score(cover_by_score(np.full((1, 4, 4), 0.3))) == 0.0
    rng = np.random.default_rng(0)
    groups = (rng.normal(0.3, 0.05, 6000), rng.normal(0.7, 0.05, 4000))
    spread = np.concatenate(groups).clip(0, 1).reshape(1, 100, 100)
    assert otsu_score(cover_by_score(spread)) == pytest.approx(0.5, abs=0.05)


@pytest.fixture
def blobs(tmp_path: Path) -> tuple[Path, list[str]]:
    """Maps cam/ of blobs and rib/ of their square roots, of four images."""
    rng = np.random.default_rng(1)
    for number in range(4):
        blob = np.exp(-((np.mgrid[0:16, 0:16] - 8 - number) ** 2).sum(axis=0) / 20).astype(np.float32)
        for kind, maps in (("cam", blob), ("rib", blob**0.5)):
            noise = rng.uniform(0, 0.01, (1, 16, 16)).astype(np.float32)
            found = LocalizationMaps(np.array([0]), (64, 64), (1.0,), [maps[None] + noise])
            save_maps(tmp_path / kind / f"{number}.npz", found)
    return tmp_path, [str(number) for number in range(4)]


def test_automatic_thresholds_cover_as_much_as_cam_at_otsu(blobs: tuple[Path, list[str]]) -> None:
    folder, ids = blobs
    cam, found = automatic_threshold(folder / "cam", folder / "cam", ids, 0)
    rib, _ = automatic_threshold(folder / "cam", folder / "rib", ids, 0)
    assert rib == pytest.approx(cam**0.5, abs=0.03)  # the same pixels
    assert "equal cover" in found


def test_of_lowered_maps_the_threshold_is_halfway_to_their_own(blobs: tuple[Path, list[str]]) -> None:
    folder, ids = blobs
    own, _ = automatic_threshold(folder / "rib", folder / "rib", ids, 0)
    equal, _ = automatic_threshold(folder / "cam", folder / "rib", ids, 0)
    score, found = automatic_threshold(folder / "cam", folder / "rib", ids, 0, lowered=True)
    assert abs(own - equal) > 0.02
    assert score == pytest.approx((own + equal) / 2, abs=0.001)
    assert "halfway" in found


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_the_manifest_says_how_the_threshold_was_found(floor: float, world, tmp_path: Path) -> None:
    dataset, localization = world
    settings = AffinityStageConfig(backbone="resnet18", weights="none", stride=8, positions=100, floor=floor)
    follow(dataset, localization, tmp_path / "affinity", settings, execution=HERE)
    config = RefineConfig(maps="cam", method="none", threshold="auto")
    refine(dataset, tmp_path / "affinity", tmp_path / "masks", config, cam=localization / "cam", execution=HERE)
    manifest = read_json(tmp_path / "masks" / "manifest.json")
    score, found = background_of(manifest)
    assert score == manifest["threshold"]
    assert ("halfway" in found) == bool(floor)
