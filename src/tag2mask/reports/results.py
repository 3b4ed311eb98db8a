"""One table of published results and one's own runs: gathered, judged for comparability, exported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json
from tag2mask.common.values import as_count, as_dict, as_text
from tag2mask.data.readers import prepared
from tag2mask.data.records import VOC_CLASSES
from tag2mask.runs.folder import Manifest, parse_manifest
from tag2mask.runs.index import read_index
from tag2mask.runs.info import RunInfo, parse_info
from tag2mask.runs.scores import FROM_MASKS, FROM_TAGS, PSEUDO_MASKS, ROWS, SEEDS, ScoreRow, rows_of

PREPARED = f"{prepared.FOLDER}/{prepared.MANIFEST}"
VOC, COCO = "PASCAL VOC 2012", "COCO 2014"
# Images of the published settings: (training, val); on COCO with or without those that have no label.
SETTINGS = {VOC: ((10582,), (1449,)), COCO: ((82783, 82081), (40504, 40137))}
_COCO_CLASSES = 80
_KINDS = {VOC: "voc2012", COCO: "coco2014"}  # as `tag2mask data prepare` names them
_VOC_TRAIN_LIST = 1464  # images of VOC's own list, without the augmented ones
COLUMNS = ("task", "dataset", "split", "metric", "value", "model", "year", "kind", "beyond_labels", "source")


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    task: str
    dataset: str
    split: str
    metric: str
    value: float  # percent
    model: str
    source: str
    year: str = ""
    kind: str = ""  # of published rows, what they begin from: "ImageNet CNN", "CLIP", ...; "" where we don't know
    beyond_labels: str = ""  # what was used besides image labels, e.g. "saliency"
    score: ScoreRow | None = None  # of own rows
    remarks: tuple[str, ...] = ()  # why an own row is not the published setting; () = comparable
    rank: int | None = None  # among comparable rows of the same task, data set, split and metric
    details: dict[str, Any] = field(default_factory=dict)  # of own rows: recipe, seed, versions, images, cost

    @property
    def own(self) -> bool:
        """Whether it is of a run of one's own."""
        return self.score is not None

    @property
    def interval_text(self) -> str:
        """The bootstrap interval in percent, "" without one."""
        return self.score.interval_text if self.score else ""

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What rows must share to be compared."""
        return (self.task, self.dataset, self.split, self.metric)

    def as_dict(self) -> dict[str, Any]:
        """Return the row fit for JSON."""
        ends = self.score.interval if self.score else None
        low, high = (None, None) if ends is None else (round(100 * end, 2) for end in ends)
        return {
            **{name: getattr(self, name) for name in COLUMNS},
            "interval_low": low,
            "interval_high": high,
            "comparable_with_published": not self.remarks,
            "remarks": list(self.remarks),
            **self.details,
        }


def published() -> list[Result]:
    """Return the published rows that come along with the package, each with its source."""
    text = files("tag2mask.reports").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    return [Result(**{**row, "value": float(row["value"])}) for row in rows]  # type: ignore[arg-type]


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return the runs' folders at `folders` or up to two levels below them; DataError for one that isn't there."""
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the folder of a run, or one that holds runs")
        for pattern in ("run.json", "*/run.json", "*/*/run.json"):
            found |= dict.fromkeys(path.parent for path in sorted(folder.glob(pattern)))
    return list(found)


def own(folders: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """Return the rows of all runs with scores, and notes about runs that have none or can't be read."""
    rows: list[Result] = []
    notes: list[str] = []
    for folder in folders:
        try:
            info, scores = parse_info(_read(folder / "run.json")), rows_of(_read(folder / "scores.json"))
        except (OSError, ValueError) as error:
            notes.append(f"{folder}: {_reason(error)}")
            continue
        rows += [_row(folder, info, score) for score in scores]
    return rows, notes


def ranked(rows: Sequence[Result]) -> list[Result]:
    """Return the rows by task, data set and split, the best first, with ranks for comparable ones."""
    order = sorted(rows, key=lambda row: (_task_place(row.task), row.dataset, row.split, -row.value, row.model))
    counts: dict[tuple[str, ...], int] = {}
    result = []
    for row in order:
        if not row.remarks:
            counts[row.group] = counts.get(row.group, 0) + 1
            row = replace(row, rank=counts[row.group])
        result.append(row)
    return result


def filtered(rows: Sequence[Result], words: Sequence[str]) -> list[Result]:
    """Return the rows in which every word occurs, upper or lower case."""

    def text(row: Result) -> str:
        whose = "own" if row.own else "published"
        parts = (*row.group, row.model, row.source, row.kind, row.beyond_labels, whose, row.year, *row.remarks)
        return " ".join(parts).casefold()

    return [row for row in rows if all(word.casefold() in text(row) for word in words)]


def to_json(rows: Sequence[Result]) -> str:
    """Return own rows as JSON text."""
    return json.dumps([row.as_dict() for row in rows if row.own], indent=1, ensure_ascii=False) + "\n"


def to_csv(rows: Sequence[Result]) -> str:
    """Return own rows as CSV text; nested details are left to JSON."""
    plain = [{**row.as_dict(), "remarks": "; ".join(row.remarks)} for row in rows if row.own]
    names = [name for name, value in plain[0].items() if not isinstance(value, dict)] if plain else COLUMNS
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(plain)
    return stream.getvalue()


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no object")
    return value


def _reason(error: Exception) -> str:
    return "has no scores yet" if isinstance(error, FileNotFoundError) else f"can't be read ({error})"


def _manifest(folder: Path) -> Manifest:
    """The manifest of a stage's folder, as far as there is one."""
    try:
        return parse_manifest(read_json(folder / "manifest.json"))
    except (OSError, ValueError):
        return Manifest()


def _task_place(task: str) -> int:
    order = [FROM_TAGS, FROM_MASKS, SEEDS, PSEUDO_MASKS]
    order += [row.task for row in ROWS if row.task not in order]
    return order.index(task) if task in order else len(order)


def _row(folder: Path, info: RunInfo, score: ScoreRow) -> Result:
    dataset = _dataset(folder, info)
    return Result(
        task=score.kind.task,
        dataset=dataset,
        split=score.split,
        metric="mIoU, ignored pixels counted" if score.count_ignored else "mIoU",
        value=round(100 * score.miou, 2),
        model=_model(folder, info, score),
        source=f"own run {folder.name}",
        year=info.started[:4],
        beyond_labels=_beyond_labels(info, score),
        score=score,
        remarks=tuple(_remarks(folder, info, dataset, score)),
        details=_details(folder, info, score),
    )


def _beyond_labels(info: RunInfo, score: ScoreRow) -> str:
    if score.kind.upper_bound:
        return "pixel masks"
    learned = score.kind.network and as_dict(as_dict(info.recipe.get("refine")).get("saliency")).get("source")
    return "saliency" if score.saliency or learned else ""


def _dataset(folder: Path, info: RunInfo) -> str:
    """Name a published set only where its classes and either its counts or its preparation say that it is the one."""
    name = VOC if set(info.classes) == set(VOC_CLASSES) else COCO if len(info.classes) == _COCO_CLASSES else ""
    if name and (_counts_fit(name, info) or _prepared_as(folder, name)):
        return name
    return f"{info.data or 'unknown'} ({len(info.classes)} classes)"


def _counts_fit(name: str, info: RunInfo) -> bool:
    train, val = SETTINGS[name]
    train = (*train, _VOC_TRAIN_LIST) if name == VOC else train
    return info.train_images in train or info.val_images in val


def _prepared_as(folder: Path, name: str) -> bool:
    """Whether the photos of the run lie in a set that was prepared as `name` and has the published val images."""
    try:
        images = read_index(folder / "index.json").images.values()
        parents = next((image.path.parents for image in images if image.path), ())
        found = next((parent / PREPARED for parent in parents if (parent / PREPARED).is_file()), None)
        facts = {} if found is None else _read(found)
    except (OSError, ValueError):
        return False
    counts, expected = (as_count(as_dict(facts.get(key)).get("val")) for key in ("counts", "published"))
    return facts.get("kind") == _KINDS[name] and counts is not None and counts == expected


def _model(folder: Path, info: RunInfo, score: ScoreRow) -> str:
    """What made a row: maps, refinement, network; what refined the masks is in their manifest."""
    if not score.kind.network:
        return score.made_by or score.kind.title
    segmenter = as_dict(info.recipe.get("segmenter"))
    network = f"{segmenter.get('architecture', 'deeplabv2')} ({segmenter.get('backbone')})"
    if score.kind.upper_bound:
        return f"{network}, true masks"
    return f"{as_text(_manifest(folder / 'pseudo_masks').raw.get('title'))}, {network}".removeprefix(", ")


def _remarks(folder: Path, info: RunInfo, dataset: str, score: ScoreRow) -> Iterable[str]:
    """Say how an own row differs from the published setting; nothing when it doesn't."""
    if not info.finished:
        yield "run not finished"
    if info.limited_to is not None:
        yield f"limited to {info.limited_to} training images"
    if dataset not in SETTINGS:
        yield "another data set"
        return
    train, val = SETTINGS[dataset]
    if score.kind.task not in (FROM_TAGS, FROM_MASKS):
        yield "no published row of this kind"
        return
    learned = _learned_from(folder, info, score)
    if info.limited_to is None and learned not in train:
        count = "an unknown number of" if learned is None else f"{learned:,}"
        yield f"trained on {count} images, published: {train[0]:,}"
    if score.images not in val:
        yield f"scored on {score.images or 0:,} images, published: {val[0]:,}"
    if score.count_ignored:
        yield "ignored pixels counted, as in the reference's slip"


def _learned_from(folder: Path, info: RunInfo, score: ScoreRow) -> int | None:
    """Images that a network learned from: those its manifest calls done, since images without a mask are skipped."""
    made = _manifest(folder / score.kind.network) if score.kind.network else Manifest()
    if made.done or made.failed:
        return made.done
    # without a manifest nobody knows how many of the images had a true mask
    return None if score.kind.upper_bound else info.train_images


def _details(folder: Path, info: RunInfo, score: ScoreRow) -> dict[str, Any]:
    return {
        "recipe": info.name or folder.name,
        "seed": info.seed,
        "training_images": _learned_from(folder, info, score),
        "scored_images": score.images,
        "threshold": score.threshold,
        "threshold_chosen_on": score.chosen_on or None,
        "hours": round(sum(info.seconds.values()) / 3600, 3),
        "machine": f"{info.machine.get('cores') or '?'} CPU cores, {info.machine.get('gpu') or 'no GPU'}",
        "started": info.started,
        "folder": str(folder),
        "versions": info.versions,
        "per_class": score.per_class,
    }
