"""Stage 2: localization maps of every training image, CAM and RIB in one pass (method section 2)."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write, digest_file, digest_value, read_object, write_json
from tag2mask.common.seeding import rng_for
from tag2mask.config import Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, image_size, limited_size, read_image, save_maps
from tag2mask.data.partners import PartnerIndex
from tag2mask.data.transforms import Draws, augment, rescale, to_tensor
from tag2mask.engine.execution import Execution, cpu_threads, resolve_device
from tag2mask.engine.images import Grouping, process_count, run_images
from tag2mask.networks import CAMClassifier
from tag2mask.networks.folding import fold_trunk
from tag2mask.networks.precision import computing_in
from tag2mask.networks.weights import save_tensors
from tag2mask.rib import (
    PartnerGradients,
    RIBConfig,
    RIBResult,
    TrunkFeatures,
    class_gradients,
    rib,
    stack_with_mirror,
    trace_arrays,
)
from tag2mask.rib.batch import Photo, PhotoBytes, can_batch, rib_batch
from tag2mask.rib.calibrate import calibrated_learning_rate, first_step_growth, initial_logit
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.scores import Score
from tag2mask.stages.evaluate import score_maps
from tag2mask.stages.stage import Context, Planned, Stage
from tag2mask.stages.train_classifier import label_vector, load_classifier

CALIBRATION_IMAGES = 16
GPU_BATCH = 8  # photos of one shape together on a GPU
GRADIENTS = "partner_gradients.safetensors"  # (C, P) bfloat16, memory-mapped by every process
Batch = tuple[TrunkFeatures, Tensor]


@dataclass(frozen=True)
class LocalizeConfig(Settings):
    """What is computed for every image."""

    method: Literal["rib", "cam"] = "rib"  # rib writes both: its first step is plain CAM
    rib: RIBConfig = dataclasses.field(default_factory=RIBConfig)
    # Relative growth of the target's logits in the first step, at the median training image: sets rib.learning_rate
    # for backbones other than ResNet-50, whose published 8e-6 doesn't carry over. null = rib.learning_rate as given.
    growth: Annotated[float | None, Range(gt=0, le=1000)] = None
    # partner images are augmented as in the classifier's training
    partner_long_side_min: Annotated[int, Range(ge=1, le=8192, note="pixels")] = 320
    partner_long_side_max: Annotated[int, Range(ge=1, le=8192, note="pixels")] = 640
    partner_crop_size: Annotated[int, Range(ge=1, le=4096, note="pixels")] = 512
    # a process, for frozen features of partner images, which are computed once
    partner_cache: Annotated[int, Range(ge=0, le=1_048_576, note="MiB")] = 1024
    # Partners are drawn from as many images, class-balanced, as fit into the cache. false: from all of them, as in
    # the reference; where they don't fit, most are decoded and passed again and again.
    partner_bank: bool = True
    # a class, for the expected gradient of partners "amortised"
    gradient_images: Annotated[int, Range(ge=1, le=1_000_000)] = 16
    # photos of one shape that are passed together; null = 8 on a GPU where rib.partners are no photos, else 1
    batch: Annotated[int | None, Range(ge=1, le=256, note="photos")] = None
    # a process, for such a batch: fewer photos are passed together where they need more
    batch_memory: Annotated[int, Range(ge=1, le=1_048_576, note="MiB")] = 16_384

    def check_relations(self) -> None:
        """Raise ConfigError for an empty range of sizes, and for a batch where partners are photos."""
        if self.partner_long_side_min > self.partner_long_side_max:
            keys = ("partner_long_side_min", "partner_long_side_max")
            raise SettingError(self, keys, f"at most partner_long_side_max, {self.partner_long_side_max}")
        if self.batch not in (None, 1) and not can_batch(self.used_rib):
            raise SettingError(self, ("batch", "rib.partners"), "1 or null, unless rib.partners is amortised or none")

    @property
    def used_rib(self) -> RIBConfig:
        """RIB's settings as the method takes them: plain CAM is their first step."""
        return self.rib if self.method == "rib" else cam_only(self.rib)

    def photos_together(self, device: str) -> int:
        """How many photos of one shape are passed together on a device of this type."""
        if self.batch is not None:
            return self.batch
        return GPU_BATCH if device == "cuda" and can_batch(self.used_rib) else 1


# time and memory; the maps up to round-off
FREE = ("batch", "batch_memory", "rib.partner_chunk", "rib.channels_last", "rib.fold_batch_norm")


def kinds_of(config: LocalizeConfig) -> tuple[str, ...]:
    """The kinds of maps that are written, each to a folder of its name; RIB's first step is plain CAM."""
    return ("cam", "rib") if config.method == "rib" else ("cam",)


def localize(
    dataset: Dataset,
    classifier: Path,
    out: Path,
    config: LocalizeConfig,
    *,
    seed: int = 0,
    execution: Execution | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Write `out`/cam/ID.npz and, for RIB, `out`/rib/ID.npz and some traces/ID.npz for every image of `dataset`.

    `only` names the images to localize where not all of them are wanted; partners come from the whole set.
    `classifier` is the folder that `train_classifier` wrote. An image's result depends on the seed and its id, not
    on order, processes or resumption. Masks are never read. Broken images are noted in the manifest, and tried again
    by a later call. Raises ConfigError, DataError.
    """
    execution = execution or Execution()
    read_manifest(classifier, "train-classifier")
    inputs = {"dataset": dataset.digest(), "classifier": digest_file(classifier / "weights.safetensors")}
    if only is not None:
        inputs["only"] = digest_value(sorted(only))
    folder = STAGE.open(out, config, seed=seed, inputs=inputs)
    wanted = frozenset(record.id for record in dataset.records) if only is None else frozenset(only)
    records = {record.id: record for record in dataset.records if record.labels and record.id in wanted}
    todo = folder.left(records, *(f"{kind}/{{}}.npz" for kind in kinds_of(config)))
    if folder.finished and not todo:
        return
    device = resolve_device(execution.device)
    config = _calibrated(dataset, classifier, out, config, seed, device)
    _expect_gradients(dataset, classifier, out, config, seed, device)
    traced = (
        frozenset(r.id for r in dataset.positives().limit(execution.trace, seed).records)
        if execution.trace
        else frozenset()
    )
    arguments = (dataset, classifier, out, config, seed, traced, str(device))
    processes = process_count(execution.processes, len(todo), device.type)
    most = config.photos_together(device.type)
    run_images(
        todo,
        Localizer,
        arguments,
        folder,
        processes=processes,
        total=len(records),
        description=f"localize ({config.method})",
        cluster=execution.cluster(device),
        grouping=Grouping(most, shapes_of(records[image_id] for image_id in todo) if most > 1 else {}),
    )
    folder.finish((i for i in records if i not in folder.failures), learning_rate=config.rib.learning_rate)


def shapes_of(records: Iterable[ImageRecord]) -> dict[str, tuple[int, int]]:
    """Size (H, W) at which each photo is passed, by id, from its header; without those that can't be read."""
    shapes = {}
    for record in records:
        with suppress(DataError):  # its own turn reports it
            shapes[record.id] = limited_size(image_size(record.path), record.long_side)
    return shapes


class Localizer:
    """Everything that every image needs, once a process: the classifier, the partners and their features."""

    def __init__(
        self,
        dataset: Dataset,
        classifier: Path | CAMClassifier,
        out: Path,
        config: LocalizeConfig,
        seed: int,
        traced: frozenset[str] = frozenset(),
        device: str = "cpu",
    ) -> None:
        loaded = classifier if isinstance(classifier, CAMClassifier) else load_classifier(classifier)
        self.classifier = loaded.to(device)
        if config.rib.fold_batch_norm and loaded is not classifier:  # a network that was handed in stays as it is
            fold_trunk(self.classifier.backbone)
        self.records = {record.id: record for record in dataset.records}
        self.out, self.config, self.seed, self.traced = out, config, seed, traced
        self.partners = Partners(dataset, self.classifier, config, seed)
        self.expected: PartnerGradients | None = None
        if _amortised(config):
            gradients = load_file(out / GRADIENTS, device=device)["gradients"]
            self.expected = PartnerGradients(gradients, dataset.label_matrix())

    def __call__(self, image_id: str) -> None:
        """Localize one image and write its files; the one that marks it as done comes last."""
        record = self.records[image_id]
        image = read_image(record)
        self._write(image_id, image, self.maps_of(image, record))

    @cached_property
    def photo_bytes(self) -> PhotoBytes:
        """What a photo of a size (H, W) takes in a batch."""
        return PhotoBytes(self.classifier, self.config.used_rib)

    def together(self, image_ids: Sequence[str]) -> None:
        """As for one image, for several: those of one shape together, as many as the memory is for.

        DataError for one that can't be read, before any is localized.
        """
        images = {image_id: read_image(self.records[image_id]) for image_id in image_ids}
        for size in dict.fromkeys(image.shape[:2] for image in images.values()):
            alike = [image_id for image_id in image_ids if images[image_id].shape[:2] == size]
            most = max(1, self.config.batch_memory * 2**20 // self.photo_bytes(size))
            for start in range(0, len(alike), most):
                batch = alike[start : start + most]
                results = self.maps_of_several([(images[i], self.records[i]) for i in batch])
                for image_id, result in zip(batch, results, strict=True):
                    self._write(image_id, images[image_id], result)

    def _write(self, image_id: str, image: np.ndarray, result: RIBResult) -> None:
        record = self.records[image_id]
        # maps are stored at network resolution, so the photo's own size costs nothing
        size = (image.shape[0], image.shape[1]) if record.long_side is None else image_size(record.path)
        scales = self.config.rib.scales
        self._save("cam", image_id, result, result.cam_sums, size, scales)
        if self.config.method == "rib":
            if image_id in self.traced:
                with atomic_write(self.out / "traces" / f"{image_id}.npz") as temporary:
                    arrays: dict[str, Any] = trace_arrays(result)
                    np.savez_compressed(temporary, **arrays)
            self._save("rib", image_id, result, result.rib_sums, size, scales)

    def maps_of(self, image: np.ndarray, record: ImageRecord) -> RIBResult:
        """CAM and RIB maps of one image (H, W, 3) uint8 at network resolution."""
        photo = self._photo(image, record)
        return rib(
            self.classifier,
            photo.scaled_images,
            photo.labels,
            self.partners.batches(record.id),
            self.config.used_rib,
            partner_gradient=photo.partner_gradient,
            trace=photo.trace,
        )

    def maps_of_several(self, images: Sequence[tuple[np.ndarray, ImageRecord]]) -> list[RIBResult]:
        """CAM and RIB maps of images of one shape (H, W, 3) at network resolution, worked out together."""
        if len(images) == 1:
            return [self.maps_of(*images[0])]
        photos = [self._photo(image, record) for image, record in images]
        return rib_batch(self.classifier, photos, self.config.used_rib)

    def _photo(self, image: np.ndarray, record: ImageRecord) -> Photo:
        views = scaled_views(image, self.config.used_rib, self.classifier)
        gradient = self.expected.expected(record.labels) if self.expected else None
        return Photo(views, record.labels, gradient, trace=record.id in self.traced)

    def _save(
        self,
        kind: str,
        image_id: str,
        result: RIBResult,
        sums: list[Tensor],
        size: tuple[int, int],
        scales: tuple[float, ...],
    ) -> None:
        arrays = [values.detach().float().cpu().numpy() for values in sums]
        maps = LocalizationMaps(
            np.asarray(result.classes), size, scales, arrays, whole=self.classifier.backbone.whole
        )
        save_maps(self.out / kind / f"{image_id}.npz", maps)


def cam_only(config: RIBConfig) -> RIBConfig:
    """RIB's settings cut down to plain CAM: one step, no update, no partners."""
    return config.replace(steps=1, update_after_last=False, partners="none", first_map=True)


def scaled_views(image: np.ndarray, config: RIBConfig, classifier: CAMClassifier) -> list[Tensor]:
    """For each scale the image and, where it is passed, its mirror (V, 3, h, w), on the classifier's device."""
    device = classifier.classifier.weight.device
    views = stack_with_mirror([to_tensor(rescale(image, scale)) for scale in config.scales], config.mirror)
    return [view.to(device).contiguous(memory_format=torch.channels_last) for view in views]


class Partners:
    """Batches of other images for RIB, from an index built once; frozen features are kept within a bound.

    A partner's augmentation depends on the seed and its own id alone, so its features are computed once. Which
    partners an image gets depends on the seed and the image's id alone.
    """

    def __init__(self, dataset: Dataset, classifier: CAMClassifier, config: LocalizeConfig, seed: int) -> None:
        self.records = dataset.records
        self.classifier, self.config, self.seed = classifier, config, seed
        ids = [record.id for record in dataset.records]
        self.index = PartnerIndex(dataset.label_matrix(), ids, self._bank(dataset))
        self.cache: OrderedDict[int, Tensor | None] = OrderedDict()
        self.cached_bytes = 0

    def batches(self, image_id: str) -> Iterator[Batch]:
        """Yield one batch (features (B, c, h, w), labels (B, C)) an update."""
        config = self.config.rib
        if config.partners not in ("disjoint", "any") or self.config.method == "cam":
            return
        count = config.updates * config.batch_size
        chosen = self.index.sample(image_id, count, self.seed, disjoint=config.partners == "disjoint")
        for start in range(0, len(chosen), config.batch_size):
            batch = self._batch(chosen[start : start + config.batch_size])
            if batch is not None:
                yield batch

    def _bank(self, dataset: Dataset) -> list[int] | None:
        """Rows that partners are drawn from; None for all of them."""
        if not self.config.partner_bank:
            return None
        with torch.no_grad():
            channels, _, width = self.classifier.trunk_features(self._blank(64)).shape[1:]
        side = -(-self.config.partner_crop_size * width // 64)  # over the trunk's stride, 64 / width
        capacity = max(1, self.config.partner_cache * 2**20 // (channels * side * side * 4))
        if capacity >= len(dataset):
            return None
        rows = {record.id: row for row, record in enumerate(dataset.records)}
        return [rows[record.id] for record in dataset.limit(capacity, self.seed).records]

    def _blank(self, side: int) -> Tensor:
        return self.classifier.classifier.weight.new_zeros(1, 3, side, side)

    def examples(self, cls: int, count: int) -> Iterator[TrunkFeatures]:
        """Features of up to `count` images that hold class `cls`, drawn by the seed and the class alone."""
        holding = sorted((r.id, row) for row, r in enumerate(self.records) if cls in r.labels)
        rng_for(self.seed, "gradient", cls).shuffle(holding)
        for _, row in holding[:count]:
            features = self._features(row)
            if features is not None:
                yield TrunkFeatures(features)

    def _batch(self, indices: list[int]) -> Batch | None:
        found = [(index, self._features(index)) for index in indices]
        good = [(index, features) for index, features in found if features is not None]
        if not good:
            return None
        labels = torch.stack([label_vector(self.records[i], self.classifier.n_classes) for i, _ in good])
        return TrunkFeatures(torch.cat([features for _, features in good])), labels.to(good[0][1].device)

    def _features(self, index: int) -> Tensor | None:
        """Frozen features (1, c, h, w) of one partner; None for a broken image, which its own turn reports."""
        if index in self.cache:
            self.cache.move_to_end(index)
            return self.cache[index]
        try:
            image = read_image(self.records[index])
        except DataError:
            self.cache[index] = None
            return None
        with computing_in(self.config.rib.precision, self.classifier.classifier.weight.device):
            features = self.classifier.trunk_features(self._pixels(index, image)[None])
        self.cache[index] = features
        self.cached_bytes += features.nbytes
        while self.cached_bytes > self.config.partner_cache * 2**20 and len(self.cache) > 1:
            _, dropped = self.cache.popitem(last=False)
            self.cached_bytes -= 0 if dropped is None else dropped.nbytes
        return features

    def _pixels(self, index: int, image: np.ndarray) -> Tensor:
        config = self.config
        rng = rng_for(self.seed, "partner", self.records[index].id)
        sides = (config.partner_long_side_min, config.partner_long_side_max)
        size = (image.shape[0], image.shape[1])
        draws = Draws.draw(rng, size, long_side=sides, crop_size=config.partner_crop_size)
        pixels = torch.from_numpy(augment(image, draws, config.partner_crop_size))
        return pixels.to(self.classifier.classifier.weight.device)


def _amortised(config: LocalizeConfig) -> bool:
    return config.method == "rib" and config.rib.partners == "amortised" and config.rib.updates > 0


def _expect_gradients(
    dataset: Dataset, classifier: Path, out: Path, config: LocalizeConfig, seed: int, device: torch.device
) -> None:
    """Compute the mean gradient of each class once for the set, for partners "amortised"."""
    if not _amortised(config) or (out / GRADIENTS).is_file():
        return
    with cpu_threads(1):
        network = load_classifier(classifier).to(device)
        partners = Partners(dataset, network, config, seed)

        def samples(cls: int) -> Iterator[TrunkFeatures]:
            return partners.examples(cls, config.gradient_images)

        gradients = class_gradients(network, samples, config.rib)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # for the processes that follow
    save_tensors({"gradients": gradients}, out / GRADIENTS)


def _calibrated(
    dataset: Dataset, classifier: Path, out: Path, config: LocalizeConfig, seed: int, device: torch.device
) -> LocalizeConfig:
    """Replace rib.learning_rate by the one at which logits grow by `config.growth`; noted in calibration.json."""
    if config.growth is None or config.method == "cam" or config.rib.step_size == "searched":
        return config
    path = out / "calibration.json"
    if not path.is_file():
        with cpu_threads(1):  # so that the rate doesn't depend on the machine's width
            write_json(path, calibrate(dataset, load_classifier(classifier).to(device), config, seed))
    rate = float(read_object(path)["learning_rate"])
    return dataclasses.replace(config, rib=config.rib.replace(learning_rate=rate))


def calibrate(dataset: Dataset, classifier: CAMClassifier, config: LocalizeConfig, seed: int) -> dict[str, Any]:
    """Measure the first step's growth on a class-balanced sample of images; labels only, no mask is read."""
    assert config.growth is not None
    partners = Partners(dataset, classifier, config, seed)
    rows = []
    for record in dataset.positives().limit(CALIBRATION_IMAGES, seed).records:
        try:
            views = scaled_views(read_image(record), config.rib, classifier)
        except DataError:
            continue
        batch = next(partners.batches(record.id), None)
        growth = first_step_growth(classifier, views, record.labels, batch, config.rib)
        rows.append((record.id, growth, initial_logit(classifier, views, record.labels, config.rib)))
    if not rows:
        raise DataError(f"{dataset.name}: none of the images chosen for calibration can be read; run data check")
    growing = [(growth, logit) for _, growth, logit in rows if growth != 0]
    if not growing:
        raise DataError(
            f"{dataset.name}: the classifier finds its labels in none of the {len(rows)} images of the calibration "
            "(their class maps are nowhere positive); train it longer, or at a lower classifier.learning_rate"
        )
    # an image whose class maps are nowhere positive has no GNDRP gradient: no rate would move it
    rate = calibrated_learning_rate([g for g, _ in growing], [logit for _, logit in growing], config.growth)
    images = [{"id": i, "growth_per_rate": g, "initial_logit": logit} for i, g, logit in rows]
    return {"learning_rate": rate, "relative_growth": config.growth, "images": images}


def _entries(context: Context) -> Iterable[Planned]:
    config = context.recipe.localize
    heading = f"localization maps ({config.method})"
    yield Planned(STAGE, "localization", config, {"classifier": "classifier"}, heading=heading)


def _run(entry: Planned, context: Context) -> None:
    classifier, out = context.out / entry.reads["classifier"], context.out / entry.folder
    localize(context.train, classifier, out, entry.config, seed=context.seed, execution=context.execution)


def _score_keys(entry: Planned, context: Context) -> list[str]:
    return [f"seed_{kind}" for kind in kinds_of(entry.config)]


def _score(entry: Planned, context: Context) -> dict[str, Score]:
    return {
        f"seed_{kind}": score_maps(
            context.train,
            context.out / entry.folder / kind,
            context.recipe.evaluate,
            split=context.recipe.data.train_split,
            processes=context.execution.processes,
            seed=context.seed,
        )
        for kind in kinds_of(entry.config)
    }


STAGE = Stage(
    name="localize",
    title="Localize: CAM and RIB",
    config=LocalizeConfig,
    entries=_entries,
    run=_run,
    score_keys=_score_keys,
    score=_score,
    free=FREE,
)
