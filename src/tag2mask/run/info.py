"""A run's folder: what the run is (run.json, recipe.yaml, index.json), whether it may go on, and how far it is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import atomic_write, read_json, write_json
from tag2mask.data import Dataset
from tag2mask.run.folder import versions

KEPT = ("versions", "machine", "started", "seconds", "failures")  # of an earlier call, until there is something new


def read_info(out: Path) -> dict[str, Any]:
    """The run.json of a run's folder; empty for a folder without."""
    path = out / "run.json"
    return dict(read_json(path)) if path.is_file() else {}


def describe_run(
    name: str, recipe: Mapping[str, Any], train: Dataset, val: Dataset | None, limited_to: int | None,
    old: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What run.json says before the work begins; what an earlier call, whose run.json is `old`, has done stays."""
    info = {
        "name": name,
        "recipe": recipe,
        "seed": recipe["seed"],
        "versions": versions(),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "data": {
            "root_name": train.name,
            "classes": list(train.classes),
            "train_images": len(train),
            "val_images": len(val) if val else 0,
            "limited_to": limited_to,
            **train.reading.facts(),  # nothing for most sets; new photos must be read in the same way
        },
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
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty and not a run's folder (no run.json); choose another --out")


def _in_words(info: Mapping[str, Any]) -> str:
    data = info.get("data", {})
    limit = f" (--limit {data['limited_to']})" if data.get("limited_to") else ""
    return (
        f"the run '{info.get('name')}' on {data.get('train_images')} training{limit} and {data.get('val_images')} "
        f"held-out images of '{data.get('root_name')}'"
    )


def write_start(out: Path, info: Mapping[str, Any], parts: Sequence[Dataset]) -> None:
    """Write what the run is; `parts` are its training and its held-out images."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", info)
    with atomic_write(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(info["recipe"], sort_keys=False, allow_unicode=True), "utf-8")
    write_json(out / "index.json", _index(parts))


def _index(parts: Sequence[Dataset]) -> dict[str, Any]:
    images = {
        record.id: {
            "path": str(record.path),
            "labels": [dataset.classes[label] for label in record.labels],
            "split": record.split,
            "mask": str(record.mask_path) if record.mask_path else None,
        }
        for dataset in parts
        for record in dataset.records
    }
    lut = [int(value) for value in parts[0].mask_lut]
    return {"classes": list(parts[0].classes), "images": images, "mask_lut": lut}


def machine() -> dict[str, Any]:
    """What a cost was measured on."""
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
    return {path.parent.name: read_json(path) for path in paths}


def failures_of(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What is wrong with which image, by "STAGE/ID"."""
    return {
        f"{folder}/{image_id}": state["error"]
        for folder in sorted(manifests)
        for image_id, state in manifests[folder].get("images", {}).items()
        if state["status"] == "failed"
    }
