"""Train IRN's boundary network on confident labels (method section 4)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import atomic_write, digest_value, ids_in
from tag2mask.common.seeding import rng_for
from tag2mask.config import Free, Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, joint_augment, read_image, read_mask
from tag2mask.data.maps import strided_size
from tag2mask.data.transforms import resize, to_tensor
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.images import Work, process_count, run_images
from tag2mask.engine.loop import FitSettings, Sample, fit
from tag2mask.networks import BoundaryNetwork, boundary_loss, build_boundary_network, load_module, save_module
from tag2mask.runs.folder import StageFolder, read_manifest, started_without
from tag2mask.stages.stage import Context, Planned, Stage, say_late

STRIDE = 4  # image pixels a position of the network's output


@dataclass(frozen=True)
class BoundaryConfig(Settings):
    """Settings of the boundary network; defaults are the RIB reference's for VOC 2012."""

    # timm name; null = the classifier's
    backbone: Annotated[str | None, Free("timm's names; built once before anything is computed")] = None
    # "auto", "none" or a file's path; null = what the classifier started from
    weights: Annotated[str | None, Free("a path; loaded once before anything is computed")] = None
    epochs: Annotated[int, Range(ge=0, le=100_000)] = 3  # reference
    # stop after so many updates, instead of after `epochs`: the same minutes for few photos and many
    iterations: Annotated[int | None, Range(ge=1, le=1_000_000_000)] = None
    batch_size: Annotated[int, Range(ge=1, le=8192)] = 32  # images, of all processes together (reference)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Range(gt=0, le=1000)] = 0.1  # of the edge branch (reference)
    # also learn the displacement, which instance masks need and pseudo-masks don't: twice the time
    displacement: bool = True  # reference
    # the displacement branch learns at 1.0 (reference)
    displacement_multiplier: Annotated[float, Range(ge=0, le=1_000_000)] = 10.0
    weight_decay: Annotated[float, Range(ge=0, le=1000)] = 1e-4  # reference
    # the reference passes its weight decay as momentum: in effect none
    momentum: Annotated[float, Range(ge=0, lt=1)] = 1e-4
    power: Annotated[float, Range(ge=0, le=1000)] = 0.9  # of the polynomial decay (reference)
    crop_size: Annotated[int, Range(ge=1, le=4096, note="pixels")] = 512  # reference
    scale_min: Annotated[float, Range(gt=0, le=8)] = 0.5  # random scale of the image (reference)
    scale_max: Annotated[float, Range(gt=0, le=8)] = 1.5
    # positions of 4 pixels; pairs nearer than this are compared (reference)
    radius: Annotated[int, Range(ge=2, le=64, note="(a smaller one reaches no neighbour)")] = 10

    def check_relations(self) -> None:
        """Raise ConfigError for an empty range of scales and for crops without a single pair of pixels."""
        if self.scale_min > self.scale_max:
            raise SettingError(self, ("scale_min", "scale_max"), f"at most scale_max, {self.scale_max}")
        side = 2 * self.radius - 1  # positions that the pairs of one pixel span
        if -(-self.crop_size // STRIDE) < side:
            needed = f"{STRIDE * (side - 1) + 1} or more pixels with radius {self.radius}"
            raise SettingError(self, ("crop_size", "radius"), needed)


NO_LABELS = "has no confident labels"


def check(config: BoundaryConfig) -> None:
    """Build the network with its weights, so that what is missing shows before hours of work.

    Raises ConfigError for an unknown backbone, WeightsError for weights that are missing or don't fit.
    """
    build_boundary_network(backbone_of(config), config.weights)


def backbone_of(config: BoundaryConfig) -> str:
    """The backbone's name; ConfigError without one."""
    if config.backbone is None:
        raise ConfigError("boundary.backbone is not set; name a backbone, e.g. the classifier's")
    return config.backbone


def train_boundary(
    dataset: Dataset,
    confident: Path,
    out: Path,
    config: BoundaryConfig,
    *,
    seed: int = 0,
    execution: Execution | None = None,
) -> BoundaryNetwork:
    """Train on `confident`/masks/ID.png; write weights.safetensors, log.jsonl and a manifest to `out`.

    `config.backbone` and `config.weights` must be given here. Resumes from the last whole epoch; images without
    labels are noted and skipped, and don't join a training that was begun without them. True masks are never read.
    Raises ConfigError, DataError, WeightsError.
    """
    execution = execution or Execution()
    backbone = backbone_of(config)
    manifest = read_manifest(confident, "confident")
    there = ids_in(confident / "masks", ".png")
    late = started_without(out, NO_LABELS)
    ids = [record.id for record in dataset.records if record.id in there and record.id not in late]
    paths = {image_id: confident / "masks" / f"{image_id}.png" for image_id in ids}
    inputs = {"dataset": dataset.digest(), "images": digest_value(sorted(paths))}
    inputs["labels_config"] = digest_value([manifest["config"], manifest["inputs"]])
    folder = STAGE.open(out, config, seed=seed, inputs=inputs)
    if folder.finished:
        return load_boundary(out)
    for record in dataset.records:
        if record.id not in paths:
            folder.fail(record.id, NO_LABELS)
    folder.save(without=sorted(folder.failures))
    records = [record for record in dataset.records if record.id in paths]
    network = build_boundary_network(backbone, config.weights, seed=seed, displacement=config.displacement)
    network = network.to(memory_format=torch.channels_last)
    load = Samples(tuple(records), paths, config, seed)
    loss_of = partial(total_loss, radius=config.radius)
    settings = FitSettings.of(config, new_layers_multiplier=config.displacement_multiplier)
    names = [record.id for record in records]
    fit(network, network.parameter_groups(), loss_of, load, names, settings, folder, seed=seed, execution=execution)
    if config.displacement:
        _store_mean_shift(network, records, folder, execution)
    else:
        save_module(network, out / "weights.safetensors")
    folder.finish((name for name in names if name not in folder.failures), classes=list(dataset.classes))
    (out / "checkpoint.pt").unlink(missing_ok=True)
    return network


def total_loss(module: nn.Module, images: Tensor, labels: Tensor, *, radius: int) -> Tensor:
    """All losses of a batch together: affinity of alike and different pairs, displacement."""
    edge_logits, displacement = module(images)
    return boundary_loss(edge_logits, displacement, labels, radius).total


@dataclass(frozen=True)
class Samples:
    """The training samples by epoch and index; a class, so that it can be handed to other processes."""

    records: tuple[ImageRecord, ...]
    labels: dict[str, Path]
    config: BoundaryConfig
    seed: int

    def __call__(self, epoch: int, index: int) -> Sample:
        """Image (3, crop, crop) and labels (ceil(crop/4), ceil(crop/4)) int64, taken to stride 4 by nearest.

        The draws depend on seed, epoch and the image's id alone. Padding is 255, that is, in no pair.
        """
        record, config = self.records[index], self.config
        image, mask = read_image(record), read_mask(self.labels[record.id])
        rng = rng_for(self.seed, "boundary", epoch, record.id)
        scales = (config.scale_min, config.scale_max)
        pixels, mask = joint_augment(image, mask, rng, crop_size=config.crop_size, scales=scales)
        small = resize(mask, strided_size((config.crop_size, config.crop_size), STRIDE), nearest=True)
        return torch.from_numpy(pixels), torch.from_numpy(small.astype(np.int64))


def load_boundary(folder: Path, *, unfinished: bool = False) -> BoundaryNetwork:
    """Load the network that `train_boundary` wrote to `folder`; `unfinished`: before its mean shift is known."""
    manifest = read_manifest(folder, "train-boundary", unfinished=unfinished)
    config = manifest["config"]
    network = build_boundary_network(config["backbone"], "none", displacement=config.get("displacement", True))
    load_module(network, folder / "weights.safetensors")
    return network.to(memory_format=torch.channels_last)


def with_mirror(image: np.ndarray, device: str | torch.device) -> Tensor:
    """The image (H, W, 3) uint8 and its mirror as network input (2, 3, H, W)."""
    pixels = to_tensor(image)
    views = torch.stack([pixels, pixels.flip(2)])
    return views.to(device).contiguous(memory_format=torch.channels_last)


def _store_mean_shift(
    network: BoundaryNetwork, records: list[ImageRecord], folder: StageFolder, execution: Execution
) -> None:
    """Store the displacement's mean over the training images in the network and write the network's weights.

    Losses only know displacement differences, so a constant is left over. The reference averages over padded crops,
    padding included, and drops the last partial batch; here every position of every whole image counts once.
    """
    weights, parts = folder.path / "weights.safetensors", folder.path / "displacement"
    network.mean_shift.zero_()
    save_module(network, weights)
    good = {record.id: record for record in records if record.id not in folder.failures}
    todo = [image_id for image_id in good if not (parts / f"{image_id}.npy").is_file()]
    device = resolve_device(execution.device)
    processes = process_count(execution.processes, len(todo), device.type)
    run_images(
        todo,
        make_displacement,
        (good, folder.path, parts, str(device)),
        folder,
        processes=processes,
        total=len(good),
        description="mean displacement",
        cluster=execution.cluster(device),
        here_first=not execution.processes and device.type == "cpu",
    )
    # a broken image has no file; sums are added in the data set's order, whatever order they came in
    files = [parts / f"{image_id}.npy" for image_id in good if image_id not in folder.failures]
    if not files:
        raise DataError(f"{folder.path}: none of the training images can be read; run data check")
    total = np.sum([np.load(path, allow_pickle=False) for path in files], axis=0)
    network.mean_shift.copy_(torch.from_numpy(total[:2] / total[2]))
    save_module(network, weights)
    shutil.rmtree(parts)


def make_displacement(records: dict[str, ImageRecord], boundary: Path, parts: Path, device: str) -> Work:
    """Return the function that writes one image's sum of displacement (dy, dx) and its number of positions."""
    network = load_boundary(boundary, unfinished=True).to(device)
    crop_size = int(read_manifest(boundary, "train-boundary", unfinished=True)["config"]["crop_size"])

    def work(image_id: str) -> None:
        views = with_mirror(read_image(records[image_id]), device)
        _, displacement = network.infer(views, pad_to=crop_size)  # (2, h, w)
        assert displacement is not None
        sums = displacement.double().sum(dim=(1, 2)).cpu().numpy()
        count = displacement.shape[1] * displacement.shape[2]
        with atomic_write(parts / f"{image_id}.npy") as temporary:
            np.save(temporary, np.append(sums, float(count)), allow_pickle=False)

    return work


def _entries(context: Context) -> Iterable[Planned]:
    from tag2mask.stages.refinements import distinct, refinements_of, spoken  # which imports this module

    for first in distinct(refinements_of(context), "boundary"):
        assert first.confident is not None
        assert first.boundary is not None
        yield Planned(
            STAGE,
            first.boundary,
            first.config.boundary,
            {"confident": first.confident},
            heading=f"boundary network on confident {first.config.maps} labels",
            title=f"{STAGE.title}: {spoken(first.boundary.removeprefix('boundary_'))}",
        )


def _run(entry: Planned, context: Context) -> None:
    labels, out = context.out / entry.reads["confident"], context.out / entry.folder
    train_boundary(context.train, labels, out, entry.config, seed=context.seed, execution=context.execution)
    say_late(context, entry.folder, entry.reads["confident"], NO_LABELS)


STAGE = Stage(
    name="train-boundary",
    title="Train boundary network",
    config=BoundaryConfig,
    entries=_entries,
    run=_run,
    check=lambda entry, context: check(entry.config),
    needs=("confident",),
    idle="no refinement of this run has a boundary network (refine.method: irn does)",
    per_image=False,
)
