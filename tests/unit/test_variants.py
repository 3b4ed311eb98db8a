"""Variants of a recipe: which settings come first, and how a trial on the photos' tags takes one."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tag2mask.chain import open_chain
from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data.settings import DataConfig, read_set
from tag2mask.engine.execution import Execution
from tag2mask.recipe import AUTO, load_recipe, recipe_mapping
from tag2mask.trial import divided
from tiny_run import write_photos

RECIPE = """
name: two
seed: 1
data: {mask_classes: [cat, cow, person]}
classifier: {backbone: resnet18, weights: none, epochs: 1, batch_size: 4, long_side_min: 48, long_side_max: 48,
             crop_size: 48, tuned: all}
localize: {rib: {preset: fast, scales: [1.0], loss_scales: [1.0]}}
variant: auto
variants:
  wide: {classifier: {pooling: average, epochs: 2}, refine: {maps: rib, threshold: 0.4}}
  narrow: {data: {long_side: 40}, classifier: {pooling: maximum}, localize: {method: cam}, refine: {maps: cam}}
"""
EXECUTION = Execution("cpu", workers=0, processes=1)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe's file."""
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_one_is_taken_by_name(recipe: Path) -> None:
    narrow = load_recipe(recipe, ["variant=narrow"])
    assert (narrow.variant, narrow.classifier.pooling, narrow.data.long_side) == ("narrow", "maximum", 40)
    assert narrow.classifier.epochs == 1  # what a variant doesn't name is the recipe's
    assert not narrow.alternatives
    assert recipe_mapping(narrow)["variant"] == "narrow"


def test_overrides_come_before_a_variant(recipe: Path) -> None:
    assert load_recipe(recipe, ["refine.threshold=0.2", "variant=wide"]).refine.threshold == 0.2
    changed = load_recipe(recipe, ["variants.narrow.classifier.epochs=9"]).alternatives
    assert (changed["narrow"].classifier.epochs, changed["wide"].classifier.epochs) == (9, 2)
    found = load_recipe(recipe, ["classifier.pooling=log-sum-exp"])
    assert {name: one.classifier.pooling for name, one in found.alternatives.items()} == {
        "wide": "log-sum-exp",
        "narrow": "log-sum-exp",
    }


def test_what_a_recipe_says_itself_comes_before_the_variants_of_the_one_that_it_is_like(
    recipe: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("like: two.yaml\nname: own\nrefine: {threshold: 0.3}\nvariant: wide\n", encoding="utf-8")
    assert load_recipe(own).refine.threshold == 0.3
    assert load_recipe(own).classifier.epochs == 2
    own.write_text("like: two.yaml\nname: own\nvariants: {narrow: {classifier: {epochs: 7}}}\n", encoding="utf-8")
    found = load_recipe(own).alternatives["narrow"].classifier
    assert (found.epochs, found.pooling) == (7, "maximum")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("", ["variant=narow"], "--set variant=narow: variant is 'narow'; expected .*auto, wide, narrow.*'narrow'"),
        ("", ["variants.narrow.classifier.epochs=-2"], "--set variants.narrow.*: classifier.epochs is -2"),
        ("name: x\nvariant: wide\n", ["variant=narrow"], "--set variant=narrow: the recipe has no variants"),
        ("name: x\nvariant: auto\n", [], "own.yaml line 2: the recipe has no variants"),
        ("like: two.yaml\nname: x\nvariant: small\n", [], "own.yaml line 3: variant is 'small'"),
        ("like: two.yaml\nname: x\nvariants: {narrow: 3}\n", [], "variants is .*expected changes over the recipe"),
        ("name: x\nvariant: a\nvariants: {a: {classifier: {epocs: 2}}}\n", [], "line 3: unknown setting .*epocs"),
        ("name: x\nvariant: a\nvariants: {a: {classifier: {epochs: -2}}}\n", [], "line 3: classifier.epochs is -2"),
    ],
)
def test_mistakes_are_named(recipe: Path, tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text or RECIPE, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(own, overrides)


def test_the_trial_takes_the_one_that_points_best_and_the_run_keeps_it(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    out = tmp_path / "run"
    loaded, said = load_recipe(recipe), list[str]()
    assert loaded.variant == AUTO
    chain = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    manifests = {name: read_json(out / "trial" / name / "manifest.json") for name in ("wide", "narrow")}
    values = {name: one["localization_criterion"]["criterion"] for name, one in manifests.items()}
    assert all(one["validation_images"] == 3 for one in manifests.values())
    best = max(values, key=lambda name: values[name])
    assert chain.context.recipe == loaded.alternatives[best]
    assert read_json(out / "run.json")["recipe"]["variant"] == best
    assert any(f"variant {best}" in line for line in said)
    assert {one["config"]["pooling"] for one in manifests.values()} == {"average", "maximum"}

    weights = {name: (out / "trial" / name / "weights.safetensors").stat().st_mtime_ns for name in values}
    again = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    assert again.context.recipe == chain.context.recipe
    assert weights == {name: (out / "trial" / name / "weights.safetensors").stat().st_mtime_ns for name in values}
    own = load_recipe(out / "recipe.yaml")  # as commands that are only given the run's folder read it
    assert recipe_mapping(own) == recipe_mapping(chain.context.recipe)


def test_a_trial_is_told_by_photos_that_it_did_not_learn(tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    train = read_set(tmp_path / "farm", DataConfig(mask_classes=("cat", "cow", "person"))).select("train")
    learned, others = divided(train, 0)
    assert len(learned) == 6
    assert {record.id for record in learned.records} | {record.id for record in others.records} == {
        record.id for record in train.records
    }
    assert not {record.id for record in learned.records} & {record.id for record in others.records}
    one = dataclasses.replace(train, records=train.records[:1])
    assert divided(one, 0) == (one, one)


def test_a_run_killed_in_its_trial_goes_on(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    first, loaded = tmp_path / "first", load_recipe(recipe)
    open_chain(loaded, tmp_path / "farm", first, execution=EXECUTION, say=lambda _: None)
    cut = tmp_path / "cut"
    shutil.copytree(first / "trial" / "wide", cut / "trial" / "wide")
    chain = open_chain(loaded, tmp_path / "farm", cut, execution=EXECUTION, say=lambda _: None)
    assert (
        chain.context.recipe
        == open_chain(loaded, tmp_path / "farm", first, execution=EXECUTION, say=lambda _: None).context.recipe
    )
    for name in ("wide", "narrow"):
        file = Path("trial") / name / "weights.safetensors"
        assert (cut / file).read_bytes() == (first / file).read_bytes()


def test_a_folder_with_something_else_is_refused_before_the_trial(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and not a run's folder"):
        open_chain(load_recipe(recipe), tmp_path / "farm", tmp_path / "out", execution=EXECUTION)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_step_that_comes_too_early_is_refused_before_the_trial(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    for step in ("localize", "predict", "evaluate"):
        with pytest.raises(ConfigError, match=r"run .*first"):
            open_chain(load_recipe(recipe), tmp_path / "farm", tmp_path / "out", execution=EXECUTION, step=step)
        assert not (tmp_path / "out").exists()
    open_chain(load_recipe(recipe), tmp_path / "farm", tmp_path / "out", execution=EXECUTION, step="train-classifier")
    assert (tmp_path / "out" / "run.json").is_file()
