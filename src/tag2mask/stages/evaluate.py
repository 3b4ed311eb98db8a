"""Stage 6: scores. The only stages that read masks are this one and the supervised upper bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import read_json, write_json
from tag2mask.common.progress import track
from tag2mask.data import Dataset, ImageRecord, load_maps, read_mask
from tag2mask.metrics import SegmentationScore, ThresholdCurve, image_iou
from tag2mask.refine.threshold import labels_from_maps

BEST_ON_TRUTH = "best on the true masks of these images (an oracle's choice, as the papers report seeds)"


@dataclass(frozen=True)
class EvaluateConfig:
    """How seeds are scored."""

    threshold_step: float = 0.01  # grid of background thresholds, 0..1
    threshold: float | None = None  # score seeds at this threshold; null = the best on truth, labelled as such


@dataclass
class Score:
    """One row of scores.json and the mIoU of each image."""

    row: dict[str, Any]
    per_image: dict[str, float]


def score_maps(dataset: Dataset, maps: Path, config: EvaluateConfig, *, split: str) -> Score:
    """Score the seeds `maps`/ID.npz against true masks, as a curve over thresholds and at one of them."""
    labels = len(dataset.classes) + 1
    scored = _scored(dataset, maps, ".npz")
    thresholds = np.arange(1, round(1 / config.threshold_step)) * config.threshold_step
    curve = ThresholdCurve(labels, np.round(thresholds, 6))
    for record in track(scored, total=len(scored), description=f"score {maps.name} seeds"):
        found = load_maps(maps / f"{record.id}.npz")
        curve.update(found.full(), found.classes, _truth(record, dataset))
    result = curve.compute()
    if config.threshold is None:
        threshold, chosen = result.best()[0], BEST_ON_TRUTH
    else:
        threshold, chosen = config.threshold, "fixed in the recipe"

    def predict(record: ImageRecord) -> np.ndarray:
        found = load_maps(maps / f"{record.id}.npz")
        return labels_from_maps(found.full(), found.classes, threshold)

    score = _score(dataset, scored, predict, split, threshold, chosen)
    score.row["curve"] = [
        [round(float(t), 6), _number(m)] for t, m in zip(result.thresholds, result.miou, strict=True)
    ]
    return score


def score_masks(
    dataset: Dataset, masks: Path, *, split: str, threshold: float | None = None, chosen_on: str = "no threshold"
) -> Score:
    """Score predicted or pseudo-masks `masks`/ID.png against true masks.

    An unsure pixel (255) of a pseudo-mask counts as background, since a score must cover every true pixel.
    """

    def predict(record: ImageRecord) -> np.ndarray:
        mask = read_mask(masks / f"{record.id}.png")
        return np.where(mask == 255, 0, mask)

    return _score(dataset, _scored(dataset, masks, ".png"), predict, split, threshold, chosen_on)


def _scored(dataset: Dataset, folder: Path, suffix: str) -> list[ImageRecord]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; run the stage that writes it first")
    there = {path.name for path in folder.iterdir()}
    records = [r for r in dataset.records if r.mask_path is not None and f"{r.id}{suffix}" in there]
    if not records:
        raise ConfigError(f"{folder}: none of its files belongs to an image with a true mask in '{dataset.name}'")
    return records


def _truth(record: ImageRecord, dataset: Dataset) -> np.ndarray:
    assert record.mask_path is not None
    return read_mask(record.mask_path, dataset.mask_lut)


def _score(
    dataset: Dataset, records: list[ImageRecord], predict: Callable[[ImageRecord], np.ndarray], split: str,
    threshold: float | None, chosen_on: str,
) -> Score:  # fmt: skip
    labels = len(dataset.classes) + 1
    total, per_image, skipped = SegmentationScore(labels), {}, {}
    for record in records:
        try:
            prediction, truth = predict(record), _truth(record, dataset)
            total.update(prediction, truth)
            per_image[record.id] = image_iou(prediction, truth, labels)
        except DataError as error:
            skipped[record.id] = str(error)
    row = total.compute(dataset.classes).as_dict() | {
        "split": split, "threshold": threshold, "threshold_chosen_on": chosen_on,
    }  # fmt: skip
    if len(records) < len(dataset) or skipped:
        row["images_without_score"] = len(dataset) - total.images
        row["errors"] = skipped
    return Score(row, {i: v for i, v in per_image.items() if v == v})


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def store_score(run: Path, name: str, score: Score) -> None:
    """Add one row to `run`/scores.json and its images to scores_per_image.json."""
    for file, value in (("scores.json", score.row), ("scores_per_image.json", score.per_image)):
        path = run / file
        everything = read_json(path) if path.is_file() else {}
        everything[name] = value
        write_json(path, everything)
