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
from tag2mask.data.readers import prepared
from tag2mask.data.records import VOC_CLASSES
from tag2mask.reports.gather import as_count, as_dict, as_number

PREPARED = f"{prepared.FOLDER}/{prepared.MANIFEST}"
VOC, COCO = "PASCAL VOC 2012", "COCO 2014"
LABELS_TASK, MASKS_TASK = "segmentation from image labels", "segmentation from true masks"
# Images of the published settings: (training, val); on COCO with or without those that have no label.
SETTINGS = {VOC: ((10582,), (1449,)), COCO: ((82783, 82081), (40504, 40137))}
_COCO_CLASSES = 80
_KINDS = {VOC: "voc2012", COCO: "coco2014"}  # as `tag2mask data prepare` names them
_VOC_TRAIN_LIST = 1464  # images of VOC's own list, without the augmented ones
_LEARNERS = {"segmentation": "segmenter", "supervised": "supervised"}  # the folders of the networks
_TASKS = {"seed": "class maps (seed)", "pseudo_mask": "pseudo-masks", "segmentation": LABELS_TASK,
          "supervised": MASKS_TASK}  # fmt: skip
COLUMNS = ("task", "dataset", "split", "metric", "value", "model", "year", "beyond_labels", "source")


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
    beyond_labels: str = ""  # what was used besides image labels, e.g. "saliency"
    own: bool = False
    remarks: tuple[str, ...] = ()  # why an own row is not the published setting; () = comparable
    rank: int | None = None  # among comparable rows of the same task, data set, split and metric
    interval: tuple[float, float] | None = None  # percent, over images
    details: dict[str, Any] = field(default_factory=dict)  # of own rows: recipe, seed, versions, images, cost

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What rows must share to be compared."""
        return (self.task, self.dataset, self.split, self.metric)

    def as_dict(self) -> dict[str, Any]:
        """Return the row fit for JSON."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS}
        low, high = self.interval or (None, None)
        return plain | {"interval_low": low, "interval_high": high, "comparable_with_published": not self.remarks,
                        "remarks": list(self.remarks), **self.details}  # fmt: skip


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
            info, scores = (_read(folder / name) for name in ("run.json", "scores.json"))
        except (OSError, ValueError) as error:
            notes.append(f"{folder}: {_reason(error)}")
            continue
        dataset = _dataset(folder, as_dict(info.get("data")))
        rows += [_row(folder, info, dataset, name, as_dict(score)) for name, score in scores.items()
                 if as_number(as_dict(score).get("miou")) is not None]  # fmt: skip
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
        parts = (*row.group, row.model, row.source, row.beyond_labels, whose, row.year, *row.remarks)
        return " ".join(parts).casefold()

    return [row for row in rows if all(word.casefold() in text(row) for word in words)]


def to_json(rows: Sequence[Result]) -> str:
    """Return own rows as JSON text."""
    return json.dumps([row.as_dict() for row in rows if row.own], indent=1, ensure_ascii=False) + "\n"


def to_csv(rows: Sequence[Result]) -> str:
    """Return own rows as CSV text; nested details are left to JSON."""
    plain = [{k: "; ".join(v) if k == "remarks" else v for k, v in row.as_dict().items() if not isinstance(v, dict)}
             for row in rows if row.own]  # fmt: skip
    stream = io.StringIO(newline="")
    names = list(plain[0]) if plain else list(COLUMNS)
    writer = csv.DictWriter(stream, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(plain)
    return stream.getvalue()


def _read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no object")
    return value


def _reason(error: Exception) -> str:
    return "has no scores yet" if isinstance(error, FileNotFoundError) else f"can't be read ({error})"


def _task_place(task: str) -> int:
    order = (LABELS_TASK, MASKS_TASK, *_TASKS.values())
    return order.index(task) if task in order else len(order)


def _row(folder: Path, info: dict[str, Any], dataset: str, name: str, score: dict[str, Any]) -> Result:
    recipe = as_dict(info.get("recipe"))
    kind = next((key for key in _TASKS if name.startswith(key)), name)
    interval = as_dict(score.get("interval"))
    ends = as_number(interval.get("low")), as_number(interval.get("high"))
    saliency = score.get("saliency") or as_dict(as_dict(recipe.get("refine")).get("saliency")).get("source")
    uses_saliency = bool(saliency) and kind in ("pseudo_mask", "segmentation")
    return Result(
        task=_TASKS.get(kind, name),
        dataset=dataset,
        split=str(score.get("split") or ""),
        metric="mIoU, ignored pixels counted" if score.get("count_ignored") else "mIoU",
        value=round(100 * float(score["miou"]), 2),
        model=_model(folder, name, kind, score, recipe),
        source=f"own run {folder.name}",
        year=str(info.get("started") or "")[:4],
        beyond_labels="pixel masks" if kind == "supervised" else "saliency" if uses_saliency else "",
        own=True,
        remarks=tuple(_remarks(folder, info, dataset, kind, score)),
        interval=None if None in ends else (round(100 * ends[0], 2), round(100 * ends[1], 2)),  # type: ignore[operator]
        details=_details(folder, info, kind, score),
    )


def _dataset(folder: Path, data: dict[str, Any]) -> str:
    """Name a published set only where its classes and either its counts or its preparation say that it is the one."""
    classes, root = tuple(data.get("classes") or ()), str(data.get("root_name") or "unknown")
    name = VOC if set(classes) == set(VOC_CLASSES) else COCO if len(classes) == _COCO_CLASSES else ""
    if name and (_counts_fit(name, data) or _prepared_as(folder, name)):
        return name
    return f"{root} ({len(classes)} classes)"


def _counts_fit(name: str, data: dict[str, Any]) -> bool:
    train, val = SETTINGS[name]
    train = (*train, _VOC_TRAIN_LIST) if name == VOC else train
    return as_count(data.get("train_images")) in train or as_count(data.get("val_images")) in val


def _prepared_as(folder: Path, name: str) -> bool:
    """Whether the photos of the run lie in a set that was prepared as `name` and has the published val images."""
    try:
        images = as_dict(_read(folder / "index.json").get("images"))
        path = Path(str(as_dict(next(iter(images.values()), None)).get("path") or ""))
        found = next((p / PREPARED for p in path.parents if (p / PREPARED).is_file()), None)
        facts = {} if found is None else _read(found)
    except (OSError, ValueError):
        return False
    counts, expected = (as_count(as_dict(facts.get(key)).get("val")) for key in ("counts", "published"))
    return facts.get("kind") == _KINDS[name] and counts is not None and counts == expected


def _model(folder: Path, name: str, kind: str, score: dict[str, Any], recipe: dict[str, Any]) -> str:
    refine = as_dict(recipe.get("refine"))
    maps, method = str(refine.get("maps") or "").upper(), _refinement(folder, refine).upper()
    backbone = str(as_dict(recipe.get("segmenter")).get("backbone") or "")
    if kind == "seed":
        return name.removeprefix("seed_").upper()
    if kind == "pseudo_mask":
        return str(score.get("title") or f"{maps}+{method}")
    if kind == "supervised":
        return f"DeepLabV2 ({backbone}), true masks"
    sal = "+Sal" if as_dict(refine.get("saliency")).get("source") else ""
    return f"{maps}+{method}{sal}, DeepLabV2 ({backbone})"


def _refinement(folder: Path, refine: dict[str, Any]) -> str:
    """Return the method that was used; "auto" is resolved in the stage's manifest only."""
    try:
        config = as_dict(_read(folder / "pseudo_masks" / "manifest.json").get("config"))
    except (OSError, ValueError):
        config = {}
    return str(config.get("method") or refine.get("method") or "")


def _remarks(folder: Path, info: dict[str, Any], dataset: str, kind: str, score: dict[str, Any]) -> Iterable[str]:
    """Say how an own row differs from the published setting; nothing when it doesn't."""
    data = as_dict(info.get("data"))
    limited = as_count(data.get("limited_to"))
    if not info.get("finished"):
        yield "run not finished"
    if limited is not None:
        yield f"limited to {limited} training images"
    if dataset not in SETTINGS:
        yield "another data set"
        return
    train, val = SETTINGS[dataset]
    if kind not in ("segmentation", "supervised"):
        yield "no published row of this kind"
        return
    learned = _learned_from(folder, kind, data)
    if limited is None and learned not in train:
        count = "an unknown number of" if learned is None else f"{learned:,}"
        yield f"trained on {count} images, published: {train[0]:,}"
    if as_count(score.get("images")) not in val:
        yield f"scored on {as_count(score.get('images')) or 0:,} images, published: {val[0]:,}"
    if score.get("count_ignored"):
        yield "ignored pixels counted, as in the reference's slip"


def _learned_from(folder: Path, kind: str, data: dict[str, Any]) -> int | None:
    """Images that a network learned from: those its manifest calls done, since images without a mask are skipped."""
    images: dict[str, Any] = {}
    if kind in _LEARNERS:
        try:
            images = as_dict(_read(folder / _LEARNERS[kind] / "manifest.json").get("images"))
        except (OSError, ValueError):
            images = {}
    if images:
        return sum(as_dict(state).get("status") == "done" for state in images.values())
    # without a manifest nobody knows how many of the images had a true mask
    return None if kind == "supervised" else as_count(data.get("train_images"))


def _details(folder: Path, info: dict[str, Any], kind: str, score: dict[str, Any]) -> dict[str, Any]:
    data, recipe = as_dict(info.get("data")), info.get("recipe")
    seconds = [as_number(value) for value in as_dict(info.get("seconds")).values()]
    machine = as_dict(info.get("machine"))
    return {
        "recipe": str(as_dict(recipe).get("name") or info.get("name") or folder.name),
        "seed": info.get("seed"),
        "training_images": _learned_from(folder, kind, data),
        "scored_images": score.get("images"),
        "threshold": score.get("threshold"),
        "threshold_chosen_on": score.get("threshold_chosen_on"),
        "hours": round(sum(value for value in seconds if value is not None) / 3600, 3),
        "machine": f"{machine.get('cores') or '?'} CPU cores, {machine.get('gpu') or 'no GPU'}",
        "started": info.get("started"),
        "folder": str(folder),
        "versions": as_dict(info.get("versions")),
        "per_class": as_dict(score.get("per_class")),
    }
