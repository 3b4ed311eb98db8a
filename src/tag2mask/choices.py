"""Other pseudo-masks on finished maps: further refinements beside the run's own, and choosing one of them.

What the segmenter learns from always lies in `pseudo_masks`; every other refinement lies in `pseudo_masks_NAME`. So
choosing one changes names, and sets aside what was made from the one before, in `of_NAME`, until it is chosen again.
The run keeps what was tried and chosen in choices.json, whichever recipe it is continued with.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tag2mask.common.commands import command
from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.common.files import atomic_write, read_json, read_object, write_json
from tag2mask.common.values import as_dict, as_list, as_text
from tag2mask.config import build, to_mapping
from tag2mask.decided import with_threshold
from tag2mask.recipe import Recipe, load_recipe, recipe_mapping
from tag2mask.runs.decisions import CHOICES, FIRST, Effect, name_scores, read_decisions
from tag2mask.runs.folder import is_finished
from tag2mask.runs.info import parse_info, read_info
from tag2mask.runs.lock import alone_in
from tag2mask.runs.scores import kind_of
from tag2mask.stages.refine import RefineConfig
from tag2mask.stages.refinements import NAME, aside_of, check_name, folder_of, networks_of

FILE = CHOICES
OWN = folder_of("")
_LONGEST = 40  # characters of a name
_PLACE = re.compile(r"(of_[A-Za-z0-9_-]+/)?[A-Za-z0-9][A-Za-z0-9_-]*")  # in the run's folder


@dataclass(frozen=True)
class Choices:
    """The refinements that were tried in a run beside its recipe's, and which one later stages follow."""

    refinements: dict[str, RefineConfig]  # by name; FIRST is the recipe's own
    chosen: str = FIRST
    moves: tuple[tuple[str, str], ...] = field(default=())  # of files in the run's folder, not done yet

    def over(self, recipe: Recipe) -> Recipe:
        """The recipe with what was tried and chosen; as it is where it asks for another refinement than the run's."""
        if recipe.refine not in (self.refinements[FIRST], self.refinements[self.chosen]):
            return recipe
        tried = {name: one for name, one in {**recipe.tried, **self.refinements}.items() if name != self.chosen}
        kept = {name: one for name, one in recipe.comparisons.items() if name not in self.refinements}
        return dataclasses.replace(recipe, refine=self.refinements[self.chosen], tried=tried, comparisons=kept)

    def save(self, out: Path) -> None:
        """Write them into the run's folder."""
        refinements = {name: to_mapping(one) for name, one in self.refinements.items()}
        write_json(out / FILE, {"chosen": self.chosen, "refinements": refinements, "moves": self.moves})


def read_choices(out: Path, recipe: Recipe) -> Choices:
    """What was tried and chosen in a run; nothing yet for most, whose `recipe` then has the only refinement."""
    path = out / FILE
    if not path.is_file():
        return Choices({FIRST: recipe.refine})
    found = read_object(path)
    refinements = {
        name: build(RefineConfig, as_dict(values), source=str(path), place=("refinements", name))
        for name, values in as_dict(found["refinements"]).items()
    }
    chosen, moves = as_text(found["chosen"]), as_list(found["moves"])
    whole = {FIRST, chosen} <= refinements.keys() and all(NAME.fullmatch(name) for name in refinements)
    if not whole or not all(map(_is_move, moves)):
        raise ConfigError(f"{path}: is damaged or not tag2mask's; take a whole copy")
    return Choices(refinements, chosen, tuple((source, target) for source, target in moves))


def _is_move(value: Any) -> bool:
    """Whether this is a renaming from one place in the run's folder to another: FOLDER or of_NAME/FOLDER."""
    return len(as_list(value)) == 2 and all(_PLACE.fullmatch(as_text(place)) for place in value)


def as_chosen(recipe: Recipe, out: Path) -> Recipe:
    """A recipe with what was tried and chosen in the run's folder `out`; a choice that was cut short is completed."""
    choices = read_choices(out, recipe)
    if choices.moves:
        with alone_in(out):
            _move(out, choices)
    return choices.over(recipe)


# --- another refinement beside the run's own ---------------------------------------------------------------


def another(out: Path, overrides: Sequence[str], name: str = "") -> tuple[str, Choices]:
    """A refinement with `overrides`, such as "refine.threshold=0.3", as the run is to have it: its name, and all.

    Without `name` it is called after what is changed. Nothing is written. ConfigError for other settings than those
    of `refine`, a name that is taken, and a run whose own pseudo-masks aren't finished.
    """
    other = [text for text in overrides if not text.strip().startswith("refine.")]
    if other:
        raise ConfigError(
            f"--set {other[0]}: on finished maps only settings of refine change, as refine.threshold=0.3"
        )
    if not is_finished(out / OWN):
        raise ConfigError(
            f"{out / OWN}: isn't finished, so there is nothing to compare with; first: {command('run', out)}"
        )
    own = as_chosen(load_recipe(out / "recipe.yaml"), out)
    recipe = with_threshold(own, Effect.of(read_decisions(out)))
    config = load_recipe(out / "recipe.yaml", [*_scores_of(recipe.refine), *overrides]).refine
    if (
        config.threshold != recipe.refine.threshold
        and config.threshold_chosen_on == recipe.refine.threshold_chosen_on
    ):
        config = dataclasses.replace(config, threshold_chosen_on="given by hand")
    choices = read_choices(out, own)
    known = {choices.chosen: recipe.refine, **recipe.comparisons, **recipe.tried}
    same = next((known_name for known_name, one in known.items() if _same(one, config)), "")
    if same in recipe.comparisons:  # asked for by hand, it is made without true masks too
        return same, dataclasses.replace(choices, refinements={**choices.refinements, same: known[same]})
    if same:
        return same, choices
    name = name or name_of(overrides)
    check_name(name, "--name")
    if name in known or (out / folder_of(name)).exists():
        raise ConfigError(f"{out / folder_of(name)}: is another refinement; choose another --name than {name}")
    return name, dataclasses.replace(choices, refinements={**choices.refinements, name: config})


def _scores_of(config: RefineConfig) -> list[str]:
    """The background scores of a refinement as overrides of the recipe, which doesn't know those chosen by eye."""
    scores = {key: getattr(config, key) for key in ("threshold", "threshold_chosen_on", "thresholds")}
    return [f"refine.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in scores.items()]


def _same(one: RefineConfig, other: RefineConfig) -> bool:
    """Whether two refinements make the same masks."""
    networks = [(config.confident, config.boundary, config.walk) for config in (one, other) if config.by_irn]
    return one.used() == other.used() and (len(networks) != 2 or networks[0] == networks[1])


def name_of(overrides: Iterable[str]) -> str:
    """A name for a folder that says what is changed: "refine.threshold=0.3" becomes "threshold-0-3"."""
    plain = (re.sub(r"[^A-Za-z0-9]+", "-", text.partition(".")[2]).strip("-") for text in overrides)
    return "_".join(plain)[:_LONGEST].strip("-_") or "other"


# --- choosing one ------------------------------------------------------------------------------------------


def choose(out: Path, name: str) -> list[str]:
    """Let the run's later stages follow the refinement `name`; return the folders that were set aside.

    What was made from the one before is kept in `of_NAME` and comes back when that is chosen again. ConfigError for
    an unknown name, and for pseudo-masks that aren't finished.
    """
    refuse_no_run(out)
    with alone_in(out):
        return _choose(out, name)


def refuse_no_run(out: Path) -> None:
    """Raise ConfigError for a folder that no run wrote."""
    if not (out / "recipe.yaml").is_file():
        raise ConfigError(f"{out}: no run's folder; give the one that 'tag2mask run' wrote")


def _choose(out: Path, name: str) -> list[str]:
    recipe = as_chosen(load_recipe(out / "recipe.yaml"), out)
    choices = read_choices(out, recipe)
    known = {choices.chosen: recipe.refine, **recipe.comparisons, **recipe.tried}
    if name not in known:
        raise ConfigError(f"{out}: there are no pseudo-masks '{name}'{did_you_mean(name, known)}")
    if name == choices.chosen:
        return []
    if not is_finished(out / folder_of(name)):
        by_hand = " --set with its settings" if name in recipe.comparisons else ""  # skipped without true masks
        raise ConfigError(f"{out / folder_of(name)}: isn't finished; first: {command('refine', out)}{by_hand}")
    after = dataclasses.replace(choices, refinements={**choices.refinements, name: known[name]}, chosen=name)
    chosen = after.over(dataclasses.replace(recipe, refine=choices.refinements[FIRST]))
    _refuse_other_networks(recipe, chosen, choices.chosen, name)
    aside = _following(out)
    there = out / aside_of(name)
    back = sorted(path.name for path in there.glob("*")) if there.is_dir() else []
    moves = [(folder, f"{aside_of(choices.chosen)}/{folder}") for folder in aside]
    moves += [(OWN, folder_of(choices.chosen)), (folder_of(name), OWN)]
    moves += [(f"{there.name}/{folder}", folder) for folder in back]
    after = dataclasses.replace(after, moves=tuple(moves))
    name_scores(out, name)
    after.save(out)
    _note(out, chosen)
    _move(out, after)
    return aside


def _following(out: Path) -> list[str]:
    """The folders that are there and were made from the pseudo-masks, directly or not."""
    steps = parse_info(read_info(out)).stages
    if not any(step.reads for step in steps):
        raise ConfigError(
            f"{out}: run.json is of an earlier version; first: {command('refine', out, '--data', 'DIR')}"
        )
    found = {OWN}
    for step in steps:  # in the order in which they run
        if found & set(step.reads):
            found.add(step.folder)
    return [step.folder for step in steps if step.folder in found - {OWN} and (out / step.folder).is_dir()]


def _refuse_other_networks(before: Recipe, after: Recipe, was: str, now: str) -> None:
    """ConfigError where boundary networks of IRN would have to change names too."""
    old, new = networks_of(before), networks_of(after)
    moved = {was: old[""], now: old[now]} | {name: one for name, one in old.items() if name not in ("", now)}
    wanted = {now: new[""], was: new[was]} | {name: one for name, one in new.items() if name not in ("", was)}
    if moved != wanted:
        raise ConfigError(
            f"'{now}' has a boundary network of its own beside another one, so it can't take the place of '{was}'; "
            "make a run of its own with these settings"
        )


def _note(out: Path, recipe: Recipe) -> None:
    """Write the recipe into the run; its score rows that speak of other masks by now are made anew."""
    values = recipe_mapping(recipe)
    with atomic_write(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
    write_json(out / "run.json", {**read_info(out), "recipe": values, "finished": False})
    for file in ("scores.json", "scores_per_image.json"):
        if (out / file).is_file():
            rows: dict[str, Any] = read_json(out / file)
            write_json(out / file, {key: row for key, row in rows.items() if not _follows(key)})


def _follows(key: str) -> bool:
    kind = kind_of(key)
    return kind.key in ("pseudo_mask", "round_mask") or kind.network == "segmenter"


def _move(out: Path, choices: Choices) -> None:
    """Rename what is still to be renamed; each step is noted, so that a killed call is completed by the next one."""
    for done, (source, target) in enumerate(choices.moves, 1):
        if (out / source).exists():
            (out / target).parent.mkdir(exist_ok=True)
            (out / source).rename(out / target)
        dataclasses.replace(choices, moves=choices.moves[done:]).save(out)
