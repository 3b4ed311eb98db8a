"""High-gradient ratios of a run's classifier on photos with masks, by layer and along RIB's steps.

Masks tell the regions apart in this analysis; nothing is trained or chosen by them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import read_object
from tag2mask.common.progress import track
from tag2mask.config import Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, read_image, read_mask, resize_labels
from tag2mask.engine.execution import cpu_threads, resolve_device
from tag2mask.experiments.hgr.ratio import THRESHOLD, high_gradient_ratio, share_of_maximum
from tag2mask.experiments.hgr.regions import class_activation, regions_of
from tag2mask.experiments.hgr.taps import gradient_maps, smoothed, taps_of
from tag2mask.networks import CAMClassifier
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.rib import PartnerGradients, TrunkFeatures, rib
from tag2mask.stages.localize import GRADIENTS, LocalizeConfig, Partners, calibrate, scaled_views
from tag2mask.stages.train_classifier import load_classifier


@dataclass(frozen=True)
class HGRConfig(Settings):
    """What is measured; the classifier, the data and RIB's settings are the run's."""

    images: Annotated[int, Range(ge=1, le=1_000_000)] = 24  # class-balanced, out of those with a mask
    split: Literal["train", "val"] = "train"
    steps: Annotated[int | None, Range(ge=2, le=10_000)] = None  # RIB's K; None = the run's
    threshold: Annotated[float, Range(gt=0, lt=1)] = THRESHOLD  # paper
    # Magnitudes are averaged over a box of this width before their maximum is taken. Gradients of deep networks are
    # noise from pixel to pixel; 1, the toy experiment's way, is always measured as well.
    smoothing: Annotated[int, Range(ge=1, le=9999, note="pixels, odd")] = 15

    def check_relations(self) -> None:
        """Raise ConfigError for a box without a middle."""
        if self.smoothing % 2 == 0:
            raise SettingError(self, ("smoothing",), "an odd number")


class Ratio(NamedTuple):
    """One high-gradient ratio of one image and class."""

    id: str
    label: str
    step: int  # updates so far
    layer: str  # a tap's name, "logit", or "sigmoid": the logit's damped by the sigmoid's slope over its steepest
    scalar: str  # "sum" or "norm" of the layer's output, "class" at the end
    smoothing: int
    region: str
    hgr: float  # 0..1; NaN where the image has no such region


@dataclass(frozen=True)
class HGRResult:
    """All ratios and what they were measured with."""

    config: HGRConfig
    rows: list[Ratio]
    layers: list[str]  # in order, "logit" and "sigmoid" last
    images: int
    steps: int  # RIB's K
    learning_rate: float
    failures: dict[str, str]


def measure_run(run: Path, data: Path, config: HGRConfig | None = None, *, device: str = "auto") -> HGRResult:
    """Measure the classifier in `run` on images of the data set at `data`, before and along RIB's fine-tuning.

    Uses the settings, seed and learning rate of the run's localization (the rate is calibrated anew where the run has
    none). Raises ConfigError, DataError; an image that can't be read is noted and skipped.
    """
    config = config or HGRConfig()
    if not (run / "recipe.yaml").is_file() or not (run / "classifier").is_dir():
        raise ConfigError(f"{run}: has no recipe.yaml or no classifier/; give the folder of a run")
    recipe = load_recipe(run / "recipe.yaml")
    info = read_object(run / "run.json") if (run / "run.json").is_file() else {}
    splits = read_splits(recipe, data, info.get("data", {}).get("limited_to"))
    pool = splits.train if config.split == "train" else splits.val
    if pool is None:
        raise DataError(f"{data}: has no images of split '{recipe.data.val_split}'; use --split train")
    classifier = load_classifier(run / "classifier").to(resolve_device(device))
    if classifier.n_classes != len(pool.classes):
        raise ConfigError(f"{run}: its classifier has {classifier.n_classes} classes, {data} {len(pool.classes)}")
    with cpu_threads(1):  # sums don't depend on the machine's width then
        settings = _settings(run, recipe.localize, splits.train, classifier, recipe.seed, config)
        expected = _expected_partners(run, settings, splits.train)
        return measure(pool, classifier, settings, config, seed=recipe.seed, expected=expected)


def _expected_partners(run: Path, settings: LocalizeConfig, train: Dataset) -> PartnerGradients | None:
    """The partners' gradient that the run's localization computed for the set, where it goes without images."""
    if settings.rib.partners != "amortised":
        return None
    path = run / "localization" / GRADIENTS
    if not path.is_file():
        raise ConfigError(f"{path}: missing, and the recipe's partners are 'amortised'; run the localization first")
    return PartnerGradients(load_file(path)["gradients"], train.label_matrix())


def _settings(
    run: Path, localize: LocalizeConfig, train: Dataset, classifier: CAMClassifier, seed: int, config: HGRConfig
) -> LocalizeConfig:
    """The run's settings with the learning rate that its localization used, as many steps as asked for, no guard.

    The run-away guard and the early stop decide which maps are summed; here every image shall show all steps.
    """
    rate = localize.rib.learning_rate
    if localize.growth is not None and localize.rib.step_size == "scheduled":
        known = run / "localization" / "calibration.json"
        found = read_object(known) if known.is_file() else calibrate(train, classifier, localize, seed)
        rate = float(found["learning_rate"])
    steps = config.steps or max(2, localize.rib.steps)
    return dataclasses.replace(
        localize,
        method="rib",
        rib=localize.rib.replace(learning_rate=rate, steps=steps, limit="none", guard_share=1.0),
    )


def measure(
    pool: Dataset,
    classifier: CAMClassifier,
    settings: LocalizeConfig,
    config: HGRConfig,
    *,
    seed: int = 0,
    expected: PartnerGradients | None = None,
) -> HGRResult:
    """Measure on `config.images` of the images in `pool` that have a mask; partners come from all of `pool`.

    `expected` replaces them where the settings' partners are "amortised".
    """
    having = [record for record in pool.records if record.mask_path is not None and record.labels]
    if not having:
        raise DataError(f"{pool.name}: no image has both a mask and labels; regions can't be told apart")
    chosen = dataclasses.replace(pool, records=tuple(having)).limit(min(config.images, len(having)), seed)
    partners = Partners(pool, classifier, settings, seed)
    rows: list[Ratio] = []
    failures: dict[str, str] = {}
    for record in track(chosen.records, total=len(chosen), description="high-gradient ratios"):
        try:
            one = _Measurement(record, pool, classifier, settings, config)
            one.run(classifier, partners, None if expected is None else expected.expected(record.labels))
            rows += one.rows
        except DataError as error:
            failures[record.id] = str(error)
    if not rows:
        first = next(iter(failures.values()))
        raise DataError(f"{pool.name}: none of {len(chosen)} images could be measured; {first}")
    layers = [*(tap.name for tap in taps_of(classifier)), "logit", "sigmoid"]
    return HGRResult(
        config, rows, layers, len(chosen) - len(failures), settings.rib.steps, settings.rib.learning_rate, failures
    )


class _Measurement:
    """One image: its regions from the classifier as it came, then every step of RIB."""

    def __init__(
        self,
        record: ImageRecord,
        pool: Dataset,
        classifier: CAMClassifier,
        settings: LocalizeConfig,
        config: HGRConfig,
    ) -> None:
        assert record.mask_path is not None
        image, mask = read_image(record), read_mask(record.mask_path, pool.mask_lut)
        if record.long_side is not None:
            mask = resize_labels(mask, image.shape[:2])
        if mask.shape != image.shape[:2]:
            raise DataError(f"{record.mask_path}: mask {mask.shape} and image {image.shape[:2]} differ in size")
        self.record, self.settings, self.config, self.names = record, settings, config, pool.classes
        self.rows: list[Ratio] = []
        views = scaled_views(image, settings.rib, classifier)
        self.image = views[0][:1]  # (1, 3, H, W): scale 1 comes first
        activation = class_activation(classifier, views[0], mask.shape)
        self.regions = {
            label: {
                name: torch.from_numpy(region)
                for name, region in regions_of(mask, activation[label], label + 1, settings.rib.tau).items()
            }
            for label in record.labels
            if (mask == label + 1).any()
        }
        if not self.regions:
            raise DataError(f"{record.mask_path}: the mask shows none of the image's labels")
        self.views = [TrunkFeatures(classifier.trunk_features(view)) for view in views]

    def run(self, classifier: CAMClassifier, partners: Partners, expected: Tensor | None) -> None:
        """Fine-tune as RIB does and measure at every step."""
        rib(
            classifier,
            self.views,
            self.record.labels,
            partners.batches(self.record.id),
            self.settings.rib,
            partner_gradient=expected,
            on_step=self._at_step,
        )

    def _at_step(self, step: int, classifier: CAMClassifier) -> None:
        """Every layer before the first update, those that RIB changes after the last, between them the logit only."""
        last = step == self.settings.rib.steps - 1
        wanted = [tap.name for tap in taps_of(classifier) if step == 0 or (last and tap.tuned)]
        slopes = self._slopes(classifier)
        for layer, scalar, magnitude in gradient_maps(
            classifier, self.image, torch.tensor(sorted(self.regions)), wanted
        ):
            for width in dict.fromkeys((self.config.smoothing, 1)):
                shares = share_of_maximum(smoothed(magnitude, width)).cpu()
                if layer != "logit":
                    for label in self.regions:
                        self._add(step, layer, scalar, width, label, shares)
                else:
                    self._add(step, layer, "class", width, int(scalar), shares)
                    self._add(step, "sigmoid", "class", width, int(scalar), shares * slopes[int(scalar)])

    @torch.no_grad()
    def _slopes(self, classifier: CAMClassifier) -> list[float]:
        """Slope of the sigmoid at each class's logit, over its steepest: 0..1."""
        probability = classifier(self.image).sigmoid()[0].double()
        return (4 * probability * (1 - probability)).tolist()

    def _add(self, step: int, layer: str, scalar: str, width: int, label: int, shares: Tensor) -> None:
        for name, region in self.regions[label].items():
            ratio = float(high_gradient_ratio(shares[None], region[None], self.config.threshold))
            self.rows.append(Ratio(self.record.id, self.names[label], step, layer, scalar, width, name, ratio))


class Mean(NamedTuple):
    """Mean over pairs of image and class, its standard error, and how many pairs."""

    mean: float
    error: float
    pairs: int

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        """Of the values that are numbers."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, 0)
        mean = sum(known) / len(known)
        variance = sum((value - mean) ** 2 for value in known) / max(1, len(known) - 1)
        return cls(mean, math.sqrt(variance / len(known)) if len(known) > 1 else math.nan, len(known))


Key = tuple[int, str, str, int, str]  # step, layer, scalar, smoothing, region


def by_key(result: HGRResult) -> dict[Key, dict[tuple[str, str], float]]:
    """Ratios of every pair (image, class), by what was measured."""
    found: dict[Key, dict[tuple[str, str], float]] = {}
    for row in result.rows:
        key = (row.step, row.layer, row.scalar, row.smoothing, row.region)
        found.setdefault(key, {})[(row.id, row.label)] = row.hgr
    return found


def means(result: HGRResult) -> dict[Key, Mean]:
    """Mean over pairs, by what was measured."""
    return {key: Mean.of(list(values.values())) for key, values in by_key(result).items()}


def change(result: HGRResult, layer: str, scalar: str, smoothing: int, region: str) -> tuple[Mean, int]:
    """Last step minus first, pair by pair; and in how many pairs it rose."""
    found = by_key(result)
    keys = [(step, layer, scalar, smoothing, region) for step in (result.steps - 1, 0)]
    if any(key not in found for key in keys):  # a layer that RIB doesn't change
        return Mean.of([]), 0
    after, before = (found[key] for key in keys)
    differences = [after[pair] - before[pair] for pair in before if pair in after]
    return Mean.of(differences), sum(difference > 0 for difference in differences)


def summary_rows(result: HGRResult) -> Iterator[tuple[Key, Mean]]:
    """Means in order of step, layer, scalar, smoothing and region."""
    order = {layer: place for place, layer in enumerate(result.layers)}
    return iter(sorted(means(result).items(), key=lambda item: (item[0][0], order[item[0][1]], *item[0][2:4])))
