"""Stage 4: train the segmentation network on pseudo-masks (or on true masks, as the upper bound)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, DataError, did_you_mean
from tag2mask.common.files import digest_file, digest_value, ids_in, read_object
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for
from tag2mask.config import Free, Range, SettingError, Settings, build
from tag2mask.data import Dataset, ImageRecord, read_image, read_mask, resize_labels
from tag2mask.data.images import at_most
from tag2mask.data.records import printable
from tag2mask.data.transforms import joint_augment, pasted, to_tensor, without_edges
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.loop import Enough, FitSettings, Sample, fit
from tag2mask.networks import (
    ARCHITECTURES,
    LOSSES,
    CAMClassifier,
    build_backbone,
    build_classifier,
    build_segmentation_network,
    load_module,
    save_module,
    segmentation_loss,
)
from tag2mask.networks.decoders import SegmentationNetwork
from tag2mask.networks.pooling import Pooling
from tag2mask.networks.tag_prior import WORTH, ClassifierPrior, TagPrior
from tag2mask.runs.decisions import mask_path
from tag2mask.runs.folder import read_manifest, started_without
from tag2mask.runs.log import FILE, loss_points, read_epochs
from tag2mask.stages.answer import answer_of_logits, combined_logits
from tag2mask.stages.learned_masks import LONG_SIDE, complaint, handful, look
from tag2mask.stages.stage import LAST, Context, Planned, Stage, has_masks, say_late
from tag2mask.stages.train_classifier import load_classifier, stages_of


@dataclass(frozen=True)
class SegmenterConfig(Settings):
    """Settings of the segmentation network; defaults are those of the paper's line of work on VOC 2012."""

    architecture: Annotated[str, Free("a name in networks.ARCHITECTURES, checked below")] = "deeplabv2"
    backbone: Annotated[str, Free("timm's names; built once before anything is computed")] = "resnet101"
    # ImageNet weights: "auto", "none" or a file's path
    weights: Annotated[str, Free("a path; loaded once before anything is computed")] = "auto"
    output_stride: Literal[8, 16] = 8  # of deeplabv2, the others have their own
    frozen_trunk: bool = False  # deeplabv2: leave the parts up to stride 8 unchanged: cheaper, a little worse
    tuned: Literal["all", "late"] = "all"  # "late": the backbone's parts up to stride 4 stay as they are
    # auto: 8, and of fewer than 400 images as many as learn from 3,200, at most 32
    epochs: Annotated[int | Literal["auto"], Range(ge=0, le=100_000)] = 28  # 30k iterations of 10 images on 10,582
    # stop after so many updates, instead of after `epochs`
    iterations: Annotated[int | None, Range(ge=1, le=1_000_000_000)] = None
    batch_size: Annotated[int, Range(ge=1, le=8192)] = 10  # images, of all processes together
    # parts in which a batch goes through the network, to save memory; averages are then by part
    accumulate: Annotated[int, Range(ge=1, le=8192)] = 1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Range(gt=0, le=1000)] = 2.5e-4  # of the backbone
    # of what is new: DeepLabV2's four classifiers, a decoder
    new_layers_multiplier: Annotated[float, Range(ge=0, le=1_000_000)] = 10.0
    weight_decay: Annotated[float, Range(ge=0, le=1000)] = 5e-4  # DeepLabV2
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9  # DeepLabV2
    schedule: Literal["poly", "one_cycle"] = "poly"  # of the learning rates
    power: Annotated[float, Range(ge=0, le=1000)] = 0.9  # of poly, the polynomial decay
    warmup: Annotated[float, Range(gt=0, lt=1)] = 0.3  # share of the updates in which one_cycle rises
    # decay of the weights' moving average, which is then the network; 0 = the last weights
    average: Annotated[float, Range(ge=0, lt=1)] = 0.0
    crop_size: Annotated[int, Range(ge=1, le=4096, note="pixels")] = 321  # COCO: 481
    scale_min: Annotated[float, Range(gt=0, le=8)] = 0.5  # random scale of the image
    scale_max: Annotated[float, Range(gt=0, le=8)] = 2.0
    # share of the samples over which the objects of another image are laid: fewer habits of context (Ghiasi et al.,
    # "Simple copy-paste", CVPR 2021)
    paste: Annotated[float, Range(ge=0, le=1)] = 0.0
    balanced: bool = True  # average foreground and background pixels apart
    loss: Annotated[str, Free("a name in networks.LOSSES, checked below")] = "cross_entropy"  # of a pixel
    # pixels on either side of the masks' edges that nothing is learned from
    unsure_edges: Annotated[int, Range(ge=0, le=256, note="pixels")] = 0
    # how much a photo as a whole has a say in what its pixels show; 0 = nothing
    tag_prior: Annotated[float, Range(ge=0, le=10)] = 0.0
    # what tells that: a linear model of its tags on ImageNet's features, or the run's classifier
    tag_prior_by: Literal["features", "classifier"] = "features"

    @property
    def asks_classifier(self) -> bool:
        """Whether the run's classifier tells what a photo as a whole shows."""
        return self.tag_prior > 0 and self.tag_prior_by == "classifier"

    def epochs_for(self, images: int) -> int:
        """How often a set of so many images is gone over, unless `iterations` ends it."""
        return ENOUGH.of(self.epochs, images)

    def check_relations(self) -> None:
        """Raise ConfigError for an empty range of scales and for more parts of a batch than it has images."""
        if self.scale_min > self.scale_max:
            raise SettingError(self, ("scale_min", "scale_max"), f"at most scale_max, {self.scale_max}")
        if self.accumulate > self.batch_size:
            raise SettingError(self, ("accumulate", "batch_size"), f"at most batch_size, {self.batch_size}")
        for name, table in (("architecture", ARCHITECTURES), ("loss", LOSSES)):
            value = getattr(self, name)
            if value not in table:
                raise SettingError(self, (name,), f"one of {', '.join(table)}{did_you_mean(value, table)}")
        if self.frozen_trunk and self.architecture != "deeplabv2":
            raise SettingError(self, ("frozen_trunk", "architecture"), "false for other architectures than deeplabv2")


ENOUGH = Enough(epochs=8, images=3200, most=32)  # epochs: auto
NO_MASK = "has no mask"
NAMED = 6  # classes in a line
PRIOR_PHOTOS = 5000  # that the tags of whole photos are learned from, at most


@dataclass(frozen=True)
class Reviewed:
    """What a person has decided on the photos that are learned from."""

    rejected: frozenset[str]  # ids of photos that are left out
    masks: Mapping[str, Path]  # files that take the place of the masks
    told: Mapping[str, Any]  # the same with the masks' digests, for the manifest

    def records_of(self, dataset: Dataset) -> Dataset:
        """The data set without the photos that were rejected; DataError where none is left."""
        kept = tuple(record for record in dataset.records if record.id not in self.rejected)
        if not kept:
            raise DataError(f"{dataset.name}: every photo was rejected in the review; accept some of them")
        return dataclasses.replace(dataset, records=kept)

    def paths_of(self, paths: Mapping[str, Path | None]) -> dict[str, Path | None]:
        """Paths of the masks by id, with those that were corrected."""
        return {name: path for name, path in {**paths, **self.masks}.items() if name not in self.rejected}


def reviewed_of(context: Context) -> Reviewed | None:
    """What was decided on the training photos of a run; None where nothing was."""
    told = context.effect.on_training(record.id for record in context.train.records)
    if not told:
        return None
    masks = {name: mask_path(context.out, name) for name in told["masks"]}
    lost = next((name for name, path in masks.items() if not path.is_file()), None)
    if lost is not None:
        raise DataError(f"{masks[lost]}: the corrected mask isn't there; put it back, or take it back in the review")
    return Reviewed(frozenset(told["rejected"]), masks, told)


def mask_table(dataset: Dataset) -> dict[str, str]:
    """Digest of how true masks are read, for the manifest of what learns from them."""
    return {"mask_table": digest_value([int(value) for value in dataset.mask_lut])}


def check(config: SegmenterConfig, n_labels: int) -> None:
    """Build the network with its weights, so that what is missing shows before hours of work.

    Raises ConfigError for an unknown backbone, WeightsError for weights that are missing or don't fit.
    """
    build_segmenter(config, n_labels, config.weights)
    if config.tag_prior and not config.asks_classifier:
        build_prior(config, n_labels, config.weights)


def train_segmenter(
    dataset: Dataset,
    masks: Path | None,
    out: Path,
    config: SegmenterConfig,
    *,
    seed: int = 0,
    execution: Execution | None = None,
    reviewed: Reviewed | None = None,
    classifier: Path | None = None,
) -> SegmentationNetwork:
    """Train on `masks`/ID.png (a stage's folder with masks/), or with None on the data set's true masks.

    `reviewed` leaves photos out and gives masks in the place of others, as a person has decided. `classifier` is the
    folder that `train_classifier` wrote, which `config.tag_prior_by` may ask for.

    Writes weights.safetensors, log.jsonl and a manifest to `out`; its `warning` says where the network learned too
    little. Resumes from the last whole epoch. Images without a mask are noted and skipped, and don't join a training
    that was begun without them. Raises ConfigError, DataError, WeightsError.
    """
    execution = execution or Execution()
    source = "true masks (upper bound)" if masks is None else "pseudo-masks"
    paths = mask_paths(dataset, masks)
    if masks is None:
        inputs = mask_table(dataset)
    else:
        manifest = read_manifest(masks, "refine", "predict")
        inputs = {"masks_config": digest_value([manifest["config"], manifest["inputs"]])}
        late = started_without(out, NO_MASK)
        paths = {image_id: path for image_id, path in paths.items() if image_id not in late}
    if reviewed is not None:
        dataset, paths = reviewed.records_of(dataset), reviewed.paths_of(paths)
        inputs["review"], source = digest_value(reviewed.told), "pseudo-masks, reviewed"
    inputs |= {"dataset": dataset.digest(), "masks": source, "images": digest_value(sorted(paths))}
    asked = _classifier_of(config, classifier)
    if classifier is not None and asked is not None:
        inputs["classifier"] = digest_file(classifier / "weights.safetensors")
    folder = STAGE.open(out, config, seed=seed, inputs=inputs, absent_inputs=mask_table(dataset))
    if folder.finished:
        return load_segmenter(out)
    for record in dataset.records:
        if record.id not in paths:
            folder.fail(record.id, NO_MASK)
    folder.save(without=sorted(folder.failures))
    records = [record for record in dataset.records if record.id in paths]
    lut = dataset.mask_lut if masks is None else None
    network = build_segmenter(config, len(dataset.classes) + 1, config.weights, seed)

    paste = config.paste if dataset.background else 0.0  # without a background an object is the whole photo
    load = Samples(tuple(records), paths, lut, dataclasses.replace(config, paste=paste), seed)
    loss_of = partial(_loss, balanced=config.balanced, loss=config.loss)
    names = [record.id for record in records]
    settings = FitSettings.of(config, epochs=config.epochs_for(len(names)))
    fit(network, network.parameter_groups(), loss_of, load, names, settings, folder, seed=seed, execution=execution)
    told = _with_prior(network, dataset, config, asked, seed, execution)
    save_module(network, out / "weights.safetensors")
    done = [name for name in names if name not in folder.failures]
    seen = look(_answers(network, dataset, load, done), len(dataset.classes) + 1)
    warning = complaint(_losses(out), seen, dataset.classes, balanced=config.balanced)
    known = {"classes": list(dataset.classes), "class_source": dataset.class_source}
    folder.finish(done, **known, **told, trained_on=source, warning=warning)
    (out / "checkpoint.pt").unlink(missing_ok=True)  # last: without it a killed training would begin anew
    return network


def _classifier_of(config: SegmenterConfig, folder: Path | None) -> CAMClassifier | None:
    """The classifier that the settings ask for; ConfigError where its folder isn't given."""
    if not config.asks_classifier:
        return None
    if folder is None:
        raise ConfigError("segmenter.tag_prior_by: classifier asks for the folder of a trained classifier")
    return load_classifier(folder)


def _with_prior(
    network: SegmentationNetwork,
    dataset: Dataset,
    config: SegmenterConfig,
    asked: CAMClassifier | None,
    seed: int,
    execution: Execution,
) -> dict[str, Any]:
    """Give a trained network its prior, if the settings have one; returns what the manifest tells of it."""
    if asked is not None:
        return _ask_classifier(network, dataset, config, asked)
    return _learn_prior(network, dataset, config, seed, execution) if config.tag_prior else {}


def _ask_classifier(
    network: SegmentationNetwork, dataset: Dataset, config: SegmenterConfig, asked: CAMClassifier
) -> dict[str, Any]:
    """Give a trained network what a classifier says of whole photos; returns what the manifest tells of it."""
    prior = ClassifierPrior(asked, config.tag_prior)
    tags = torch.from_numpy(dataset.label_matrix()[[bool(r.labels) or dataset.background for r in dataset.records]])
    prior.learn(tags)
    network.prior = prior.to(next(network.parameters()).device)
    backbone = asked.backbone
    made = {"backbone": backbone.name, "stages": list(backbone.stages), **dataclasses.asdict(asked.pooling)}
    return {"tag_prior": {"photos": len(tags), "classifier": made}}


def _learn_prior(
    network: SegmentationNetwork, dataset: Dataset, config: SegmenterConfig, seed: int, execution: Execution
) -> dict[str, Any]:
    """Give a trained network what whole photos say of their tags; returns what the manifest tells of it."""
    device = resolve_device(execution.device)
    prior = build_prior(config, len(dataset.classes) + 1, config.weights).to(device)
    records = [record for record in dataset.records if record.labels or dataset.background]
    rng_for(seed, "tag prior").shuffle(records)
    features, tags = [], []
    records = records[:PRIOR_PHOTOS]
    for record in track(records, total=len(records), description="tags of whole photos"):
        try:
            image = read_image(record)
        except DataError:
            continue  # noted where it was to be learned from
        with torch.inference_mode():
            features.append(prior.features(to_tensor(image)[None].to(device))[0].cpu())
        tags.append([float(label in record.labels) for label in range(len(dataset.classes))])
    learned = prior.cpu().learn(torch.stack(features), torch.tensor(tags))
    network.prior = prior.to(next(network.parameters()).device)
    gain = dict(zip(dataset.classes, learned.gain, strict=True))
    return {"tag_prior": {"photos": len(tags), "penalty": learned.penalty, "gain": gain}}


def _loss(module: nn.Module, images: Tensor, labels: Tensor, *, balanced: bool, loss: str) -> Tensor:
    return segmentation_loss(module(images), labels, balanced=balanced, loss=loss)


@dataclass(frozen=True)
class Samples:
    """The training samples by epoch and index; a class, so that it can be handed to other processes."""

    records: tuple[ImageRecord, ...]
    masks: dict[str, Path | None]  # None: all background
    lut: np.ndarray | None
    config: SegmenterConfig
    seed: int

    def __call__(self, epoch: int, index: int) -> Sample:
        """Image (3, crop, crop) and labels (crop, crop); the draws depend on seed, epoch and the image's id alone."""
        record = self.records[index]
        rng = rng_for(self.seed, "segment", epoch, record.id)
        pixels, labels = self._view(record, rng)
        if self.config.paste and rng.random() < self.config.paste:
            with suppress(DataError):  # its own turn reports it
                pixels, labels = pasted(pixels, labels, *self._view(self._other(rng), rng))
        return torch.from_numpy(pixels), torch.from_numpy(labels)

    def _other(self, rng: Random) -> ImageRecord:
        """An image whose objects are laid over another: of each class as often, however rare it is."""
        return rng.choice(rng.choice(self._by_class)) if self._by_class else rng.choice(self.records)

    @cached_property
    def _by_class(self) -> list[list[ImageRecord]]:
        tagged: dict[int, list[ImageRecord]] = {}
        for record in self.records:
            for label in record.labels:
                tagged.setdefault(label, []).append(record)
        return [tagged[label] for label in sorted(tagged)]

    def _view(self, record: ImageRecord, rng: Random) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        image, mask = self.pair(record)
        if config.unsure_edges:
            mask = without_edges(mask, config.unsure_edges)
        return joint_augment(
            image, mask, rng, crop_size=config.crop_size, scales=(config.scale_min, config.scale_max)
        )

    def pair(self, record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W, 3) and its mask (H, W), both uint8, at the record's size."""
        image, path = read_image(record), self.masks[record.id]
        if path is None:
            return image, np.zeros(image.shape[:2], np.uint8)
        mask = read_mask(path, self.lut)
        if record.long_side is not None:  # the mask has the photo's own size
            mask = resize_labels(mask, image.shape[:2])
        return image, mask


def _losses(out: Path) -> list[float]:
    path = out / FILE
    rows = read_epochs(path.read_text(encoding="utf-8"))[0] if path.is_file() else []
    return [loss for _, loss in loss_points(rows)]


def _answers(
    network: SegmentationNetwork, dataset: Dataset, samples: Samples, ids: Iterable[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The network's answers on some photos that it was trained on, and their masks, at a bounded size."""
    for record in handful(dataset, ids):
        small = dataclasses.replace(record, long_side=at_most(record.long_side, LONG_SIDE))
        try:
            image, mask = samples.pair(small)
        except DataError:
            continue  # noted where it was to be learned from
        logits = combined_logits(network, image, (1.0,), mirror=False)
        yield answer_of_logits(logits).labels, mask


def mask_paths(dataset: Dataset, masks: Path | None) -> dict[str, Path | None]:
    """Paths of the masks that exist, by image id; None for a negative without one, which is all background."""
    found: dict[str, Path | None]
    if masks is None:
        found = {record.id: record.mask_path for record in dataset.records if record.mask_path is not None}
        found |= {r.id: None for r in dataset.records if found and not r.labels and r.mask_path is None}
    else:
        listed = ids_in(masks / "masks", ".png")
        found = {r.id: masks / "masks" / f"{r.id}.png" for r in dataset.records if r.id in listed}
    if not found:
        raise ConfigError(f"{masks or dataset.name}: no mask for any of the {len(dataset)} images")
    return found


def build_segmenter(
    config: SegmenterConfig, n_labels: int, weights: str | None, seed: int = 0
) -> SegmentationNetwork:
    """Build the network of these settings for `n_labels` = classes + background."""
    return build_segmentation_network(
        config.architecture,
        config.backbone,
        n_labels,
        weights,
        output_stride=config.output_stride,
        frozen_trunk=config.frozen_trunk,
        late=config.tuned == "late",
        seed=seed,
    )


def build_prior(config: SegmenterConfig, n_labels: int, weights: str | None) -> TagPrior:
    """Build what tells the tags of whole photos, untaught; arguments and errors as `build_segmenter`."""
    backbone = build_backbone(config.backbone, weights, output_stride=32, dilated=False)
    return TagPrior(backbone, n_labels - 1, config.tag_prior).to(memory_format=torch.channels_last)


def load_segmenter(folder: Path) -> SegmentationNetwork:
    """Load the network that `train_segmenter` wrote to `folder`."""
    manifest = read_manifest(folder, "train-segmenter")
    config = build(SegmenterConfig, manifest["config"], source=str(folder / "manifest.json"))
    network = build_segmenter(config, len(manifest["classes"]) + 1, "none")
    if config.asks_classifier:
        made = manifest["tag_prior"]["classifier"]
        classifier = build_classifier(made["backbone"], len(manifest["classes"]), "none", stages=stages_of(made))
        classifier.pooling = Pooling(made["kind"], made["parameter"])
        network.prior = ClassifierPrior(classifier.to(memory_format=torch.channels_last), config.tag_prior)
    elif config.tag_prior:
        network.prior = build_prior(config, len(manifest["classes"]) + 1, "none")
    load_module(network, folder / "weights.safetensors")
    return network


def _entries(context: Context) -> Iterable[Planned]:
    recipe = context.recipe
    for number in range(recipe.rounds + 1):
        last = number == recipe.rounds
        yield Planned(
            STAGE,
            "segmenter" if last else f"segmenter_round{number}",
            recipe.segmenter,
            {"masks": f"masks_round{number - 1}" if number else "pseudo_masks"} | _asked(recipe.segmenter),
            heading="segmentation network" + (f", round {number}" if recipe.rounds else ""),
            title="" if last else f"Train segmenter, round {number}",
            turn=number,
        )
    if recipe.supervised and has_masks(context.train) and has_masks(context.val):  # else nothing could score it
        yield Planned(
            STAGE,
            "supervised",
            recipe.segmenter,
            _asked(recipe.segmenter),
            heading="the same network on true masks: the upper bound",
            title="Train upper bound",
            upper_bound=True,
            optional=True,
            turn=LAST,
        )


def _asked(config: SegmenterConfig) -> dict[str, str]:
    """The classifier's folder, by role, where the network asks for it."""
    return {"classifier": "classifier"} if config.asks_classifier else {}


def _run(entry: Planned, context: Context) -> None:
    masks, classifier = entry.reads.get("masks"), entry.reads.get("classifier")
    train_segmenter(
        context.train,
        context.out / masks if masks else None,
        context.out / entry.folder,
        entry.config,
        seed=context.seed,
        execution=context.execution,
        reviewed=reviewed_of(context) if masks else None,
        classifier=context.out / classifier if classifier else None,
    )
    manifest = read_object(context.out / entry.folder / "manifest.json")
    gain = manifest.get("tag_prior", {}).get("gain")
    if gain is not None:
        context.say(f"  {_told(gain)}")
    warning = manifest.get("warning")
    if warning:
        context.say(f"! {entry.folder}: {warning}")
    if masks:
        say_late(context, entry.folder, masks, NO_MASK)


def _told(gain: Mapping[str, float]) -> str:
    """What the tag prior knows, in a line."""
    known = sorted(((share, name) for name, share in gain.items() if share >= WORTH), reverse=True)
    if not known:
        return "whole photos tell no tag well enough to be asked; pixels decide alone"
    named = ", ".join(f"{printable(name)} ({100 * share:.0f} %)" for share, name in known[:NAMED])
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    untold = len(gain) - len(known)
    rest = f"; {untold} not well enough to be asked" if untold else ""
    return f"whole photos tell, with so much less uncertainty: {named}{more}{rest}"


STAGE = Stage(
    name="train-segmenter",
    title="Train segmenter",
    config=SegmenterConfig,
    entries=_entries,
    run=_run,
    check=lambda entry, context: check(entry.config, len(context.train.classes) + 1),
    idle="no true masks to learn from, or none held out to score it",
    per_image=False,
)
