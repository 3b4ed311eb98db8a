"""Masks of photos that belong to no data set, by the network of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tag2mask.common.files import read_object
from tag2mask.config import build
from tag2mask.data import Dataset, ImageRecord
from tag2mask.data.class_files import write_class_files
from tag2mask.data.images import decode_image, image_size
from tag2mask.data.photos import photos_dataset
from tag2mask.data.records import LongSide, Reading
from tag2mask.engine.execution import Execution
from tag2mask.onnx_file import Usage
from tag2mask.recipe import Recipe, load_recipe
from tag2mask.runs.folder import parse_manifest, read_manifest
from tag2mask.runs.index import read_index
from tag2mask.runs.info import read_info
from tag2mask.stages.predict import PredictConfig, predict
from tag2mask.stages.train_segmenter import SegmenterConfig, load_segmenter

if TYPE_CHECKING:
    from tag2mask.exports.onnx import Parity

CHECKED_ON = 8  # photos of the run, where no others are given


def predict_photos(
    photos: Path | str,
    run_folder: Path | str,
    out: Path | str,
    config: PredictConfig | None = None,
    *,
    tags: Path | None = None,
    execution: Execution | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Segment any photos (a folder, searched for images, or one file) by the network of a run.

    Writes `out`/masks/NAME.png, classes.txt and labelmap.txt; returns what could not be used, by name. `tags`, a CSV
    file (image,labels), restricts the photos that it lists to their tags; `say` is told of rows of no photo. Raises
    ConfigError, DataError.
    """
    run_folder, out = Path(run_folder), Path(out)
    classes = tuple(read_manifest(run_folder / "segmenter", "train-segmenter")["classes"])
    recipe = load_recipe(run_folder / "recipe.yaml")
    dataset = _as_in_run(photos_dataset(photos, classes, tags), recipe, run_folder)
    for problem in dataset.problems:
        say(f"! {problem}")
    config = dataclasses.replace(config or recipe.predict, restrict=tags is not None, negatives=tags is not None)
    predict(dataset, run_folder / "segmenter", out, config, execution=execution)
    write_class_files(out, classes, background=dataset.background)
    return parse_manifest(read_object(out / "manifest.json")).failed


def predict_listed(
    images: Mapping[str, Path], run_folder: Path, out: Path, *, execution: Execution | None = None
) -> tuple[str, ...]:
    """Segment `images` (path by id) by the network of a run into `out`/masks/ID.png; return the network's classes."""
    classes = tuple(read_manifest(run_folder / "segmenter", "train-segmenter")["classes"])
    records = tuple(ImageRecord(image_id, path.absolute(), ()) for image_id, path in images.items())
    recipe = load_recipe(run_folder / "recipe.yaml")
    dataset = _as_in_run(Dataset("listed", classes, records), recipe, run_folder)
    predict(dataset, run_folder / "segmenter", out, recipe.predict, execution=execution)
    return classes


def _as_in_run(dataset: Dataset, recipe: Recipe, run_folder: Path) -> Dataset:
    """New photos, read as the run's own were: size, bands, range of values, and whether there is a background."""
    reading = recipe.data.reading_again(read_info(run_folder).get("data", {}))
    dataset = dataset.worked_on_at(recipe.data.long_side).read_as(reading)
    return dataclasses.replace(dataset, background=recipe.data.background)


def export_onnx(run_folder: Path, out: Path, photos: Path | None = None) -> Parity:
    """Write the network of a run to `out` as ONNX and return how it compares with torch.

    It is checked on `photos` (a folder or one file), else on some of the run's own. Raises ConfigError, DataError,
    MissingExtraError, WeightsError.
    """
    from tag2mask.exports.onnx import export_network

    manifest = read_manifest(run_folder / "segmenter", "train-segmenter")
    config = build(SegmenterConfig, manifest["config"], source=str(run_folder / "segmenter" / "manifest.json"))
    recipe = load_recipe(run_folder / "recipe.yaml")
    classes, reading = tuple(manifest["classes"]), recipe.data.reading_again(read_info(run_folder).get("data", {}))
    paths = _own_photos(run_folder) if photos is None else [r.path for r in photos_dataset(photos, classes).records]
    usage = Usage(
        scales=recipe.predict.scales,
        mirror=recipe.predict.mirror,
        long_side=recipe.data.long_side,
        tagged=recipe.predict.tagged,
        combine=recipe.predict.combine,
        edges="none" if recipe.predict.crf else recipe.predict.edges,
        background=recipe.data.background,
        reading=reading,
        about=f"{config.architecture} on {config.backbone}, recipe {recipe.name}",
    )
    photos_read = _decoded(paths, recipe.data.long_side, reading)
    return export_network(load_segmenter(run_folder / "segmenter"), out, classes, photos_read, usage)


def left_out_of_onnx(run_folder: Path) -> list[str]:
    """Settings of a run's prediction that an ONNX file doesn't carry."""
    config = load_recipe(run_folder / "recipe.yaml").predict
    return [f"predict.{name}" for name, used in (("crf", config.crf), ("tile", config.tile is not None)) if used]


def _own_photos(run_folder: Path) -> list[Path]:
    """Some photos of a run by its index, of as many sizes as there are."""
    images = read_index(run_folder / "index.json").images
    paths = [image.path for image in images.values() if image.path is not None and image.path.is_file()]
    by_size: dict[tuple[int, int], list[Path]] = {}
    for path in paths[: 20 * CHECKED_ON]:
        by_size.setdefault(image_size(path), []).append(path)
    turns = [group[turn] for turn in range(CHECKED_ON) for group in by_size.values() if turn < len(group)]
    return turns[:CHECKED_ON]


def _decoded(paths: Iterable[Path], long_side: LongSide, reading: Reading) -> Iterator[np.ndarray]:
    for path in paths:
        yield decode_image(path, long_side=long_side, reading=reading)
