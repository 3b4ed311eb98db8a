"""The chain around the stages: what may change in a run's folder, when it is finished, and what stops it early."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refine_world import make_world

from tag2mask.chain import Chain, open_chain
from tag2mask.common.errors import ConfigError, DataError, MissingExtraError, WeightsError
from tag2mask.common.files import read_json, write_json
from tag2mask.config import to_mapping
from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution
from tag2mask.recipe import DataConfig, Recipe, load_recipe, read_splits
from tag2mask.stages import train_classifier as classifier_stage
from tag2mask.stages.evaluate import EvaluateConfig
from tag2mask.stages.refine import RefineConfig, WalkConfig, refine
from tag2mask.stages.stage import Context
from tag2mask.stages.train_boundary import BoundaryConfig
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier
from tag2mask.stages.train_segmenter import NO_MASK, SegmenterConfig, train_segmenter
from tiny_run import copy_run

HERE = Execution(device="cpu", workers=0, processes=1, trace=0)
NET = {"backbone": "resnet18", "weights": "none", "epochs": 0, "crop_size": 32, "batch_size": 2}
RECIPE = Recipe(
    "tiny",
    refine=RefineConfig(method="none", threshold=0.45, threshold_chosen_on="a guess"),
    classifier=ClassifierConfig(**NET),
    segmenter=SegmenterConfig(**NET, output_stride=16),
    evaluate=EvaluateConfig(threshold_step=0.1, resamples=0),
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Path]:
    """A data set, whatever path is read, and a run's folder with maps and pseudo-masks; networks are untrained."""
    out = tmp_path / "run"
    out.mkdir()
    dataset, _ = make_world(out)
    shutil.move(out / "photos", tmp_path / "photos")
    records = tuple(
        dataclasses.replace(
            r, path=tmp_path / "photos" / r.path.name, mask_path=tmp_path / "photos" / r.mask_path.name
        )  # type: ignore[union-attr]
        for r in dataset.records
    )
    dataset = dataclasses.replace(dataset, records=records)
    monkeypatch.setattr("tag2mask.recipe.read_dataset", lambda *_, **__: dataset)
    made = {"localization": ("localize", RECIPE.localize), "classifier": ("train-classifier", RECIPE.classifier)}
    for folder, (stage, config) in made.items():
        manifest = {"stage": stage, "config": to_mapping(config), "seed": 0, "inputs": {"classifier": "0"}}
        write_json(out / folder / "manifest.json", manifest | {"finished": True, "seconds": 2.5})
    refine(dataset, out / "localization", out / "pseudo_masks", RECIPE.refine, execution=HERE)
    write_json(
        out / "run.json",
        {
            "name": "tiny",
            "data": {
                "root_name": "world",
                "classes": ["red", "green"],
                "train_images": 6,
                "val_images": 0,
                "limited_to": None,
            },
        },
    )
    return dataset, out


def opened(out: Path, recipe: Recipe = RECIPE, said: list[str] | None = None, **more: Any) -> Chain:
    return open_chain(recipe, out, out, execution=HERE, say=(said if said is not None else []).append, **more)


def changed(**sections: Any) -> Recipe:
    """The recipe with settings of its sections replaced."""
    return dataclasses.replace(
        RECIPE, **{name: dataclasses.replace(getattr(RECIPE, name), **values) for name, values in sections.items()}
    )


# --- what may change -----------------------------------------------------------------------------------


def test_a_refused_call_changes_nothing(world: tuple[Dataset, Path]) -> None:
    _, out = world
    opened(out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert set(before) == {"run.json", "recipe.yaml", "index.json", ".lock"}
    for recipe, named in (
        (changed(refine={"threshold": 0.3}), r"pseudo_masks: .*config.threshold: 0.45 there, 0.3 now"),
        (changed(classifier={"epochs": 3}), r"classifier: .*config.epochs: 0 there, 3 now"),
        (dataclasses.replace(RECIPE, seed=1), r"seed: 0 there, 1 now"),
        (dataclasses.replace(RECIPE, name="other"), r"holds the run 'tiny' on 6 training and 0 held-out"),
    ):
        with pytest.raises(ConfigError, match=named):
            opened(out, recipe)
        assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_other_tags_are_refused_before_anything_is_written(finished_run: Path, tmp_path: Path) -> None:
    run = copy_run(finished_run, tmp_path)
    labels = tmp_path / "farm" / "labels.csv"
    labels.write_text(labels.read_text("utf-8").replace("photo 00 é.png,cat,", "photo 00 é.png,cow,"), "utf-8")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    recipe = load_recipe(run / "recipe.yaml")
    with pytest.raises(ConfigError, match=r"other photos or tags.*photo 00 é: tagged cat then, tagged cow now"):
        open_chain(recipe, tmp_path / "farm", run, execution=HERE, say=lambda _: None)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_what_has_no_stage_yet_may_change(world: tuple[Dataset, Path]) -> None:
    _, out = world
    recipe = changed(evaluate={"resamples": 7}, segmenter={"epochs": 9}, localize={})
    rib = recipe.localize.rib.replace(channels_last=True)  # only memory and time
    recipe = dataclasses.replace(
        recipe,
        localize=dataclasses.replace(recipe.localize, rib=rib),
        comparisons={"low": dataclasses.replace(RECIPE.refine, threshold=0.2)},
    )
    opened(out, recipe).run_stage("refine")
    assert "resamples: 7" in (out / "recipe.yaml").read_text()
    other = {"low": dataclasses.replace(RECIPE.refine, threshold=0.1)}
    with pytest.raises(ConfigError, match=r"pseudo_masks_low: .*threshold: 0.2 there, 0.1 now"):
        opened(out, dataclasses.replace(recipe, comparisons=other))


def test_automatic_methods_are_what_was_there(world: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = world
    manifest = read_json(out / "pseudo_masks" / "manifest.json")
    manifest["config"]["method"] = "pamr"
    write_json(out / "pseudo_masks" / "manifest.json", manifest | {"title": "RIB+PAMR"})
    monkeypatch.setattr("tag2mask.refine.methods.crf_available", lambda: True)
    scores = opened(out, changed(refine={"method": "auto"})).evaluate()
    assert scores["pseudo_mask"]["title"] == "RIB+PAMR"


def test_scores_name_the_settings_that_made_the_masks(world: tuple[Dataset, Path]) -> None:
    dataset, out = world
    other = dataclasses.replace(RECIPE, refine=RefineConfig(method="irn", walk=WalkConfig(threshold=0.3)))
    row = Chain(Context(other, dataset, None, out, HERE, [].append), {}).evaluate()["pseudo_mask"]
    assert (row["threshold"], row["threshold_chosen_on"], row["title"]) == (0.45, "a guess", "RIB+threshold")


def test_masks_of_which_none_can_be_scored_cost_a_row(
    world: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = world
    records = [
        dataclasses.replace(r, mask_path=r.mask_path if r is dataset.records[-1] else None) for r in dataset.records
    ]
    masked = dataclasses.replace(dataset, records=tuple(records))  # only the photo that can't be read has one
    monkeypatch.setattr("tag2mask.recipe.read_dataset", lambda *_, **__: masked)
    said: list[str] = []
    chain = opened(out, said=said)
    chain._score(next(entry for entry in chain.plan if entry.folder == "pseudo_masks"))
    assert any(line.startswith("! pseudo_masks: not scored: ") for line in said)
    assert chain.unscored == {"pseudo_mask"}
    assert chain.scores() == {}
    chain._settle()
    assert opened(out).unscored == {"pseudo_mask"}  # a later call still knows


def test_photos_without_any_tag_teach_nothing(world: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    records = tuple(dataclasses.replace(record, labels=()) for record in world[0].records)
    untagged = dataclasses.replace(world[0], records=records)
    monkeypatch.setattr("tag2mask.recipe.read_dataset", lambda *_, **__: untagged)
    with pytest.raises(DataError, match="none of the 6 training photos has a tag; give each photo the names"):
        opened(world[1])


def test_scores_of_unknown_classes_are_refused_before_anything_is_trained(world: tuple[Dataset, Path]) -> None:
    shutil.rmtree(world[1] / "pseudo_masks")
    chain = opened(world[1], changed(refine={"thresholds": {"gren": 0.3}}))
    with pytest.raises(ConfigError, match="no class 'gren'; did you mean 'green'"):
        chain.check()


def test_a_folder_keeps_its_limit(world: tuple[Dataset, Path], tmp_path: Path) -> None:
    out, said = tmp_path / "limited", []
    assert len(opened(out, limit=3).context.train) == 3
    assert len(opened(out, said=said).context.train) == 3
    assert "--limit 3, as" in said[0]
    with pytest.raises(
        ConfigError, match=r"on 3 training \(--limit 3\) .*on 4 training \(--limit 4\).*another --out"
    ):
        opened(out, limit=4)


# --- when it is finished -------------------------------------------------------------------------------


def finish_segmenter(dataset: Dataset, out: Path) -> None:
    train_segmenter(dataset, out / "pseudo_masks", out / "segmenter", RECIPE.segmenter, execution=HERE)


def test_steps_finish_a_run_and_leave_it_finished(world: tuple[Dataset, Path]) -> None:
    _, out = world
    opened(out).evaluate()
    info = read_json(out / "run.json")
    assert not info["finished"]
    assert info["seconds"]["classifier"] == 2.5
    opened(out).run_stage("train-segmenter")
    info = read_json(out / "run.json")
    assert info["finished"]
    assert set(info["failures"]) == {"pseudo_masks/image 5", "segmenter/image 5"}
    write_json(out / "run.json", info | {"started": "long ago", "machine": "another"})
    opened(out)  # and killed before any step ends
    assert read_json(out / "run.json") == info | {"started": "long ago", "machine": "another"}
    opened(out).evaluate()
    assert read_json(out / "run.json") == info | {"started": "long ago", "machine": "another"}
    more = dataclasses.replace(RECIPE, comparisons={"low": dataclasses.replace(RECIPE.refine, threshold=0.2)})
    opened(out, more).evaluate()
    assert not read_json(out / "run.json")["finished"]
    opened(out, more).run_stage("refine")
    opened(out, more).evaluate()
    assert read_json(out / "run.json")["finished"]


def test_an_unfinished_stage_is_not_scored(world: tuple[Dataset, Path]) -> None:
    _, out = world
    manifest = read_json(out / "pseudo_masks" / "manifest.json")
    write_json(out / "pseudo_masks" / "manifest.json", manifest | {"finished": False})
    said: list[str] = []
    assert list(opened(out, said=said).evaluate()) == ["seed_cam", "seed_rib"]
    assert any("pseudo_masks: not finished, so not scored" in line for line in said)


def test_an_image_that_works_by_now_stops_no_trained_network(world: tuple[Dataset, Path]) -> None:
    dataset, out = world
    finish_segmenter(dataset, out)
    weights = (out / "segmenter" / "weights.safetensors").stat().st_mtime_ns
    dataset.records[5].path.write_bytes(dataset.records[3].path.read_bytes())
    said: list[str] = []
    chain = opened(out, said=said)
    chain.run_stage("refine")
    assert (out / "pseudo_masks" / "masks" / "image 5.png").is_file()
    chain.run_stage("train-segmenter")
    assert (out / "segmenter" / "weights.safetensors").stat().st_mtime_ns == weights
    assert any("trained without 1 images that failed then and work by now, e.g. image 5" in line for line in said)
    (out / "pseudo_masks" / "masks" / "image 2.png").unlink()
    with pytest.raises(ConfigError, match=r"inputs.images"):
        finish_segmenter(dataset, out)
    shutil.rmtree(out / "segmenter")
    finish_segmenter(dataset, out)
    assert NO_MASK not in str(read_json(out / "segmenter" / "manifest.json")["images"]["image 5"])


def test_the_table_of_true_masks_is_part_of_what_was_learned_from(
    world: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dataset, _ = world
    train_segmenter(dataset, None, tmp_path / "upper", RECIPE.segmenter, execution=HERE)
    swapped = dataset.mask_lut.copy()
    swapped[1:3] = 2, 1
    other = dataclasses.replace(dataset, mask_lut=swapped)
    with pytest.raises(ConfigError, match=r"inputs.mask_table"):
        train_segmenter(other, None, tmp_path / "upper", RECIPE.segmenter, execution=HERE)


def test_a_classifier_that_was_killed_after_training_is_not_trained_again(
    world: tuple[Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = world
    config = ClassifierConfig(**NET | {"epochs": 1}, long_side_min=32, long_side_max=40)
    out = tmp_path / "classifier"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    half = dataclasses.replace(HERE, precision="bf16-true")
    with monkeypatch.context() as patch:
        patch.setattr(classifier_stage, "what_was_learned", stop)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(dataset, out, config, execution=half, validation=dataset)
    weights = (out / "weights.safetensors").read_bytes()
    monkeypatch.setattr(classifier_stage, "load_sample", stop)  # no image is trained on again
    classifier = train_classifier(dataset, out, config, execution=half, validation=dataset)
    assert (out / "weights.safetensors").read_bytes() == weights
    assert not (out / "checkpoint.pt").exists()
    assert {value.dtype for value in classifier.parameters()} == {torch.float32}
    manifest = read_json(out / "manifest.json")
    assert manifest["finished"]
    assert 0 <= manifest["validation_map"] <= 1


# --- what stops it early -------------------------------------------------------------------------------


IRN = RefineConfig(method="irn", boundary=BoundaryConfig("resnet18", "nowhere.pth"))


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        (changed(segmenter={"backbone": "resnet19"}), ConfigError, "resnet19"),
        (changed(segmenter={"weights": "nowhere.pth"}), WeightsError, "nowhere.pth: no such weights file"),
        (dataclasses.replace(RECIPE, refine=IRN), WeightsError, "nowhere.pth: no such weights file"),
        (changed(predict={"crf": True}), MissingExtraError, r"predict.crf: true.*tag2mask\[crf\]"),
    ],
)
def test_what_a_later_step_lacks_shows_before_the_first(
    recipe: Recipe, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = make_world(tmp_path, images=2)
    for module in ("refine.methods", "stages.predict"):
        crf = module == "refine.methods"  # for predict.crf alone it is missing
        monkeypatch.setattr(f"tag2mask.{module}.crf_available", lambda crf=crf: crf)
    said: list[str] = []
    chain = Chain(Context(recipe, dataset, dataset, tmp_path / "run", HERE, said.append), {})
    with pytest.raises(error, match=message):
        chain.run()
    assert said == []
    assert not (tmp_path / "run").exists()


def test_a_finished_run_checks_no_network_again(world: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, out = world
    finish_segmenter(dataset, out)
    recipe = dataclasses.replace(RECIPE, supervised=False)
    monkeypatch.setattr("tag2mask.stages.train_segmenter.build_segmenter", None)
    Chain(Context(recipe, dataset, None, out, HERE, [].append), {}).check()


# --- splits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "train", "val", "unassigned"),
    [
        (["", "", "", "", "", ""], 6, 0, 0),
        (["train", "train", "", "", "val", "test"], 2, 1, 2),
        (["", "", "", "", "val", "test"], 4, 1, 0),
        (["", "", "", "", "", "test"], 5, 0, 0),
        (["train", "train", "train", "val", "val", "val"], 3, 3, 0),
    ],
)
def test_images_without_a_split(
    names: list[str], train: int, val: int, unassigned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = make_world(tmp_path)
    records = tuple(dataclasses.replace(r, split=name) for r, name in zip(dataset.records, names, strict=True))
    read: Callable[..., Dataset] = lambda *_, **__: dataclasses.replace(dataset, records=records)  # noqa: E731
    monkeypatch.setattr("tag2mask.recipe.read_dataset", read)
    found = read_splits(Recipe("x"), tmp_path)
    assert (len(found.train), len(found.val or ()), found.unassigned) == (train, val, unassigned)
    said: list[str] = []
    open_chain(Recipe("x"), tmp_path, tmp_path / "run", say=said.append)
    assert any(f"! {unassigned} images belong to no split" in line for line in said) == (unassigned > 0)
    if "train" not in names and "val" in names:
        with pytest.raises(Exception, match="split 'test2'"):
            read_splits(Recipe("x", data=DataConfig(train_split="test2")), tmp_path)
