"""The classifier's training: what its settings change, what its manifest tells, and what an older one means."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refine_world import make_world

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import Dataset, ImageRecord
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import Enough
from tag2mask.networks.pooling import Pooling
from tag2mask.recipe import Recipe
from tag2mask.rib import RIBConfig
from tag2mask.runs.log import read_epochs
from tag2mask.runs.tags import tag_figures
from tag2mask.stages import train_classifier as train_classifier_module
from tag2mask.stages.localize import LocalizeConfig, Localizer
from tag2mask.stages.stage import Context
from tag2mask.stages.train_classifier import (
    STAGE,
    ClassifierConfig,
    balanced_weights,
    check,
    crop_of,
    load_classifier,
    load_sample,
    train_classifier,
)

HERE = Execution(device="cpu", workers=0, processes=1)
TINY = {
    "backbone": "resnet18",
    "weights": "none",
    "epochs": 2,
    "batch_size": 2,
    "learning_rate": 0.01,
    "long_side_min": 32,
    "long_side_max": 40,
    "crop_size": 40,
}
LOCALIZING = {
    "pooling": "log-sum-exp",
    "tuned": "all",
    "optimiser": "adamw",
    "schedule": "one_cycle",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "brightness": 0.2,
    "balance": 1.0,
    "crop": "fit",
}


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    (tmp_path / "world").mkdir()
    dataset, _ = make_world(tmp_path / "world")
    records = (dataclasses.replace(dataset.records[0], labels=()), *dataset.records[1:])  # one without any class
    return dataclasses.replace(dataset, records=records)


def config(**changes: Any) -> ClassifierConfig:
    return ClassifierConfig(**{**TINY, **changes})


def test_a_small_set_is_gone_over_more_often_where_asked(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(photos)
    monkeypatch.setattr(train_classifier_module, "ENOUGH", Enough(epochs=2, images=3 * count, most=48))
    train_classifier(photos, tmp_path / "auto", config(epochs="auto"), execution=HERE)
    train_classifier(photos, tmp_path / "three", config(epochs=3), execution=HERE)
    logged = [read_epochs((tmp_path / name / "log.jsonl").read_text())[0] for name in ("auto", "three")]
    assert [len(rows) for rows in logged] == [3, 3]
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("auto", "three")]
    assert weights[0] == weights[1]  # schedule and all
    assert load_classifier(tmp_path / "auto").pooling == Pooling.of("average", None)


@pytest.mark.parametrize("stages", [(4,), (4, 5), (5,)])
def test_the_whole_network_is_tuned_saved_and_loaded(
    stages: tuple[int, ...], photos: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "classifier"
    trained = train_classifier(photos, out, config(**LOCALIZING, stages=stages), execution=HERE, validation=photos)
    start = train_classifier(photos, tmp_path / "start", config(epochs=0, stages=stages), execution=HERE)
    loaded = load_classifier(out)
    assert loaded.backbone.stages == stages
    assert loaded.pooling == Pooling("log-sum-exp", 4.0)
    assert loaded.state_dict().keys() == trained.state_dict().keys()
    for name, value in trained.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    moved = [
        not torch.equal(a, b)
        for a, b in zip(trained.backbone.trunk.parameters(), start.backbone.trunk.parameters(), strict=True)
    ]
    assert all(moved)
    assert not any(parameter.requires_grad for parameter in trained.backbone.trunk.parameters())


def test_rib_leaves_a_tuned_trunk_as_it_is_and_folds_it(photos: Dataset, tmp_path: Path) -> None:
    train_classifier(photos, tmp_path / "classifier", config(**LOCALIZING), execution=HERE)
    record, image = photos.records[1], np.asarray(Image.open(photos.records[1].path).convert("RGB"))
    results = []
    for fold in (True, False):
        rib = RIBConfig(steps=2, scales=(1.0,), loss_scales=(1.0,), batch_size=2, fold_batch_norm=fold)
        settings = LocalizeConfig(rib=rib, partner_long_side_min=32, partner_long_side_max=40, partner_crop_size=40)
        localizer = Localizer(photos, tmp_path / "classifier", tmp_path, settings, seed=0)
        before = {name: value.clone() for name, value in localizer.classifier.state_dict().items()}
        results.append(localizer.maps_of(image, record))
        after = localizer.classifier.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    for folded, plain in zip(results[0].rib_sums, results[1].rib_sums, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_the_manifest_tells_what_was_learned(photos: Dataset, tmp_path: Path) -> None:
    train_classifier(photos, tmp_path / "classifier", config(), execution=HERE, validation=photos)
    manifest = read_json(tmp_path / "classifier" / "manifest.json")
    assert set(manifest["validation_ap"]) == set(photos.classes)
    precisions = list(manifest["validation_ap"].values())
    assert manifest["validation_map"] == pytest.approx(sum(precisions) / len(precisions), abs=1e-5)
    assert manifest["validation_images"] == len(photos) - 1  # one is broken
    rows = [json.loads(line) for line in (tmp_path / "classifier" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["val_map"] == pytest.approx(manifest["validation_map"], abs=1e-5)
    assert len(rows) == 2
    assert any(warning.startswith(f"class '{photos.classes[0]}'") for warning in manifest["warnings"])
    looks = manifest["localization_criterion"]
    assert looks["photos"] == len(photos) - 2  # one is broken, and one has no tag
    means = [sum(looks[name]) / len(looks[name]) for name in ("kept", "erased")]
    assert looks["criterion"] == pytest.approx(means[0] - means[1], abs=2e-4)
    assert set(looks["border"]) <= set(photos.classes)
    figures = tag_figures(manifest)
    assert figures is not None
    assert figures.in_words() == (
        f"held-out tags: mAP {manifest['validation_map']:.3f} on {len(photos) - 1} photos; "
        f"localization criterion {looks['criterion']:.2f} on {looks['photos']}, the best is 1"
    )
    for row in manifest["doubted_tags"]:
        assert row["split"] in ("train", "val")
        assert (row["score"] < 0.5) == row["tagged"]


def test_looking_at_held_out_photos_changes_no_weight(photos: Dataset, tmp_path: Path) -> None:
    with_val = train_classifier(photos, tmp_path / "a", config(), execution=HERE, validation=photos)
    without = train_classifier(photos, tmp_path / "b", config(), execution=HERE)
    for one, two in zip(with_val.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, two)
    assert "validation_map" not in read_json(tmp_path / "b" / "manifest.json")


def test_a_manifest_without_newer_settings_means_the_reference(photos: Dataset, tmp_path: Path) -> None:
    train_classifier(photos, tmp_path / "classifier", config(epochs=0), execution=HERE)
    path = tmp_path / "classifier" / "manifest.json"
    manifest = read_json(path)
    new = {"stages", "pooling", "pooling_parameter", "tuned", "batch_norm", "schedule", "balance", "brightness"}
    new |= {"crop"}
    manifest["config"] = {key: value for key, value in manifest["config"].items() if key not in new}
    write_json(path, manifest)
    assert load_classifier(tmp_path / "classifier").pooling == Pooling("average")
    assert load_classifier(tmp_path / "classifier").backbone.stages == (5,)
    train_classifier(photos, tmp_path / "classifier", config(epochs=0), execution=HERE)  # is finished, not refused
    with pytest.raises(ConfigError, match=r"config.pooling: .*'maximum' now"):
        train_classifier(photos, tmp_path / "classifier", config(epochs=0, pooling="maximum"), execution=HERE)


def test_a_power_mean_of_features_below_0_is_refused(photos: Dataset, tmp_path: Path) -> None:
    signed = config(backbone="test_convnext", pooling="generalised-mean")
    with pytest.raises(ConfigError, match=r"classifier.pooling: 'generalised-mean'.*'test_convnext'.*average"):
        train_classifier(photos, tmp_path / "classifier", signed, execution=HERE)
    assert not (tmp_path / "classifier").exists()
    (entry,) = STAGE.entries(Context(Recipe("x", classifier=signed), photos, None, tmp_path))
    with pytest.raises(ConfigError, match="generalised-mean"):
        STAGE.check(entry, Context(Recipe("x", classifier=signed), photos, None, tmp_path))
    check(config(pooling="generalised-mean"))  # a ResNet's end in a ReLU
    check(config(pooling="generalised-mean", stages=(4, 5)))  # each of its stages does
    check(config(backbone="test_efficientnet", pooling="generalised-mean"))  # the last of its stages does
    with pytest.raises(ConfigError, match=r"the fourth stage of 'test_efficientnet'.*log-sum-exp.*stages: \[5\]"):
        check(config(backbone="test_efficientnet", pooling="generalised-mean", stages=(4, 5)))
    check(config(backbone="test_convnext"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"balance": 2.0}, "classifier.balance is 2.0; expected 0"),
        (
            {"stages": (3, 5)},
            r"classifier.stages is .*3, 5.*expected a list of 1 to 2 numbers, each 4 or more, at most 5",
        ),
        ({"stages": (5, 4)}, r"classifier.stages is .*5, 4.*expected \[5\], \[4\] or \[4, 5\]"),
        ({"brightness": 1.0}, "classifier.brightness is 1.0"),
        ({"pooling_parameter": 0.0}, "classifier.pooling_parameter is 0.0; expected above 0"),
        ({"pooling": "top-share", "pooling_parameter": 5.0}, "expected at most 1 for top-share"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config(**changes)


def test_balanced_photos_are_drawn_by_their_rarest_class() -> None:
    labels = np.zeros((100, 2), dtype=bool)
    labels[:60, 0] = labels[50:70, 1] = True  # 60 and 20 photos, 10 of both, and 30 with neither
    weights = np.array(balanced_weights(labels, 1.0))
    assert weights[labels[:, 1]].sum() == pytest.approx(100)
    assert weights[~labels.any(axis=1)].sum() == pytest.approx(100)
    assert weights[0] == pytest.approx(100 / 60)
    softer = np.array(balanced_weights(labels, 0.5))
    np.testing.assert_allclose(softer, np.sqrt(weights))
    assert balanced_weights(labels, 0.0) == ()


def write_photo(path: Path, size: tuple[int, int]) -> ImageRecord:
    pixels = np.random.default_rng(0).integers(0, 200, (size[0], size[1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return ImageRecord(path.stem, path, (0,))


def test_crops_that_fit_are_no_larger_than_the_photos(tmp_path: Path) -> None:
    wide = [write_photo(tmp_path / "a.png", (20, 40)), write_photo(tmp_path / "b.png", (50, 80))]
    assert crop_of(wide, config(crop="fit")) == (25, 40)
    assert crop_of(wide, config()) == (40, 40)
    tall = write_photo(tmp_path / "c.png", (90, 60))
    assert crop_of([*wide, tall], config(crop="fit")) == (40, 40)
    assert crop_of([tall], config(crop="fit", crop_size=30)) == (30, 27)
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = ImageRecord("broken", tmp_path / "broken.png", (0,))
    assert crop_of([broken, wide[0]], config(crop="fit")) == (20, 40)
    assert crop_of([broken], config(crop="fit")) == (40, 40)


def test_brightness_changes_a_sample_only_where_it_is_asked_for(tmp_path: Path) -> None:
    record = write_photo(tmp_path / "a.png", (20, 40))
    plain = load_sample(record, config(), (40, 40), 0, 1)
    bright = load_sample(record, config(brightness=0.5), (40, 40), 0, 1)
    assert plain.shape == bright.shape == (3, 40, 40)
    assert not torch.equal(plain, bright)
    assert torch.equal(plain != 0, bright != 0)  # the same size, mirror and place
    assert torch.equal(bright, load_sample(record, config(brightness=0.5), (40, 40), 0, 1))
