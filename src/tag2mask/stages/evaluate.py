"""Stage 6: scores. The only stages that read masks are this one and the supervised upper bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import ids_in
from tag2mask.common.progress import track
from tag2mask.common.workers import WorkerPool
from tag2mask.config import Range, Settings
from tag2mask.data import Dataset, ImageRecord, image_size, load_maps, read_mask
from tag2mask.data.records import IGNORED
from tag2mask.engine.images import process_count, use_one_thread, worth_processes
from tag2mask.metrics import (
    IoUBySize,
    SegmentationScore,
    ThresholdCurve,
    bootstrap_interval,
    class_iou,
    confusion_matrix,
    mean_iou,
)
from tag2mask.refine.threshold import best_class, labels_from_maps
from tag2mask.runs.scores import BEST_ON_TRUTH, LEVEL, Score

_CHUNK = 32  # images a job
_WORTH_A_PROCESS = 512  # images; starting a process takes seconds, scoring an image some milliseconds
R = TypeVar("R")


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """How results are scored."""

    threshold_step: Annotated[float, Range(ge=0.001, le=0.5)] = 0.01  # grid of background thresholds, 0..1
    # score seeds at this threshold; null = the best on truth, labelled as such
    threshold: Annotated[float | None, Range(ge=0, le=1)] = None
    # of the images, for the bootstrap interval; 0 = no interval
    resamples: Annotated[int, Range(ge=0, le=100_000)] = 1000
    count_ignored: bool = False  # true reproduces the reference's slip on COCO: 255 stays in, as a class of IoU 0


def score_maps(
    dataset: Dataset, maps: Path, config: EvaluateConfig, *, split: str, processes: int = 1, seed: int = 0
) -> Score:
    """Score the seeds `maps`/ID.npz against true masks, as a curve over thresholds and at one of them.

    The result doesn't depend on the number of `processes` (0: one a CPU core).
    """
    scored = _scored(dataset, maps, ".npz")
    if not dataset.background:  # every pixel is one of the tags, whatever the score
        return _score(dataset, scored, partial(_best, maps), config, split, (None, "no threshold"), processes, seed)
    grid = np.round(np.arange(1, round(1 / config.threshold_step)) * config.threshold_step, 6)
    curve = ThresholdCurve(len(dataset.classes) + 1, grid, include_ignore_slip=config.count_ignored)
    work = partial(_curve, Truth.of(dataset), maps, grid, config.count_ignored)
    for part in _spread(work, scored, processes, f"curve of {maps.name} seeds"):
        curve.merge(part)
    result = curve.compute()
    if config.threshold is None:
        nothing = bool(np.isnan(result.miou).all())  # the score below says why
        threshold, chosen = float(grid[0]) if nothing else result.best()[0], BEST_ON_TRUTH
    else:
        threshold, chosen = config.threshold, "fixed in the recipe"
    predict = partial(_seed, maps, threshold)
    score = _score(dataset, scored, predict, config, split, (threshold, chosen), processes, seed)
    score.row["curve"] = [
        [round(float(t), 6), _number(m)] for t, m in zip(result.thresholds, result.miou, strict=True)
    ]
    return score


def score_masks(
    dataset: Dataset,
    masks: Path,
    *,
    split: str,
    threshold: float | None = None,
    chosen_on: str = "no threshold",
    config: EvaluateConfig | None = None,
    processes: int = 1,
    seed: int = 0,
) -> Score:
    """Score predicted or pseudo-masks `masks`/ID.png against true masks.

    An unsure pixel (255) of a pseudo-mask counts as background, since a score must cover every true pixel. Where
    there are any, the row also has "coverage", the share of scored pixels that are decided, and "miou_decided", the
    mIoU over these alone: they are the easier ones, so it is no figure to compare with others.
    """
    scored = _scored(dataset, masks, ".png")
    chosen = (threshold, chosen_on)
    return _score(
        dataset, scored, partial(_stored, masks), config or EvaluateConfig(), split, chosen, processes, seed
    )


class NothingToScore(DataError):
    """No image has both an answer and a true mask that can be read: there is no figure, and nothing is wrong."""


def _scored(dataset: Dataset, folder: Path, suffix: str) -> list[ImageRecord]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; run the stage that writes it first")
    there = ids_in(folder, suffix)
    records = [r for r in dataset.records if has_truth(r) and r.id in there]
    if not records:
        raise NothingToScore(f"{folder}: none of its files belongs to an image with a true mask in '{dataset.name}'")
    return records


def has_truth(record: ImageRecord) -> bool:
    """Whether it is known what an image shows: it has a true mask, or no tag at all, so that all is background."""
    return record.mask_path is not None or not record.labels


# --- what processes do: everything here is by value, so that it can be handed over ------------------------


@dataclass(frozen=True)
class Truth:
    """How to read the true masks."""

    labels: int  # values of a mask, background included
    lut: np.ndarray  # (256,)
    background: bool = True  # False: 0 is no class, and counts for nothing

    @classmethod
    def of(cls, dataset: Dataset) -> Truth:
        """Take it from a data set."""
        return cls(len(dataset.classes) + 1, dataset.mask_lut, dataset.background)

    def read(self, record: ImageRecord) -> np.ndarray:
        """True mask (H, W) uint8 of an image; a negative without a mask is background."""
        if record.mask_path is None:
            return np.zeros(image_size(record.path), np.uint8)
        return read_mask(record.mask_path, self.lut)


Predict = Callable[[ImageRecord], tuple[np.ndarray, str]]  # labels (H, W), 255 = unsure, and the file they are from


def _seed(maps: Path, threshold: float, record: ImageRecord) -> tuple[np.ndarray, str]:
    path = maps / f"{record.id}.npz"
    found = load_maps(path)
    return labels_from_maps(found.full(), found.classes, threshold), str(path)


def _best(maps: Path, record: ImageRecord) -> tuple[np.ndarray, str]:
    path = maps / f"{record.id}.npz"
    found = load_maps(path)
    return best_class(found.full(), found.classes)[0], str(path)


def _stored(masks: Path, record: ImageRecord) -> tuple[np.ndarray, str]:
    path = masks / f"{record.id}.png"
    return read_mask(path), str(path)


def _curve(truth: Truth, maps: Path, grid: np.ndarray, slip: bool, records: Sequence[ImageRecord]) -> ThresholdCurve:
    curve = ThresholdCurve(truth.labels, grid, include_ignore_slip=slip)
    for record in records:
        try:
            found, true = load_maps(maps / f"{record.id}.npz"), truth.read(record)
        except DataError:
            continue  # the score at one threshold, which comes after, notes it
        if found.size == true.shape:  # else the score names it
            curve.update(found.full(), found.classes, true)
    return curve


@dataclass
class Part:
    """The counts over some images."""

    score: SegmentationScore
    decided: SegmentationScore  # over decided pixels only
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))  # decided and all, of those scored
    counts: list[np.ndarray] = field(default_factory=list)  # (2, L) int32 of each image, or (N, 2, L): hits and union
    per_image: dict[str, float] = field(default_factory=dict)
    by_size: IoUBySize = field(default_factory=IoUBySize)
    skipped: dict[str, str] = field(default_factory=dict)  # images that can't be read
    wrong: str = ""  # a prediction that doesn't fit its image: an error, not a gap
    first: int = 0  # the first label that counts as a class; 1 without background

    @classmethod
    def of(cls, truth: Truth, slip: bool) -> Part:
        """Nothing so far."""
        scores = SegmentationScore(truth.labels, slip), SegmentationScore(truth.labels)
        return cls(*scores, first=0 if truth.background else 1)

    def add(self, record: ImageRecord, labels: np.ndarray, true: np.ndarray) -> None:
        """Count one image; `labels` may hold 255 for unsure."""
        prediction = np.where(labels == IGNORED, 0, labels)
        confusion = self.score.update(prediction, true)
        hits = np.diagonal(confusion)
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
        self.counts.append(np.stack((hits, union))[:, self.first :].astype(np.int32))  # no mask has more pixels
        slip = self.score.include_ignore_slip
        plain = confusion_matrix(prediction, true, self.score.n_classes) if slip else confusion
        self.by_size.add(plain)
        value = float(mean_iou(class_iou(plain)[self.first :]))
        if value == value:
            self.per_image[record.id] = value
        known = labels != IGNORED
        if known.all():
            self.decided.add(plain)
        else:
            self.decided.update(prediction, np.where(known, true, 255))
        self.pixels += np.count_nonzero(known & (true != IGNORED)), np.count_nonzero(true != IGNORED)


def _count(truth: Truth, predict: Predict, slip: bool, records: Sequence[ImageRecord]) -> Part:
    part = Part.of(truth, slip)
    for record in records:
        try:
            (labels, file), true = predict(record), truth.read(record)
        except DataError as error:
            part.skipped[record.id] = str(error)
            continue
        try:
            part.add(record, labels, true)
        except DataError as error:
            part.wrong = f"{file}: {error} (truth: {record.mask_path})"
            break
    part.counts = [np.stack(part.counts)] if part.counts else []  # one array is smaller than many
    return part


def _spread(
    work: Callable[[Sequence[ImageRecord]], R], records: Sequence[ImageRecord], processes: int, description: str
) -> Iterator[R]:
    """Yield the result of each part of `records`, in order, over processes where they are worth it."""
    parts = [records[at : at + _CHUNK] for at in range(0, len(records), _CHUNK)]
    count = process_count(processes, len(records))
    count = min(count, max(1, len(records) // _WORTH_A_PROCESS)) if processes == 0 else min(count, len(parts))
    results = _over(work, parts, count, here_first=processes == 0)
    yield from track(results, total=len(parts), description=description)


def _over(
    work: Callable[[Sequence[ImageRecord]], R], parts: list[Sequence[ImageRecord]], processes: int, here_first: bool
) -> Iterator[R]:
    done, began = 0, time.monotonic()
    here = len(parts) if processes == 1 or here_first else 0
    while done < here and not worth_processes(time.monotonic() - began, done, len(parts) - done, processes):
        yield work(parts[done])
        done += 1
    if done < len(parts):
        with WorkerPool(processes, use_one_thread) as pool:
            yield from pool.map(work, parts[done:])


# ----------------------------------------------------------------------------------------------------------


def _score(
    dataset: Dataset,
    records: list[ImageRecord],
    predict: Predict,
    config: EvaluateConfig,
    split: str,
    chosen: tuple[float | None, str],
    processes: int,
    seed: int,
) -> Score:
    truth = Truth.of(dataset)
    whole = Part.of(truth, config.count_ignored)
    for part in _spread(partial(_count, truth, predict, config.count_ignored), records, processes, "score"):
        if part.wrong:
            raise DataError(part.wrong)
        whole.score.merge(part.score)
        whole.decided.merge(part.decided)
        whole.pixels += part.pixels
        whole.counts += part.counts
        whole.per_image |= part.per_image
        whole.by_size.merge(part.by_size)
        whole.skipped |= part.skipped
    if not whole.pixels[1]:
        reason = next(iter(whole.skipped.values()), "all pixels of the true masks are 255, that is, ignored")
        raise NothingToScore(f"{dataset.name}: none of the {len(records)} images could be scored: {reason}")
    row = whole.score.compute(dataset.classes, background=truth.background).as_dict() | {
        "split": split,
        "threshold": chosen[0],
        "threshold_chosen_on": chosen[1],
        "by_size": whole.by_size.as_dict(),
    }
    if config.resamples and whole.counts:
        counts = np.concatenate(whole.counts)
        whole.counts.clear()
        low, high = bootstrap_interval(counts[:, 0], counts[:, 1], seed, repeats=config.resamples, level=LEVEL)
        row["interval"] = {
            "low": _number(low),
            "high": _number(high),
            "level": LEVEL,
            "resamples": config.resamples,
            "seed": seed,
            "over": "images",
        }
    if config.count_ignored:
        row["count_ignored"] = True
    if whole.pixels[0] < whole.pixels[1]:
        row["coverage"] = int(whole.pixels[0]) / int(whole.pixels[1])
        row["miou_decided"] = whole.decided.compute(background=truth.background).as_dict()["miou"]
    if len(records) < len(dataset) or whole.skipped:
        row["images_without_score"] = len(dataset) - whole.score.images
        row["errors"] = whole.skipped
    return Score(row, whole.per_image)


def _number(value: float) -> float | None:
    return None if value != value else float(value)
