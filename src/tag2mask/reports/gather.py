"""Reads what a run's folder holds, finished or not, into plain records; what cannot be read is noted."""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tag2mask.common.errors import Tag2MaskError
from tag2mask.common.files import read_json

T = TypeVar("T")

# Everything that a truncated, foreign or half-written file is known to raise in its reader.
READ_ERRORS = (
    Tag2MaskError, OSError, ValueError, KeyError, IndexError, TypeError, EOFError, SyntaxError,
    RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip

ROWS = (  # key in scores.json, title, what it is
    ("seed_cam", "CAM seed", "class activation maps, thresholded"),
    ("seed_rib", "RIB seed", "maps summed over the RIB steps, thresholded"),
    ("pseudo_mask", "Pseudo-mask", "refined seeds: what the segmenter learns from"),
    ("segmentation_val", "Segmentation", "network trained on the pseudo-masks, from tags only"),
    ("supervised_val", "Upper bound", "same network trained on true masks; not reachable from tags"),
)
COMPARED = "refined otherwise; only scored"
UPPER_BOUND = "supervised_val"
COMPARISON = "pseudo_mask_"  # and a name: a refinement that is only scored

STAGES = (  # folder, name of the stage, title
    ("classifier", "train_classifier", "Train classifier"),
    ("localization", "localize", "Localize: CAM and RIB"),
    ("pseudo_masks", "refine", "Refine to pseudo-masks"),
    ("segmenter", "train_segmenter", "Train segmenter"),
    ("predictions", "predict", "Predict held-out images"),
    ("supervised", "train_supervised", "Train upper bound"),
    ("supervised_predictions", "predict_supervised", "Predict with upper bound"),
)
FAMILIES = (  # start of a folder's name, the stage it follows, title before what the rest of the name says
    ("confident_", "localization", "Confident labels"),
    ("boundary_", "localization", "Train boundary network"),
    ("pseudo_masks_", "pseudo_masks", "Compare"),
)
# The folders of an absolute path, with or without a drive; not of an address (https://...) or of "and/or".
_ABSOLUTE = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s:'\"/\\]+[/\\])*(?=\S)")
PER_IMAGE = ("localization", "confident_", "pseudo_masks", "predictions", "supervised_predictions")


@dataclass
class Notes:
    """What the report has to admit: parts that are not there yet, files that could not be shown."""

    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def attempt(self, name: str, path: Path, read: Callable[[Path], T]) -> T | None:
        """Return `read(path)`, or None with a note that names the file when it cannot be read.

        The note says `name` where the error says `path`: a report is passed on, and folders are private.
        """
        try:
            return read(path)
        except READ_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason.removeprefix(f"{path}:").removeprefix(str(path)).replace(str(path), path.name)
            self.broken.append(f"{name}: {reason.strip()[:240]}")
            return None


@dataclass(frozen=True)
class Score:
    """One row of the score table; IoU values are 0..1."""

    key: str
    title: str
    about: str
    miou: float
    per_class: dict[str, float]
    images: int | None
    split: str
    threshold: float | None
    chosen_on: str
    curve: list[tuple[float, float]]
    remark: str = ""
    interval: tuple[float, float] | None = None  # 95 % bootstrap interval over the images, 0..1

    @property
    def comparison(self) -> bool:
        """Whether the row is a refinement that is only scored."""
        return self.key.startswith(COMPARISON)

    @property
    def upper_bound(self) -> bool:
        """Whether the row was trained on true masks."""
        return self.key == UPPER_BOUND

    @property
    def on_truth(self) -> bool:
        """Whether the threshold was chosen on ground truth, which a user with tags only does not have."""
        return chosen_on_truth(self.chosen_on)


@dataclass(frozen=True)
class StageFacts:
    """One stage's cost and outcome; `done` counts images, `failed` maps ids to reasons."""

    folder: str
    title: str
    seconds: float | None
    done: int
    failed: dict[str, str]
    finished: bool = True

    @property
    def per_image(self) -> float | None:
        """Seconds per image, where the stage works image by image."""
        if self.seconds is None or not self.folder.startswith(PER_IMAGE) or not self.done:
            return None
        return self.seconds / self.done


@dataclass(frozen=True)
class ImageFacts:
    """Where an image and its true mask are, and its tags."""

    id: str
    path: Path | None
    labels: tuple[str, ...]
    split: str
    mask: Path | None


@dataclass(frozen=True)
class Log:
    """A training log: loss against step where it was written that often, and figures of whole epochs."""

    loss: list[tuple[float, float]]
    epoch_loss: list[tuple[float, float]]
    val_map: list[tuple[float, float]]


@dataclass
class RunFacts:
    """All of a run that fits in memory at once; pictures are read one example at a time, elsewhere."""

    folder: Path
    info: dict[str, Any]
    classes: tuple[str, ...]
    recipe: str
    scores: list[Score]
    per_image: dict[str, dict[str, float]]
    stages: list[StageFacts]
    images: dict[str, ImageFacts]
    mask_lut: np.ndarray | None
    logs: dict[str, Log]
    showcase: dict[str, Any]
    notes: Notes
    refined_from: str = ""  # folder of the confident labels behind the pseudo-masks


def gather(run: Path) -> RunFacts:
    """Read the folder of a finished or partly finished run; never raises for a missing or broken part."""
    notes = Notes()
    info = _read_dict(run, "run.json", notes)
    index = _read_dict(run, "index.json", notes)
    data = as_dict(info.get("data"))
    classes = tuple(str(name) for name in as_list(index.get("classes")) or as_list(data.get("classes")))
    if not index:
        notes.missing.append("index.json, so photos and true masks cannot be found")
    recipe = _recipe_text(run, notes)
    images = _images(index)
    stages = _stages(run, info, images, notes)
    scores = _scores(_read_dict(run, "scores.json", notes), notes)
    return RunFacts(
        folder=run, info=info, classes=classes, recipe=recipe, scores=scores,
        per_image=_per_image(_read_dict(run, "scores_per_image.json", notes)), stages=stages,
        images=images, mask_lut=_lut(index.get("mask_lut")), logs=_logs(run, notes),
        showcase=_read_dict(run, "showcase.json", notes), notes=notes, refined_from=_refined_from(run, notes),
    )  # fmt: skip


def chosen_on_truth(text: str) -> bool:
    """Whether a description of how a threshold was chosen says that true masks were used."""
    text = text.casefold()
    if re.search(r"\b(no|not|without|never)\b[^.;]*\b(truth|masks?)\b", text):
        return False
    return bool(re.search(r"truth|true mask|oracle|\bgt\b", text))


def as_dict(value: Any) -> dict[str, Any]:
    """Return `value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return `value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_number(value: Any) -> float | None:
    """Return `value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def as_count(value: Any) -> int | None:
    """Return `value` as an int, or None."""
    number = as_number(value)
    return None if number is None else int(number)


def _read_dict(run: Path, name: str, notes: Notes) -> dict[str, Any]:
    path = run / name
    return as_dict(notes.attempt(name, path, read_json)) if path.is_file() else {}


def _refined_from(run: Path, notes: Notes) -> str:
    """Folder of the confident labels that the recipe's own pseudo-masks go back to; "" without IRN."""
    config = as_dict(_read_dict(run, "pseudo_masks/manifest.json", notes).get("config"))
    return f"confident_{config.get('maps')}" if config.get("method") == "irn" else ""


def _recipe_text(run: Path, notes: Notes) -> str:
    path = run / "recipe.yaml"
    if not path.is_file():
        return ""
    return (notes.attempt("recipe.yaml", path, _text) or "")[:40_000]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _scores(found: dict[str, Any], notes: Notes) -> list[Score]:
    rows = []
    for key, title, about in ROWS:
        row = _score(found, key, title, about)
        if row is None:
            notes.missing.append(f"score of the {title.lower() if title[1].islower() else title}")
        else:
            rows.append(row)
        if key == "pseudo_mask":
            others = [name for name in found if name.startswith(COMPARISON)]
            named = [_score(found, name, name.removeprefix(COMPARISON), COMPARED) for name in others]
            rows += [other for other in named if other is not None]
    return rows


def _score(found: dict[str, Any], key: str, title: str, about: str) -> Score | None:
    """One row of scores.json; pseudo-masks say there what refined them. None without an mIoU."""
    entry = as_dict(found.get(key))
    miou = as_number(entry.get("miou"))
    if miou is None:
        return None
    refined = str(entry.get("title") or "")
    if key.startswith(COMPARISON):
        title = refined or title
    elif refined:
        about = f"{refined}: {about.partition(': ')[2] or about}"
    per_class = {str(name): as_number(value) for name, value in as_dict(entry.get("per_class")).items()}
    return Score(
        key, title, about, miou, {name: value for name, value in per_class.items() if value is not None},
        as_count(entry.get("images")), str(entry.get("split") or ""), as_number(entry.get("threshold")),
        str(entry.get("threshold_chosen_on") or ""), _curve(entry.get("curve")), _remark(entry),
        _interval(entry),
    )  # fmt: skip


def _interval(entry: dict[str, Any]) -> tuple[float, float] | None:
    low, high = (as_number(as_dict(entry.get("interval")).get(end)) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _remark(entry: dict[str, Any]) -> str:
    """What has to be said about a row: where its saliency came from, and what was left undecided."""
    parts = [f"saliency {entry['saliency']}"] if entry.get("saliency") else []
    parts += ["ignored pixels counted, as in the reference's slip on COCO"] if entry.get("count_ignored") else []
    coverage, decided = as_number(entry.get("coverage")), as_number(entry.get("miou_decided"))
    if coverage is not None:
        parts.append(f"{100 * coverage:.1f} % of the pixels decided, the rest scored as background")
        if decided is not None:
            parts[-1] += f" (mIoU over the decided ones alone: {100 * decided:.1f})"
    return "; ".join(parts)


def _curve(value: Any) -> list[tuple[float, float]]:
    points = []
    for pair in as_list(value):
        x, y = map(as_number, pair) if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if x is not None and y is not None:
            points.append((x, y))
    return sorted(points)


def _per_image(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for key, values in found.items():
        numbers = {name: as_number(value) for name, value in as_dict(values).items()}
        table[key] = {name: number for name, number in numbers.items() if number is not None}
    return table


def folders_of(run: Path, start: str) -> list[str]:
    """Names of the stage folders in `run` that begin with `start`, oldest first, so in the order of the chain."""
    found = [path.parent for path in run.glob(f"{start}*/manifest.json")]
    return [path.name for path in sorted(found, key=lambda path: (path.stat().st_ctime, path.name))]


def _stage_list(run: Path) -> list[tuple[str, str, str]]:
    """STAGES, with the folders of each family after the stage that they follow."""
    stages = []
    for stage in STAGES:
        stages.append(stage)
        for start, after, title in FAMILIES:
            if stage[0] == after:
                names = folders_of(run, start)
                stages += [(name, name, f"{title}: {spoken(name.removeprefix(start))}") for name in names]
    return stages


def spoken(name: str) -> str:
    """The rest of a folder's name for the reader: "rib" becomes "RIB", "cam_irn" "CAM irn"."""
    return " ".join(word.upper() if word in ("cam", "rib", "irn", "crf") else word for word in name.split("_"))


def without_folders(text: str, known: Iterable[Path] = ()) -> str:
    """Return a message with the bare names of files: a report is passed on, and folders are private.

    Absolute paths are cut; `known` ones are cut also where a folder's name has spaces.
    """
    paths = [path for path in known if path.is_absolute()]
    for path in paths:
        text = text.replace(str(path), path.name)
    for path in paths:
        text = text.replace(f"{path.parent}/", "")
    head, colon, rest = text.partition(": ")  # most messages begin with the file
    if _ABSOLUTE.match(head):
        text = re.split(r"[/\\]", head)[-1] + colon + rest
    return _ABSOLUTE.sub("", text)


def _stages(run: Path, info: dict[str, Any], images: dict[str, ImageFacts], notes: Notes) -> list[StageFacts]:
    seconds = dict(as_dict(info.get("seconds")))
    stages = []
    for folder, stage, title in _stage_list(run):
        manifest = _read_dict(run, f"{folder}/manifest.json", notes)
        recorded = [seconds.pop(key, None) for key in dict.fromkeys((folder, stage))]
        spent = next((number for number in map(as_number, recorded) if number is not None), None)
        if spent is None:
            spent = as_number(manifest.get("seconds"))
        states = {name: as_dict(entry) for name, entry in as_dict(manifest.get("images")).items()}
        done = sum(entry.get("status") == "done" for entry in states.values())
        failed = {name: _reason(run, images.get(name), entry) for name, entry in states.items()
                  if entry.get("status") == "failed"}  # fmt: skip
        if manifest or spent is not None:
            stages.append(StageFacts(folder, title, spent, done, failed, manifest.get("finished", True) is not False))
        if not (run / folder).is_dir():
            notes.missing.append(f"{folder}/ ({title[0].lower() + title[1:]})")
    for name, value in seconds.items():  # stages without a folder of their own, such as evaluation
        title = name.replace("_", " ").capitalize()
        stages.append(StageFacts(name, title, as_number(value), 0, {}))
    return stages


def _reason(run: Path, image: ImageFacts | None, state: dict[str, Any]) -> str:
    """Why an image failed, without private folders."""
    known = [path for path in (image.path, image.mask) if path is not None] if image else []
    return without_folders(str(state.get("error") or "failed"), [*known, run.absolute() / "x", run.resolve() / "x"])


def _images(index: dict[str, Any]) -> dict[str, ImageFacts]:
    images = {}
    for name, entry in as_dict(index.get("images")).items():
        entry = as_dict(entry)
        labels = tuple(str(label) for label in as_list(entry.get("labels")))
        images[name] = ImageFacts(
            name, _path(entry.get("path")), labels, str(entry.get("split") or ""), _path(entry.get("mask"))
        )
    return images


def _path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str) and value else None


def _lut(value: Any) -> np.ndarray | None:
    numbers = [as_count(item) for item in as_list(value)]
    if len(numbers) != 256 or any(number is None or not 0 <= number <= 255 for number in numbers):
        return None
    return np.array(numbers, dtype=np.uint8)


def _logs(run: Path, notes: Notes) -> dict[str, Log]:
    logs = {}
    for folder in ("classifier", *folders_of(run, "boundary_"), "segmenter", "supervised"):
        path = run / folder / "log.jsonl"
        if not path.is_file():
            continue
        name = f"{folder}/log.jsonl"
        log = _parse_log(notes.attempt(name, path, _text) or "", name, notes)
        if log.loss or log.epoch_loss or log.val_map:
            logs[folder] = log
    return logs


def _parse_log(text: str, name: str, notes: Notes) -> Log:
    """Parse JSON lines; of lines with the same epoch and step the last counts (a resumed run repeats some)."""
    losses: dict[tuple[float, float], float] = {}
    epochs: dict[str, dict[float, float]] = {"train_loss": {}, "val_map": {}}
    bad = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            entry = as_dict(json.loads(line))
        except ValueError:
            bad += 1
            continue
        epoch, step, loss = (as_number(entry.get(key)) for key in ("epoch", "step", "loss"))
        if loss is not None:
            losses[(epoch or 0.0, float(len(losses)) if step is None else step)] = loss
        for key, found in epochs.items():
            figure = as_number(entry.get(key))
            if figure is not None:
                found[float(len(found)) if epoch is None else epoch] = figure
    if bad:
        notes.broken.append(f"{name}: {bad} unreadable line{'s' if bad > 1 else ''} left out")
    steps = [step for _, step in losses]
    counted = len(set(steps)) == len(steps)  # else steps start anew in every epoch
    points = [(step if counted else float(i), loss) for i, ((_, step), loss) in enumerate(sorted(losses.items()))]
    return Log(sorted(points), sorted(epochs["train_loss"].items()), sorted(epochs["val_map"].items()))
