"""Pseudo-masks by every method, what the stage keeps of the way there, and recipes with comparisons."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from refine_world import SIZE, make_world

from tag2mask.chain import Chain
from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.common.files import read_json, write_json
from tag2mask.config import to_mapping
from tag2mask.data import Dataset, load_maps, read_mask
from tag2mask.engine.execution import Execution
from tag2mask.networks import build_boundary_network, save_module
from tag2mask.networks.pooling import Kind
from tag2mask.recipe import Recipe, load_recipe
from tag2mask.refine.pseudo import walk_scores
from tag2mask.runs.scores import rows_of
from tag2mask.stages.confident import ConfidentConfig
from tag2mask.stages.evaluate import score_masks
from tag2mask.stages.refine import RefineConfig, Refiner, WalkConfig, refine
from tag2mask.stages.refinements import left_out, plan
from tag2mask.stages.saliency import SaliencyConfig
from tag2mask.stages.stage import Context
from tag2mask.stages.train_boundary import BoundaryConfig
from tag2mask.stages.train_classifier import ClassifierConfig

HERE = Execution(device="cpu", processes=1, trace=2)
IRN = RefineConfig(method="irn", walk=WalkConfig(threshold=0.3))
TEXT = "name: x\nrefine:\n  method: irn\n  walk: {threshold: 0.2}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def boundary(world: tuple[Dataset, Path]) -> Path:
    """A boundary network with random weights."""
    out = world[1].parent / "boundary"
    manifest = {"stage": "train-boundary", "config": {"backbone": "resnet18", "crop_size": 48}, "finished": True}
    write_json(out / "manifest.json", manifest)
    save_module(build_boundary_network("resnet18", "none", seed=1), out / "weights.safetensors")
    return out


@pytest.fixture(scope="module")
def walked(world: tuple[Dataset, Path], boundary: Path) -> Path:
    out = world[1].parent / "pseudo_masks"
    refine(*world, out, IRN, boundary=boundary, execution=HERE)
    return out


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}


# --- the stage ---------------------------------------------------------------------------------------


def test_scores_of_a_walk() -> None:
    walked = torch.zeros(2, 3, 4)
    walked[0, 1, 1], walked[1, 2, 3] = 2.0, 1.0
    scores = walk_scores(walked, (10, 15))
    assert scores.shape == (2, 10, 15)
    assert scores.max() == scores[0].max() == 1
    assert 0.3 < scores[1].max() < 0.7  # classes keep their proportions
    assert not walk_scores(torch.zeros(1, 3, 4), (12, 16)).any()
    assert walk_scores(torch.zeros(0, 3, 4), (12, 16)).shape == (0, 12, 16)


def test_irn_writes_masks_and_the_steps_of_some(world: tuple[Dataset, Path], walked: Path) -> None:
    dataset, localization = world
    manifest = read_json(walked / "manifest.json")
    assert manifest["title"] == "RIB+IRN"
    assert {i for i, s in manifest["images"].items() if s["status"] == "failed"} == {"image 5"}
    assert "0 bytes" in manifest["images"]["image 5"]["error"]
    for record in dataset.records[:5]:
        mask = read_mask(walked / "masks" / f"{record.id}.png")
        assert mask.shape == SIZE
        assert set(np.unique(mask)) <= {0, *(label + 1 for label in record.labels)}
    assert score_masks(dataset, walked / "masks", split="train").row["miou"] > 0.4
    kept = {path.stem for path in (walked / "steps").iterdir()}
    assert kept == {record.id for record in dataset.limit(2, 0).records} - {"image 5"}
    for name in kept:
        with np.load(walked / "steps" / f"{name}.npz", allow_pickle=False) as steps:
            assert steps["edge"].shape == (SIZE[0] // 4, SIZE[1] // 4)
            assert steps["walked"].shape == (len(load_maps(localization / "rib" / f"{name}.npz").classes), 12, 16)
            assert steps["walked"].max() == 1


def test_processes_and_interruption_change_nothing(
    world: tuple[Dataset, Path], boundary: Path, walked: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refine(*world, out, IRN, boundary=boundary, execution=dataclasses.replace(HERE, processes=2, trace=0))
    assert masks(out) == masks(walked)
    assert not (out / "steps").exists()
    manifest = read_json(out / "manifest.json")
    write_json(out / "manifest.json", manifest | {"finished": False})
    (out / "masks" / "image 2.png").unlink()
    refine(*world, out, IRN, boundary=boundary, execution=HERE)
    assert masks(out) == masks(walked)


def test_settings_of_other_methods_do_not_matter(
    world: tuple[Dataset, Path], boundary: Path, walked: Path, tmp_path: Path
) -> None:
    out = tmp_path / "none"
    plain = RefineConfig(method="none", threshold=0.4)
    assert set(plain.used()) == {"maps", "method", "threshold", "threshold_chosen_on", "unsure"}
    refine(*world, out, plain, execution=HERE)
    refine(*world, out, dataclasses.replace(plain, boundary=BoundaryConfig(epochs=99)), execution=HERE)
    with pytest.raises(ConfigError, match=r"threshold: 0.4 there, 0.5 now"):
        refine(*world, out, dataclasses.replace(plain, threshold=0.5), execution=HERE)
    refine(*world, walked, dataclasses.replace(IRN, threshold=0.9), boundary=boundary, execution=HERE)
    with pytest.raises(ConfigError, match=r"walk.threshold: 0.3 there, 0.2 now"):
        refine(*world, walked, RefineConfig(method="irn", walk=WalkConfig(threshold=0.2)), boundary=boundary)


def test_unsure_pixels_surround_the_walk(
    world: tuple[Dataset, Path], boundary: Path, walked: Path, tmp_path: Path
) -> None:
    refine(*world, tmp_path / "out", dataclasses.replace(IRN, unsure=0.1), boundary=boundary, execution=HERE)
    found, plain = (read_mask(folder / "masks" / "image 0.png") for folder in (tmp_path / "out", walked))
    assert (found == 255).any()
    np.testing.assert_array_equal(found[found != 255], plain[found != 255])


def test_irn_needs_a_trained_network(world: tuple[Dataset, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run train-boundary first"):
        refine(*world, tmp_path / "out", IRN, execution=HERE)
    with pytest.raises(ConfigError, match=r"refine.unsure is 0.4; expected below walk.threshold, 0.3"):
        refine(*world, tmp_path / "out", dataclasses.replace(IRN, unsure=0.4), execution=HERE)


def test_a_replaced_photo_and_a_deleted_mask_are_done_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedies that messages name hold for a finished stage, too; with nothing to do it loads nothing."""
    dataset, localization = make_world(tmp_path)
    out, config = tmp_path / "out", RefineConfig(method="none")
    refine(dataset, localization, out, config, execution=HERE)
    before = masks(out)
    assert "image 5.png" not in before
    with monkeypatch.context() as patch:
        patch.setattr("tag2mask.stages.refine.run_images", None)
        manifest = (out / "manifest.json").read_bytes()
        refine(dataset, localization, out, config, execution=HERE)
        assert (out / "manifest.json").read_bytes() == manifest
    (out / "masks" / "image 2.png").unlink()
    dataset.records[5].path.write_bytes(dataset.records[3].path.read_bytes())
    refine(dataset, localization, out, config, execution=HERE)
    after = masks(out)
    assert {name: after[name] for name in before} == before
    assert read_mask(out / "masks" / "image 5.png").shape == SIZE
    manifest = read_json(out / "manifest.json")
    assert {state["status"] for state in manifest["images"].values()} == {"done"}


def test_maps_of_an_unfinished_stage_are_not_used(tmp_path: Path) -> None:
    dataset, localization = make_world(tmp_path, images=2)
    manifest = read_json(localization / "manifest.json")
    write_json(localization / "manifest.json", manifest | {"finished": False})
    with pytest.raises(ConfigError, match=r"localization: 'localize' is not finished there; run localize to its end"):
        refine(dataset, localization, tmp_path / "out", RefineConfig(method="none"), execution=HERE)
    assert not (tmp_path / "out").exists()


def test_maps_of_another_image_are_refused(world: tuple[Dataset, Path], tmp_path: Path) -> None:
    dataset, localization = world
    Image.new("RGB", (20, 30)).save(tmp_path / "other.png")
    record = dataclasses.replace(dataset.records[0], path=tmp_path / "other.png")
    work = Refiner({record.id: record}, localization / "rib", tmp_path, RefineConfig(method="none"))
    with pytest.raises(Exception, match="the image is 30 x 20 but its maps are of 48 x 64"):
        work(record.id)


# --- with saliency -----------------------------------------------------------------------------------


def test_saliency_from_files_ends_in_masks_and_scores(world: tuple[Dataset, Path], tmp_path: Path) -> None:
    dataset, _ = world
    folder = tmp_path / "saliency"
    folder.mkdir()
    for record in dataset.records[:4]:
        truth = read_mask(record.mask_path)  # type: ignore[arg-type]
        shown = np.where(truth > 0, 255, 0).astype(np.uint8)
        shown[:6] = 255  # an object without a tag
        Image.fromarray(shown[::2, ::2]).save(folder / f"{record.id}.png")
    (folder / "about.txt").write_text("simulated from true masks: an upper bound")
    config = RefineConfig(method="none", threshold=0.1, saliency=SaliencyConfig(str(folder), confident=0.99))
    refine(*world, tmp_path / "out", config, execution=HERE)
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["title"] == "RIB+threshold+Sal"
    assert manifest["without_saliency"] == ["image 4", "image 5"]
    assert manifest["images"]["image 4"]["status"] == "done"
    assert "source" not in manifest["config"]["saliency"]
    found = read_mask(tmp_path / "out" / "masks" / "image 0.png")
    assert (found[:4] == 255).all()
    assert (found[-4:] == 0).all()
    row = score_masks(dataset, tmp_path / "out" / "masks", split="train").row
    assert 0.8 < row["coverage"] < 1
    assert row["miou_decided"] > row["miou"] - 0.05
    row |= {"title": manifest["title"], "saliency": manifest["saliency"]}
    (shown,) = rows_of({"pseudo_mask_x": row})
    assert shown.title == "pseudo-mask RIB+threshold+Sal"
    assert "upper bound" in shown.remarks[0]
    assert "scored as background" in shown.remarks[1]
    (folder / "image 4.png").write_bytes((folder / "image 3.png").read_bytes())
    with pytest.raises(ConfigError, match=r"inputs.saliency"):
        refine(*world, tmp_path / "out", config, execution=HERE)


# --- recipes with comparisons ------------------------------------------------------------------------


def recipe_of(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def test_comparisons_are_changes_over_refine(tmp_path: Path) -> None:
    text = TEXT + "comparisons:\n  cam_irn: {maps: cam, walk: {power: 1}}\n  rib_none: {method: none}\n"
    recipe = recipe_of(tmp_path, text, ("comparisons.rib_none.threshold=0.4", "refine.boundary.epochs=2"))
    cam = recipe.comparisons["cam_irn"]
    assert (cam.maps, cam.method, cam.walk.threshold, cam.walk.power) == ("cam", "irn", 0.2, 1.0)
    assert cam.boundary.epochs == 2
    assert recipe.comparisons["rib_none"].threshold == 0.4
    assert recipe.refine.maps == "rib"
    assert recipe_of(tmp_path, yaml.safe_dump(to_mapping(recipe))) == recipe
    assert recipe_of(tmp_path, text, ("comparisons={}",)).comparisons == {}
    assert recipe_of(tmp_path, "name: x\ncomparisons:\n").comparisons == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("comparisons:\n  a:\n    walk: {betta: 3}\n", r"line 7: .*'comparisons.a.walk.betta'.*'beta'"),
        ("comparisons:\n  a: {method: crfs}\n", r"line 6: comparisons.a.method is 'crfs'; expected one of"),
        ("comparisons:\n  a/b: {}\n", r"line 6: comparisons: 'a/b' can't name a folder"),
        ("comparisons:\n  a: crf\n", r"line 6: comparisons.a is 'crf'; expected a section"),
        ("comparisons: [cam]\n", r"line 5: comparisons is \['cam'\]; expected names, each with a section"),
        ("comparisons: {a: {walk: 3}}\n", r"line 5: comparisons.a.walk is 3; expected a section"),
        ("comparisons:\n  a:\n    unsure: 0.3\n", r"line 7: comparisons.a.unsure is 0.3; expected below "),
    ],
)
def test_mistakes_in_comparisons_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of(tmp_path, TEXT + text)


def test_a_mistake_in_refine_is_reported_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 4: unknown setting 'refine.beta'"):
        recipe_of(tmp_path, "name: x\ncomparisons: {a: {}}\nrefine:\n  beta: 3\n")


def test_the_same_work_is_done_once() -> None:
    other = dataclasses.replace(IRN, boundary=BoundaryConfig(epochs=9))
    strict = dataclasses.replace(IRN, confident=ConfidentConfig(foreground=0.5))
    comparisons = {
        "cam_irn": dataclasses.replace(IRN, maps="cam"),
        "rib_irn_sal": dataclasses.replace(IRN, saliency=SaliencyConfig("somewhere")),
        "long": other,
        "strict": strict,
        "rib_none": RefineConfig(method="none"),
    }
    found = {one.name: one for one in plan(IRN, comparisons, ClassifierConfig(backbone="resnet18", weights="none"))}
    assert {name: (one.confident, one.boundary) for name, one in found.items()} == {
        "": ("confident_rib", "boundary_rib"),
        "cam_irn": ("confident_cam", "boundary_cam"),
        "rib_irn_sal": ("confident_rib", "boundary_rib"),
        "long": ("confident_rib", "boundary_rib_long"),
        "strict": ("confident_rib_strict", "boundary_rib_strict"),
        "rib_none": (None, None),
    }
    assert (found[""].folder, found["long"].folder) == ("pseudo_masks", "pseudo_masks_long")
    assert (found[""].score, found["long"].score) == ("pseudo_mask", "pseudo_mask_long")
    titles = [found[name].title for name in ("", "cam_irn", "rib_irn_sal", "long")]
    assert titles == ["RIB+IRN", "CAM+IRN", "RIB+IRN+Sal", "RIB+IRN (long)"]
    filled = found[""].config.boundary
    assert (filled.backbone, filled.weights) == ("resnet18", "none")
    own = dataclasses.replace(IRN, boundary=BoundaryConfig(backbone="resnet34"))
    assert plan(own, {}, ClassifierConfig())[0].config.boundary.weights == "auto"


@pytest.mark.parametrize(
    ("pooling", "given", "power"),
    [
        (("average", None), "auto", 1.0),
        (("log-sum-exp", None), "auto", 1.0),
        (("generalised-mean", None), "auto", 0.5),  # its own power is 3
        (("generalised-mean", 1.0), "auto", 1.0),  # which is the average
        (("generalised-mean", None), 0.8, 0.8),
    ],
)
def test_the_cut_allows_for_the_poolings_peaks(
    pooling: tuple[Kind, float | None], given: float | Literal["auto"], power: float
) -> None:
    classifier = ClassifierConfig(pooling=pooling[0], pooling_parameter=pooling[1])
    found = plan(RefineConfig(method="none", threshold="auto", threshold_power=given), {}, classifier)
    assert found[0].config.threshold_power == power


@pytest.mark.parametrize(("changes", "power"), [([], 0.5), (["backbone=resnet50"], 1.0)])
def test_photos_of_large_things_are_cut_by_their_pooling(changes: list[str], power: float) -> None:
    recipe = load_recipe("photos", ["variant=large", *changes])
    assert plan(recipe.refine, {}, recipe.classifier)[0].config.threshold_power == power


def test_a_comparison_that_cannot_run_here_is_left_out(
    world: tuple[Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tag2mask.refine.methods.crf_available", lambda: False)
    said: list[str] = []
    plain, dense = RefineConfig(method="none"), RefineConfig(method="crf")

    def chain(own: RefineConfig, other: RefineConfig) -> Chain:
        recipe = Recipe("x", refine=own, comparisons={"other": other})
        return Chain(Context(recipe, world[0], None, tmp_path / "run", HERE, said.append), {})

    one = chain(plain, dense)
    assert [entry.folder for entry in one.plan if entry.stage.name == "refine"] == ["pseudo_masks"]
    assert "tag2mask[crf]" in next(iter(left_out(one.context)))
    with pytest.raises(MissingExtraError):
        chain(dense, plain).run_stage("refine")
    with pytest.raises(ConfigError, match="no such folder"):
        chain(plain, dataclasses.replace(plain, saliency=SaliencyConfig("nowhere"))).run_stage("refine")
