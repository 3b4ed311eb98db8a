"""Stage 1: train the image classifier on image-level labels (method section 1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_average_precision

from tag2mask.common.errors import DataError
from tag2mask.common.progress import track
from tag2mask.common.ranks import mean_of_batch
from tag2mask.common.seeding import rng_for
from tag2mask.config import Free, Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, read_image
from tag2mask.data.transforms import Draws, augment, resize_long, to_tensor
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.loop import FitSettings, Sample, fit
from tag2mask.networks import CAMClassifier, build_classifier, load_module, save_module
from tag2mask.run.folder import read_manifest
from tag2mask.stages.stage import Context, Planned, Stage


@dataclass(frozen=True)
class ClassifierConfig(Settings):
    """Settings of the classifier; defaults are the RIB reference's for VOC 2012."""

    backbone: Annotated[str, Free("timm's names; the first thing that a run builds")] = "resnet50"
    # "auto", "none" (random) or a file's path
    weights: Annotated[str, Free("a path; the first thing that a run loads")] = "auto"
    epochs: Annotated[int, Range(ge=0, le=100_000)] = 5  # reference
    batch_size: Annotated[int, Range(ge=1, le=8192)] = 16  # images, of all processes together (reference)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Range(gt=0, le=1000)] = 0.1  # of the backbone's head (reference)
    # the 1x1 convolution learns at 1.0 (reference)
    new_layers_multiplier: Annotated[float, Range(ge=0, le=1_000_000)] = 10.0
    weight_decay: Annotated[float, Range(ge=0, le=1000)] = 1e-4  # reference
    # the reference passes its weight decay as momentum: in effect none
    momentum: Annotated[float, Range(ge=0, lt=1)] = 1e-4
    power: Annotated[float, Range(ge=0, le=1000)] = 0.9  # of the polynomial decay (reference)
    # long side drawn from this range (reference)
    long_side_min: Annotated[int, Range(ge=1, le=8192, note="pixels")] = 320
    long_side_max: Annotated[int, Range(ge=1, le=8192, note="pixels")] = 640
    crop_size: Annotated[int, Range(ge=1, le=4096, note="pixels")] = 512  # reference

    def check_relations(self) -> None:
        """Raise ConfigError for an empty range of sizes."""
        if self.long_side_min > self.long_side_max:
            raise SettingError(
                self, ("long_side_min", "long_side_max"), f"at most long_side_max, {self.long_side_max}"
            )


def train_classifier(
    dataset: Dataset, out: Path, config: ClassifierConfig, *, seed: int = 0, execution: Execution | None = None,
    validation: Dataset | None = None,
) -> CAMClassifier:  # fmt: skip
    """Train on the images and labels of `dataset`; write weights.safetensors, log.jsonl and a manifest to `out`.

    Masks are never read. Resumes from the last whole epoch. `validation`, where given, is only for reporting the
    mean average precision of the tags. Raises ConfigError, DataError, WeightsError.
    """
    execution = execution or Execution()
    inputs = {"dataset": dataset.digest()}
    folder = STAGE.open(out, config, seed=seed, inputs=inputs)
    if folder.finished:
        return load_classifier(out)
    classifier = build_classifier(config.backbone, len(dataset.classes), config.weights, seed=seed)
    classifier = classifier.to(memory_format=torch.channels_last)
    settings = FitSettings.of(config)
    load = Samples(dataset.records, len(dataset.classes), config, seed)
    names = [record.id for record in dataset.records]
    fit(classifier, classifier.tuned_parameters(), classification_loss, load, names, settings, folder,
        seed=seed, execution=execution, blank=-1)  # fmt: skip
    save_module(classifier, out / "weights.safetensors")
    more: dict[str, object] = {"classes": list(dataset.classes)}
    if validation is not None and len(validation):
        device = resolve_device(execution.device)
        more["validation_map"] = mean_average_precision(classifier, validation, config.long_side_max, device)
        more["validation_images"] = len(validation)
    folder.finish((name for name in names if name not in folder.failures), **more)
    (out / "checkpoint.pt").unlink(missing_ok=True)  # last: without it a killed training would begin anew
    return classifier


def classification_loss(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Multi-label soft-margin loss of logits (B, C) against labels (B, C) in {0, 1}; rows below 0 don't count.

    In training over several processes it is the mean over the whole batch.
    """
    losses = F.multilabel_soft_margin_loss(module(images), labels, reduction="none")  # (B,)
    counted = (labels >= 0).all(dim=1)
    return mean_of_batch(losses[counted].sum(), counted.sum())


def label_vector(record: ImageRecord, n_classes: int) -> Tensor:
    """Labels as a vector (C,) of 0 and 1."""
    vector = torch.zeros(n_classes)
    vector[list(record.labels)] = 1.0
    return vector


@dataclass(frozen=True)
class Samples:
    """The training samples by epoch and index; a class, so that it can be handed to other processes."""

    records: tuple[ImageRecord, ...]
    n_classes: int
    config: ClassifierConfig
    seed: int

    def __call__(self, epoch: int, index: int) -> Sample:
        """Image (3, crop, crop) and labels (C,)."""
        return load_sample(self.records[index], self.n_classes, self.config, self.seed, epoch)


def load_sample(record: ImageRecord, n_classes: int, config: ClassifierConfig, seed: int, epoch: int) -> Sample:
    """Decode and augment one image; the draws depend on seed, epoch and the image's id alone."""
    image = read_image(record)
    rng = rng_for(seed, "augment", epoch, record.id)
    sides = (config.long_side_min, config.long_side_max)
    draws = Draws.draw(rng, (image.shape[0], image.shape[1]), long_side=sides, crop_size=config.crop_size)
    return torch.from_numpy(augment(image, draws, config.crop_size)), label_vector(record, n_classes)


@torch.no_grad()
def mean_average_precision(
    classifier: CAMClassifier, dataset: Dataset, long_side: int, device: torch.device | None = None
) -> float:
    """Mean average precision (0..1) of the tags on `dataset`, each image whole with its long side at `long_side`.

    Over the classes that occur there; NaN when no image can be read. Computed on `device` (default: the CPU) in
    float32, whatever the training's precision; `classifier` comes back in float32 on the CPU.
    """
    device = device or torch.device("cpu")
    classifier = classifier.float().to(device)
    logits, labels = [], []
    for record in track(dataset.records, total=len(dataset), description="tags of held-out images"):
        try:
            image = resize_long(read_image(record), long_side)
        except DataError:
            continue  # reported where the image is used; here it only lacks from an average
        logits.append(classifier(to_tensor(image)[None].to(device))[0].cpu())
        labels.append(label_vector(record, len(dataset.classes)).int())
    classifier.to("cpu")
    if not logits:
        return math.nan
    present = torch.stack(labels).any(dim=0)
    scores, truth = torch.stack(logits), torch.stack(labels)
    found = [binary_average_precision(scores[:, c], truth[:, c]) for c in present.nonzero().flatten()]
    return float(torch.stack(found).mean())


def load_classifier(folder: Path) -> CAMClassifier:
    """Load the classifier that `train_classifier` wrote to `folder`."""
    manifest = read_manifest(folder, "train-classifier")
    classifier = build_classifier(manifest["config"]["backbone"], len(manifest["classes"]), "none")
    load_module(classifier, folder / "weights.safetensors")
    return classifier.to(memory_format=torch.channels_last)


def _entries(context: Context) -> Iterable[Planned]:
    train = context.train
    heading = f"classifier: {len(train)} images, {len(train.classes)} classes"
    yield Planned(STAGE, "classifier", context.recipe.classifier, heading=heading)


def _run(entry: Planned, context: Context) -> None:
    train_classifier(
        context.train,
        context.out / entry.folder,
        entry.config,
        seed=context.seed,
        execution=context.execution,
        validation=context.val,
    )


STAGE = Stage(
    name="train-classifier",
    title="Train classifier",
    config=ClassifierConfig,
    entries=_entries,
    run=_run,
    per_image=False,
)
