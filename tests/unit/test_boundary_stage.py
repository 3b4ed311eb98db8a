"""Confident labels and the training of the boundary network on them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refine_world import make_world

from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset, decode_image, read_mask
from tag2mask.engine.execution import Execution
from tag2mask.engine.images import run_images
from tag2mask.networks import boundary_loss
from tag2mask.refine.pseudo import confident_labels, refined_labels
from tag2mask.stages import train_boundary as stage
from tag2mask.stages.confident import ConfidentConfig, confident
from tag2mask.stages.train_boundary import BoundaryConfig, Samples, load_boundary, train_boundary, with_mirror

HERE = Execution(device="cpu", workers=0, processes=1)
SMALL = BoundaryConfig("resnet18", "none", epochs=2, batch_size=2, learning_rate=0.02, crop_size=48, radius=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def labelled(world: tuple[Dataset, Path]) -> Path:
    out = world[1].parent / "confident_rib"
    confident(*world, out, ConfidentConfig(0.6, 0.1, refinement="none"), execution=HERE)
    return out


@pytest.fixture(scope="module")
def trained(world: tuple[Dataset, Path], labelled: Path) -> Path:
    out = world[1].parent / "boundary_rib"
    train_boundary(world[0], labelled, out, SMALL, execution=HERE)
    return out


# --- confident labels --------------------------------------------------------------------------------


def test_labels_where_both_scores_agree() -> None:
    maps = np.array([[[0.05, 0.17, 0.2, 0.35, 0.36, 0.9]], [[0.0, 0.1, 0.3, 0.1, 0.1, 0.95]]], np.float32)
    image = np.zeros((1, 6, 3), np.uint8)
    found = confident_labels(image, maps, np.array([2, 5]), foreground=0.35, background=0.17, method="none")
    assert found.tolist() == [[0, 0, 255, 255, 3, 6]]
    nothing = confident_labels(image, maps[:0], np.array([]), foreground=0.35, background=0.17, method="pamr")
    assert not nothing.any()


def test_the_stage_writes_labels_and_names_broken_images(world: tuple[Dataset, Path], labelled: Path) -> None:
    manifest = read_json(labelled / "manifest.json")
    assert manifest["finished"]
    assert manifest["config"] == {
        "foreground": 0.6,
        "background": 0.1,
        "scale": "own",
        "refinement": "none",
        "maps": "rib",
    }
    assert {i for i, s in manifest["images"].items() if s["status"] == "failed"} == {"image 5"}
    found = read_mask(labelled / "masks" / "image 1.png")
    truth = read_mask(world[0].records[1].mask_path)  # type: ignore[arg-type]
    assert set(np.unique(found)) == {0, 1, 2, 255}
    assert (found[found != 255] == truth[found != 255]).mean() > 0.97


def test_refinement_auto_is_what_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tag2mask.refine.methods.crf_available", lambda: False)
    dataset, localization = make_world(tmp_path, images=2)
    confident(dataset, localization, tmp_path / "out", ConfidentConfig(), execution=HERE)
    assert read_json(tmp_path / "out" / "manifest.json")["config"]["refinement"] == "pamr"
    with pytest.raises(MissingExtraError, match=r"confident.refinement: crf.*tag2mask\[crf\]"):
        confident(dataset, localization, tmp_path / "other", ConfidentConfig(refinement="crf"), execution=HERE)
    image = decode_image(dataset.records[0].path)
    maps = np.ones((1, *image.shape[:2]), np.float32)
    assert refined_labels(image, maps, np.array([1]), 0.3, "pamr").min() == 2


def test_scores_in_the_wrong_order() -> None:
    with pytest.raises(ConfigError, match=r"confident.background is 0.2; expected at most foreground, 0.1"):
        ConfidentConfig(foreground=0.1, background=0.2)


def test_maps_of_another_kind(world: tuple[Dataset, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no maps there"):
        confident(*world, tmp_path / "out", ConfidentConfig(), maps="gradcam", execution=HERE)


# --- the network -------------------------------------------------------------------------------------


def test_samples_have_labels_at_stride_4(world: tuple[Dataset, Path], labelled: Path) -> None:
    records = world[0].records[:2]
    paths = {record.id: labelled / "masks" / f"{record.id}.png" for record in records}
    plain = dataclasses.replace(SMALL, scale_min=1.0, scale_max=1.0, crop_size=64)
    image, labels = Samples(records, paths, plain, 0)(0, 1)
    assert image.shape == (3, 64, 64)
    assert labels.shape == (16, 16)
    assert labels.dtype == torch.int64
    padding = (labels == 255).all(dim=1)
    assert padding.sum() >= 4  # the image has 48 rows; what is added below or above is in no pair
    again, same = Samples(records, paths, plain, 0)(0, 1)
    assert torch.equal(image, again)
    assert torch.equal(labels, same)
    assert any(not torch.equal(image, Samples(records, paths, plain, 0)(epoch, 1)[0]) for epoch in range(1, 5))


def test_it_learns_and_stores_what_it_needs(world: tuple[Dataset, Path], labelled: Path, trained: Path) -> None:
    manifest = read_json(trained / "manifest.json")
    assert manifest["finished"]
    assert set(manifest["images"]) == {record.id for record in world[0].records}
    assert manifest["images"]["image 5"] == {"status": "failed", "error": "has no confident labels"}
    assert not (trained / "checkpoint.pt").exists()
    assert not (trained / "displacement").exists()
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    longer = trained.with_name("longer")
    network = train_boundary(world[0], labelled, longer, dataclasses.replace(SMALL, epochs=6), execution=HERE)
    losses = [json.loads(line)["train_loss"] for line in (longer / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.95 * losses[0]
    views = with_mirror(decode_image(world[0].records[0].path), "cpu")
    edge, displacement = network.infer(views)
    labels = torch.from_numpy(read_mask(labelled / "masks" / "image 0.png")[2::4, 2::4].astype(np.int64))[None]
    loss = boundary_loss(torch.logit(edge.clamp(1e-6, 1 - 1e-6))[None, None], displacement[None], labels, 4)
    assert torch.isfinite(loss.total)


def test_the_mean_displacement_is_that_of_all_whole_images(world: tuple[Dataset, Path], trained: Path) -> None:
    network = load_boundary(trained)
    stored = network.mean_shift.clone()
    assert stored.abs().min() > 0
    total = torch.zeros(2, dtype=torch.float64)
    positions = 0
    for record in world[0].records[:5]:
        _, displacement = network.infer(with_mirror(decode_image(record.path), "cpu"), pad_to=SMALL.crop_size)
        total += displacement.double().sum(dim=(1, 2))
        positions += displacement[0].numel()
    np.testing.assert_allclose(total / positions, 0, atol=1e-5)  # what is stored is taken off


def test_the_order_of_images_and_a_second_call_change_nothing(
    world: tuple[Dataset, Path], labelled: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(ids: list[str], *rest: Any, **named: Any) -> None:  # as processes may
        run_images(ids[::-1], *rest, **named)

    monkeypatch.setattr(stage, "run_images", backwards)
    train_boundary(world[0], labelled, tmp_path / "backwards", SMALL, execution=HERE)
    weights = (trained / "weights.safetensors").read_bytes()
    assert (tmp_path / "backwards" / "weights.safetensors").read_bytes() == weights
    before = (trained / "weights.safetensors").stat().st_mtime_ns
    train_boundary(world[0], labelled, trained, SMALL, execution=HERE)
    assert (trained / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"config.epochs: 2 there, 5 now"):
        train_boundary(world[0], labelled, trained, dataclasses.replace(SMALL, epochs=5), execution=HERE)


def test_a_killed_run_goes_on(
    world: tuple[Dataset, Path], labelled: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after training, before the mean displacement
        patch.setattr(stage, "_store_mean_shift", stop)
        with pytest.raises(KeyboardInterrupt):
            train_boundary(world[0], labelled, out, SMALL, execution=HERE)
    assert (out / "checkpoint.pt").is_file()
    train_boundary(world[0], labelled, out, SMALL, execution=HERE)
    assert (out / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()


def test_the_edges_are_the_same_without_a_displacement(
    world: tuple[Dataset, Path], labelled: Path, trained: Path, tmp_path: Path
) -> None:
    alone = dataclasses.replace(SMALL, displacement=False)
    network = train_boundary(world[0], labelled, tmp_path / "edges", alone, execution=HERE)
    whole, again = load_boundary(trained), load_boundary(tmp_path / "edges")
    views = with_mirror(decode_image(world[0].records[0].path), "cpu")
    edge, displacement = whole.infer(views)
    assert displacement is not None
    for found in (network.infer(views), again.infer(views)):
        assert torch.equal(found[0], edge)
        assert found[1] is None
    assert {name for name, _ in again.named_parameters()} == {
        name for name, _ in whole.named_parameters() if not name.startswith("fc_dp")
    }
    assert not any(name.startswith("fc_dp") for name in again.state_dict())


def test_a_number_of_updates_ends_the_training(world: tuple[Dataset, Path], labelled: Path, tmp_path: Path) -> None:
    few = dataclasses.replace(SMALL, iterations=3)
    train_boundary(world[0], labelled, tmp_path / "few", few, execution=HERE)
    rows = [json.loads(line) for line in (tmp_path / "few" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3


def test_without_a_backbone_or_labels(world: tuple[Dataset, Path], labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backbone is not set"):
        train_boundary(world[0], labelled, tmp_path / "a", BoundaryConfig(), execution=HERE)
    with pytest.raises(ConfigError, match="has no manifest"):
        train_boundary(world[0], tmp_path, tmp_path / "b", SMALL, execution=HERE)
