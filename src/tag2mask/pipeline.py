"""A recipe is the settings of every stage; running it runs what is missing in the run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError, Tag2MaskError, did_you_mean
from tag2mask.common.files import read_json, write_json
from tag2mask.config import Free, Range, SettingError, Settings, build, load_yaml, to_mapping, with_overrides
from tag2mask.data import Dataset, ImageRecord, check_masks, read_dataset
from tag2mask.data.photos import photos_dataset
from tag2mask.data.readers.prepared import matches as prepared_before
from tag2mask.runfolder import describe_run, failures_of, manifests_of, read_info, refuse_other_run, write_start
from tag2mask.stages import confident as confident_stage
from tag2mask.stages import localize as localize_stage
from tag2mask.stages import predict as predict_stage
from tag2mask.stages import refine as refine_stage
from tag2mask.stages import train_boundary as boundary_stage
from tag2mask.stages import train_classifier as classifier_stage
from tag2mask.stages import train_segmenter as segmenter_stage
from tag2mask.stages.confident import confident
from tag2mask.stages.evaluate import EvaluateConfig, Score, score_maps, score_masks, store_score
from tag2mask.stages.folder import is_finished, read_manifest, refuse_other, started_without
from tag2mask.stages.localize import LocalizeConfig, localize
from tag2mask.stages.predict import PredictConfig, predict
from tag2mask.stages.refine import RefineConfig, background_of, check, refine, title_of
from tag2mask.stages.refinements import Refinement, expanded, plan
from tag2mask.stages.train_boundary import train_boundary
from tag2mask.stages.train_classifier import ClassifierConfig, train_classifier
from tag2mask.stages.train_segmenter import SegmenterConfig, train_segmenter
from tag2mask.stages.training import Execution

Say = Callable[[str], None]
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which images, which classes, which splits."""

    # auto, csv, folders, voc or coco
    reader: Annotated[str, Free("looked up when the data set is read, before anything is computed")] = "auto"
    # a restriction; pixels of other classes count as background
    classes: Annotated[tuple[str, ...] | None, Free("looked up in the data set, when it is read")] = None
    # names of mask values 1..N; "voc" for VOC's twenty
    mask_classes: Annotated[str | tuple[str, ...] | None, Free("looked up in the data set, when it is read")] = None
    train_split: Annotated[str, Free("looked up in the data set, when it is read")] = "train"
    val_split: Annotated[str, Free("a data set may do without held-out images")] = "val"
    # predict and score only so many held-out images, for a quick try
    val_limit: Annotated[int | None, Range(ge=1)] = None
    # Photos whose longer side has more pixels are worked on at this size; masks come back in the photo's own. null =
    # all at their own size, as published.
    long_side: Annotated[int | None, Range(ge=32, le=65_536, note="pixels")] = None


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that decides a run's results."""

    name: Annotated[str, Free("any text")]
    description: Annotated[str, Free("any text")] = ""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
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

    def check_relations(self) -> None:
        """Raise ConfigError for a refinement of maps that the localization doesn't make."""
        refinements = {"refine": self.refine} | {f"comparisons.{name}": one for name, one in self.comparisons.items()}
        for place, one in refinements.items():
            if one.maps not in localize_stage.kinds_of(self.localize):
                expected = f"{self.localize.method}, the maps of localize.method: {self.localize.method}"
                raise SettingError(self, (f"{place}.maps", "localize.method"), expected)


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by path, or by the name of one that comes along; `overrides` are like "classifier.epochs=3".

    ConfigError names the key, the file, the line and the nearest valid key.
    """
    path = find_recipe(path)
    values, lines = load_yaml(path)
    values = expanded(with_overrides(values, overrides, lines), str(path), lines)
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
    unassigned: int = 0  # images that belong to no split although others do: they are in neither


def read_splits(recipe: Recipe, root: Path, limit: int | None = None) -> Splits:
    """Read the data set of a recipe and take its splits; without split names all images are for training.

    So are those without one where only held-out images are named. Where both kinds are, they are left out.
    """
    classes = list(recipe.data.classes) if recipe.data.classes else None
    dataset = read_dataset(root, reader=recipe.data.reader, classes=classes, mask_classes=recipe.data.mask_classes)
    dataset = dataset.at_most(recipe.data.long_side)
    splits = {record.split for record in dataset.records}
    rest_trains = "" in splits and "train" not in splits and recipe.data.train_split == "train"
    unassigned = sum(not record.split for record in dataset.records) if not rest_trains else 0
    if splits == {""}:
        train, unassigned = dataset, 0
    else:
        train = dataset.select("" if rest_trains else recipe.data.train_split)
    val = dataset.select(recipe.data.val_split) if recipe.data.val_split in splits - {""} else None
    if limit is not None:
        train = train.limit(limit, recipe.seed)
    if val is not None and recipe.data.val_limit is not None:
        val = val.limit(recipe.data.val_limit, recipe.seed)
    return Splits(train, val, limit, unassigned)


def run(
    recipe: Recipe, data: Path | str, out: Path | str, *, limit: int | None = None,
    execution: Execution | None = None, say: Say = print,
) -> dict[str, Any]:  # fmt: skip
    """Run every stage of `recipe` on the data set at `data` in the folder `out`; return its scores.

    `limit` takes a class-balanced subset of the training images; a folder that was begun with a limit keeps it.
    Finished stages are kept, a killed run goes on where it stopped, images that failed are tried again, and a folder
    made with other settings is refused. Raises Tag2MaskError.
    """
    chain = open_chain(recipe, Path(data), Path(out), limit=limit, execution=execution, say=say)
    return chain.run()


def open_chain(
    recipe: Recipe, data: Path, out: Path, *, limit: int | None = None, execution: Execution | None = None,
    say: Say = print,
) -> Chain:  # fmt: skip
    """Read the data set, write what the run is (run.json, recipe.yaml, index.json) and return its steps.

    Nothing is written to a folder that holds another run, or stages made with other settings: ConfigError.
    """
    old = read_info(out)
    if limit is None and old.get("data", {}).get("limited_to"):
        limit = int(old["data"]["limited_to"])
        say(f"  --limit {limit}, as {out} was begun; for all images choose another --out")
    splits = read_splits(recipe, data, limit)
    _refuse_bad_input(splits, data)
    info = describe_run(recipe.name, to_mapping(recipe), splits.train, splits.val, splits.limited_to, old)
    refuse_other_run(out, old, info)
    chain = Chain(recipe, splits, out, info, execution or Execution(), say)
    chain.refuse_other_settings()
    _say_problems(splits, data, say)
    write_start(out, info, [splits.train, *([splits.val] if splits.val else [])])
    return chain


def _say_problems(splits: Splits, data: Path, say: Say) -> None:
    for problem in splits.train.problems[:_PROBLEMS_SHOWN]:
        say(f"! {problem}")
    if len(splits.train.problems) > _PROBLEMS_SHOWN:
        say(f"! {len(splits.train.problems) - _PROBLEMS_SHOWN} more problems; see: tag2mask data check {data} --all")
    if splits.unassigned:
        say(f"! {splits.unassigned} images belong to no split while others do: they are left out; name their split")
    if not any(_has_masks(part) for part in (splits.train, splits.val) if part is not None):
        say("! no true masks, so nothing will be scored (COCO: tag2mask data prepare renders them)")


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
        self.check()
        self.train_classifier()
        self.localize()
        self._score_seeds()
        self.refine()
        self._score_pseudo_masks()
        self.train_segmenter()
        self.predict()
        self._score_predictions("segmentation_val", "predictions")
        if self._trains_supervised():
            self.train_segmenter(supervised=True)
            self.predict(supervised=True)
            self._score_predictions("supervised_val", "supervised_predictions")
        self._settle()
        self._say_failures()
        return self.scores()

    def check(self) -> None:
        """Stop before any work if a later step can't run here: what is missing must not show after hours."""
        self._check_refinements()
        if self.val is not None:
            predict_stage.check(self.recipe.predict)
        networks = ["segmenter", *(["supervised"] if self._trains_supervised() else [])]
        if not all(is_finished(self.out / network) for network in networks):
            segmenter_stage.check(self.recipe.segmenter, len(self.train.classes) + 1)
        for first in _distinct(self.refinements, "boundary"):
            if not is_finished(self.out / str(first.boundary)):
                boundary_stage.check(first.config.boundary)

    def refuse_other_settings(self) -> None:
        """Raise ConfigError, naming the difference, if a stage in the run's folder was made with other settings."""
        for planned in self._planned():
            path = self.out / planned.folder / "manifest.json"
            if path.is_file():
                named = {"config": planned.config, "seed": planned.seed}
                refuse_other(path.parent, read_json(path), named, absent=planned.absent, free=planned.free)

    def _planned(self) -> Iterator[_Planned]:
        """What the recipe asks of each stage's folder."""
        recipe, seed = self.recipe, self.seed
        yield _Planned("classifier", to_mapping(recipe.classifier), seed, classifier_stage.ABSENT)
        yield _Planned("localization", to_mapping(recipe.localize), seed, localize_stage.ABSENT, localize_stage.FREE)
        for first in _distinct(self.refinements, "confident"):
            labels = first.config.confident
            free = ("refinement",) if labels.refinement == "auto" else ()  # it is what was there when they were made
            settings = confident_stage.settings_of(labels, first.config.maps)
            yield _Planned(str(first.confident), settings, seed, confident_stage.ABSENT, free)
        for first in _distinct(self.refinements, "boundary"):
            yield _Planned(str(first.boundary), to_mapping(first.config.boundary), seed, boundary_stage.ABSENT)
        for one in self.refinements:
            asked = recipe.comparisons[one.name] if one.name else recipe.refine
            free = ("method",) if asked.method == "auto" else ()
            yield _Planned(one.folder, one.config.used(), seed, refine_stage.ABSENT, free)
        for network, masks in (("segmenter", "predictions"), ("supervised", "supervised_predictions")):
            yield _Planned(network, to_mapping(recipe.segmenter), seed, segmenter_stage.absent(self.train))
            yield _Planned(masks, to_mapping(recipe.predict), 0, predict_stage.ABSENT)

    def _trains_supervised(self) -> bool:
        return self.recipe.supervised and _has_masks(self.train)

    def train_classifier(self) -> None:
        """Step 1: the classifier, from image-level labels."""
        self.say(f"1 classifier: {len(self.train)} images, {len(self.train.classes)} classes")
        train_classifier(self.train, self.out / "classifier", self.recipe.classifier, seed=self.seed,
                         execution=self.execution, validation=self.val)  # fmt: skip
        self._settle()

    def localize(self) -> None:
        """Step 2: CAM and RIB maps of the training images."""
        self.say(f"2 localization maps ({self.recipe.localize.method})")
        localize(self.train, self.out / "classifier", self.out / "localization", self.recipe.localize, seed=self.seed,
                 execution=self.execution)  # fmt: skip
        self._settle()

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
        self._settle()

    def train_boundary(self) -> None:
        """Step 3b: the boundary networks, and the confident labels where these are missing."""
        self.confident()
        for first in _distinct(self.refinements, "boundary"):
            assert first.confident is not None
            assert first.boundary is not None
            self.say(f"  boundary network on confident {first.config.maps} labels")
            train_boundary(self.train, self.out / first.confident, self.out / first.boundary, first.config.boundary,
                           seed=self.seed, execution=self.execution)  # fmt: skip
            self._say_late(first.boundary, first.confident, boundary_stage.NO_LABELS)
        self._settle()

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
        self._settle()

    def train_segmenter(self, *, supervised: bool = False) -> None:
        """Step 4: the segmentation network, on pseudo-masks or, as the upper bound, on true masks."""
        self.say("5 the same network on true masks: the upper bound" if supervised else "4 segmentation network")
        out = "supervised" if supervised else "segmenter"
        train_segmenter(self.train, None if supervised else self.out / "pseudo_masks", self.out / out,
                        self.recipe.segmenter, seed=self.seed, execution=self.execution)  # fmt: skip
        if not supervised:
            self._say_late(out, "pseudo_masks", segmenter_stage.NO_MASK)
        self._settle()

    def _say_late(self, network: str, masks: str, error: str) -> None:
        late = [i for i in sorted(started_without(self.out / network, error))
                if (self.out / masks / "masks" / f"{i}.png").is_file()]  # fmt: skip
        if late:
            self.say(
                f"! {network}: was trained without {len(late)} images that failed then and work by now, e.g. "
                f"{late[0]}; to learn from them too, delete {self.out / network} and the folders made from it"
            )

    def predict(self, *, supervised: bool = False) -> None:
        """Masks of the held-out images."""
        if self.val is None:
            self.say("  no held-out images to predict")
            return
        names = ("supervised", "supervised_predictions") if supervised else ("segmenter", "predictions")
        predict(self.val, self.out / names[0], self.out / names[1], self.recipe.predict, execution=self.execution)
        self._settle()

    def evaluate(self) -> dict[str, Any]:
        """Score every finished step of the run again; return the scores."""
        steps: dict[str, Callable[[], None]] = {
            "localization": self._score_seeds,
            "pseudo_masks": self._score_pseudo_masks,
            "predictions": lambda: self._score_predictions("segmentation_val", "predictions"),
            "supervised_predictions": lambda: self._score_predictions("supervised_val", "supervised_predictions"),
        }
        for folder, score in steps.items():
            if is_finished(self.out / folder):
                score()
            elif (self.out / folder).is_dir():
                self.say(f"  {folder}: not finished, so not scored")
        self._settle()
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
        for kind in localize_stage.kinds_of(self.recipe.localize) if _has_masks(self.train) else ():
            score = score_maps(self.train, self.out / "localization" / kind, self.recipe.evaluate,
                               split=self.recipe.data.train_split, processes=self.execution.processes,
                               seed=self.seed)  # fmt: skip
            self._store(f"seed_{kind}", score)

    def _score_pseudo_masks(self) -> None:
        for one in self.refinements if _has_masks(self.train) else []:
            if not is_finished(self.out / one.folder):
                continue
            made = read_json(self.out / one.folder / "manifest.json")  # which may be of other settings than these
            threshold, chosen_on = background_of(made["config"])
            score = score_masks(self.train, self.out / one.folder / "masks", split=self.recipe.data.train_split,
                                threshold=threshold, chosen_on=chosen_on, config=self.recipe.evaluate,
                                processes=self.execution.processes, seed=self.seed)  # fmt: skip
            planned = title_of(one.config)
            score.row["title"] = made.get("title", planned) + one.title.removeprefix(planned)
            if made.get("saliency"):
                score.row["saliency"] = made["saliency"]
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

    def _settle(self) -> None:
        """Note in run.json how far the run is; it is finished when every step is, in whatever calls they were run."""
        manifests = manifests_of(self.out)
        folders, scores = self._wanted(manifests)
        finished = all(manifests.get(folder, {}).get("finished") for folder in folders)
        self.info |= {
            "finished": finished and set(scores) <= set(self.scores()),
            "seconds": {folder: manifest.get("seconds", 0.0) for folder, manifest in manifests.items()},
            "failures": failures_of(manifests),
        }
        write_json(self.out / "run.json", self.info)

    def _wanted(self, there: Collection[str]) -> tuple[list[str], list[str]]:
        """Folders and scores of a finished run.

        The upper bound counts once it was begun, and so does a comparison that can't run on this machine.
        """
        folders, seeds = ["classifier", "localization", "segmenter"], localize_stage.kinds_of(self.recipe.localize)
        of_train, of_val = [f"seed_{kind}" for kind in seeds], ["segmentation_val"]
        for one in self.refinements:
            if one.folder in there or not one.name or _runs_here(one):
                folders += [folder for folder in (one.confident, one.boundary, one.folder) if folder]
                of_train.append(one.score)
        supervised = "supervised" in there
        folders += ["supervised"] if supervised else []
        if self.val is not None:
            folders += ["predictions", *(["supervised_predictions"] if supervised else [])]
            of_val += ["supervised_val"] if supervised else []
        scored = of_train if _has_masks(self.train) else []
        return folders, scored + (of_val if self.val is not None and _has_masks(self.val) else [])

    def _say_failures(self) -> None:
        failures = self.info["failures"]
        for place, error in list(failures.items())[:_PROBLEMS_SHOWN]:
            self.say(f"! {place}: {error}")
        if failures:
            self.say(f"! {len(failures)} failures in all; each folder's manifest.json lists its own")


@dataclass(frozen=True)
class _Planned:
    """The settings that a recipe asks of one stage's folder; `absent` and `free` as in `StageFolder`."""

    folder: str
    config: dict[str, Any]
    seed: int
    absent: Mapping[str, Any]
    free: tuple[str, ...] = ()


def _runs_here(refinement: Refinement) -> bool:
    try:
        check(refinement.config)
    except Tag2MaskError:
        return False
    return True


def predict_photos(
    photos: Path | str, run_folder: Path | str, out: Path | str, config: PredictConfig | None = None, *,
    execution: Execution | None = None,
) -> dict[str, str]:  # fmt: skip
    """Segment any photos (a folder, searched for images, or one file) by the network of a run.

    Writes `out`/masks/NAME.png; returns what could not be used, by name. Raises ConfigError, DataError.
    """
    run_folder, out = Path(run_folder), Path(out)
    classes = tuple(read_manifest(run_folder / "segmenter", "train-segmenter")["classes"])
    recipe = load_recipe(run_folder / "recipe.yaml")
    dataset = photos_dataset(photos, classes).at_most(recipe.data.long_side)
    predict(dataset, run_folder / "segmenter", out, config or recipe.predict, execution=execution)
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
