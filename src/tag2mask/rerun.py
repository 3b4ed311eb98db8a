"""Repeating a run from its own record, and telling whether the same came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tag2mask.chain import run
from tag2mask.common.errors import ConfigError
from tag2mask.common.values import as_dict, as_text
from tag2mask.engine.execution import Execution
from tag2mask.recipe import load_recipe
from tag2mask.runs.compare import differences
from tag2mask.runs.decisions import Effect, read_applied
from tag2mask.runs.folder import versions
from tag2mask.runs.info import machine, read_info
from tag2mask.stages.stage import Say


@dataclass(frozen=True)
class Repetition:
    """What came of repeating a run."""

    out: Path  # the new run's folder
    different: list[str]  # a line for each file that isn't the same; [] = all bytes are
    circumstances: list[str]  # versions and machine that are others now, a review


def rerun(
    folder: Path,
    out: Path | None = None,
    *,
    data: Path | None = None,
    execution: Execution | None = None,
    say: Say = print,
) -> Repetition:
    """Repeat the finished run in `folder` in the folder `out` (default: its name and "-again") and compare them.

    Recipe, seed, limit, device and precision are the run's own, as are the photos unless `data` says where they lie
    by now. An `out` that was begun goes on. Raises Tag2MaskError, as for a run that isn't finished.
    """
    info = read_info(folder)
    if not info.get("finished"):
        raise ConfigError(f"{folder}: holds no finished run, so there is nothing to repeat and compare with")
    record = as_dict(info.get("record"))
    data = data or (Path(as_text(record.get("data"))) if record.get("data") else None)
    if data is None:
        raise ConfigError(f"{folder}: its run.json doesn't say where the data set lies; give --data")
    out = out or folder.with_name(f"{folder.name}-again")
    if out.resolve() == folder.resolve():
        raise ConfigError(f"{out}: is the run itself; choose another --out")
    other = _circumstances(info, record)
    if read_applied(folder) != Effect():
        other.append("decisions of its review, which aren't repeated")
    for line in other:
        say(f"! {line}")
    recipe = load_recipe(folder / "recipe.yaml")
    limit = as_dict(info.get("data")).get("limited_to")
    run(recipe, data, out, limit=limit, execution=execution or _execution(record), say=say)
    return Repetition(out, differences(folder, out), other)


def _execution(record: dict[str, Any]) -> Execution:
    """Where the run was computed, as far as that may change results."""
    known = {key: record[key] for key in ("device", "devices", "precision") if key in record}
    return Execution(**known)


def _circumstances(info: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """What is other now than when the run was made, and may change its bytes."""
    now = {**versions(), **machine(), "threads": torch.get_num_threads()}
    before = {**as_dict(info.get("versions")), **as_dict(info.get("machine")), **record}
    return [f"{key}: {before[key]} then, {now[key]} now" for key in now if key in before and before[key] != now[key]]
