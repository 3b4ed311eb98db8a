"""Batches in parts and a number of updates instead of epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tag2mask.common.files import read_json
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import FitSettings, fit
from tag2mask.runs.folder import StageFolder


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.old, self.new = nn.Conv2d(3, 2, 1), nn.Linear(2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.new(self.old(images).mean(dim=(2, 3)))


def load(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * epoch + index)
    return torch.randn(3, 4, 4, generator=generator), torch.ones(1)


def train(path: Path, sizes: list[int], **settings: int) -> tuple[dict[str, Tensor], list[dict]]:
    net = Net()
    folder = StageFolder(path, "train-classifier", config={}, seed=0, inputs={})

    def loss_of(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(images))
        return ((module(images) - targets) ** 2).mean()

    groups = (list(net.old.parameters()), list(net.new.parameters()))
    fit(
        net,
        groups,
        loss_of,
        load,
        [f"image{n}" for n in range(10)],
        FitSettings(3, 4, 0.1, 10.0, 1e-4, 0.9, **settings),
        folder,
        seed=0,
        execution=Execution(device="cpu", workers=0),
    )
    rows = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    assert read_json(path / "manifest.json")["stage"] == "train-classifier"
    return net.state_dict(), rows


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_parts_give_the_same_network(tmp_path: Path, accumulate: int) -> None:
    whole, parts = [], []
    one, log = train(tmp_path / "one", whole)
    two, log_parts = train(tmp_path / "two", parts, accumulate=accumulate)
    assert max(whole) == 4
    assert max(parts) == -(-4 // accumulate)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    assert [row["train_loss"] for row in log_parts] == pytest.approx([row["train_loss"] for row in log], rel=1e-5)


def test_stops_after_a_number_of_updates(tmp_path: Path) -> None:
    sizes: list[int] = []
    _, log = train(tmp_path / "run", sizes, iterations=8)  # 3 updates an epoch: 3 + 3 + 2
    assert len(sizes) == 8
    assert [row["step"] for row in log] == [3, 6, 8]
    assert log[-1]["lr"] == pytest.approx(0.1 * (1 - 7 / 8) ** 0.9)
    assert FitSettings(3, 4, 0.1, 10.0, 0, 0, iterations=7).planned(10) == (3, 7)
    assert FitSettings(28, 10, 0.1, 10.0, 0, 0).planned(10582) == (28, 28 * 1059)
