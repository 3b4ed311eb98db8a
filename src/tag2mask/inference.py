"""Masks of photos that belong to no data set, by the network of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tag2mask.common.files import read_json
from tag2mask.data import Dataset, ImageRecord
from tag2mask.data.photos import photos_dataset
from tag2mask.engine.execution import Execution
from tag2mask.recipe import load_recipe
from tag2mask.run.folder import read_manifest
from tag2mask.stages.predict import PredictConfig, predict


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
