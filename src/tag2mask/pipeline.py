"""A recipe is the settings of every stage; running it runs what is missing in the run's folder."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from tag2mask.common.files import atomic_write, read_json, write_json
from tag2mask.config import build, load_yaml, to_mapping, with_overrides
from tag2mask.data import Dataset, ImageRecord, check_masks, read_dataset
from tag2mask.data.photos import photos_dataset
from tag2mask.data.readers.prepared import matches as prepared_before
from tag2mask.stages.confident import confident
from tag2mask.stages.evaluate import EvaluateConfig, Score, score_maps, score_masks, store_score
from tag2mask.stages.folder import read_manifest, versions
from tag2mask.stages.localize import LocalizeConfig, localize
from tag2mask.stages.predict import PredictConfig, predict
from tag2mask.stages.refine import RefineConfig, check, refine
from tag2mask.stages.refinements import Refinement, expanded, plan
from tag2mask.stages.train_boundary import train_boundary
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier
from tag2mask.stages.train_segmenter import SegmenterConfig, train_segmenter
from tag2mask.stages.training import Execution

Say = Callable[[str], None]
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class DataConfig:
    """Which images, which classes, which splits."""

    reader: str = "auto"  # auto, csv, folders, voc or coco
    classes: tuple[str, ...] | None = None  # a restriction; pixels of other classes count as background
    mask_classes: str | tuple[str, ...] | None = None  # names of mask values 1..N; "voc" for VOC's twenty
    train_split: str = "train"
    val_split: str = "val"
    val_limit: int | None = None  # predict and score only so many held-out images, for a quick try


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's results."""

    name: str
    description: str = ""
    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    localize: LocalizeConfig = dataclasses.field(default_factory=LocalizeConfig)
    refine: RefineConfig = dataclasses.field(default_factory=RefineConfig)
    # Further refinements by name, each written as changes over `refine`: scored beside it, never learned from.
    comparisons: dict[str, RefineConfig] = dataclasses.field(default_factory=dict)
    segmenter: SegmenterConfig = dataclasses.field(default_factory=SegmenterConfig)
    predict: PredictConfig = dataclasses.field(default_factory=PredictConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    supervised: bool = True  # also train on true masks where there are any: the upper bound


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by path, or by the name of one that comes along; `overrides` are like "classifier.epochs=3".

    ConfigError names the key, the file, the line and the nearest valid key.
    """
    path = find_recipe(path)
    values, lines = load_yaml(path)
    values = expanded(with_overrides(values, overrides), str(path), lines)
    return build(Recipe, values, source=str(path), lines=lines)


def recipe_folder() -> Path:
    """Where the recipes of this installation lie: inside the package, or at the root of a clone."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def find_recipe(name: Path | str) -> Path:
    """Return the path of a recipe given by path or by name; ConfigError with the nearest known name."""
    if Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path in recipe_folder().glob("*.yaml")}
    if str(name) in known:
        return known[str(name)]
    raise ConfigError(f"{name}: no such recipe file or name{did_you_mean(Path(name).stem, known)}")


@dataclass(frozen=True)
class Splits:
    """The images that a run learns from and the held-out ones."""

    train: Dataset
    val: Dataset | None
    limited_to: int | None


def read_splits(recipe: Recipe, root: Path, limit: int | None = None) -> Splits:
    """Read the data set of a recipe and take its splits; without split names all images are for training."""
    classes = list(recipe.data.classes) if recipe.data.classes else None
    dataset = read_dataset(root, reader=recipe.data.reader, classes=classes, mask_classes=recipe.data.mask_classes)
    splits = {record.split for record in dataset.records}
    if splits == {""}:
        train, val = dataset, None
    else:
        train = dataset.select(recipe.data.train_split)
        val = dataset.select(recipe.data.val_split) if recipe.data.val_split in splits else None
    if limit is not None:
        train = train.limit(limit, recipe.seed)
    if val is not None and recipe.data.val_limit is not None:
        val = val.limit(recipe.data.val_limit, recipe.seed)
    return Splits(train, val, limit)


def run(
    recipe: Recipe, data: Path | str, out: Path | str, *, limit: int | None = None,
    execution: Execution | None = None, say: Say = print,
) -> dict[str, Any]:  # fmt: skip
    """Run every stage of `recipe` on the data set at `data` in the folder `out`; return its scores.

    `limit` takes a class-balanced subset of the training images. Finished stages are kept, a killed run goes on
    where it stopped, and a folder made with other settings is refused. Raises Tag2MaskError.
    """
    chain = open_chain(recipe, Path(data), Path(out), limit=limit, execution=execution, say=say)
    return chain.run()


def open_chain(
    recipe: Recipe, data: Path, out: Path, *, limit: int | None = None, execution: Execution | None = None,
    say: Say = print,
) -> Chain:  # fmt: skip
    """Read the data set, write what the run is (run.json, recipe.yaml, index.json) and return its steps."""
    splits = read_splits(recipe, data, limit)
    _refuse_bad_input(splits, data)
    for problem in splits.train.problems[:_PROBLEMS_SHOWN]:
        say(f"! {problem}")
    if len(splits.train.problems) > _PROBLEMS_SHOWN:
        say(f"! {len(splits.train.problems) - _PROBLEMS_SHOWN} more problems; see: tag2mask data check {data} --all")
    if not any(_has_masks(part) for part in (splits.train, splits.val) if part is not None):
        say("! no true masks, so nothing will be scored (COCO: tag2mask data prepare renders them)")
    info = _start(recipe, splits, out)
    return Chain(recipe, splits, out, info, execution or Execution(), say)


def _refuse_bad_input(splits: Splits, data: Path) -> None:
    """Stop before anything is trained on what would spoil labels or scores; DataError names the first finds."""
    found = [problem for problem in splits.train.problems if problem.fatal]
    if not prepared_before(data):
        found += [problem for part in (splits.train, splits.val) if part is not None for problem in check_masks(part)]
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise DataError(f"{data}: " + " | ".join(str(problem) for problem in found[:3]) + more)


class Chain:
    """The steps of a run: where each reads and writes. Each runs what is missing in its folder."""

    def __init__(
        self, recipe: Recipe, splits: Splits, out: Path, info: dict[str, Any], execution: Execution, say: Say
    ) -> None:
        self.recipe, self.out, self.info, self.execution, self.say = recipe, out, info, execution, say
        self.train, self.val, self.seed = splits.train, splits.val, recipe.seed
        # without true masks there is nothing to compare
        comparisons = recipe.comparisons if _has_masks(self.train) else {}
        self.refinements = plan(recipe.refine, comparisons, recipe.classifier)
        self._refinements_checked = False

    def run(self) -> dict[str, Any]:
        """Run the whole chain, scoring each step where there are true masks; return the scores."""
        self._check_refinements()
        self.train_classifier()
        self.localize()
        self._score_seeds()
        self.refine()
        self._score_pseudo_masks()
        self.train_segmenter()
        self.predict()
        self._score_predictions("segmentation_val", "predictions")
        if self.recipe.supervised and _has_masks(self.train):
            self.train_segmenter(supervised=True)
            self.predict(supervised=True)
            self._score_predictions("supervised_val", "supervised_predictions")
        self._finish()
        return self.scores()

    def train_classifier(self) -> None:
        """Step 1: the classifier, from image-level labels."""
        self.say(f"1 classifier: {len(self.train)} images, {len(self.train.classes)} classes")
        train_classifier(self.train, self.out / "classifier", self.recipe.classifier, seed=self.seed,
                         execution=self.execution, validation=self.val)  # fmt: skip

    def localize(self) -> None:
        """Step 2: CAM and RIB maps of the training images."""
        self.say(f"2 localization maps ({self.recipe.localize.method})")
        localize(self.train, self.out / "classifier", self.out / "localization", self.recipe.localize, seed=self.seed,
                 execution=self.execution)  # fmt: skip

    def _check_refinements(self) -> None:
        """Stop before any work if the recipe's own refinement can't run here; leave out comparisons that can't."""
        if self._refinements_checked:
            return
        self._refinements_checked = True
        usable = []
        for one in self.refinements:
            try:
                check(one.config)
                usable.append(one)
            except MissingExtraError as error:
                if not one.name:
                    raise
                self.say(f"! comparison {one.title} is left out: {error}")
        self.refinements = usable

    def confident(self) -> None:
        """Step 3a: the labels that boundary networks learn from, where a refinement needs any."""
        self._check_refinements()
        for first in _distinct(self.refinements, "confident"):
            assert first.confident is not None
            confident(self.train, self.out / "localization", self.out / first.confident, first.config.confident,
                      maps=first.config.maps, seed=self.seed, execution=self.execution)  # fmt: skip

    def train_boundary(self) -> None:
        """Step 3b: the boundary networks, and the confident labels where these are missing."""
        self.confident()
        for first in _distinct(self.refinements, "boundary"):
            assert first.confident is not None
            assert first.boundary is not None
            self.say(f"  boundary network on confident {first.config.maps} labels")
            train_boundary(self.train, self.out / first.confident, self.out / first.boundary, first.config.boundary,
                           seed=self.seed, execution=self.execution)  # fmt: skip

    def refine(self) -> None:
        """Step 3: pseudo-masks of the recipe's own refinement and of its comparisons, and what they need first."""
        self._check_refinements()
        self.say(f"3 pseudo-masks ({', '.join(refinement.title for refinement in self.refinements)})")
        self.train_boundary()
        for one in self.refinements:
            execution = self.execution if not one.name else dataclasses.replace(self.execution, trace=0)
            out = self.out / one.folder
            refine(self.train, self.out / "localization", out, one.config, seed=self.seed, execution=execution,
                   boundary=self.out / one.boundary if one.boundary else None)  # fmt: skip
            lacking = read_json(out / "manifest.json").get("without_saliency")
            if lacking:
                self.say(f"! {one.title}: {len(lacking)} images without a saliency map, e.g. {lacking[0]}")

    def train_segmenter(self, *, supervised: bool = False) -> None:
        """Step 4: the segmentation network, on pseudo-masks or, as the upper bound, on true masks."""
        self.say("5 the same network on true masks: the upper bound" if supervised else "4 segmentation network")
        train_segmenter(
            self.train, None if supervised else self.out / "pseudo_masks",
            self.out / ("supervised" if supervised else "segmenter"), self.recipe.segmenter, seed=self.seed,
            execution=self.execution,
        )  # fmt: skip

    def predict(self, *, supervised: bool = False) -> None:
        """Masks of the held-out images."""
        if self.val is None:
            self.say("  no held-out images to predict")
            return
        names = ("supervised", "supervised_predictions") if supervised else ("segmenter", "predictions")
        predict(self.val, self.out / names[0], self.out / names[1], self.recipe.predict, execution=self.execution)

    def evaluate(self) -> dict[str, Any]:
        """Score every finished step of the run again; return the scores."""
        steps: dict[str, Callable[[], None]] = {
            "localization": self._score_seeds,
            "pseudo_masks": self._score_pseudo_masks,
            "predictions": lambda: self._score_predictions("segmentation_val", "predictions"),
            "supervised_predictions": lambda: self._score_predictions("supervised_val", "supervised_predictions"),
        }
        for folder, score in steps.items():
            if (self.out / folder / "manifest.json").is_file():
                score()
        return self.scores()

    def scores(self) -> dict[str, Any]:
        """The scores so far, in the order of the chain."""
        path = self.out / "scores.json"
        found = read_json(path) if path.is_file() else {}
        order = ("seed", "pseudo_mask", "segmentation", "supervised")

        def place(name: str) -> int:
            return next((number for number, start in enumerate(order) if name.startswith(start)), len(order))

        return {name: found[name] for name in sorted(found, key=place)}

    def _score_seeds(self) -> None:
        kinds = ["cam", "rib"] if self.recipe.localize.method == "rib" else ["cam"]
        for kind in kinds if _has_masks(self.train) else []:
            score = score_maps(self.train, self.out / "localization" / kind, self.recipe.evaluate,
                               split=self.recipe.data.train_split, processes=self.execution.processes,
                               seed=self.seed)  # fmt: skip
            self._store(f"seed_{kind}", score)

    def _score_pseudo_masks(self) -> None:
        for one in self.refinements if _has_masks(self.train) else []:
            manifest = self.out / one.folder / "manifest.json"
            if not manifest.is_file():
                continue
            threshold, chosen_on = one.config.background
            score = score_masks(self.train, self.out / one.folder / "masks", split=self.recipe.data.train_split,
                                threshold=threshold, chosen_on=chosen_on, config=self.recipe.evaluate,
                                processes=self.execution.processes, seed=self.seed)  # fmt: skip
            score.row["title"] = one.title
            if read_json(manifest).get("saliency"):
                score.row["saliency"] = read_json(manifest)["saliency"]
            self._store(one.score, score)

    def _score_predictions(self, name: str, folder: str) -> None:
        if self.val is not None and _has_masks(self.val):
            score = score_masks(self.val, self.out / folder / "masks", split=self.recipe.data.val_split,
                                config=self.recipe.evaluate, processes=self.execution.processes,
                                seed=self.seed)  # fmt: skip
            self._store(name, score)

    def _store(self, name: str, score: Score) -> None:
        store_score(self.out, name, score)
        self.say(f"  {name}: {describe(score.row)}")

    def _finish(self) -> None:
        failures = {
            f"{folder.parent.name}/{image_id}": state["error"]
            for folder in sorted(self.out.glob("*/manifest.json"))
            for image_id, state in read_json(folder).get("images", {}).items()
            if state["status"] == "failed"
        }
        for place, error in list(failures.items())[:20]:
            self.say(f"! {place}: {error}")
        if failures:
            self.say(f"! {len(failures)} failures in all; each folder's manifest.json lists its own")
        self.info |= {"finished": True, "seconds": stage_seconds(self.out), "failures": failures}
        write_json(self.out / "run.json", self.info)


def predict_photos(
    photos: Path | str, run_folder: Path | str, out: Path | str, config: PredictConfig | None = None, *,
    execution: Execution | None = None,
) -> dict[str, str]:  # fmt: skip
    """Segment any photos (a folder, searched for images, or one file) by the network of a run.

    Writes `out`/masks/NAME.png; returns what could not be used, by name. Raises ConfigError, DataError.
    """
    run_folder, out = Path(run_folder), Path(out)
    if config is None:
        config = load_recipe(run_folder / "recipe.yaml").predict
    classes = tuple(read_manifest(run_folder / "segmenter", "train-segmenter")["classes"])
    dataset = photos_dataset(photos, classes)
    predict(dataset, run_folder / "segmenter", out, config, execution=execution)
    images = read_json(out / "manifest.json")["images"]
    return {image_id: state["error"] for image_id, state in images.items() if state["status"] == "failed"}


def predict_listed(
    images: Mapping[str, Path], run_folder: Path, out: Path, *, execution: Execution | None = None
) -> tuple[str, ...]:
    """Segment `images` (path by id) by the network of a run into `out`/masks/ID.png; return the network's classes."""
    classes = tuple(read_manifest(run_folder / "segmenter", "train-segmenter")["classes"])
    records = tuple(ImageRecord(image_id, path.absolute(), ()) for image_id, path in images.items())
    dataset = Dataset("listed", classes, records)
    config = load_recipe(run_folder / "recipe.yaml").predict
    predict(dataset, run_folder / "segmenter", out, config, execution=execution)
    return classes


def describe(row: dict[str, Any]) -> str:
    """One line of a score: the figure, on which images, at which threshold chosen how."""
    text = f"mIoU {100 * row['miou']:.1f}{interval_text(row)} on {row['images']} {row['split']} images"
    if row.get("threshold") is not None:
        text += f", threshold {row['threshold']:.2f}, {row['threshold_chosen_on']}"
    if row.get("coverage") is not None:
        text += f", {100 * row['coverage']:.0f} % of the pixels decided, the rest scored as background"
    return text if not row.get("saliency") else f"{text}, saliency {row['saliency']}"


def interval_text(row: dict[str, Any]) -> str:
    """The bootstrap interval of a score as " (95 %: 48.9-52.3)", "" without one."""
    interval = row.get("interval")
    if not interval or interval.get("low") is None:
        return ""
    return f" ({100 * interval['level']:.0f} %: {100 * interval['low']:.1f}-{100 * interval['high']:.1f})"


def _distinct(refinements: Sequence[Refinement], kind: str) -> list[Refinement]:
    """The first refinement of each folder of `kind` ("confident" or "boundary")."""
    first: dict[str, Refinement] = {}
    for refinement in refinements:
        folder = getattr(refinement, kind)
        if folder is not None:
            first.setdefault(folder, refinement)
    return list(first.values())


def _has_masks(dataset: Dataset) -> bool:
    return any(record.mask_path is not None for record in dataset.records)


def _start(recipe: Recipe, splits: Splits, out: Path) -> dict[str, Any]:
    """Write what the run is before it begins: run.json, recipe.yaml, index.json."""
    info = {
        "name": recipe.name,
        "recipe": to_mapping(recipe),
        "seed": recipe.seed,
        "versions": versions(),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "data": {
            "root_name": splits.train.name,
            "classes": list(splits.train.classes),
            "train_images": len(splits.train),
            "val_images": len(splits.val) if splits.val else 0,
            "limited_to": splits.limited_to,
        },
        "problems": [str(problem) for problem in splits.train.problems],
        "seconds": {},
        "finished": False,
    }
    _refuse_other_run(out, info)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", info)
    with atomic_write(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(to_mapping(recipe), sort_keys=False, allow_unicode=True), "utf-8")
    write_json(out / "index.json", _index(splits))
    return info


def _refuse_other_run(out: Path, info: dict[str, Any]) -> None:
    """A folder with another run, or with anything else in it, is never written to."""
    if (out / "run.json").is_file():
        old = read_json(out / "run.json")
        same = old.get("name") == info["name"] and old.get("data") == info["data"]
        if not same:
            raise ConfigError(
                f"{out}: holds the run '{old.get('name')}' on {old.get('data', {}).get('train_images')} images of "
                f"'{old.get('data', {}).get('root_name')}'; this is '{info['name']}' on "
                f"{info['data']['train_images']} of '{info['data']['root_name']}'; choose another --out"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty and not a run's folder (no run.json); choose another --out")


def _index(splits: Splits) -> dict[str, Any]:
    datasets = [splits.train, *([splits.val] if splits.val else [])]
    images = {
        record.id: {
            "path": str(record.path),
            "labels": [dataset.classes[label] for label in record.labels],
            "split": record.split,
            "mask": str(record.mask_path) if record.mask_path else None,
        }
        for dataset in datasets
        for record in dataset.records
    }
    lut = [int(value) for value in splits.train.mask_lut]
    return {"classes": list(splits.train.classes), "images": images, "mask_lut": lut}


def machine() -> dict[str, Any]:
    """What a cost was measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def stage_seconds(out: Path) -> dict[str, float]:
    """Seconds that each stage of a run took, over all its resumptions."""
    manifests = sorted(out.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return {path.parent.name: read_json(path)["seconds"] for path in manifests}
