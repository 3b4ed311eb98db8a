"""A tiny run of the whole chain for the tests of what reads a run's folder: the stages themselves write it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.chain import run
from tag2mask.common.files import read_json, write_json
from tag2mask.data import write_mask
from tag2mask.engine.execution import Execution
from tag2mask.recipe import load_recipe

CLASSES = ("cat", "cow", "person")
COLOURS = ((47, 128, 237), (242, 139, 36), (39, 166, 107))
TRAIN, VAL = 8, 4  # images; one more for training is a file of zero bytes
BROKEN = "nothing in it"
STEPS = 3  # of RIB
RECIPE = """
name: tiny
description: random networks, for tests
seed: 3
data: {mask_classes: [cat, cow, person]}
classifier: {backbone: resnet18, weights: none, epochs: 2, batch_size: 4, learning_rate: 0.01, long_side_min: 48,
             long_side_max: 64, crop_size: 64}
localize:
  partner_long_side_min: 64
  partner_long_side_max: 64
  partner_crop_size: 64
  rib: {steps: 3, batch_size: 2, scales: [1.0], loss_scales: [1.0]}
refine:
  method: irn
  unsure: 0.05
  confident: {refinement: none}
  boundary: {epochs: 2, batch_size: 4, crop_size: 64, radius: 4}
final_masks: true
comparisons:
  plain_cam: {maps: cam, method: none}
segmenter: {backbone: resnet18, weights: none, output_stride: 16, epochs: 2, batch_size: 4, crop_size: 64}
predict: {scales: [1.0]}
evaluate: {threshold_step: 0.05, resamples: 50}
"""


def make_run(folder: Path) -> Path:
    """Photos with one or two discs each, tags and masks in `folder`/farm, and a finished run in `folder`/run."""
    write_photos(folder / "farm")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    execution = Execution("cpu", workers=0, processes=1)
    run(load_recipe(folder / "tiny.yaml"), folder / "farm", folder / "run", execution=execution, say=lambda _: None)
    return folder / "run"


def write_photos(folder: Path) -> None:
    """Write photos, masks and labels.csv."""
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True)
    lines = ["image,labels,split,mask"]
    for number in range(TRAIN + VAL):
        name = f"photo {number:02d} é"
        truth = np.zeros((48, 64), np.uint8)
        pixels = rng.integers(60, 120, (48, 64, 3)).astype(np.uint8)
        found = sorted({number % 3, number * number % 3})
        for place, c in enumerate(found):
            rows, columns = np.mgrid[0:48, 0:64]
            disc = (rows - 24) ** 2 + (columns - 20 - 26 * place) ** 2 < 90
            truth[disc], pixels[disc] = c + 1, COLOURS[c]
        Image.fromarray(pixels).save(folder / f"{name}.png")
        write_mask(folder / "masks" / f"{name}.png", truth)
        labels = ";".join(CLASSES[c] for c in found)
        lines.append(f"{name}.png,{labels},{'train' if number < TRAIN else 'val'},masks/{name}.png")
    (folder / f"{BROKEN}.png").touch()
    lines.append(f"{BROKEN}.png,cat,train,")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def copy_run(made: Path, folder: Path, *, networks: bool = False) -> Path:
    """Copy a run and its photos so that a test can damage them; returns the copy of the run.

    Networks, which no reader of a whole run opens, come along only if asked for, as links: never write into one.
    """
    shutil.copytree(made.parent / "farm", folder / "farm")
    ignored = None if networks else shutil.ignore_patterns("*.safetensors")
    shutil.copytree(made, folder / "run", ignore=ignored, copy_function=_copy)
    edit(folder / "run" / "index.json", lambda index: replaced(index, {str(made.parent): str(folder)}))
    return folder / "run"


def _copy(source: str, target: str) -> None:
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace the value of a JSON file by what `change` makes of it; None means that it changed the value itself."""
    value = read_json(path)
    changed = change(value)
    write_json(path, value if changed is None else changed)


def replaced(value: Any, names: Mapping[str, str]) -> Any:
    """Replace parts of all texts in a value of JSON, keys too."""
    if isinstance(value, dict):
        return {replaced(key, names): replaced(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [replaced(entry, names) for entry in value]
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
    return value
