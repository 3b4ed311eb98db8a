"""Stage 4: train DeepLabV2 on pseudo-masks (or on true masks, as the upper bound)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import digest_value
from tag2mask.common.seeding import rng_for
from tag2mask.config import Free, Range, SettingError, Settings, to_mapping
from tag2mask.data import Dataset, ImageRecord, read_image, read_mask, resize_labels
from tag2mask.data.transforms import joint_augment
from tag2mask.networks import DeepLabV2, build_backbone, load_module, save_module, segmentation_loss
from tag2mask.stages.folder import StageFolder, read_manifest, started_without
from tag2mask.stages.training import Execution, FitSettings, Sample, fit


@dataclass(frozen=True)
class SegmenterConfig(Settings):
    """Settings of the segmentation network; defaults are those of the paper's line of work on VOC 2012."""

    backbone: Annotated[str, Free("timm's names; built once before anything is computed")] = "resnet101"
    # ImageNet weights: "auto", "none" or a file's path
    weights: Annotated[str, Free("a path; loaded once before anything is computed")] = "auto"
    output_stride: Literal[8, 16] = 8
    frozen_trunk: bool = False  # leave the parts up to stride 8 unchanged: cheaper, a little worse
    epochs: Annotated[int, Range(ge=0, le=100_000)] = 28  # 30k iterations of 10 images on 10,582
    # stop after so many updates, instead of after `epochs`
    iterations: Annotated[int | None, Range(ge=1, le=1_000_000_000)] = None
    batch_size: Annotated[int, Range(ge=1, le=8192)] = 10  # images, of all processes together
    # parts in which a batch goes through the network, to save memory; averages are then by part
    accumulate: Annotated[int, Range(ge=1, le=8192)] = 1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Range(gt=0, le=1000)] = 2.5e-4  # of the backbone
    new_layers_multiplier: Annotated[float, Range(ge=0, le=1_000_000)] = 10.0  # of the four classifiers
    weight_decay: Annotated[float, Range(ge=0, le=1000)] = 5e-4  # DeepLabV2
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9  # DeepLabV2
    power: Annotated[float, Range(ge=0, le=1000)] = 0.9  # of the polynomial decay
    crop_size: Annotated[int, Range(ge=1, le=4096, note="pixels")] = 321  # COCO: 481
    scale_min: Annotated[float, Range(gt=0, le=8)] = 0.5  # random scale of the image
    scale_max: Annotated[float, Range(gt=0, le=8)] = 2.0
    balanced: bool = True  # average foreground and background pixels apart

    def check_relations(self) -> None:
        """Raise ConfigError for an empty range of scales and for more parts of a batch than it has images."""
        if self.scale_min > self.scale_max:
            raise SettingError(self, ("scale_min", "scale_max"), f"at most scale_max, {self.scale_max}")
        if self.accumulate > self.batch_size:
            raise SettingError(self, ("accumulate", "batch_size"), f"at most batch_size, {self.batch_size}")


NO_MASK = "has no mask"


def mask_table(dataset: Dataset) -> dict[str, str]:
    """Digest of how true masks are read, for the manifest of what learns from them."""
    return {"mask_table": digest_value([int(value) for value in dataset.mask_lut])}


def absent(dataset: Dataset) -> dict[str, Any]:
    """What a manifest means that doesn't name a setting or an input."""
    return {"config": to_mapping(SegmenterConfig()), "inputs": mask_table(dataset)}


def check(config: SegmenterConfig, n_labels: int) -> None:
    """Build the network with its weights, so that what is missing shows before hours of work.

    Raises ConfigError for an unknown backbone, WeightsError for weights that are missing or don't fit.
    """
    build_segmenter(config, n_labels, config.weights)


def train_segmenter(
    dataset: Dataset, masks: Path | None, out: Path, config: SegmenterConfig, *, seed: int = 0,
    execution: Execution | None = None,
) -> DeepLabV2:  # fmt: skip
    """Train on `masks`/ID.png (a stage's folder with masks/), or with None on the data set's true masks.

    Writes weights.safetensors, log.jsonl and a manifest to `out`; resumes from the last whole epoch. Images without
    a mask are noted and skipped, and don't join a training that was begun without them. Raises ConfigError,
    DataError, WeightsError.
    """
    execution = execution or Execution()
    source = "true masks (upper bound)" if masks is None else "pseudo-masks"
    paths = mask_paths(dataset, masks)
    if masks is None:
        inputs = mask_table(dataset)
    else:
        manifest = read_manifest(masks, "refine")
        inputs = {"masks_config": digest_value([manifest["config"], manifest["inputs"]])}
        late = started_without(out, NO_MASK)
        paths = {image_id: path for image_id, path in paths.items() if image_id not in late}
    inputs |= {"dataset": dataset.digest(), "masks": source, "images": digest_value(sorted(paths))}
    folder = StageFolder(out, "train-segmenter", config=to_mapping(config), seed=seed, inputs=inputs,
                         absent=absent(dataset))  # fmt: skip
    if folder.finished:
        return load_segmenter(out)
    for record in dataset.records:
        if record.id not in paths:
            folder.fail(record.id, NO_MASK)
    folder.save(without=sorted(folder.failures))
    records = [record for record in dataset.records if record.id in paths]
    lut = dataset.mask_lut if masks is None else None
    network = build_segmenter(config, len(dataset.classes) + 1, config.weights, seed)

    load = Samples(tuple(records), paths, lut, config, seed)
    loss_of = partial(_loss, balanced=config.balanced)
    settings = FitSettings.of(config)
    names = [record.id for record in records]
    fit(network, network.parameter_groups(), loss_of, load, names, settings, folder, seed=seed, execution=execution)
    save_module(network, out / "weights.safetensors")
    folder.finish((n for n in names if n not in folder.failures), classes=list(dataset.classes), trained_on=source)
    (out / "checkpoint.pt").unlink(missing_ok=True)  # last: without it a killed training would begin anew
    return network


def _loss(module: nn.Module, images: Tensor, labels: Tensor, *, balanced: bool) -> Tensor:
    return segmentation_loss(module(images), labels, balanced=balanced)


@dataclass(frozen=True)
class Samples:
    """The training samples by epoch and index; a class, so that it can be handed to other processes."""

    records: tuple[ImageRecord, ...]
    masks: dict[str, Path]
    lut: np.ndarray | None
    config: SegmenterConfig
    seed: int

    def __call__(self, epoch: int, index: int) -> Sample:
        """Image (3, crop, crop) and labels (crop, crop); the draws depend on seed, epoch and the image's id alone."""
        record, config = self.records[index], self.config
        image, mask = read_image(record), read_mask(self.masks[record.id], self.lut)
        if record.long_side is not None:  # the mask has the photo's own size
            mask = resize_labels(mask, image.shape[:2])
        rng = rng_for(self.seed, "segment", epoch, record.id)
        pixels, labels = joint_augment(image, mask, rng, crop_size=config.crop_size,
                                       scales=(config.scale_min, config.scale_max))  # fmt: skip
        return torch.from_numpy(pixels), torch.from_numpy(labels)


def mask_paths(dataset: Dataset, masks: Path | None) -> dict[str, Path]:
    """Paths of the masks that exist, by image id."""
    if masks is None:
        found = {record.id: record.mask_path for record in dataset.records if record.mask_path is not None}
    else:
        listed = {path.stem if path.suffix == ".png" else "" for path in (masks / "masks").glob("*.png")}
        found = {r.id: masks / "masks" / f"{r.id}.png" for r in dataset.records if r.id in listed}
    if not found:
        raise ConfigError(f"{masks or dataset.name}: no mask for any of the {len(dataset)} images")
    return found


def build_segmenter(config: SegmenterConfig, n_labels: int, weights: str | None, seed: int = 0) -> DeepLabV2:
    """Build DeepLabV2 for `n_labels` = classes + background."""
    backbone = build_backbone(config.backbone, weights, output_stride=config.output_stride, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeepLabV2(backbone, n_labels, output_stride=config.output_stride, frozen_trunk=config.frozen_trunk)
    return network.to(memory_format=torch.channels_last)


def load_segmenter(folder: Path) -> DeepLabV2:
    """Load the network that `train_segmenter` wrote to `folder`."""
    manifest = read_manifest(folder, "train-segmenter")
    config = SegmenterConfig(**manifest["config"])
    network = build_segmenter(config, len(manifest["classes"]) + 1, "none")
    load_module(network, folder / "weights.safetensors")
    return network
