"""High-gradient ratios of real networks: taps, regions, RIB's steps, files and the report's charts."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rib_tiny import CONFIG, LABELS, N_CLASSES, tiny_batches, tiny_classifier, tiny_views
from tag2mask.cli import main
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import Dataset, ImageRecord, write_mask
from tag2mask.experiments.hgr import share_of_maximum
from tag2mask.experiments.hgr.hgr import HGRConfig, HGRResult, Ratio, by_key, change, means, measure
from tag2mask.experiments.hgr.hgr_files import refuse_other, write_hgr
from tag2mask.experiments.hgr.regions import REGIONS, regions_of
from tag2mask.experiments.hgr.taps import gradient_maps, smoothed, taps_of
from tag2mask.networks import build_classifier, save_module
from tag2mask.reports import write_report
from tag2mask.rib import PartnerGradients, rib
from tag2mask.stages.localize import LocalizeConfig

RIB = CONFIG.replace(steps=3, learning_rate=0.05, scales=(1.0, 0.5), loss_scales=(1.0,), batch_size=2)
SETTINGS = LocalizeConfig(rib=RIB, partner_long_side_min=64, partner_long_side_max=64, partner_crop_size=64)


@pytest.fixture
def farm(tmp_path: Path) -> Dataset:
    """Four images of one class each, the first without a mask, the last with a mask of another size."""
    records = []
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        mask = np.zeros((64, 80) if index < 3 else (9, 9), np.uint8)
        mask[: len(mask) // 2] = index + 1
        mask[:2] = 255
        write_mask(tmp_path / "masks" / f"{index}.png", mask)
        path = tmp_path / "masks" / f"{index}.png" if index else None
        records.append(ImageRecord(str(index), tmp_path / f"{index}.png", (index,), "train", path))
    return Dataset("farm", tuple("abcde"), tuple(records))


@pytest.fixture
def measured(farm: Dataset) -> HGRResult:
    return measure(farm, tiny_classifier().float(), SETTINGS, HGRConfig(images=3, smoothing=5))


# --- taps and gradients ----------------------------------------------------------------------------------


def test_taps_joined_are_the_backbone() -> None:
    classifier = build_classifier("efficientnet_lite0", 2, "none")
    taps = taps_of(classifier)
    assert [tap.name for tap in taps] == ["stem", *(f"stage{k}" for k in range(1, 8)), "features"]
    assert [tap.tuned for tap in taps] == [False] * 4 + [True] * 5
    images = torch.randn(1, 3, 64, 64)
    values = images
    with torch.no_grad():
        for tap in taps:
            values = tap.part(values)
        assert torch.equal(values, classifier.backbone(images))


def test_a_head_of_two_depths_is_one_tap() -> None:
    classifier = build_classifier("efficientnet_lite0", 2, "none", stages=(4, 5))
    taps = taps_of(classifier)
    assert [tap.name for tap in taps] == ["stem", "stage1", "stage2", "stage3", "features"]
    values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole = classifier.backbone(values)
        for tap in taps:
            values = tap.part(values)
    assert torch.equal(values, whole)


def test_gradients_are_those_of_the_classifier() -> None:
    classifier, image = tiny_classifier(), tiny_views()[0][:1]
    found = {
        (layer, scalar): m
        for layer, scalar, m in gradient_maps(classifier, image, torch.tensor([1, 3]), ["features"])
    }
    assert set(found) == {("features", "sum"), ("features", "norm"), ("logit", "1"), ("logit", "3")}
    pixels = image.clone().requires_grad_()
    logits = classifier.classifier(classifier.backbone(pixels)).mean(dim=(2, 3))
    assert torch.allclose(logits, classifier(image))
    (through,) = torch.autograd.grad((logits[0, 3] / 100).sigmoid(), pixels)
    (without,) = torch.autograd.grad(classifier.backbone(pixels).sum(), pixels)
    assert torch.allclose(found["features", "sum"], without[0].norm(dim=0))
    # normalised, a sigmoid makes no difference: what `sigmoid` rows show is its slope alone
    magnitude = through[0].norm(dim=0)
    assert torch.allclose(share_of_maximum(magnitude[None]), share_of_maximum(found["logit", "3"][None]), atol=1e-6)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_smoothing_keeps_a_constant_map_and_spreads_a_point() -> None:
    assert torch.allclose(smoothed(torch.ones(6, 9), 5), torch.ones(6, 9))
    point = torch.zeros(7, 7)
    point[3, 3] = 9
    assert smoothed(point, 3)[2:5, 2:5].eq(1).all()
    assert smoothed(point, 3).sum() == 9
    assert smoothed(point, 1) is point


def test_regions_come_from_mask_and_map() -> None:
    mask = np.array([[1, 1, 2], [0, 255, 1]], np.uint8)
    activation = np.array([[0.9, 0.2, 0.9], [0.9, 0.9, 0.4]], np.float32)
    regions = regions_of(mask, activation, 1, tau=0.4)
    assert {name: np.argwhere(region).tolist() for name, region in regions.items()} == {
        "discriminative": [[0, 0], [1, 2]],
        "non-discriminative": [[0, 1]],
        "background": [[1, 0]],
    }
    assert tuple(regions) == REGIONS


def test_rib_calls_back_as_each_step_begins() -> None:
    classifier = tiny_classifier()
    kept = classifier.classifier.weight.clone()
    seen = []
    rib(
        classifier,
        tiny_views(),
        LABELS,
        tiny_batches(4),
        CONFIG,
        on_step=lambda step, network: seen.append((step, network.classifier.weight.detach().clone())),
    )
    assert [step for step, _ in seen] == list(range(CONFIG.steps))
    assert torch.equal(seen[0][1], kept)
    assert not torch.equal(seen[1][1], seen[0][1])
    assert not torch.equal(seen[3][1], seen[2][1])
    assert torch.equal(classifier.classifier.weight, kept)


# --- measuring -------------------------------------------------------------------------------------------


def test_measures_every_layer_before_the_tuned_ones_after_and_the_logit_between(measured: HGRResult) -> None:
    layers = {step: {row.layer for row in measured.rows if row.step == step} for step in range(3)}
    assert layers == {
        0: {"stem", "features", "logit", "sigmoid"},
        1: {"logit", "sigmoid"},
        2: {"features", "logit", "sigmoid"},
    }
    assert measured.layers == ["stem", "features", "logit", "sigmoid"]
    assert {row.id for row in measured.rows} == {"1", "2"}  # 0 has no mask, the mask of 3 doesn't fit
    assert measured.images == 2
    assert list(measured.failures) == ["3"]
    assert "differ in size" in measured.failures["3"]
    assert {row.smoothing for row in measured.rows} == {5, 1}
    assert all(0 <= row.hgr <= 1 or math.isnan(row.hgr) for row in measured.rows)


def test_measuring_leaves_the_classifier_alone_and_rib_moves_its_gradients(farm: Dataset) -> None:
    classifier = tiny_classifier().float()
    kept = {name: value.clone() for name, value in classifier.state_dict().items()}
    result = measure(farm, classifier, SETTINGS, HGRConfig(images=3, smoothing=1))
    assert all(torch.equal(value, kept[name]) for name, value in classifier.state_dict().items())
    first, last = ([row for row in result.rows if row.step == step and row.layer == "logit"] for step in (0, 2))
    assert [row.hgr for row in first] != [row.hgr for row in last]


def test_change_compares_pair_by_pair() -> None:
    values = {0: {"a": 0.2, "b": 0.5, "c": math.nan}, 1: {"a": 0.3, "b": 0.4, "c": math.nan}}
    rows = [
        Ratio(name, "cat", step, "logit", "class", 1, REGIONS[1], value)
        for step, of in values.items()
        for name, value in of.items()
    ]
    result = HGRResult(HGRConfig(), rows, ["logit"], 3, 2, 0.1, {})
    mean, rose = change(result, "logit", "class", 1, REGIONS[1])
    assert (mean.mean, mean.pairs, rose) == (pytest.approx(0.0), 2, 1)
    assert mean.error == pytest.approx(0.1)  # differences +-0.1: sd 0.1414, over the root of 2
    assert change(result, "stem", "sum", 1, REGIONS[1])[0].pairs == 0
    key = (0, "logit", "class", 1, REGIONS[1])
    assert means(result)[key].mean == pytest.approx(0.35)
    assert len(by_key(result)[key]) == 3


def test_partners_may_be_replaced_by_their_expected_gradient(farm: Dataset) -> None:
    classifier = tiny_classifier().float()
    settings = dataclasses.replace(SETTINGS, rib=RIB.replace(partners="amortised"))
    count = sum(p.numel() for group in classifier.tuned_parameters() for p in group)
    found = {}
    for size in (0.0, 1.0):
        expected = PartnerGradients(torch.full((N_CLASSES, count), size), farm.label_matrix())
        result = measure(farm, classifier, settings, HGRConfig(images=3, smoothing=1), expected=expected)
        found[size] = [row.hgr for row in result.rows if row.step == 2 and row.layer == "logit"]
    assert found[0.0] != found[1.0]


def test_masks_are_needed(farm: Dataset) -> None:
    bare = Dataset("bare", farm.classes, farm.records[:1])
    with pytest.raises(DataError, match="no image has both a mask and labels"):
        measure(bare, tiny_classifier().float(), SETTINGS, HGRConfig(images=1))


@pytest.mark.parametrize(
    "changes", [{"images": 0}, {"steps": 1}, {"smoothing": 4}, {"threshold": 1.0}, {"split": "x"}]
)
def test_impossible_settings_are_named(changes: dict) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(changes.values())))):
        HGRConfig(**changes)


# --- files, command, report ------------------------------------------------------------------------------


def test_files_and_report_hold_what_was_measured(measured: HGRResult, tmp_path: Path) -> None:
    write_hgr(measured, tmp_path / "run" / "hgr", "farm")
    rows = list(csv.DictReader((tmp_path / "run" / "hgr" / "hgr.csv").open(encoding="utf-8")))
    assert len(rows) == len(measured.rows)
    stored = read_json(tmp_path / "run" / "hgr" / "hgr.json")
    key = (0, "logit", "class", 5, "background")
    (found,) = (
        row
        for row in stored["means"]
        if (row["step"], *(row[k] for k in ("layer", "scalar", "smoothing", "region"))) == key
    )
    assert found["mean"] == pytest.approx(means(measured)[key].mean, abs=1e-6)
    assert "HGR by layer, 2 images" in (tmp_path / "run" / "hgr" / "hgr.svg").read_text(encoding="utf-8")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "High-gradient ratio by layer, 2 images" in page
    assert "non-discriminative, after RIB" in page


@pytest.mark.parametrize("content", ["{", "[]", '{"layers": 3}', '{"layers": ["stem"], "means": [7, {"step": "x"}]}'])
def test_report_survives_a_broken_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "hgr").mkdir()
    (tmp_path / "hgr" / "hgr.json").write_text(content, encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "High-gradient" not in page
    assert ("hgr/hgr.json" in page) == (content == "{")


def test_command_measures_a_run(farm: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    lines = ["image,labels,mask,split"]
    for record in farm.records[1:3]:
        record.path.rename(data / record.path.name)
        assert record.mask_path is not None
        record.mask_path.rename(data / f"mask_{record.id}.png")
        lines.append(f"{record.path.name},{farm.classes[record.labels[0]]},mask_{record.id}.png,train")
    (data / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    classifier = build_classifier("efficientnet_lite0", 2, "none")
    save_module(classifier, run / "classifier" / "weights.safetensors")
    write_json(
        run / "classifier" / "manifest.json",
        {
            "stage": "train-classifier",
            "config": {"backbone": "efficientnet_lite0"},
            "classes": ["b", "c"],
            "finished": True,
        },
    )
    (run / "recipe.yaml").write_text(
        "name: tiny\ndata: {classes: [b, c], mask_classes: [a, b, c]}\n"
        "localize: {partner_long_side_min: 64, partner_long_side_max: 64, partner_crop_size: 64,\n"
        "  rib: {steps: 2, batch_size: 1, scales: [1.0], loss_scales: [1.0]}}\n",
        encoding="utf-8",
    )
    assert main(["hgr", str(run), "--data", str(data), "--images", "2"]) == 0
    printed = capsys.readouterr().out
    assert "stage7" in printed
    assert "change of the logit's ratio" in printed
    assert (run / "hgr" / "hgr.svg").is_file()
    before = (run / "hgr" / "hgr.csv").read_bytes()
    assert main(["hgr", str(run), "--data", str(data), "--images", "1"]) == 2
    assert "images 2 there, 1 now); nothing is overwritten: choose another --out" in capsys.readouterr().err
    assert (run / "hgr" / "hgr.csv").read_bytes() == before
    refuse_other(run / "hgr", HGRConfig(images=2), "data")  # the same again is fine
    with pytest.raises(ConfigError, match="data 'data' there, 'others' now"):
        refuse_other(run / "hgr", HGRConfig(images=2), "others")
    assert main(["hgr", str(tmp_path / "nowhere"), "--data", str(data)]) == 2
    assert main(["hgr", str(data), "--data", str(data)]) == 2
    assert "no recipe.yaml" in capsys.readouterr().err
