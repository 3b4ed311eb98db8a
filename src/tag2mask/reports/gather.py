"""Reads what a run's folder holds, finished or not, into plain records; what cannot be read is noted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError
from tag2mask.common.values import as_dict, as_list, as_numbers, as_text
from tag2mask.data.records import AS_USUAL, Reading
from tag2mask.data.settings import reading_of_run
from tag2mask.reports.notes import Notes, without_folders
from tag2mask.runs.decisions import APPLIED
from tag2mask.runs.folder import Manifest, parse_manifest
from tag2mask.runs.index import Index, read_index
from tag2mask.runs.info import RunInfo, Step, parse_info
from tag2mask.runs.log import FILE, Epoch, read_epochs
from tag2mask.runs.scores import ScoreRow, not_scored, rows_of
from tag2mask.runs.tags import TagFigures, tag_figures
from tag2mask.stages import STAGES, stage_named

_RECIPE_SHOWN = 40_000  # characters


@dataclass(frozen=True)
class StageFacts:
    """One stage of a run: what it is, what it cost and what came of it."""

    step: Step
    manifest: Manifest
    seconds: float | None
    failed: dict[str, str]  # ids of images to reasons, without private folders
    epochs: list[Epoch]  # of a training

    @property
    def per_image(self) -> float | None:
        """Seconds per image, where the stage works image by image."""
        if self.seconds is None or not self.step.per_image or not self.manifest.done:
            return None
        return self.seconds / self.manifest.done


@dataclass
class RunFacts:
    """All of a run that fits in memory at once; pictures are read one example at a time, elsewhere."""

    folder: Path
    info: RunInfo
    index: Index
    recipe: str  # recipe.yaml
    scores: list[ScoreRow]
    per_image: dict[str, dict[str, float]]  # mIoU by row and image
    stages: list[StageFacts]
    tags: TagFigures | None
    showcase: dict[str, Any]
    notes: Notes
    labels_from: str = ""  # folder of the confident labels behind the pseudo-masks
    chosen: str = "first"  # name of the pseudo-masks that later stages follow
    reading: Reading = AS_USUAL  # how the photos become 8-bit RGB
    rejected: frozenset[str] = frozenset()  # photos that a review took out

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.index.classes or self.info.classes


def gather(run: Path) -> RunFacts:
    """Read the folder of a finished or partly finished run; never raises for a missing or broken part."""
    notes = Notes()
    for name, loss in (("run.json", "what it should hold"), ("index.json", "where photos and true masks are")):
        if not (run / name).is_file():
            notes.missing.append(f"{name}, so {loss} isn't known")
    info, path = parse_info(notes.json(run, "run.json")), run / "index.json"
    index = (notes.attempt(path.name, path, read_index) if path.is_file() else None) or Index()
    stages = list(_stages(run, info, index, notes))
    scores = rows_of(as_dict(notes.json(run, "scores.json")))
    notes.missing += [f"score of the {title}" for title in not_scored(scores)]
    per_image = as_dict(notes.json(run, "scores_per_image.json"))
    return RunFacts(
        run,
        info,
        index,
        notes.text(run, "recipe.yaml")[:_RECIPE_SHOWN],
        scores,
        {key: as_numbers(values) for key, values in per_image.items()},
        stages,
        next(filter(None, (tag_figures(stage.manifest.raw) for stage in stages)), None),
        as_dict(notes.json(run, "showcase.json")),
        notes,
        _labels_from(stages),
        as_text(as_dict(notes.json(run, "choices.json")).get("chosen")) or "first",
        _reading(run, notes),
        frozenset(map(str, as_list(as_dict(notes.json(run, APPLIED)).get("rejected")))),
    )


def _reading(run: Path, notes: Notes) -> Reading:
    """How the run's pictures were read; as usual where that isn't known."""
    try:
        return reading_of_run(as_dict(notes.json(run, "run.json")))
    except ConfigError as error:
        notes.broken.append(f"run.json: {error}")
        return AS_USUAL


def _stages(run: Path, info: RunInfo, index: Index, notes: Notes) -> Iterable[StageFacts]:
    """The stages that run.json names, and those of an earlier version or of other settings that have a folder."""
    folders = {path.parent.name for path in run.glob("*/manifest.json")} | {step.folder for step in info.stages}
    manifests = {name: parse_manifest(notes.json(run, f"{name}/manifest.json")) for name in sorted(folders)}
    others = sorted(folders - {step.folder for step in info.stages}, key=lambda name: _place(manifests[name].stage))
    for step in (*info.stages, *(_unnamed(name, manifests[name].stage) for name in others)):
        manifest = manifests[step.folder]
        seconds = info.seconds.get(step.folder) if manifest.seconds is None else manifest.seconds
        if not (run / step.folder).is_dir():
            notes.missing.append(f"{step.folder}/ ({step.title[:1].lower()}{step.title[1:]})")
        if manifest.raw or seconds is not None:
            failed = {name: _reason(run, index, name, text) for name, text in manifest.failed.items()}
            yield StageFacts(step, manifest, seconds, failed, _epochs(run, step.folder, notes))


def _place(stage: str) -> int:
    return list(STAGES).index(stage) if stage in STAGES else len(STAGES)


def _unnamed(folder: str, stage: str) -> Step:
    """A step for a folder that run.json doesn't name, called by its stage."""
    if stage not in STAGES:
        return Step(folder, stage, f"{stage} ({folder})" if stage else folder)
    known = stage_named(stage)
    return Step(folder, stage, f"{known.title} ({folder})", known.per_image)


def _reason(run: Path, index: Index, image_id: str, error: str) -> str:
    """Why an image failed, without private folders."""
    image = index.images.get(image_id)
    known = [path for path in (image.path, image.mask) if path is not None] if image else []
    return without_folders(error, [*known, run.absolute() / "x", run.resolve() / "x"])


def _epochs(run: Path, folder: str, notes: Notes) -> list[Epoch]:
    name = f"{folder}/{FILE}"
    rows, bad = read_epochs(notes.text(run, name))
    if bad:
        notes.broken.append(f"{name}: {bad} unreadable line{'s' if bad > 1 else ''} left out")
    return rows


def _labels_from(stages: list[StageFacts]) -> str:
    """Folder of the confident labels that the recipe's own pseudo-masks go back to; "" without IRN."""
    own = next((stage.manifest.config for stage in stages if stage.step.folder == "pseudo_masks"), {})
    if not str(own.get("method")).startswith("irn"):
        return ""
    labels = [stage for stage in stages if stage.step.stage == "confident"]
    return next((s.step.folder for s in labels if s.manifest.config.get("maps") == own.get("maps")), "")
