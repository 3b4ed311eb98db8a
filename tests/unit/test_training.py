"""The training loop: schedule, order, resumption, broken images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.loop import (
    Enough,
    FitSettings,
    averaged,
    epoch_batches,
    fit,
    learning_rate_factor,
    looked_at,
    make_optimiser,
    set_learning_rate,
)
from tag2mask.runs.folder import StageFolder
from tag2mask.runs.log import Epoch

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
    path: Path,
    *,
    epochs_to_run: int | None = None,
    load_sample=load,
    workers: int = 0,
    settings: FitSettings = SETTINGS,
    **where: str,
) -> tuple[Net, StageFolder]:
    net = Net()
    folder = StageFolder(path, "train-classifier", config={}, seed=0, inputs={})
    seen = []

    def loss_of(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        seen.append(1)
        if epochs_to_run is not None and len(seen) > 3 * epochs_to_run + 1:
            raise KeyboardInterrupt
        return ((module(images) - targets) ** 2).mean()

    fit(
        net,
        (list(net.old.parameters()), list(net.new.parameters())),
        loss_of,
        load_sample,
        NAMES,
        settings,
        folder,
        seed=0,
        execution=Execution(workers=workers, **{"device": "cpu", **where}),
    )
    return net, folder


SIZES = [(10_000, 6), (400, 6), (399, 7), (100, 24), (50, 48), (1, 48), (0, 48)]  # images, epochs


@pytest.mark.parametrize(("images", "epochs"), SIZES)
def test_a_small_set_is_gone_over_more_often(images: int, epochs: int) -> None:
    enough = Enough(epochs=6, images=2400, most=48)
    assert enough.of("auto", images) == epochs
    assert enough.of(3, images) == 3


@pytest.mark.parametrize("changes", [{}, {"schedule": "one_cycle", "average": 0.9, "optimiser": "adamw"}])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, changes: dict) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    whole, folder = train(tmp_path / "whole", settings=settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", epochs_to_run=2, settings=settings)
    resumed, _ = train(tmp_path / "killed", settings=settings)
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
    assert folder.failures == {"image3": "image3.jpg: broken"}
    rows = [
        [json.loads(line)["train_loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_on_a_gpu_goes_on(tmp_path: Path) -> None:
    """The optimiser's state has to come back to where the parameters are."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs_to_run=2, device="cuda")
    resumed, folder = train(tmp_path, device="cuda")
    assert next(resumed.parameters()).device.type == "cpu"
    assert folder.manifest["device"] == "cuda:0"


def test_precision_is_noted_and_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs_to_run=2)
    with pytest.raises(ConfigError, match="--precision 32-true; go on with that, not bf16-mixed"):
        train(tmp_path, precision="bf16-mixed")
    train(tmp_path)
    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert (stored["precision"], stored["device"]) == ("32-true", "cpu")


def test_broken_images_are_remembered_after_the_last_epoch(tmp_path: Path) -> None:
    """Killed between the last epoch and the end of the stage: nothing is left to train, and nothing forgotten."""
    train(tmp_path)
    _, again = train(tmp_path)
    assert again.failures == {"image3": "image3.jpg: broken"}


@pytest.mark.parametrize("asked", ["cude", "cuda"])
def test_a_device_that_is_not_there(asked: str) -> None:
    if asked == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=f"--device {asked}: .* use auto"):
        resolve_device(asked)


def test_workers_change_nothing(tmp_path: Path) -> None:
    one, _ = train(tmp_path / "a", workers=0)
    two, folder = train(tmp_path / "b", workers=2)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert set(folder.failures) == {"image3"}


def test_a_loss_that_is_no_number_stops_with_a_remedy(tmp_path: Path) -> None:
    def broken(epoch: int, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((3, 4, 4), float("nan")), torch.ones(1)

    with pytest.raises(ConfigError, match="lower learning_rate than"):
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


def test_weights_draw_images_as_often_as_they_say() -> None:
    weights = [3.0, 1.0, 1.0, 1.0, 0.0, 0.5, 0.5, 1.0]  # of 8 draws for a sum of 8
    for epoch in range(20):
        drawn = [i for batch in epoch_batches(8, 3, epoch, 1, 0, 1, weights) for _, i in batch]
        assert len(drawn) == 8
        for image, weight in enumerate(weights):
            assert abs(drawn.count(image) - weight) < 1
    assert drawn.count(0) == 3
    both = {i for epoch in range(20) for batch in epoch_batches(8, 3, epoch, 1, 0, 1, weights) for _, i in batch}
    assert both == {0, 1, 2, 3, 5, 6, 7}
    assert epoch_batches(8, 3, 2, 1, 0, 1, weights) == epoch_batches(8, 3, 2, 1, 0, 1, weights)


def test_what_is_said_after_an_epoch_goes_into_the_log(tmp_path: Path) -> None:
    net = Net()
    folder = StageFolder(tmp_path, "train-classifier", config={}, seed=0, inputs={})

    def after(module: nn.Module, before: Sequence[Epoch]) -> dict[str, float]:
        module.eval()
        known.append([row.epoch for row in before])
        return {"val_map": 0.5}

    modes, known = [], list[list[int]]()

    def loss_of(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        modes.append(module.training)
        return ((module(images) - targets) ** 2).mean()

    fit(
        net,
        (list(net.old.parameters()), list(net.new.parameters())),
        loss_of,
        load,
        NAMES,
        SETTINGS,
        folder,
        seed=0,
        execution=Execution(workers=0, device="cpu"),
        after_epoch=after,
    )
    assert all(modes)
    assert known == [[], [1], [1, 2], [1, 2, 3]]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["val_map"] for row in rows] == [0.5] * 4


@pytest.mark.parametrize("epochs", [1, 5, 12, 13, 24, 25, 48])
def test_a_long_training_is_looked_at_a_dozen_times_and_at_its_end(epochs: int) -> None:
    seen = [epoch for epoch in range(epochs) if looked_at(epoch, epochs)]
    assert seen[-1] == epochs - 1
    assert len(seen) == epochs if epochs <= 12 else 6 < len(seen) <= 12
    assert len(set(np.diff(seen))) <= 1  # evenly


def test_one_cycle_rises_and_falls_as_torchs_does() -> None:
    settings = dataclasses.replace(SETTINGS, schedule="one_cycle")
    total = 1000
    optimiser = torch.optim.SGD(Net().parameters(), lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=total, cycle_momentum=False)
    for step in range(total - 1):
        ours = learning_rate_factor(settings, step / total)
        assert ours == pytest.approx(reference.get_last_lr()[0], abs=0.01)
        optimiser.step()
        reference.step()
    assert learning_rate_factor(settings, 0.0) == pytest.approx(1 / 25)
    assert learning_rate_factor(settings, 0.3) == pytest.approx(1)
    assert learning_rate_factor(settings, 1.0) == pytest.approx(0, abs=1e-12)


def test_the_average_follows_the_weights_at_its_decay() -> None:
    settings = dataclasses.replace(SETTINGS, average=0.5)
    net = Net()
    average = averaged(net, settings)
    assert average is not None
    assert averaged(net, SETTINGS) is None
    expected = None
    for value, decay in ((1.0, 0.0), (2.0, 2 / 11), (3.0, 3 / 12), (5.0, 4 / 13)):  # (1 + n) / (10 + n) after n
        torch.nn.init.constant_(net.new.bias, value)
        average.update_parameters(net)
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert float(average.module.new.bias.detach()) == pytest.approx(expected)


def test_the_result_is_the_average_where_one_is_kept(tmp_path: Path) -> None:
    last, _ = train(tmp_path / "last")
    mean, _ = train(tmp_path / "mean", settings=dataclasses.replace(SETTINGS, average=0.99))
    assert not torch.equal(last.old.weight, mean.old.weight)
    kept = torch.load(tmp_path / "mean" / "checkpoint.pt", weights_only=True)
    assert torch.equal(kept["module"]["old.weight"], last.old.weight)  # training itself is the same
    assert torch.equal(kept["average"]["module.old.weight"], mean.old.weight)
