"""The training loop: schedule, order, resumption, broken images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.stages.folder import StageFolder
from tag2mask.stages.training import (
    Execution,
    FitSettings,
    epoch_batches,
    fit,
    make_optimiser,
    set_learning_rate,
)

SETTINGS = FitSettings(4, 4, 0.1, 10.0, 1e-4, 0.9)
NAMES = [f"image{number}" for number in range(10)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.old, self.new = nn.Conv2d(3, 2, 1), nn.Linear(2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.new(self.old(images).mean(dim=(2, 3)))


def load(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * epoch + index)
    if index == 3:
        raise DataError("image3.jpg: broken")
    return torch.randn(3, 4, 4, generator=generator), torch.ones(1)


def train(
    path: Path, *, epochs_to_run: int | None = None, workers: int = 0, load_sample=load
) -> tuple[Net, StageFolder]:
    net = Net()
    folder = StageFolder(path, "train-classifier", config={}, seed=0, inputs={})
    seen = []

    def loss_of(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        seen.append(1)
        if epochs_to_run is not None and len(seen) > 3 * epochs_to_run + 1:
            raise KeyboardInterrupt
        return ((module(images) - targets) ** 2).mean()

    fit(net, (list(net.old.parameters()), list(net.new.parameters())), loss_of, load_sample, NAMES, SETTINGS, folder,
        seed=0, execution=Execution(device="cpu", workers=workers))  # fmt: skip
    return net, folder


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, folder = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", epochs_to_run=2)
    resumed, _ = train(tmp_path / "killed")
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
    assert folder.failures == {"image3": "image3.jpg: broken"}
    rows = [
        [json.loads(line)["train_loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


def test_workers_change_nothing(tmp_path: Path) -> None:
    one, _ = train(tmp_path / "a", workers=0)
    two, folder = train(tmp_path / "b", workers=2)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert set(folder.failures) == {"image3"}


def test_a_loss_that_is_no_number_stops_with_a_remedy(tmp_path: Path) -> None:
    def broken(epoch: int, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((3, 4, 4), float("nan")), torch.ones(1)

    with pytest.raises(ConfigError, match="lower the learning rate"):
        train(tmp_path / "a", load_sample=broken)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_each_batch(world: int) -> None:
    whole = epoch_batches(23, 4, epoch=1, seed=5, rank=0, world=1)
    parts = [epoch_batches(23, 4, 1, 5, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    for number, batch in enumerate(whole[: len(parts[0])]):
        assert sorted(key for part in parts for key in part[number]) == sorted(batch)
    seen = [index for batch in whole for _, index in batch]
    assert sorted(seen) == list(range(23))
    assert epoch_batches(23, 4, 2, 5, 0, 1) != whole


def test_polynomial_schedule_and_groups() -> None:
    net = Net()
    optimiser = make_optimiser((list(net.old.parameters()), list(net.new.parameters())), SETTINGS)
    set_learning_rate(optimiser, SETTINGS, 3, 10)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.1 * 0.7**0.9)
    assert optimiser.param_groups[1]["lr"] == pytest.approx(1.0 * 0.7**0.9)
