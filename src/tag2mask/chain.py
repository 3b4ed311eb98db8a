"""Running a recipe: what is missing in the run's folder, stage by stage, scored where there are true masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tag2mask.choices import as_chosen
from tag2mask.common.commands import command
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.values import as_list
from tag2mask.common.workers import refuse_while_starting
from tag2mask.data import Problem
from tag2mask.data.findings import before_training, grouped
from tag2mask.data.readers.prepared import matches as prepared_before
from tag2mask.decided import Outdated, give_way, kept_in_spite, outdated, with_decisions
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import check_execution
from tag2mask.recipe import AUTO, Recipe, Splits, read_splits, recipe_mapping
from tag2mask.runs.decisions import Effect, read_applied, read_decisions
from tag2mask.runs.folder import is_finished
from tag2mask.runs.info import describe_run, read_info, refuse_other_run, refuse_other_tags, settle, write_start
from tag2mask.runs.lock import alone_in
from tag2mask.runs.scores import read_row, store_score, stored_scores
from tag2mask.stages import all_stages, stage_named
from tag2mask.stages.evaluate import NothingToScore
from tag2mask.stages.stage import Context, Planned, Say, has_masks
from tag2mask.trial import decided

_PROBLEMS_SHOWN = 20


def run(
    recipe: Recipe,
    data: Path | str,
    out: Path | str,
    *,
    limit: int | None = None,
    execution: Execution | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Run every stage of `recipe` on the data set at `data` in the folder `out`; return its scores.

    `limit` takes a class-balanced subset of the training images; a folder that was begun with a limit keeps it.
    Finished stages are kept, a killed run goes on where it stopped, images that failed are tried again, and a folder
    made with other settings is refused. Raises Tag2MaskError.
    """
    return open_chain(recipe, Path(data), Path(out), limit=limit, execution=execution, say=say).run()


def open_chain(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    limit: int | None = None,
    execution: Execution | None = None,
    say: Say = print,
    step: str | None = None,
    upper_bound: bool = False,
) -> Chain:
    """Read the data set, write what the run is (run.json, recipe.yaml, index.json) and return its steps.

    Nothing is written to a folder that holds another run, or stages made with other settings or tags, nor where the
    `step` (a stage, or "evaluate") that it is opened for lacks what it reads: ConfigError.
    """
    refuse_while_starting()
    check_execution(execution or Execution())
    old = read_info(out)
    recipe = as_chosen(recipe, out)
    if limit is None and old.get("data", {}).get("limited_to"):
        limit = int(old["data"]["limited_to"])
        say(f"  --limit {limit}, as {out} was begun; for all images choose another --out")
    splits = read_splits(recipe, data, limit)
    problems = before_training(splits.train, splits.val, prepared=prepared_before(data))
    _refuse_bad_input(problems, data)
    if recipe.variant == AUTO or recipe.sizes is not None:
        first = next(iter(recipe.alternatives.values()), recipe)
        if not old:
            refuse_other_run(out, {}, {})  # before a trial is written there
        if step is not None:
            Chain(Context(first, splits.train, splits.val, out), {}).refuse_early(step, upper_bound)
        recipe, splits = _as_tried(recipe, splits, data, out, execution or Execution(), say)
    record = _record(data, execution or Execution())
    info = describe_run(recipe.name, recipe_mapping(recipe), splits.train, splits.val, splits.limited_to, old, record)
    refuse_other_run(out, old, info)
    refuse_other_tags(out, splits.train)
    context = Context(recipe, splits.train, splits.val, out, execution or Execution(), say)
    chain = Chain(context, info)
    for entry in chain.before:
        entry.refuse_other(context)
    if step is not None:
        chain.refuse_early(step, upper_bound)
    _say_problems(problems, splits, data, say)
    decided = chain.context
    parts = [decided.train, *([decided.val] if decided.val else [])]
    with alone_in(out):
        write_start(out, info, [entry.step for entry in chain.plan], parts)
    return chain


def _as_tried(
    recipe: Recipe, splits: Splits, data: Path, out: Path, execution: Execution, say: Say
) -> tuple[Recipe, Splits]:
    """The recipe's variant and size that suit the photos, and its splits."""
    with alone_in(out):
        found = as_chosen(decided(recipe, splits.train, out, execution, say), out)
    return found, splits if found.data == recipe.data else read_splits(found, data, splits.limited_to)


def _record(data: Path, execution: Execution) -> dict[str, Any]:
    """What else than recipe and versions it takes to repeat a run."""
    computed = {"device": execution.device, "devices": execution.devices, "precision": execution.precision}
    return {"data": str(data.expanduser().absolute()), **computed, "threads": torch.get_num_threads()}


def plan(context: Context) -> list[Planned]:
    """Every stage of a run, in the order in which they run: where it writes, what it reads, with which settings."""
    entries = [entry for stage in all_stages() for entry in stage.entries(context)]
    return sorted(entries, key=lambda entry: entry.turn)  # which is stable


class Chain:
    """The stages of one run, each of which does what is missing in its folder."""

    def __init__(self, context: Context, info: dict[str, Any]) -> None:
        self.context = with_decisions(context, Effect.of(read_decisions(context.out)))
        self.earlier = with_decisions(context, read_applied(context.out))  # as the folders were made
        self.info = info
        self.unscored = set(as_list(info.get("unscored")))  # rows that there turned out to be no true mask for
        self.plan, self.before = plan(self.context), plan(self.earlier)

    def run(self) -> dict[str, Any]:
        """Run the whole chain, scoring each step where there are true masks; return the scores."""
        notes = (note for stage in all_stages() for note in stage.notes(self.context))
        for note in (*notes, *kept_in_spite(self.context)):
            self.context.say(f"! {note}")
        self._run(self.plan, score=True)
        self._say_failures()
        return self.scores()

    def refuse_early(self, step: str, upper_bound: bool = False) -> None:
        """Raise ConfigError where a step lacks what it reads, naming the folder and the step that makes it."""
        out, makers = self.context.out, {entry.folder: entry for entry in self.plan}
        if step == "evaluate":
            if not any(is_finished(out / folder) for folder in makers):
                raise ConfigError(f"{out}: no step is finished there, so there is nothing to score; run one first")
            return
        now = self._entries(step, upper_bound)
        for folder in {folder for entry in now for folder in entry.reads.values()} - {entry.folder for entry in now}:
            if not is_finished(out / folder):
                maker = f"'{makers[folder].stage.name}'" if folder in makers else "the step that makes it"
                raise ConfigError(f"{out / folder}: not finished; {step} reads it, so run {maker} first")

    def _entries(self, step: str, upper_bound: bool) -> list[Planned]:
        """What a step's command runs: its own entries, and those of the stages that belong to it."""
        wanted = {step, *stage_named(step).needs}
        return [entry for entry in self.plan if entry.stage.name in wanted and entry.upper_bound == upper_bound]

    def run_stage(self, name: str, *, upper_bound: bool = False, score: bool = False) -> None:
        """Run one stage by the name of its command, and the stages that belong to it; scored only if asked for.

        `upper_bound` takes what learns from true masks instead of what doesn't. ConfigError for an unknown name.
        """
        stage, entries = stage_named(name), self._entries(name, upper_bound)
        if not any(entry.stage.name == name for entry in entries):
            self.context.say(f"  {name}: {stage.idle}")
        self._run(entries, score=score)

    def evaluate(self) -> dict[str, Any]:
        """Score every finished step of the run again; return the scores."""
        with alone_in(self.context.out):
            for entry in self.plan:
                if is_finished(self.context.out / entry.folder):
                    self._score(entry)
                elif (self.context.out / entry.folder).is_dir() and entry.stage.score_keys(entry, self.context):
                    self.context.say(f"  {entry.folder}: not finished, so not scored")
            self._settle()
            return self.scores()

    def scores(self) -> dict[str, Any]:
        """The scores so far, in the order of the chain."""
        return stored_scores(self.context.out)

    def check(self, entries: Sequence[Planned] | None = None) -> None:
        """Stop before any work if a later step can't run here: what is missing must not show after hours."""
        again = self._outdated().folders
        for entry in self.plan if entries is None else entries:
            if entry.folder in again or not is_finished(self.context.out / entry.folder):
                entry.stage.check(entry, self.context)

    def check_stage(self, name: str) -> None:
        """As `check`, for what a stage's command runs."""
        self.check(self._entries(name, upper_bound=False))

    def _run(self, entries: Sequence[Planned], *, score: bool) -> None:
        self.check(entries)
        with alone_in(self.context.out):
            self._give_way()
            for number, entry in enumerate(entries, 1):
                self.context.say(f"{number}/{len(entries)} {entry.heading}")
                entry.stage.run(entry, self.context)
                if score:
                    self._score(entry)
                self._settle()

    def _outdated(self) -> Outdated:
        return outdated(self.plan, self.before, self.context, self.earlier)

    def _give_way(self) -> None:
        """Set aside what was made before a review decided otherwise."""
        if self.context.effect != self.earlier.effect:
            give_way(self._outdated(), self.context)
            self.earlier, self.before = self.context, self.plan

    def _score(self, entry: Planned) -> None:
        """Score one finished step, where its images have true masks."""
        if not self._keys(entry):
            return
        try:
            scores = entry.stage.score(entry, self.context)
        except NothingToScore as error:  # which costs a row, not the run
            self.context.say(f"! {entry.folder}: not scored: {error}")
            self.unscored.update(self._keys(entry))
            return
        self.unscored -= scores.keys()
        for key, score in scores.items():
            store_score(self.context.out, key, score)
            row = read_row(key, score.row)
            self.context.say(f"  {key}: {row.describe() if row else 'no figure'}")

    def _keys(self, entry: Planned) -> list[str]:
        scored = has_masks(self.context.images(entry.on))
        return entry.stage.score_keys(entry, self.context) if scored else []

    def _settle(self) -> None:
        """Note in run.json how far the run is; it is finished when every step is, in whatever calls they were run."""
        out = self.context.out
        due = [entry for entry in self.plan if not entry.optional or (out / entry.folder).is_dir()]
        finished = all(is_finished(out / entry.folder) for entry in due)
        keys = {key for entry in due for key in self._keys(entry)}
        self.info["unscored"] = sorted(self.unscored)
        self.info |= settle(out, self.info, finished=finished and keys - self.unscored <= set(self.scores()))

    def _say_failures(self) -> None:
        failures = self.info["failures"]
        for place, error in list(failures.items())[:_PROBLEMS_SHOWN]:
            self.context.say(f"! {place}: {error}")
        if failures:
            self.context.say(f"! {len(failures)} failures in all; each folder's manifest.json lists its own")


def _say_problems(problems: Sequence[Problem], splits: Splits, data: Path, say: Say) -> None:
    """Say every finding once, however many images it has."""
    lines = grouped(problems)
    for line in lines[:_PROBLEMS_SHOWN]:
        say(f"! {line}")
    if len(lines) > _PROBLEMS_SHOWN:
        say(f"! {len(lines) - _PROBLEMS_SHOWN} more findings; see: {command('data', 'check', data, '--all')}")
    if splits.unassigned:
        say(f"! {splits.unassigned} images belong to no split while others do: they are left out; name their split")
    if not any(has_masks(part) for part in (splits.train, splits.val)):
        say("! no true masks, so nothing will be scored (COCO: tag2mask data prepare renders them)")


def _refuse_bad_input(problems: Sequence[Problem], data: Path) -> None:
    """Stop before anything is trained on what would spoil labels or scores; DataError names the first finds."""
    found = grouped(problem for problem in problems if problem.fatal)
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise DataError(f"{data}: " + " | ".join(found[:3]) + more)
