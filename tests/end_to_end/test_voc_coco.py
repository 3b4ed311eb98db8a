"""The paper's recipes end to end, shortened, on a few real photos in VOC's layout and in COCO's format."""

from __future__ import annotations

import csv
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coco_set import coco_set
from tag2mask.cli import main
from tag2mask.common.files import read_json
from tag2mask.data import VOC_CLASSES, Dataset, ImageRecord, PartnerIndex, read_dataset, read_mask
from tag2mask.networks import build_classifier
from tag2mask.stages.train_classifier import classification_loss

# Everything that costs time, cut down; the rest is the recipe's.
TINY = {
    "classifier.weights": "none",
    "classifier.epochs": 1,
    "classifier.batch_size": 4,
    "classifier.long_side_min": 64,
    "classifier.long_side_max": 80,
    "classifier.crop_size": 64,
    "classifier.learning_rate": 0.001,
    "refine.confident.refinement": "none",
    "refine.boundary.epochs": 1,
    "refine.boundary.batch_size": 2,
    "refine.boundary.crop_size": 96,
    "refine.boundary.learning_rate": 0.001,
    "segmenter.weights": "none",
    "segmenter.iterations": 3,
    "segmenter.batch_size": 2,
    "segmenter.accumulate": 2,
    "segmenter.crop_size": 64,
    "predict.scales": "[0.5]",
    "predict.mirror": "false",
    "predict.crf": "false",
}
TINY_RIB = {
    "localize.rib.steps": 2,
    "localize.rib.batch_size": 2,
    "localize.rib.scales": "[1.0, 0.5]",
    "localize.rib.loss_scales": "[1.0]",
    "localize.partner_long_side_min": 64,
    "localize.partner_long_side_max": 80,
    "localize.partner_crop_size": 64,
}
SMALL = {"classifier.backbone": "resnet18", "segmenter.backbone": "resnet18"}  # ResNet-50 and -101 run in voc12-rib
LIMIT = 4
LIGHT = ["--workers", "0", "--processes", "1"]  # no other processes: starting them takes longer than the work


def options(settings: dict[str, object]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def photos(animals_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Twelve photos of cats, dogs and people with their masks, 96 pixels wide."""
    folder = tmp_path_factory.mktemp("photos")
    rows = csv.DictReader((animals_dir / "labels.csv").open(encoding="utf-8"))
    names = [Path(row["image"]).stem for row in rows if {"cat", "dog"} & set(row["labels"].split())][:12]
    pairs = []
    for name in names:
        photo = Image.open(animals_dir / "JPEGImages" / f"{name}.jpg")
        size = (96, max(48, photo.height * 96 // photo.width))
        photo.resize(size).save(folder / f"{name}.jpg")
        mask = Image.open(animals_dir / "SegmentationClass" / f"{name}.png")
        mask.resize(size, Image.Resampling.NEAREST).save(folder / f"{name}.png")
        pairs.append((folder / f"{name}.jpg", folder / f"{name}.png"))
    return pairs


@pytest.fixture(scope="module")
def voc(photos: list[tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC's layout: XML of all, five train, seven augmented, three val, two test; official masks of train and val."""
    home = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    stems = [photo.stem for photo, _ in photos]
    lists = {"train": stems[:5], "trainaug": stems[:7], "val": stems[7:10], "test": stems[10:]}
    for name, listed in lists.items():
        (home / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(listed) + "\n")
    for photo, mask in photos:
        (home / "JPEGImages" / photo.name).write_bytes(photo.read_bytes())
        if photo.stem in lists["train"] + lists["val"]:
            (home / "SegmentationClass" / mask.name).write_bytes(mask.read_bytes())
        values = [int(value) for value in np.unique(np.array(Image.open(mask))) if value not in (0, 255)]
        names = "".join(f"<object><name>{VOC_CLASSES[value - 1]}</name></object>" for value in values)
        (home / "Annotations" / f"{photo.stem}.xml").write_text(f"<annotation>{names}</annotation>")
    return home


def test_voc12_rib(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One command prepares, one runs; the server's archive and the results page come from the same run."""
    assert main(["data", "prepare", "voc2012", str(voc.parent)]) == 0
    out = tmp_path / "voc12"
    command = ["run", "voc12-rib", "--data", str(voc.parent), "--out", str(out), "--limit", str(LIMIT), *LIGHT]
    assert main([*command, *options(TINY | TINY_RIB | {"comparisons": "{}"})]) == 0
    scores = read_json(out / "scores.json")
    assert list(scores) == ["seed_cam", "seed_rib", "pseudo_mask", "segmentation_val"]
    info = read_json(out / "run.json")
    assert (info["data"]["train_images"], info["data"]["limited_to"]) == (LIMIT, LIMIT)
    assert tuple(info["data"]["classes"]) == VOC_CLASSES
    assert scores["seed_rib"]["images"] <= 5  # official masks only, though seven images train
    assert (scores["segmentation_val"]["images"], scores["segmentation_val"]["split"]) == (3, "val")
    assert scores["pseudo_mask"]["threshold"] == 0.27
    for row in scores.values():
        assert row["interval"]["low"] <= row["interval"]["high"]
    log = [json.loads(line) for line in (out / "segmenter" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3
    assert read_json(out / "segmenter" / "manifest.json")["config"]["backbone"] == "resnet101"
    server(voc, out, tmp_path)
    results(out, tmp_path, capsys)


def server(voc: Path, out: Path, tmp_path: Path) -> None:
    archive = tmp_path / "results.tgz"
    common = ["export", "voc-server", "--data", str(voc), "--expect", "2", "--device", "cpu"]
    assert main([*common, "--run", str(out), "--out", str(archive)]) == 0
    assert main([*common, "--check-only", str(archive)]) == 0
    with tarfile.open(archive) as opened:
        assert len(opened.getnames()) == 2


def results(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert main(["results", str(out), "--json", str(tmp_path / "own.json")]) == 0
    assert "RIB+IRN, deeplabv2" in capsys.readouterr().out
    rows = json.loads((tmp_path / "own.json").read_text())
    mine = next(row for row in rows if row["task"] == "segmentation from image labels")
    assert mine["dataset"] == "VOC2012 (20 classes)"  # twelve photos are not PASCAL VOC 2012
    assert mine["comparable_with_published"] is False
    assert {f"limited to {LIMIT} training images", "another data set"} <= set(mine["remarks"])


@pytest.fixture(scope="module")
def coco(photos: list[tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty categories, masks rendered from the outlines, crowds and images without labels among them."""
    home = tmp_path_factory.mktemp("coco")
    categories = {number: f"thing {number}" for number in range(1, 91) if number % 9 or number == 18}
    categories = dict(list(categories.items())[:80])
    values = {8: 17, 12: 19, 15: 1, 9: 62, 18: 64, 20: 73}
    assert set(values.values()) <= set(categories)
    coco_set(home, {"train": photos[:7], "val": photos[7:]}, categories, values)
    assert main(["data", "prepare", "coco2014", str(home)]) == 0
    return home


def test_coco14_rib(coco: Path, tmp_path: Path) -> None:
    dataset = read_dataset(coco)
    assert len(dataset.classes) == 80
    rendered = [read_mask(record.mask_path) for record in dataset.records if record.mask_path is not None]
    assert len(rendered) == len(dataset)
    assert any((mask == 255).any() for mask in rendered)
    out = tmp_path / "coco14"
    command = ["run", "coco14-rib", "--data", str(coco), "--out", str(out), "--limit", str(LIMIT), *LIGHT]
    tiny = TINY | TINY_RIB | SMALL | {"comparisons": "{}", "data.val_limit": 3, "evaluate.count_ignored": "true"}
    assert main([*command, *options(tiny)]) == 0
    scores = read_json(out / "scores.json")
    assert list(scores) == ["seed_cam", "seed_rib", "pseudo_mask", "segmentation_val"]
    assert scores["segmentation_val"]["images"] == 3
    assert scores["segmentation_val"]["count_ignored"] is True
    assert len(scores["segmentation_val"]["per_class"]) == 81
    assert scores["pseudo_mask"]["threshold"] == 0.22
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("recipe", ["voc12-cam-irn", "coco14-cam-irn"])
def test_baselines_run(recipe: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    home = request.getfixturevalue(recipe.removesuffix("-cam-irn").rstrip("0123456789"))
    command = ["run", recipe, "--data", str(home), "--out", str(tmp_path / "run"), "--limit", str(LIMIT), *LIGHT]
    scales = {key: value for key, value in TINY_RIB.items() if "scales" in key}
    assert main([*command, *options(TINY | SMALL | scales | {"data.val_limit": 3})]) == 0
    scores = read_json(tmp_path / "run" / "scores.json")
    assert list(scores) == ["seed_cam", "pseudo_mask", "segmentation_val"]
    assert not (tmp_path / "run" / "localization" / "rib").exists()
    assert scores["segmentation_val"]["images"] == 3


def test_voc12_rib_sal(photos: list[tuple[Path, Path]], voc: Path, tmp_path: Path) -> None:
    """Saliency comes from a folder of PNGs, here the true masks' foreground: it must change the pseudo-masks."""
    maps = tmp_path / "saliency"
    maps.mkdir()
    for photo, mask in photos:
        truth = np.array(Image.open(mask))
        salient = np.uint8(255) * ((truth > 0) & (truth < 255))
        Image.fromarray(salient).save(maps / f"{photo.stem}.png")
    out = tmp_path / "run"
    command = ["run", "voc12-rib-sal", "--data", str(voc), "--out", str(out), "--limit", str(LIMIT), *LIGHT]
    tiny = TINY | TINY_RIB | SMALL | {"refine.saliency.source": str(maps)}
    assert main([*command, *options(tiny)]) == 0
    scores = read_json(out / "scores.json")
    assert list(scores) == ["seed_cam", "seed_rib", "pseudo_mask", "segmentation_val"]
    objects = {photo.stem: np.array(Image.open(maps / f"{photo.stem}.png")) > 0 for photo, _ in photos}
    written = {path.stem: np.array(Image.open(path)) for path in (out / "pseudo_masks").rglob("*.png")}
    assert len(written) == LIMIT
    # nothing salient is background, whatever the maps of an untrained network say
    assert all(not (mask[objects[name]] == 0).any() for name, mask in written.items())


@pytest.mark.parametrize("recipe", ["voc12-cam-irn", "coco14-cam-irn"])
def test_baselines_are_the_same_but_for_the_maps(recipe: str) -> None:
    from tag2mask.config import to_mapping
    from tag2mask.recipe import load_recipe

    ours, baseline = (to_mapping(load_recipe(name)) for name in (recipe.replace("cam-irn", "rib"), recipe))
    assert baseline["localize"]["method"] == "cam"
    assert {key for key in ours if ours[key] != baseline[key]} == {
        "name",
        "description",
        "localize",
        "refine",
        "comparisons",
    }
    assert ours["refine"] == baseline["refine"] | {"maps": "rib"}


def test_rib_sal_stops_at_once_without_saliency(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "voc12-rib-sal", "--data", str(voc), "--out", str(tmp_path / "x"), *options(TINY)]) == 2
    assert "saliency_maps" in capsys.readouterr().err
    assert not (tmp_path / "x" / "classifier").exists()


def test_a_classifier_of_eighty_classes_trains() -> None:
    """The reference's forward reshapes to 20 classes, so its COCO training fails."""
    torch.manual_seed(0)
    classifier = build_classifier("resnet18", 80, "none")
    optimiser = torch.optim.SGD([p for group in classifier.tuned_parameters() for p in group], lr=0.05)
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 80)
    labels[0, [3, 79]] = labels[1, 45] = 1
    losses = []
    for _ in range(4):
        loss = classification_loss(classifier, images, labels)
        assert classifier(images).shape == (2, 80)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_an_index_of_coco_size_stays_small(tmp_path: Path) -> None:
    """82,783 records: sampling looks at a bounded number of rows, and nothing grows with images times classes."""
    count, classes = 82_783, 80
    rng = np.random.default_rng(0)
    tracemalloc.start()
    picks = rng.integers(0, classes, (count, 3))
    records = tuple(
        ImageRecord(f"COCO_train2014_{n:012d}", tmp_path, tuple(sorted(set(row))), "train")
        for n, row in enumerate(picks.tolist())
    )
    dataset = Dataset("coco", tuple(f"class {n}" for n in range(classes)), records)
    index = PartnerIndex(dataset.label_matrix(), [record.id for record in records])
    for number in range(0, count, 4139):
        rows = index.sample(records[number].id, 15, seed=0)
        assert len(set(rows)) == 15
        assert not any(set(records[row].labels) & set(records[number].labels) for row in rows)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.rows_touched / 21 < 100  # a scan would touch all 82,783
    assert held < 120e6  # bytes, records and index together
    assert len(dataset.limit(480)) == 480
    assert min(dataset.limit(480).label_matrix().sum(axis=0)) >= 6  # balanced over 80 classes
    assert dataset.digest() == Dataset("coco", dataset.classes, records).digest()
