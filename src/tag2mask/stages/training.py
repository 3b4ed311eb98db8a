"""The training loop that the classifier and the segmentation network share, on Lightning Fabric."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import atomic_write
from tag2mask.common.memory import keep_freed_memory
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for, seed_for
from tag2mask.data.transforms import normalise
from tag2mask.stages.folder import StageFolder

Sample = tuple[Tensor, Tensor]  # image (3, H, W) and target
LoadSample = Callable[[int, int], Sample]  # (epoch, index) -> sample; raises DataError for a broken image


@dataclass(frozen=True)
class Execution:
    """Where and how wide the work runs. Never changes a result, so it is not part of a stage's fingerprint."""

    device: str = "auto"  # Fabric accelerator: "auto", "cpu", "cuda", "mps"
    devices: int = 1  # how many of them train together
    precision: str = "32-true"  # Fabric precision
    workers: int = 1  # processes that load images while training
    processes: int = 0  # processes that localise and refine images; 0 = one a CPU core
    trace: int = 24  # how many images get a trace of the RIB steps, for the report


@dataclass(frozen=True)
class FitSettings:
    """What the loop itself needs to know."""

    epochs: int
    batch_size: int
    learning_rate: float
    new_layers_multiplier: float
    weight_decay: float
    momentum: float
    optimiser: Literal["sgd", "adamw"] = "sgd"
    power: float = 0.9


class EpochDataset(Dataset):
    """Samples by (epoch, index); a broken image becomes its error text instead of ending the training."""

    def __init__(self, load: LoadSample, names: Sequence[str]) -> None:
        self.load = load
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[str, str]:
        epoch, index = key
        try:
            return self.load(epoch, index)
        except DataError as error:
            return self.names[index], str(error)


def collate(samples: list[Any]) -> tuple[Tensor | None, Tensor | None, list[tuple[str, str]]]:
    """Stack the good samples of a batch and list the broken ones."""
    good = [sample for sample in samples if isinstance(sample[0], Tensor)]
    errors = [sample for sample in samples if not isinstance(sample[0], Tensor)]
    if not good:
        return None, None, errors
    images, targets = zip(*good, strict=True)
    return torch.stack(images), torch.stack(targets), errors


def epoch_batches(count: int, batch_size: int, epoch: int, seed: int, rank: int, world: int) -> list[list[tuple]]:
    """Return this process' part of every batch of an epoch; the order depends on seed and epoch alone.

    `batch_size` is that of all processes together; the last partial batch is kept, unless it would leave a process
    without a sample.
    """
    order = list(range(count))
    rng_for(seed, "order", epoch).shuffle(order)
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    return [[(epoch, index) for index in batch[rank::world]] for batch in batches if len(batch) >= world]


def fit(
    module: nn.Module,
    groups: tuple[list[nn.Parameter], list[nn.Parameter]],
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    load: LoadSample,
    names: Sequence[str],
    settings: FitSettings,
    folder: StageFolder,
    *,
    seed: int,
    execution: Execution,
) -> None:
    """Train `module` in place; continue from the last whole epoch when the folder has a checkpoint.

    `groups` are the pretrained and the new parameters; the latter learn `new_layers_multiplier` times faster.
    Learning rates follow (1 - iteration / iterations) ** power. Writes log.jsonl and checkpoint.pt.
    """
    if not names:
        raise ConfigError(f"{folder.path}: there is no image to train on")
    keep_freed_memory()
    fabric = Fabric(accelerator=execution.device, devices=execution.devices, precision=execution.precision)  # type: ignore[arg-type]
    fabric.launch()
    optimiser = make_optimiser(groups, settings)
    state = {"epoch": 0, "iteration": 0}
    checkpoint = folder.path / "checkpoint.pt"
    if checkpoint.is_file():
        state = _restore(checkpoint, module, optimiser)
    wrapped, wrapped_optimiser = fabric.setup(module, optimiser)
    count, world = len(names), fabric.world_size
    iterations = settings.epochs * len(epoch_batches(count, settings.batch_size, 0, seed, 0, world))
    dataset = EpochDataset(load, names)
    module.train()
    for epoch in range(state["epoch"], settings.epochs):
        torch.manual_seed(seed_for(seed, "epoch", epoch) % 2**32)
        batches = epoch_batches(count, settings.batch_size, epoch, seed, fabric.global_rank, world)
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=execution.workers, collate_fn=collate)
        started, losses = time.monotonic(), []
        title = f"epoch {epoch + 1}/{settings.epochs}"
        for images, targets, errors in track(loader, total=len(batches), description=title):
            for name, error in errors:
                folder.fail(name, error)
            set_learning_rate(optimiser, settings, state["iteration"], iterations)
            if images is not None:
                losses.append(_step(fabric, wrapped, wrapped_optimiser, loss_of, images, targets))
            state["iteration"] += 1
        state["epoch"] = epoch + 1
        row = {"epoch": epoch + 1, "step": state["iteration"], "train_loss": _mean(losses),
               "lr": optimiser.param_groups[0]["lr"], "seconds": round(time.monotonic() - started, 2)}  # fmt: skip
        if fabric.is_global_zero:
            _append_log(folder.path / "log.jsonl", row, epoch)
            _save_checkpoint(checkpoint, module, optimiser, state)
            folder.save()
    module.eval()
    module.to("cpu")


def _step(fabric: Fabric, module: Any, optimiser: Any, loss_of: Any, images: Tensor, targets: Tensor) -> float:
    images, targets = fabric.to_device((images, targets))
    optimiser.zero_grad()
    loss = loss_of(module, images.contiguous(memory_format=torch.channels_last), targets)
    if not torch.isfinite(loss):
        raise ConfigError(f"training: the loss became {loss.item()}; lower the learning rate")
    fabric.backward(loss)
    optimiser.step()
    return float(loss.detach())


def make_optimiser(
    groups: tuple[list[nn.Parameter], list[nn.Parameter]], settings: FitSettings
) -> torch.optim.Optimizer:
    """SGD or AdamW over (pretrained, new) parameter groups."""
    rates = (settings.learning_rate, settings.learning_rate * settings.new_layers_multiplier)
    parameters = [{"params": p, "lr": lr, "base_lr": lr} for p, lr in zip(groups, rates, strict=True)]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr=rates[0], momentum=settings.momentum, weight_decay=settings.weight_decay)


def set_learning_rate(optimiser: torch.optim.Optimizer, settings: FitSettings, iteration: int, total: int) -> None:
    """Polynomial decay: base * (1 - iteration / total) ** power."""
    factor = (1 - iteration / total) ** settings.power
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _append_log(path: Path, row: dict[str, Any], epoch: int) -> None:
    """Append a row, dropping rows of epochs that a killed run had logged but not saved."""
    rows = path.read_text(encoding="utf-8").splitlines()[:epoch] if path.is_file() else []
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([*rows, json.dumps(row)]) + "\n", encoding="utf-8")


def _save_checkpoint(path: Path, module: nn.Module, optimiser: Any, state: dict[str, int]) -> None:
    values = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "state": state}
    with atomic_write(path) as temporary:
        torch.save(values, temporary)


def _restore(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, int]:
    values = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(values["module"])
    optimiser.load_state_dict(values["optimiser"])
    return dict(values["state"])


def to_tensor(image: np.ndarray) -> Tensor:
    """ImageNet-normalised tensor (3, H, W) of an image (H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(normalise(image).transpose(2, 0, 1)))


def resolve_device(asked: str) -> torch.device:
    """The device for work on single images: as asked, or the GPU where there is one."""
    if asked != "auto":
        return torch.device(asked)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run with `count` threads inside torch's operations, then restore: sums don't depend on the machine's width."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
