"""Stage 1: train the image classifier on image-level labels (method section 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.ranks import mean_of_batch
from tag2mask.common.seeding import rng_for
from tag2mask.config import Free, Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, image_size, limited_size, read_image
from tag2mask.data.transforms import Draws, augment, scaled_size
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.loop import Enough, FitSettings, Sample, fit
from tag2mask.networks import CAMClassifier, build_classifier, load_module, save_module
from tag2mask.networks.backbones import family_of
from tag2mask.networks.classifier import BatchNorm, Tuned
from tag2mask.networks.families import LAST_STAGE
from tag2mask.networks.pooling import Kind, Pooling
from tag2mask.runs.folder import StageFolder, read_manifest
from tag2mask.runs.log import epochs_in
from tag2mask.runs.tags import tag_figures
from tag2mask.stages.best_epoch import CURVE_IMAGES, Curve, kept, no_better
from tag2mask.stages.criterion import localization_criterion
from tag2mask.stages.learned_tags import warnings_of
from tag2mask.stages.stage import Context, Planned, Stage
from tag2mask.stages.tag_scores import TagScores, figure, mean_of, tag_scores

BEST = "best.safetensors"  # weights of the best epoch so far, while it learns
TELLING = 20  # held-out photos, at least, for keep: auto
DOUBTED_IMAGES = 300  # training photos, class-balanced, that are searched for wrong tags
DOUBTED_SHOWN = 24  # tags in the manifest
ENOUGH = Enough(epochs=6, images=2400, most=24)  # epochs: auto
LARGEST_CROP = 4096  # pixels, where photos are taken whole
CRITERION_IMAGES = 60  # photos with tags, class-balanced, on which is measured where the classifier looks


@dataclass(frozen=True)
class ClassifierConfig(Settings):
    """Settings of the classifier; defaults are the RIB reference's for VOC 2012."""

    backbone: Annotated[str, Free("timm's names; the first thing that a run builds")] = "resnet50"
    # "auto", "none" (random) or a file's path
    weights: Annotated[str, Free("a path; the first thing that a run loads")] = "auto"
    # Which of the backbone's five give the features that class maps are made of: [5], the last (reference), [4] or
    # [4, 5]. A position of the fourth sees less of what is around it, so that maps of small things are sharper.
    stages: Annotated[tuple[int, ...], Range(ge=LAST_STAGE - 1, le=LAST_STAGE, items=(1, 2))] = (LAST_STAGE,)
    # auto: 6, and of fewer than 400 images as many as learn from 2,400, at most 24
    epochs: Annotated[int | Literal["auto"], Range(ge=0, le=100_000)] = 5  # reference
    batch_size: Annotated[int, Range(ge=1, le=8192)] = 16  # images, of all processes together (reference)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Range(gt=0, le=1000)] = 0.1  # of the backbone's head (reference)
    # the 1x1 convolution learns at 1.0 (reference)
    new_layers_multiplier: Annotated[float, Range(ge=0, le=1_000_000)] = 10.0
    weight_decay: Annotated[float, Range(ge=0, le=1000)] = 1e-4  # reference
    # the reference passes its weight decay as momentum: in effect none
    momentum: Annotated[float, Range(ge=0, lt=1)] = 1e-4
    schedule: Literal["poly", "one_cycle"] = "poly"  # of the learning rates: polynomial decay (reference)
    power: Annotated[float, Range(ge=0, le=1000)] = 0.9  # of the polynomial decay (reference)
    # Which epoch's weights are the result: the last's (reference), or the best's, by tags of held-out photos. auto:
    # the best's where these are 20 or more and have no masks, so that nothing is chosen by photos that scores are of.
    keep: Literal["last", "best", "auto"] = "last"
    # looks at the held-out photos, after an epoch each or a dozen of many, without a better one, behind which the
    # training ends; null: never. Only where the best epoch is kept.
    patience: Annotated[int | None, Range(ge=1, le=100_000)] = None
    # How positions are joined to a logit; the parameter of each and its source: networks/pooling.py
    pooling: Kind = "average"  # reference
    # null = the pooling's own default
    pooling_parameter: Annotated[float | None, Range(gt=0, le=1000)] = None
    # "head": stages up to stride 8 are frozen (reference). "late": those up to stride 4. "all": none.
    tuned: Tuned = "head"
    batch_norm: BatchNorm = "fixed"  # to the pretrained statistics (reference), or trained with the rest
    # 0: every photo once an epoch (reference). 1: photos are drawn so that each class, and photos without any, come
    # equally often; between them: as far towards that as a power of the counts says.
    balance: Annotated[float, Range(ge=0, le=1)] = 0.0
    # most that pixels' values grow or fall, as a share, drawn for each sample
    brightness: Annotated[float, Range(ge=0, lt=1)] = 0.0
    # the same for each of red, green and blue: the backdrop's tint then tells no class
    colour: Annotated[float, Range(ge=0, lt=1)] = 0.0
    # long side drawn from this range (reference); null for both: as photos are read, which is the size of their maps
    long_side_min: Annotated[int | None, Range(ge=1, le=8192, note="pixels")] = 320
    long_side_max: Annotated[int | None, Range(ge=1, le=8192, note="pixels")] = 640
    # reference; null, with crop: fit: whole photos
    crop_size: Annotated[int | None, Range(ge=1, le=4096, note="pixels")] = 512
    # "square": crop_size x crop_size (reference). "fit": no larger than the set's photos need, so that photos of one
    # shape cost no padding.
    crop: Literal["square", "fit"] = "square"

    def check_relations(self) -> None:
        """Raise ConfigError for an empty range of sizes."""
        keys = ("long_side_min", "long_side_max")
        if (self.long_side_min is None) != (self.long_side_max is None):
            raise SettingError(self, keys, "null for both, or for neither")
        if self.long_sides is not None and self.long_sides[0] > self.long_sides[1]:
            raise SettingError(self, keys, f"at most long_side_max, {self.long_side_max}")
        if sorted(set(self.stages)) != list(self.stages):
            raise SettingError(self, ("stages",), "[5], [4] or [4, 5]")
        if self.crop_size is None and self.crop == "square":
            raise SettingError(self, ("crop_size", "crop"), "a number of pixels where crop is square")
        if self.pooling in ("top-share", "ranking") and (self.pooling_parameter or 0) > 1:
            raise SettingError(
                self, ("pooling_parameter", "pooling"), f"at most 1 for {self.pooling}, as a share of the positions"
            )

    @property
    def long_sides(self) -> tuple[int, int] | None:
        """The range that long sides are drawn from; None = as photos are read."""
        if self.long_side_min is None or self.long_side_max is None:
            return None
        return self.long_side_min, self.long_side_max

    def epochs_for(self, images: int) -> int:
        """How often a set of so many images is gone over."""
        return ENOUGH.of(self.epochs, images)

    def keeps_best(self, held_out: Dataset | None) -> bool:
        """Whether the best epoch on these photos is kept, and not the last."""
        if self.keep == "last" or held_out is None or not len(held_out):
            return False
        unscored = len(held_out) >= TELLING and all(record.mask_path is None for record in held_out.records)
        return self.keep == "best" or unscored

    def pooled(self) -> Pooling:
        """The pooling with its parameter."""
        return Pooling.of(self.pooling, self.pooling_parameter)


def check(config: ClassifierConfig) -> None:
    """Raise ConfigError for a pooling that the backbone's features don't suit."""
    if config.pooling != "generalised-mean":
        return
    family = family_of(config.backbone)
    if family.signed:
        raise ConfigError(
            "classifier.pooling: 'generalised-mean' is a power mean of features, of which "
            f"'{config.backbone}' has as many below 0 as above; expected another pooling, average say, or "
            f"--set backbone={config.backbone} in place of classifier.backbone, which sets all that fits it"
        )
    if config.stages != (LAST_STAGE,) and not family.rectified:
        raise ConfigError(
            "classifier.pooling: 'generalised-mean' is a power mean of features, of which the fourth stage of "
            f"'{config.backbone}' has as many below 0 as above; expected another pooling, log-sum-exp say, or "
            "classifier.stages: [5]"
        )


def train_classifier(
    dataset: Dataset,
    out: Path,
    config: ClassifierConfig,
    *,
    seed: int = 0,
    execution: Execution | None = None,
    validation: Dataset | None = None,
    trial: int | None = None,
) -> CAMClassifier:
    """Train on the images and labels of `dataset`; write weights.safetensors, log.jsonl and a manifest to `out`.

    Masks are never read. Resumes from the last whole epoch. `validation`, where given, is for reporting: the average
    precision of its tags by class, after each epoch and at the end; and where the settings say so, it tells whose
    epoch's weights are kept. The manifest also has the localization criterion, the tags that the classifier
    contradicts most and warnings of classes that it can't have learned. A `trial` has none of these but precision,
    and the criterion on so many photos, at the end. Raises ConfigError, DataError, WeightsError.
    """
    check(config)
    execution = execution or Execution()
    validation = validation if validation is not None and len(validation) else None
    inputs, curve = {"dataset": dataset.digest()}, None
    if validation is not None and trial is None:
        best = out / BEST if config.keeps_best(validation) else None
        curve = Curve(validation.limit(CURVE_IMAGES, seed), config.long_side_max, seed, best)
        inputs |= {"validation": validation.digest()} if best is not None else {}
    folder = STAGE.open(out, config, seed=seed, inputs=inputs)
    if folder.finished:
        return load_classifier(out)
    classifier = _learned(dataset, config, folder, curve, seed, execution)
    save_module(classifier, out / "weights.safetensors")
    device = resolve_device(execution.device)
    learned = what_was_learned(classifier, dataset, validation, config, seed, device, trial)
    if curve is not None and curve.best is not None:
        learned["kept"] = kept(epochs_in(out), config.epochs_for(len(dataset)), len(curve.photos))
    if dataset.own_labels:
        learned["corrected_tags"] = dataset.corrected_tags()
    done = (record.id for record in dataset.records if record.id not in folder.failures)
    folder.finish(done, classes=list(dataset.classes), class_source=dataset.class_source, **learned)
    (out / BEST).unlink(missing_ok=True)
    (out / "checkpoint.pt").unlink(missing_ok=True)  # last: without it a killed training would begin anew
    return classifier


def _learned(
    dataset: Dataset,
    config: ClassifierConfig,
    folder: StageFolder,
    curve: Curve | None,
    seed: int,
    execution: Execution,
) -> CAMClassifier:
    """The trained classifier, with the weights of its last epoch, or of its best where `curve` keeps them."""
    n_classes, best = len(dataset.classes), curve.best if curve is not None else None
    classifier = build_classifier(config.backbone, n_classes, config.weights, seed=seed, stages=config.stages)
    classifier = classifier.to(memory_format=torch.channels_last)
    classifier.pooling = config.pooled()
    classifier.learn(config.tuned, config.batch_norm)
    names = [record.id for record in dataset.records]
    fit(
        classifier,
        classifier.learned_parameters(),
        classification_loss,
        Samples.of(dataset, config, seed),
        names,
        FitSettings.of(config, epochs=config.epochs_for(len(names))),
        folder,
        seed=seed,
        execution=execution,
        blank=-1,
        weights=balanced_weights(dataset.label_matrix(), config.balance),
        after_epoch=curve,
        no_more=partial(no_better, patience=config.patience) if best and config.patience else None,
    )
    classifier.learn()
    if best is not None and best.is_file():
        load_module(classifier, best)
    return classifier


def what_was_learned(
    classifier: CAMClassifier,
    dataset: Dataset,
    validation: Dataset | None,
    config: ClassifierConfig,
    seed: int,
    device: torch.device,
    trial: int | None = None,
) -> dict[str, Any]:
    """Figures on held-out photos, where the classifier looks, tags to doubt, and warnings, for the manifest.

    Of a `trial` the first two, the second on so many photos. Computed in float32 on `device`; `classifier` comes back
    in float32 on the CPU.
    """
    classifier = classifier.float().to(device)
    parts = {}
    if trial is None:
        parts["train"] = tag_scores(classifier, dataset.limit(DOUBTED_IMAGES, seed), config.long_side_max)
    if validation is not None:
        parts["val"] = tag_scores(classifier, validation, config.long_side_max)
    looked_at = validation or dataset
    count = CRITERION_IMAGES if trial is None else trial
    looks = localization_criterion(classifier, looked_at, config.long_side_max, count, seed)
    classifier.to("cpu")
    held_out = parts.get("val")
    found = _held_out_figures(held_out) if held_out is not None else {}
    if trial is not None:
        return found | {"localization_criterion": looks}
    doubted = [row | {"split": split} for split, part in parts.items() for row in part.most_wrong(DOUBTED_SHOWN)]
    doubted.sort(key=lambda row: row["score"] if row["tagged"] else 1 - row["score"])
    return found | {
        "localization_criterion": looks,
        "doubted_tags": doubted[:DOUBTED_SHOWN],
        "warnings": warnings_of(dataset.classes, dataset.label_matrix(), held_out, looks.get("border")),
    }


def _held_out_figures(scores: TagScores) -> dict[str, Any]:
    precision = scores.average_precision()
    return {
        "validation_map": figure(mean_of(precision)),
        "validation_ap": {name: figure(value) for name, value in precision.items()},
        "validation_images": len(scores.ids),
    }


def balanced_weights(labels: np.ndarray, balance: float) -> tuple[float, ...]:
    """How often each photo is drawn, from labels (N, C) bool: as its rarest class asks, to the power of `balance`.

    Photos without any class count as one class more. Empty for 0: each photo once.
    """
    if balance == 0:
        return ()
    groups = np.column_stack([labels, ~labels.any(axis=1)])  # (N, C + 1)
    counts = groups.sum(axis=0)
    rarest = np.where(groups, counts, len(labels)).min(axis=1)  # (N,)
    return tuple((len(labels) / rarest) ** balance)


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
    crop: tuple[int, int]  # (H, W) of a sample
    seed: int

    @classmethod
    def of(cls, dataset: Dataset, config: ClassifierConfig, seed: int) -> Samples:
        """Take the photos of a data set, and their shapes where crops shall fit them."""
        return cls(dataset.records, len(dataset.classes), config, crop_of(dataset.records, config), seed)

    def __call__(self, epoch: int, index: int) -> Sample:
        """Image (3, *crop) and labels (C,)."""
        record = self.records[index]
        return load_sample(record, self.config, self.crop, self.seed, epoch), label_vector(record, self.n_classes)


def load_sample(
    record: ImageRecord, config: ClassifierConfig, crop: tuple[int, int], seed: int, epoch: int
) -> Tensor:
    """Decode and augment one image (3, *crop); the draws depend on seed, epoch and the image's id alone."""
    image = read_image(record)
    rng = rng_for(seed, "augment", epoch, record.id)
    size = (image.shape[0], image.shape[1])
    sides = config.long_sides or (max(size), max(size))
    draws = Draws.draw(rng, size, long_side=sides, crop_size=crop, brightness=config.brightness, colour=config.colour)
    return torch.from_numpy(augment(image, draws, crop))


def crop_of(records: Sequence[ImageRecord], config: ClassifierConfig) -> tuple[int, int]:
    """Sides (H, W) of the training samples: the square, or of it what the largest of the photos fill."""
    most = config.crop_size or LARGEST_CROP
    if config.crop == "square":
        return most, most  # a number there: see check_relations
    sizes = [size for size in map(_size_in_training, records, repeat(config.long_side_max)) if size is not None]
    if not sizes:
        return config.crop_size or 1, config.crop_size or 1  # no photo can be read: each is reported in its turn
    return min(most, max(h for h, _ in sizes)), min(most, max(w for _, w in sizes))


def _size_in_training(record: ImageRecord, long_side: int | None) -> tuple[int, int] | None:
    try:
        size = limited_size(image_size(record.path), record.long_side)
    except DataError:
        return None  # reported when its turn comes
    return size if long_side is None else scaled_size(size, long_side / max(size))


def mean_average_precision(
    classifier: CAMClassifier, dataset: Dataset, long_side: int | None, device: torch.device | None = None
) -> float:
    """Mean average precision (0..1) of the tags on `dataset`, each image whole with its long side at `long_side`
    (None: as it is read).

    Over the classes that occur there; NaN when no image can be read. Computed on `device` (default: the CPU) in
    float32, whatever the training's precision; `classifier` comes back in float32 on the CPU.
    """
    scores = tag_scores(classifier.float().to(device or torch.device("cpu")), dataset, long_side)
    classifier.to("cpu")
    return mean_of(scores.average_precision())


def load_classifier(folder: Path) -> CAMClassifier:
    """Load the classifier that `train_classifier` wrote to `folder`."""
    manifest = read_manifest(folder, "train-classifier")
    made = manifest["config"]
    classifier = build_classifier(made["backbone"], len(manifest["classes"]), "none", stages=stages_of(made))
    load_module(classifier, folder / "weights.safetensors")
    classifier.pooling = pooling_of(made)
    return classifier.to(memory_format=torch.channels_last)


def stages_of(settings: Mapping[str, Any]) -> Sequence[int]:
    """The stages that a manifest's settings name; earlier ones name none and mean the last."""
    return settings.get("stages", (LAST_STAGE,))


def pooling_of(settings: Mapping[str, Any]) -> Pooling:
    """The pooling that a manifest's settings name; earlier ones name none and mean the average."""
    return Pooling.of(settings.get("pooling", "average"), settings.get("pooling_parameter"))


def _check(entry: Planned, context: Context) -> None:
    """Raise ConfigError for a pooling that doesn't fit, and where a best epoch is asked for that nothing can tell."""
    check(entry.config)
    if entry.config.keep == "best" and not context.val:
        raise ConfigError(
            "classifier.keep is 'best', which held-out photos tell, and the set has none; name a split val, set "
            "data.val_fraction above 0, or classifier.keep: auto"
        )


def _entries(context: Context) -> Iterable[Planned]:
    train = context.train
    config = context.recipe.classifier
    epochs = config.epochs_for(len(train))
    heading = f"classifier: {len(train)} images, {len(train.classes)} classes, {epochs} epochs"
    yield Planned(STAGE, "classifier", config, heading=heading)


def _run(entry: Planned, context: Context) -> None:
    out = context.out / entry.folder
    seed, execution = context.seed, context.execution
    train_classifier(context.train, out, entry.config, seed=seed, execution=execution, validation=context.val)
    manifest = read_manifest(out, STAGE.name)
    figures = tag_figures(manifest)
    if figures is not None and (told := figures.in_words()):
        context.say(f"  {told}")
    for warning in manifest.get("warnings", ()):
        context.say(f"! {warning}")


STAGE = Stage(
    name="train-classifier",
    title="Train classifier",
    config=ClassifierConfig,
    entries=_entries,
    run=_run,
    check=_check,
    per_image=False,
)
