"""What a stage is: one step of the chain, with everything that the rest of the program must know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.common.files import read_object
from tag2mask.config import to_mapping
from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution
from tag2mask.runs.decisions import Effect
from tag2mask.runs.folder import StageFolder, refuse_other, started_without
from tag2mask.runs.info import Step
from tag2mask.runs.scores import Score

if TYPE_CHECKING:
    from tag2mask.recipe import Recipe

Say = Callable[[str], None]
LAST = 100  # the turn of what comes after everything else: the upper bound


@dataclass(frozen=True)
class Context:
    """What the stages of one run share."""

    recipe: Recipe
    train: Dataset
    val: Dataset | None
    out: Path
    execution: Execution = field(default_factory=Execution)
    say: Say = print
    effect: Effect = field(default_factory=Effect)  # what a review has decided; tags and thresholds are applied

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe.seed

    def images(self, on: str) -> Dataset:
        """The images that an entry of the plan works on: "train" or "val"."""
        if on == "train":
            return self.train
        assert self.val is not None
        return self.val


@dataclass(frozen=True)
class Planned:
    """A stage in one run: where it writes and reads, with which settings, and how it is scored."""

    stage: Stage
    folder: str  # where it writes, in the run's folder
    config: Any = None
    reads: Mapping[str, str] = field(default_factory=dict)  # what it reads, folders in the run's by role
    on: str = "train"  # whose images it works on: "train" or "val"
    score: str = ""  # key of its row in scores.json; "" = the stage's own
    more: Mapping[str, Any] = field(default_factory=dict)  # settings that are told by its place, not by its config
    seed: int | None = None  # null = the run's
    heading: str = ""  # as the terminal has it
    title: str = ""  # in reports, where the stage's own says too little
    upper_bound: bool = False  # learns from true masks
    optional: bool = False  # a run is finished without it, unless it was begun
    quiet: bool = False  # nothing but results: no traces for the report
    turn: int = 0  # entries of a later turn come after all of an earlier one

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results, as the manifest has it."""
        return {**self.stage.used(self.config), **self.more}

    @property
    def step(self) -> Step:
        """What run.json says of it."""
        title = self.title or self.stage.title
        return Step(self.folder, self.stage.name, title, self.stage.per_image, tuple(self.reads.values()))

    def refuse_other(self, context: Context) -> None:
        """Raise ConfigError, naming the difference, where its folder was made with other settings."""
        path = context.out / self.folder / "manifest.json"
        if path.is_file():
            named = {"config": self.settings, "seed": context.seed if self.seed is None else self.seed}
            absent = self.stage.absent
            refuse_other(path.parent, read_object(path), named, absent=absent, free=self.stage.free)


Entries = Callable[[Context], Iterable[Planned]]
Scores = dict[str, Score]


def _nothing(entry: Planned, context: Context) -> None:
    return None


def _no_scores(entry: Planned, context: Context) -> Scores:
    return {}


def _no_notes(context: Context) -> Iterable[str]:
    return ()


def _no_keys(entry: Planned, context: Context) -> list[str]:
    return []


@dataclass(frozen=True)
class Stage:
    """One step of the chain: what it is called, what decides its result, and how it is done.

    A stage is one module that ends in its `Stage`, and one line in `stages.STAGES`.
    """

    name: str  # its command, and `stage` in its manifest
    title: str  # in reports
    config: type  # its settings; their defaults are what an older manifest means that doesn't name one
    entries: Entries  # what a run has of it: where, on what, with which settings
    run: Callable[[Planned, Context], None]  # do what is missing in the entry's folder
    # Raise before anything is trained what would otherwise show after hours; only asked of what isn't finished.
    check: Callable[[Planned, Context], None] = _nothing
    score_keys: Callable[[Planned, Context], list[str]] = _no_keys  # rows of scores.json, where there are true masks
    score: Callable[[Planned, Context], Scores] = _no_scores
    used: Callable[[Any], dict[str, Any]] = to_mapping  # the settings that decide the result
    free: tuple[str, ...] = ()  # settings that cost time only, dotted names
    section: str = ""  # of a recipe, for a stage whose settings are no field of `Recipe`
    needs: tuple[str, ...] = ()  # stages that its command runs first
    idle: str = "nothing to do in this run"  # said where a run has no entry of it
    notes: Callable[[Context], Iterable[str]] = _no_notes  # what to say of it at the start of a run
    per_image: bool = True  # works image by image, so seconds an image mean something

    @property
    def absent(self) -> dict[str, Any]:
        """What a manifest of an earlier version means that doesn't name a setting."""
        return {"config": to_mapping(self.config())}

    def open(
        self,
        out: Path,
        config: Any,
        *,
        seed: int,
        inputs: dict[str, str],
        more: Mapping[str, Any] | None = None,
        absent_inputs: Mapping[str, str] | None = None,
    ) -> StageFolder:
        """Open the folder that the stage writes; ConfigError where it was made otherwise.

        `more` are settings beside those of `config`, `absent_inputs` what older manifests mean without naming it.
        """
        return StageFolder(
            out,
            self.name,
            config={**self.used(config), **(more or {})},
            seed=seed,
            inputs=inputs,
            absent={**self.absent, "inputs": dict(absent_inputs or {})},
            free=self.free,
        )


def has_masks(dataset: Dataset | None) -> bool:
    """Whether any image has a true mask to score against."""
    return dataset is not None and any(record.mask_path is not None for record in dataset.records)


def say_late(context: Context, network: str, masks: str, error: str) -> None:
    """Say which images a training was begun without although they have what it learns from by now."""
    late = [
        image_id
        for image_id in sorted(started_without(context.out / network, error))
        if (context.out / masks / "masks" / f"{image_id}.png").is_file()
    ]
    if late:
        context.say(
            f"! {network}: was trained without {len(late)} images that failed then and work by now, e.g. "
            f"{late[0]}; to learn from them too, delete {context.out / network} and the folders made from it"
        )
