"""The training loop that the classifier and the segmentation network share, on Lightning Fabric."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from tag2mask.common.errors import ConfigError, DataError, Tag2MaskError
from tag2mask.common.files import atomic_write
from tag2mask.common.memory import keep_freed_memory, out_of_memory
from tag2mask.common.progress import track
from tag2mask.common.ranks import rank_count, summed
from tag2mask.common.seeding import rng_for, seed_for
from tag2mask.common.workers import may_start_processes, script_left_out
from tag2mask.engine.execution import Cluster, Execution, resolve_device
from tag2mask.runs.folder import StageFolder
from tag2mask.runs.log import Epoch, append_epoch, epochs_in

Sample = tuple[Tensor, Tensor]  # image (3, H, W) and target
LOOKS = 12  # at the network within a training, at most: a small set has many short epochs
ONE_CYCLE_START = 1 / 25  # of the highest rate, where one_cycle begins
LoadSample = Callable[[int, int], Sample]  # (epoch, index) -> sample; raises DataError for a broken image


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
    power: float = 0.9  # of poly, the polynomial decay
    iterations: int | None = None  # stop after so many updates, instead of after `epochs`
    accumulate: int = 1  # parts in which a batch goes through the network, to save memory
    schedule: Literal["poly", "one_cycle"] = "poly"  # of the learning rates
    warmup: float = 0.3  # share of the updates in which one_cycle rises
    average: float = 0.0  # decay of the weights' moving average, which is then the result; 0 = the last weights

    @classmethod
    def of(cls, config: Any, **changes: Any) -> FitSettings:
        """Take the settings of the same names from a stage's config; `changes` are those named otherwise there."""
        names = (f.name for f in dataclasses.fields(cls) if hasattr(config, f.name))
        return cls(**{name: getattr(config, name) for name in names} | changes)

    def planned(self, images: int) -> tuple[int, int]:
        """Return (epochs, the last perhaps a part; updates) for a number of images."""
        per_epoch = -(-images // self.batch_size)
        if self.iterations is None:
            return self.epochs, self.epochs * per_epoch
        return -(-self.iterations // per_epoch), self.iterations


@dataclass(frozen=True)
class Enough:
    """What "auto" means where a number of epochs is asked for: a small set is gone over more often."""

    epochs: int  # at least
    images: int  # that are learned from at least, all epochs together
    most: int  # epochs, however small the set is

    def of(self, epochs: int | Literal["auto"], images: int) -> int:
        """The number of epochs for so many images."""
        if epochs != "auto":
            return epochs
        return max(self.epochs, min(self.most, math.ceil(self.images / max(1, images))))


Key = tuple[int, int]  # (epoch, index of the image)
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of the network, images and targets of a batch
Groups = tuple[list[nn.Parameter], list[nn.Parameter]]  # pretrained and new parameters
# looks at the network after an epoch, knowing the rows before it, and gives more for the log's row
AfterEpoch = Callable[[nn.Module, Sequence[Epoch]], dict[str, Any]]
NoMore = Callable[[Sequence[Epoch]], bool]  # whether, by the log's rows so far, no further epoch is needed
NO_IMAGE = -1  # index of a row that is only there so that a process has one


class EpochDataset(Dataset):
    """Samples by (epoch, index), each with its error text.

    A broken image doesn't end the training: it becomes a blank sample whose target, all `blank`, no loss counts.
    """

    def __init__(self, load: LoadSample, names: Sequence[str], blank: float) -> None:
        self.load = load
        self.names = list(names)
        self.blank = blank
        self._blank_sample: Sample | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: Key) -> tuple[Sample, str, str]:
        """Return the sample, the image's name and "" or what is wrong with it; DataError if no image can be read."""
        epoch, index = key
        if index == NO_IMAGE:
            return self._blank(epoch), "", ""
        try:
            return self.load(epoch, index), self.names[index], ""
        except DataError as error:
            return self._blank(epoch), self.names[index], str(error)

    def _blank(self, epoch: int) -> Sample:
        """A sample of the right shape that doesn't count, made from the first image that can be read."""
        if self._blank_sample is None:
            for index in range(len(self.names)):
                try:
                    image, target = self.load(epoch, index)
                except DataError:
                    continue  # reported when its own turn comes
                self._blank_sample = torch.zeros_like(image), torch.full_like(target, self.blank)
                break
            else:
                raise DataError("training: none of the images can be read; run data check")
        return self._blank_sample


@dataclass
class Batch:
    """One process' part of a batch: rows that count, or else one blank row."""

    images: Tensor  # (B, 3, H, W)
    targets: Tensor
    good: int  # rows that count; 0 = the only row is blank
    errors: list[tuple[str, str]]


def collate(samples: list[tuple[Sample, str, str]]) -> Batch:
    """Stack the samples of a batch, without the blank ones unless there is nothing else."""
    good = [sample for sample, name, error in samples if name and not error]
    errors = [(name, error) for _, name, error in samples if error]
    images, targets = zip(*(good or [samples[0][0]]), strict=True)
    return Batch(torch.stack(images), torch.stack(targets), len(good), errors)


def epoch_batches(
    count: int, batch_size: int, epoch: int, seed: int, rank: int, world: int, weights: Sequence[float] = ()
) -> list[list[Key]]:
    """Return this process' part of every batch of an epoch; the order depends on seed and epoch alone.

    `batch_size` is that of all processes together. The last partial batch is kept; a process for which it has no
    image gets a row that doesn't count. `weights`, one an image, say how often each is drawn instead of once.
    """
    order = drawn_by(weights, rng_for(seed, "draw", epoch)) if len(weights) else list(range(count))
    rng_for(seed, "order", epoch).shuffle(order)
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    return [[(epoch, index) for index in batch[rank::world] or [NO_IMAGE]] for batch in batches]


def drawn_by(weights: Sequence[float], rng: random.Random) -> list[int]:
    """As many indices as there are weights, each as often as its weight's share says, up to less than one draw.

    The weights are laid end to end and read at even steps from a random start (systematic sampling).
    """
    ends = list(itertools.accumulate(weights))
    step = ends[-1] / len(ends)
    start = rng.random()
    return [min(bisect.bisect_right(ends, (start + k) * step), len(ends) - 1) for k in range(len(ends))]


@dataclass(frozen=True)
class Job:
    """What every process of a training needs beside the network; goes to other processes as it is."""

    loss_of: Loss
    load: LoadSample
    names: Sequence[str]
    settings: FitSettings
    folder: StageFolder
    seed: int
    workers: int
    blank: float
    precision: str
    weights: Sequence[float] = ()
    after_epoch: AfterEpoch | None = None
    no_more: NoMore | None = None


def fit(
    module: nn.Module,
    groups: Groups,
    loss_of: Loss,
    load: LoadSample,
    names: Sequence[str],
    settings: FitSettings,
    folder: StageFolder,
    *,
    seed: int,
    execution: Execution,
    blank: float = 255,
    weights: Sequence[float] = (),
    after_epoch: AfterEpoch | None = None,
    no_more: NoMore | None = None,
) -> None:
    """Train `module` in place; continue from the last whole epoch when the folder has a checkpoint.

    `groups` are the pretrained and the new parameters; the latter learn `new_layers_multiplier` times faster.
    Learning rates follow the settings' schedule. `weights`, one an image, say how often each is drawn in an epoch of
    as many images as there are. What `after_epoch` says of the network, after every epoch or a dozen of many, goes
    into the log; `no_more` reads that before each epoch and may end the training. Writes log.jsonl and checkpoint.pt.
    ConfigError where the loss is no number and where the checkpoint was made in another precision.

    On several devices one process each is started (DDP), all on this machine; the result is that of one process up
    to round-off. For that `loss_of` must give the mean over the whole batch (`mean_of_batch`, `shared_counts`), not
    count rows whose target is all `blank`, and, like `load`, be something that pickle can hand over.
    """
    if not names:
        raise ConfigError(f"{folder.path}: there is no image to train on")
    keep_freed_memory()
    job = Job(
        loss_of,
        load,
        names,
        settings,
        folder,
        seed,
        execution.workers,
        blank,
        execution.precision,
        weights,
        after_epoch,
        no_more,
    )
    train = partial(_train, job=job)
    fabric = _fabric(execution)
    if execution.devices == 1:
        train(fabric, module, groups)
    else:
        _launch(fabric, execution.devices, partial(_together, train), module, groups)
    _load_result(module, settings, folder, execution.precision)
    folder.save(precision=execution.precision, device=str(fabric.device))
    module.eval()
    module.to("cpu")
    if fabric.device.type == "cuda":
        torch.cuda.empty_cache()  # for the processes of the next stages


def _load_result(module: nn.Module, settings: FitSettings, folder: StageFolder, precision: str) -> None:
    """Take up what the training left in its checkpoint; there is none where no epoch was asked for."""
    checkpoint = folder.path / "checkpoint.pt"
    if checkpoint.is_file():
        average = averaged(module, settings)
        folder.failures |= _restore(checkpoint, precision, module, average).failures
        if average is not None:
            module.load_state_dict(average.module.state_dict())


def _launch(fabric: Fabric, devices: int, train: Callable[..., None], module: nn.Module, groups: Groups) -> None:
    """Train in several processes, which an interrupt ends; ConfigError with the reason of the one that failed."""
    before = set(active_children())
    try:
        with script_left_out():
            fabric.launch(train, module, groups)
    except ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1].rsplit("Error: ", maxsplit=1)[-1]
        raise ConfigError(f"training on {devices} devices: {reason}") from error
    except ProcessExitedException as error:
        raise ConfigError(
            f"training on {devices} devices: a process was killed (out of memory?), {error}; the same "
            "command goes on; give fewer --devices or --workers, or a smaller batch_size in another --out"
        ) from error
    finally:
        for child in set(active_children()) - before:
            child.kill()


def check_execution(execution: Execution) -> None:
    """Raise ConfigError, before any work, for what can't be had here: devices, precision, processes, a cluster."""
    for option, value, least in (
        ("--devices", execution.devices, 1),
        ("--workers", execution.workers, 0),
        ("--processes", execution.processes, 0),
    ):
        if value < least:
            raise ConfigError(f"{option} {value}: give {least} or more")
    resolve_device(execution.device)
    _fabric(execution)
    if execution.ray is not None:
        from tag2mask.engine.ray_cluster import check_cluster

        check_cluster(Cluster(execution.ray))


def _fabric(execution: Execution) -> Fabric:
    """Fabric for one process, or for one a device; these are started by us, whatever else runs on the cluster."""
    wide: dict[str, Any] = {"strategy": "ddp_spawn", "plugins": [LightningEnvironment()]}
    try:
        return Fabric(
            accelerator=execution.device,
            devices=execution.devices,
            precision=execution.precision,  # type: ignore[arg-type]
            **(wide if execution.devices > 1 else {}),
        )
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"--device {execution.device} --devices {execution.devices} --precision {execution.precision}: "
            + " ".join(str(error).split())
        ) from error


def _together(train: Callable[..., None], *arguments: Any) -> None:
    """Train as one of several processes, and leave the group when all are done: threads of it may not outlive it."""
    train(*arguments)
    distributed.barrier()
    distributed.destroy_process_group()


@dataclass
class State:
    """How far a training is."""

    epoch: int = 0
    iteration: int = 0
    failures: dict[str, str] = dataclasses.field(default_factory=dict)  # what was wrong with images, of all processes


def _train(fabric: Fabric, module: nn.Module, groups: Groups, *, job: Job) -> None:
    """One process' part of the training; the checkpoint of the last epoch is its result."""
    settings, folder = job.settings, job.folder
    module.to(fabric.device)  # before the optimiser, whose restored state goes where its parameters are
    optimiser = make_optimiser(groups, settings)
    average = averaged(module, settings)
    state = State()
    checkpoint = folder.path / "checkpoint.pt"
    if checkpoint.is_file():
        state = _restore(checkpoint, job.precision, module, average, optimiser)
    wrapped = fabric.setup(module, optimiser)
    module.train()
    epochs = settings.planned(len(job.names))[0]
    for epoch in range(state.epoch, epochs):
        if _no_more(fabric, job, epoch):
            break
        started = time.monotonic()
        with _remedies(job):
            losses = _epoch(fabric, wrapped, optimiser, job, state, average)
        _refuse_diverged(_size_of(module), job, epoch)
        state.epoch, state.failures = epoch + 1, _of_all(state.failures)
        seconds, rate = round(time.monotonic() - started, 2), optimiser.param_groups[0]["lr"]
        if fabric.is_global_zero:
            more = {}
            if job.after_epoch is not None and looked_at(epoch, epochs):
                more = job.after_epoch(module, epochs_in(folder.path)[:epoch])
                module.train()
            append_epoch(folder.path, Epoch(epoch + 1, state.iteration, _mean(losses), rate, seconds, **more))
            _save_checkpoint(checkpoint, job.precision, module, optimiser, state, average)
            folder.save()


def _no_more(fabric: Fabric, job: Job, epoch: int) -> bool:
    """Whether the rows of the `epoch` epochs so far say that no other is needed; the same in every process."""
    if job.no_more is None:
        return False
    told = fabric.is_global_zero and job.no_more(epochs_in(job.folder.path)[:epoch])
    return float(summed(torch.tensor(float(told), device=fabric.device))) > 0


def looked_at(epoch: int, epochs: int) -> bool:
    """Whether the network is looked at after an epoch, from 0: at most `LOOKS` times, the last time at the end."""
    return (epochs - 1 - epoch) % math.ceil(epochs / LOOKS) == 0


def _epoch(
    fabric: Fabric, wrapped: tuple[Any, Any], optimiser: Any, job: Job, state: State, average: AveragedModel | None
) -> list[float]:
    """Run the epoch that comes next; returns each step's loss, counts steps and notes failures in `state`."""
    epoch, settings, count = state.epoch, job.settings, len(job.names)
    torch.manual_seed(seed_for(job.seed, "epoch", epoch) % 2**32)
    batches = epoch_batches(
        count, settings.batch_size, epoch, job.seed, fabric.global_rank, fabric.world_size, job.weights
    )
    epochs, iterations = settings.planned(count)
    batches = batches[: iterations - state.iteration]
    loader: Iterable[Batch] = _loaded(job, batches)
    if fabric.is_global_zero:
        loader = track(loader, total=len(batches), description=f"epoch {epoch + 1}/{epochs}")
    losses = []
    for batch in loader:
        state.failures |= dict(batch.errors)
        set_learning_rate(optimiser, settings, state.iteration, iterations)
        if summed(torch.tensor(float(batch.good), device=fabric.device)) > 0:  # the same in every process
            losses.append(_step(fabric, *wrapped, job.loss_of, batch, settings.accumulate, job.blank))
            _refuse_diverged(losses[-1], job, epoch)
            if average is not None:
                average.update_parameters(wrapped[0].module)
        state.iteration += 1
    return losses


def _loaded(job: Job, batches: list[list[Key]]) -> Iterator[Batch]:
    """The epoch's batches in order, loaded ahead by the job's worker processes."""
    loader = DataLoader(
        EpochDataset(job.load, job.names, job.blank),
        batch_sampler=batches,
        num_workers=job.workers if may_start_processes() else 0,
        collate_fn=collate,
    )
    with script_left_out():
        started = iter(loader)
    yield from started


@contextmanager
def _remedies(job: Job) -> Iterator[None]:
    """Say in one line what a user can do about what ends a training from outside."""
    place = job.folder.path
    try:
        yield
    except Tag2MaskError as error:
        text = str(error)
        if "\n" not in text:
            raise
        raise type(error)(text.strip().splitlines()[-1].rpartition("Error: ")[2]) from error  # of a loading process
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise ConfigError(
                f"{place}: training: out of memory; the same command goes on where it stopped. If it happens again, "
                "set a smaller batch_size, crop_size or a larger accumulate in another --out"
            ) from error
        if "DataLoader worker (pid" in str(error):
            raise ConfigError(
                f"{place}: training: a process that loads images was killed (too little memory, or shared memory "
                "in a container: --shm-size); the same command goes on where it stopped, with --workers 0 without "
                "such processes"
            ) from error
        raise


def _refuse_diverged(value: float, job: Job, epoch: int) -> None:
    """Raise ConfigError for a loss or weights that are no number any more."""
    if not math.isfinite(value):
        raise ConfigError(
            f"{job.folder.path}: training: the loss became {value} in epoch {epoch + 1}; set a lower learning_rate "
            f"than {job.settings.learning_rate:g}, in another --out or after deleting this folder"
        )


def _step(
    fabric: Fabric, module: Any, optimiser: Any, loss_of: Loss, batch: Batch, accumulate: int = 1, blank: float = 255
) -> float:
    """One update; returns the whole batch's loss, the mean of its parts by their rows.

    Nothing is updated where it is no number.
    """
    images, targets = fabric.to_device((batch.images, batch.targets))
    optimiser.zero_grad()
    value = 0.0
    for part in range(accumulate):
        pixels, truth = images[part::accumulate], targets[part::accumulate]
        share = len(pixels) / len(images)
        if not len(pixels):  # every process must go through every part
            pixels, truth = images[:1], torch.full_like(targets[:1], blank)
        with fabric.no_backward_sync(module, enabled=part < accumulate - 1):
            loss = share * loss_of(module, pixels.contiguous(memory_format=torch.channels_last), truth)
            value += float(summed(loss)) / rank_count()  # DDP averages over processes, so the loss is their mean
            if not math.isfinite(value):
                return value
            fabric.backward(loss)
    optimiser.step()
    return value


def _size_of(module: nn.Module) -> float:
    """Mean size of the weights; no number where any of them is none."""
    return float(torch.stack([p.detach().abs().mean(dtype=torch.float32) for p in module.parameters()]).mean())


def _of_all(failures: dict[str, str]) -> dict[str, str]:
    """The failures of all processes, in one order whatever their number."""
    parts: list[Any] = [failures] * rank_count()
    if rank_count() > 1:
        distributed.all_gather_object(parts, failures)
    merged = {name: error for part in parts for name, error in part.items()}
    return dict(sorted(merged.items()))


def make_optimiser(groups: Groups, settings: FitSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over (pretrained, new) parameter groups."""
    rates = (settings.learning_rate, settings.learning_rate * settings.new_layers_multiplier)
    parameters = [{"params": p, "lr": lr, "base_lr": lr} for p, lr in zip(groups, rates, strict=True)]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr=rates[0], momentum=settings.momentum, weight_decay=settings.weight_decay)


def set_learning_rate(optimiser: torch.optim.Optimizer, settings: FitSettings, iteration: int, total: int) -> None:
    """Set the rates of an update: their base times what the schedule says of it."""
    factor = learning_rate_factor(settings, iteration / total)
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rate_factor(settings: FitSettings, done: float) -> float:
    """What the learning rates are multiplied by after the share `done` (0..1) of the updates.

    poly: (1 - done) ** power. one_cycle: half a cosine up from 1/25 during `warmup`, then half a cosine down to 0
    (Smith and Topin, 2018).
    """
    if settings.schedule == "poly":
        return (1 - done) ** settings.power
    if done < settings.warmup:
        return 1 + (ONE_CYCLE_START - 1) * _half_cosine(done / settings.warmup)
    return _half_cosine((done - settings.warmup) / (1 - settings.warmup))


def _half_cosine(done: float) -> float:
    """From 1 down to 0."""
    return (1 + math.cos(math.pi * done)) / 2


def averaged(module: nn.Module, settings: FitSettings) -> AveragedModel | None:
    """A moving average of the module's parameters, None where none is asked for; it forgets faster at first."""
    if not settings.average:
        return None

    def step(before: Tensor, now: Tensor, count: Tensor | int) -> Tensor:
        decay = min(settings.average, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(now, before, decay)

    return AveragedModel(module, avg_fn=step)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _save_checkpoint(
    path: Path, precision: str, module: nn.Module, optimiser: Any, state: State, average: AveragedModel | None
) -> None:
    values = {
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "precision": precision,
        "state": dataclasses.asdict(state),
        **({} if average is None else {"average": average.state_dict()}),
    }
    with atomic_write(path) as temporary:
        torch.save(values, temporary)


def _restore(
    path: Path,
    precision: str,
    module: nn.Module,
    average: AveragedModel | None = None,
    optimiser: torch.optim.Optimizer | None = None,
) -> State:
    values = torch.load(path, map_location="cpu", weights_only=True)
    before = values.get("precision", precision)
    if before != precision:
        raise ConfigError(f"{path}: was trained so far with --precision {before}; go on with that, not {precision}")
    module.load_state_dict(values["module"])
    if average is not None:
        average.load_state_dict(values["average"])
    if optimiser is not None:
        optimiser.load_state_dict(values["optimiser"])
    return State(**values["state"])
