"""Recipes: every mistake is named with its key, file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError
from tag2mask.config import to_mapping, with_changes
from tag2mask.networks.pooling import Pooling
from tag2mask.presets import PRESETS, backbone_settings
from tag2mask.recipe import Recipe, find_recipe, load_recipe, recipe_folder
from tag2mask.rib import RIBConfig


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_and_nested_sections(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: x\nlocalize:\n  rib: {steps: 4, learning_rate: 1e-5}\n"))
    assert recipe.localize.rib.steps == 4
    assert recipe.localize.rib.learning_rate == 1e-5  # YAML reads 1e-5 as text
    assert recipe.classifier.batch_size == 16


def test_unknown_key_names_file_line_and_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nclassifier:\n  epochs: 3\n  batchsize: 4\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml line 4: .*'classifier.batchsize'.*'batch_size'"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classifier: {epochs: many}", r"line 2: classifier.epochs is 'many'; expected a whole number"),
        ("classifier: {epochs: true}", r"classifier.epochs is True; expected a whole number"),
        ("classifier: {epochs: 1.5}", r"classifier.epochs is 1.5"),
        ("classifier: {optimiser: adam}", r"expected one of 'sgd', 'adamw'"),
        ("data: {classes: cat}", r"data.classes is 'cat'; expected a list of text or null"),
        ("localize: {rib: {tau: 2}}", r"line 2: localize.rib.tau is 2.0; expected above 0, at most 1$"),
        ("classifier: 3", r"classifier is 3; expected a section"),
        ("seed: [1]", r"seed is \[1\]"),
        ("name: 'x", "not valid YAML"),
        ("name: 2024-13-45", "not valid YAML"),
        ("data: {classes: [no, cat]}", "is .False, 'cat'.; expected a list of text or null; put words like no"),
        ("name: x\nlike: photo", r"recipe.yaml line 2: like: photo: no such recipe .*'photos'"),
        ("name: x\nseed: 1\nseed: 2", "line 3: 'seed' is there already, in line 2"),
        ("name: x\ndata: {reader: csv, reader: coco}", "line 2: 'reader' is there already"),
        (
            f"classifier: {{learning_rate: 1{400 * '0'}}}",
            r"classifier.learning_rate is 10+(;|[.]{3}) expected a number",
        ),
        ("classifier: {batch_size: 0}", r"line 2: classifier.batch_size is 0; expected 1 or more, at most 8192$"),
        ("classifier:\n  learning_rate: .nan", r"line 3: classifier.learning_rate is nan; expected above 0"),
        ("evaluate: {threshold: .inf}", r"evaluate.threshold is inf; expected 0 or more, at most 1, or null$"),
        ("classifier: {long_side_min: 700}", r"classifier.long_side_min is 700; expected at most long_side_max, 640"),
        ("segmenter: {batch_size: 0}", r"segmenter.batch_size is 0"),
        ("segmenter: {output_stride: 32}", r"segmenter.output_stride is 32; expected one of 8, 16"),
        ("segmenter: {output_stride: 8.0}", r"segmenter.output_stride is 8.0; expected one of 8, 16"),
        ("segmenter: {iterations: 0}", r"segmenter.iterations is 0; expected 1 or more, at most \d+, or null"),
        ("segmenter: {scale_min: 3}", r"segmenter.scale_min is 3.0"),
        ("refine: {boundary: {batch_size: 0}}", r"refine.boundary.batch_size is 0"),
        ("refine: {boundary: {radius: 1}}", r"refine.boundary.radius is 1; expected 2 or more"),
        ("refine: {threshold: 2}", r"refine.threshold is 2.0; expected 0 or more, at most 1"),
        ("refine: {unsure: 0.3}", r"refine.unsure is 0.3; expected below threshold, 0.25, and below 1 - threshold"),
        (
            "refine: {unsure: 0.1, thresholds: {a: 0.95}}",
            r"refine.unsure is 0.1; expected below a's, 0.95, and below 1",
        ),
        ("evaluate: {threshold_step: 0}", r"evaluate.threshold_step is 0.0; expected 0.001 or more, at most 0.5"),
        ("- name", "a recipe is a mapping"),
    ],
)
def test_wrong_values(tmp_path: Path, text: str, message: str) -> None:
    name = "" if text.startswith(("name", "-")) else "name: x\n"
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, name + text + "\n"))


def test_missing_name_and_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        load_recipe(write(tmp_path, "seed: 1\n"))
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "absent.yaml")


def test_merged_keys_may_come_again(tmp_path: Path) -> None:
    text = "name: x\ndata: &a\n  <<: {reader: csv}\n  <<: {val_fraction: 0.2}\n  reader: coco\n"
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.data.reader, recipe.data.val_fraction) == ("coco", 0.2)


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\n")
    recipe = load_recipe(
        path,
        (
            "classifier.epochs=2",
            "localize.rib.scales=[1.0, 0.5]",
            "data.classes=[cat, dog]",
            "localize.rib.loss_scales=[1.0]",
        ),
    )
    assert recipe.classifier.epochs == 2
    assert recipe.localize.rib.scales == (1.0, 0.5)
    assert recipe.data.classes == ("cat", "dog")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        load_recipe(path, ("classifier.epochs",))
    with pytest.raises(ConfigError, match="single value"):
        load_recipe(path, ("name.inner=2",))


@pytest.mark.parametrize("value", ["a: b: c", "[cat", "'x", "2024-13-45"])
def test_overrides_that_are_no_yaml(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"--set name=.*: the value is not valid YAML.*quote .*--set 'name="):
        load_recipe(write(tmp_path, "name: x\n"), (f"name={value}",))
    assert load_recipe(tmp_path / "recipe.yaml", ('name="a: b: c"',)).name == "a: b: c"


def test_a_recipe_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("name: x\ndescription: Hündchen\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"recipe.yaml line 2: not in UTF-8; save the file as UTF-8"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_stored_recipe_reads_back_the_same(tmp_path: Path) -> None:
    import yaml

    recipe = Recipe(name="x", seed=3)
    assert load_recipe(write(tmp_path, yaml.safe_dump(to_mapping(recipe)))) == recipe


def test_every_recipe_that_comes_along_is_valid(capsys: pytest.CaptureFixture) -> None:
    names = [path.stem for path in recipe_folder().glob("*.yaml")]
    assert {"digits", "photos", "voc_animals"} <= set(names)
    for name in names:
        assert load_recipe(find_recipe(name)).name == name
        assert main(["recipes", "validate", name]) == 0
    assert main(["recipes", "validate", "voc_animal"]) == 2
    assert "did you mean 'voc_animals'" in capsys.readouterr().err


def test_a_preset_stands_for_its_whole_section(tmp_path: Path) -> None:
    recipe = tmp_path / "a.yaml"
    recipe.write_text("name: a\nlocalize:\n  rib: {preset: fast, batch_size: 7}\n")
    assert load_recipe(recipe).localize.rib == RIBConfig.fast(batch_size=7)
    changed = load_recipe(recipe, ["localize.rib.preset=reference", "localize.rib.steps=4"])
    assert changed.localize.rib == RIBConfig.reference(steps=4)
    with pytest.raises(ConfigError, match=r"localize.rib.preset: there is no preset 'fats'; did you mean 'fast'"):
        load_recipe(recipe, ["localize.rib.preset=fats"])
    with pytest.raises(ConfigError, match=r"there is no preset \['fast'\]"):
        load_recipe(recipe, ["localize.rib.preset=[fast]"])
    assert with_changes({"rib": {"steps": 3}}, {"rib": {"preset": "coco"}}) == {"rib": {"preset": "coco"}}


def test_a_backbone_in_one_word() -> None:
    plain = load_recipe("voc_animals")
    recipe = load_recipe("voc_animals", ["segmenter.crop_size=128", "backbone=dinov2_small"])
    assert recipe.classifier.backbone == recipe.segmenter.backbone == "vit_small_patch14_dinov2"
    assert recipe.classifier.pooled() == Pooling("ranking", 0.2)
    assert recipe.affinity is not None
    assert recipe.affinity.taps == (3, 4)
    assert recipe.localize.rib == RIBConfig.fast(channels_last=True)
    assert recipe.segmenter.crop_size == 128  # what is said beside it holds, wherever it stands
    assert recipe.classifier.epochs == plain.classifier.epochs
    assert recipe.refine == plain.refine


def test_a_backbone_in_the_file_and_any_timm_name(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nbackbone: test_resnet\nclassifier: {epochs: 3, learning_rate: 7}\n")
    recipe = load_recipe(path)
    assert recipe.classifier.backbone == recipe.segmenter.backbone == "test_resnet"
    assert (recipe.classifier.epochs, recipe.classifier.learning_rate) == (3, 3e-4)
    assert recipe.classifier.pooling == "average"
    assert load_recipe(path, ["backbone=test_convnext"]).classifier.learning_rate == 1e-4
    assert recipe.affinity is None  # as without the preset
    for wish in ("affinity={}", "affinity.scale=2"):
        affinity = load_recipe(path, [wish, "backbone=test_vit"]).affinity
        assert affinity is not None
        assert affinity.taps == (3, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinov2_smal", r"--set backbone=dinov2_smal: backbone 'dinov2_smal' is not known.*'dinov2_small'"),
        ("test_nfnet", r"--set backbone=test_nfnet: backbone 'test_nfnet' is a NormFreeNet; supported families:"),
    ],
)
def test_a_backbone_that_is_none(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("photos", [f"backbone={name}"])


def test_presets_are_networks_of_timm() -> None:
    assert all(timm.is_model(name) for name in PRESETS.values())
    settings = backbone_settings("mobilenetv3_large")
    assert settings["classifier"]["backbone"] == PRESETS["mobilenetv3_large"]


def test_a_preset_takes_the_last_features_whatever_the_variant_has() -> None:
    assert load_recipe("photos", ["variant=small"]).classifier.stages == (4, 5)
    assert load_recipe("photos", ["variant=small", "backbone=dinov2_small"]).classifier.stages == (5,)
    own = load_recipe("photos", ["variant=small", "backbone=resnet50", "classifier.stages=[4,5]"])
    assert own.classifier.stages == (4, 5)


def test_a_long_value_is_cut_in_its_message(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(f"name: long\npredict: {{scales: [{', '.join(['1.0'] * 500)}]}}\n")
    with pytest.raises(ConfigError, match=r"predict.scales is \[1.0, 1.0.{500,600}\.\.\.; expected") as caught:
        load_recipe(tmp_path / "long.yaml")
    assert len(str(caught.value)) < 1500
