"""A run's folder: what the run is (run.json, recipe.yaml, index.json), whether it may go on, and how far it is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tag2mask.common.commands import command
from tag2mask.common.errors import ConfigError
from tag2mask.common.files import atomic_write, is_leftover, read_object, remove_leftovers, write_json
from tag2mask.common.values import as_count, as_dict, as_list, as_numbers, as_text
from tag2mask.data import Dataset
from tag2mask.runs import lock
from tag2mask.runs.folder import parse_manifest, versions
from tag2mask.runs.index import read_index, write_index

TRIAL = "trial"  # folder of what is tried before the run itself is begun
KEPT = (
    "versions",
    "machine",
    "record",
    "started",
    "seconds",
    "failures",
    "unscored",
)  # of an earlier call, until done again


def read_info(out: Path) -> dict[str, Any]:
    """The run.json of a run's folder; empty for a folder without."""
    path = out / "run.json"
    return dict(read_object(path)) if path.is_file() else {}


@dataclass(frozen=True)
class Step:
    """A stage in a run, as run.json names it for those who read the run's folder."""

    folder: str  # in the run's
    stage: str
    title: str
    per_image: bool = True  # works image by image, so seconds an image mean something
    reads: tuple[str, ...] = ()  # folders of the run that it is made from


@dataclass(frozen=True)
class RunInfo:
    """run.json as its readers use it; what isn't there or of another type is absent."""

    name: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    started: str = ""
    finished: bool = False
    data: str = ""  # name of the data set
    class_source: str = ""  # who says the order of the classes
    root: Path | None = None  # where the data set lies
    classes: tuple[str, ...] = ()
    train_images: int | None = None
    val_images: int | None = None
    limited_to: int | None = None
    stages: tuple[Step, ...] = ()  # what the run is made of, in its order
    seconds: dict[str, float] = field(default_factory=dict)  # by folder
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)


def parse_info(value: Any) -> RunInfo:
    """Read the value of a run.json, as far as it is one."""
    found = as_dict(value)
    data, recipe = as_dict(found.get("data")), as_dict(found.get("recipe"))
    return RunInfo(
        as_text(found.get("name")) or as_text(recipe.get("name")),
        recipe,
        as_count(found.get("seed")),
        as_text(found.get("started")),
        bool(found.get("finished")),
        as_text(data.get("root_name")),
        as_text(found.get("class_source")),
        Path(root) if (root := as_text(as_dict(found.get("record")).get("data"))) else None,
        tuple(map(str, as_list(data.get("classes")))),
        as_count(data.get("train_images")),
        as_count(data.get("val_images")),
        as_count(data.get("limited_to")),
        tuple(_steps(found.get("stages"))),
        as_numbers(found.get("seconds")),
        as_dict(found.get("machine")),
        as_dict(found.get("versions")),
    )


def _steps(rows: Any) -> Iterable[Step]:
    for row in map(as_dict, as_list(rows)):
        folder, stage, title = (as_text(row.get(key)) for key in ("folder", "stage", "title"))
        if folder and folder == Path(folder).name != "..":
            reads = tuple(map(str, as_list(row.get("reads"))))
            yield Step(folder, stage, title or folder, row.get("per_image") is not False, reads)


def describe_run(
    name: str,
    recipe: Mapping[str, Any],
    train: Dataset,
    val: Dataset | None,
    limited_to: int | None,
    old: Mapping[str, Any],
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What run.json says before the work begins; what an earlier call, whose run.json is `old`, has done stays.

    `record` is what else it takes to repeat the run: where the data set lies, device, precision, threads.
    """
    info = {
        "name": name,
        "recipe": recipe,
        "seed": recipe["seed"],
        "versions": versions(),
        "machine": machine(),
        "record": dict(record or {}),
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "data": {
            "root_name": train.name,
            "classes": list(train.classes),
            "train_images": len(train),
            "val_images": len(val) if val else 0,
            "limited_to": limited_to,
            **train.reading.facts(),  # nothing for most sets; new photos must be read in the same way
        },
        "class_source": train.class_source,  # who says the order of the classes, in words
        "problems": [str(problem) for problem in train.problems],
        "seconds": {},
        "finished": bool(old.get("finished")) and old.get("recipe") == recipe,
    }
    return info | {key: old[key] for key in KEPT if key in old}


def refuse_other_run(out: Path, old: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Raise ConfigError for a folder with another run, or with anything else in it: it is never written to."""
    if old:
        if (old.get("name"), old.get("data")) != (info["name"], info["data"]):
            raise ConfigError(f"{out}: holds {_in_words(old)}; this is {_in_words(info)}; choose another --out")
    elif out.is_dir() and not all(path.name in (lock.FILE, TRIAL) or is_leftover(path) for path in out.iterdir()):
        raise ConfigError(f"{out}: not empty and not a run's folder (no run.json); choose another --out")


def refuse_other_tags(out: Path, train: Dataset) -> None:
    """Raise ConfigError where the run's classifier learned from other photos or tags than the set has now."""
    path, index = out / "classifier" / "manifest.json", out / "index.json"
    made = as_dict(read_object(path).get("inputs")).get("dataset") if path.is_file() else None
    if made is None or made == train.digest():
        return
    known = read_index(index).images if index.is_file() else {}
    there = {name: f"tagged {', '.join(image.own_labels) or 'nothing'}" for name, image in known.items()}
    now = {r.id: f"tagged {', '.join(train.classes[i] for i in r.labels) or 'nothing'}" for r in train.records}
    pairs = ((name, there.get(name, "not there"), tags) for name, tags in now.items())
    first = next((f", e.g. {name}: {old} then, {new} now" for name, old, new in pairs if old != new), "")
    raise ConfigError(
        f"{out}: was made from other photos or tags than {train.name} has now{first}; nothing is overwritten: put "
        f"them back and correct tags by '{command('review', out)}', or choose another --out"
    )


def _in_words(info: Mapping[str, Any]) -> str:
    data = info.get("data", {})
    limit = f" (--limit {data['limited_to']})" if data.get("limited_to") else ""
    return (
        f"the run '{info.get('name')}' on {data.get('train_images')} training{limit} and {data.get('val_images')} "
        f"held-out images of '{data.get('root_name')}'"
    )


def write_start(out: Path, info: dict[str, Any], steps: Iterable[Step], parts: Sequence[Dataset]) -> None:
    """Write what the run is; `steps` are its stages, which `info` is told, `parts` training and held-out images."""
    info["stages"] = [asdict(step) for step in steps]
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    write_json(out / "run.json", info)
    with atomic_write(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(info["recipe"], sort_keys=False, allow_unicode=True), "utf-8")
    write_index(out / "index.json", parts)


def machine() -> dict[str, Any]:
    """What a cost was measured on."""
    import torch  # which takes seconds, and readers of a run need it not

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def settle(out: Path, info: Mapping[str, Any], *, finished: bool) -> dict[str, Any]:
    """Note in run.json how far the run is; returns what was noted: whether it is finished, its cost, its failures."""
    manifests = manifests_of(out)
    state = {
        "finished": finished,
        "seconds": {folder: manifest.get("seconds", 0.0) for folder, manifest in manifests.items()},
        "failures": failures_of(manifests),
    }
    write_json(out / "run.json", {**info, **state})
    return state


def manifests_of(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of a run's stages by folder, in the order in which they were last written."""
    paths = sorted(out.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return {path.parent.name: read_object(path) for path in paths}


def failures_of(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What is wrong with which image, by "STAGE/ID"."""
    return {
        f"{folder}/{image_id}": error
        for folder in sorted(manifests)
        for image_id, error in parse_manifest(manifests[folder]).failed.items()
    }
