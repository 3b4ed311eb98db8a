"""Training in two processes gives what one gives: uneven parts, broken images, a last batch of one image."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import read_json
from tag2mask.engine import loop
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import NO_IMAGE, EpochDataset, FitSettings, collate, epoch_batches, fit
from tag2mask.experiments.demo_data import digit_scenes
from tag2mask.networks import boundary, boundary_loss, losses, segmentation_loss
from tag2mask.runs.folder import StageFolder

NAMES = [f"image{number}" for number in range(6)]
BROKEN = {3, 5}
SETTINGS = FitSettings(
    epochs=3, batch_size=3, learning_rate=0.1, new_layers_multiplier=10.0, weight_decay=1e-3, momentum=0.9
)


def load(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    if index in BROKEN:
        raise DataError(f"image{index}.jpg: broken")
    return torch.ones(3, 8, 8), torch.zeros(8, 8, dtype=torch.long)


def train(path: Path, device: str, devices: int) -> None:
    net = nn.Conv2d(3, 2, 1)
    folder = StageFolder(path, "train-segmenter", config={}, seed=0, inputs={})
    fit(
        net,
        ([net.weight], [net.bias]),
        lambda *batch: batch[1].sum(),
        load,
        NAMES,
        SETTINGS,
        folder,
        seed=0,
        execution=Execution(device=device, devices=devices),
    )


def log_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_an_error_in_a_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*arguments: object) -> None:
        text = "-- Process 1 terminated\nTraceback ...\ntag2mask.common.errors.ConfigError: lower the learning rate\n"
        raise ProcessRaisedException(text, 1, 4711)

    monkeypatch.setattr(loop, "_fabric", lambda execution: SimpleNamespace(launch=launch))
    with pytest.raises(ConfigError, match=r"^training on 2 devices: lower the learning rate$"):
        train(tmp_path, "cpu", 2)


def test_devices_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--devices 0"):
        train(tmp_path / "a", "cpu", 0)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda"):
            train(tmp_path / "b", "cuda", 2)


RECIPE = """
name: tiny
data: {classes: [four, six, three, two, zero], mask_classes: [four, six, three, two, zero]}
classifier: {backbone: efficientnet_lite0, weights: none, epochs: 6, batch_size: 3, learning_rate: 0.01,
             long_side_min: 48, long_side_max: 64, crop_size: 64, keep: best, patience: 1}
"""


def test_the_command_line_trains_a_classifier_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = digit_scenes(tmp_path / "data", images=6, val_images=4, size=48, most_digits=1, clutter=0)
    with (data / "labels.csv").open(encoding="utf-8") as stream:
        header, row = stream.readline().strip().split(","), stream.readline().strip().split(",")
    broken = Path(row[0]).with_name("broken.png")
    base = data if (data / row[0]).is_file() else data / "images"
    (base / broken).write_bytes(b"no image")
    cells = {"image": str(broken), "labels": row[header.index("labels")], "split": "train"}
    with (data / "labels.csv").open("a", encoding="utf-8") as stream:
        stream.write(",".join(cells.get(column, "") for column in header) + "\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    # of seven images two processes get two and one a batch, and of the last batch one and none
    assert [len(part) for part in epoch_batches(7, 3, 0, 0, 0, 2)] == [2, 2, 1]
    assert epoch_batches(7, 3, 0, 0, 1, 2)[-1] == [(0, NO_IMAGE)]
    # in double precision: a random network makes much of float32's round-off
    how = ["--device", "cpu", "--precision", "64-true", "--workers", "0"]
    for devices in ("1", "2"):
        arguments = [str(tmp_path / "recipe.yaml"), "--data", str(data), "--out", str(tmp_path / devices)]
        assert main(["train-classifier", *arguments, "--devices", devices, *how]) == 0
    one, two = (load_file(tmp_path / devices / "classifier" / "weights.safetensors") for devices in ("1", "2"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value.double(), two[name].double(), rtol=1e-6, atol=1e-9), name
    assert one["classifier.weight"].abs().max() > 0.05  # it has moved
    manifests = [read_json(tmp_path / devices / "classifier" / "manifest.json") for devices in ("1", "2")]
    assert manifests[0]["kept"] == manifests[1]["kept"]  # where one ends early, so do two
    manifest = manifests[1]
    states = {name: state["status"] for name, state in manifest["images"].items()}
    assert [name for name, status in states.items() if status == "failed"] == ["broken"]
    assert len(states) == 7
    logs = [log_of(tmp_path / devices / "classifier") for devices in ("1", "2")]
    assert len(logs[0]) == len(logs[1]) == manifest["kept"]["learned"]
    assert [(row["epoch"], row["step"]) for row in logs[1][:2]] == [(1, 3), (2, 6)]
    assert [row["train_loss"] for row in logs[1]] == pytest.approx([row["train_loss"] for row in logs[0]], rel=1e-6)


def test_losses_of_parts_average_to_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two processes share the counts of the batch, the mean of their losses is the whole batch's."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (3, 16, 16), generator=generator)
    labels[0, :12] = 255
    logits = torch.randn(3, 3, 16, 16, generator=generator)
    edge, field = torch.randn(3, 1, 16, 16, generator=generator), torch.randn(3, 2, 16, 16, generator=generator)
    cases = {
        losses: lambda rows: segmentation_loss(logits[rows], labels[rows], balanced=True),
        boundary: lambda rows: boundary_loss(edge[rows], field[rows], labels[rows], radius=4).total,
    }
    for module, loss in cases.items():
        counts: list[Tensor] = []
        monkeypatch.setattr(
            module, "shared_counts", lambda values, seen=counts: seen.append(values) or values.float()
        )
        whole = loss(slice(0, 3))
        monkeypatch.setattr(module, "shared_counts", lambda values, seen=counts: seen[0].float() / 2)
        parts = [loss(slice(0, 1)), loss(slice(1, 3))]
        assert torch.isclose(torch.stack(parts).mean(), whole, rtol=1e-5)


def test_collate_keeps_a_blank_row_only_where_there_is_nothing_else() -> None:
    dataset = EpochDataset(load, NAMES, blank=255)
    mixed = collate([dataset[0, 3], dataset[0, 1]])
    assert (len(mixed.images), mixed.good, mixed.errors) == (1, 1, [("image3", "image3.jpg: broken")])
    alone = collate([dataset[0, 3], dataset[0, 5]])
    assert (len(alone.images), alone.good, len(alone.errors)) == (1, 0, 2)
    assert (alone.targets == 255).all()
    idle = collate([dataset[0, NO_IMAGE]])
    assert (idle.good, idle.errors) == (0, [])
