"""What the page shows of a run: its photos, where their masks and maps lie, and the background score behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import read_json
from tag2mask.common.values import as_dict, as_number, as_numbers, as_text
from tag2mask.data.images import decode_image
from tag2mask.data.maps import LocalizationMaps, load_maps
from tag2mask.data.records import Reading
from tag2mask.data.settings import reading_of_run
from tag2mask.runs.decisions import mask_path
from tag2mask.runs.index import IndexedImage, read_index
from tag2mask.runs.tags import tag_figures

LAYERS = ("masks", "pseudo_masks", "predictions")  # folders of masks, the best first
KINDS = ("rib", "cam")
FALLBACK = 0.25  # the background score where nothing says another, that of a recipe


@dataclass(frozen=True)
class Subject:
    """One photo of the run."""

    id: str
    path: Path
    own: tuple[str, ...]  # tags as the data set has them
    split: str
    layers: tuple[str, ...]  # folders that have a mask of it, the best first
    kinds: tuple[str, ...]  # of maps


@dataclass(frozen=True)
class Cut:
    """How the run's pseudo-masks are cut from its maps."""

    kind: str  # of maps
    threshold: float
    thresholds: dict[str, float] = field(default_factory=dict)  # of single classes
    adjustable: bool = True  # False: the method has another background score than that of the maps


@dataclass(frozen=True)
class Subjects:
    """The photos of a run that can be looked at."""

    run: Path
    name: str
    classes: tuple[str, ...]
    photos: dict[str, Subject]
    folders: dict[str, str]  # of maps by kind, those that the run's pseudo-masks are cut from
    cut: Cut
    own: dict[str, Any]  # the recipe's threshold (None: it will be found anew) and thresholds, without those by eye
    reading: Reading
    doubted: dict[str, list[dict[str, Any]]]  # tags that the classifier contradicts, by photo

    def photo(self, image_id: str) -> Subject:
        """The photo of this id; DataError for an unknown one."""
        if image_id not in self.photos:
            raise DataError(f"{self.run}: has no photo '{image_id}'; reload the page")
        return self.photos[image_id]

    def mask_file(self, subject: Subject, layer: str) -> Path:
        """Where a mask lies: in a folder of the run, or "corrected"; DataError for a layer that isn't there."""
        if layer == "corrected":
            return self._inside(mask_path(self.run, subject.id))
        if layer not in subject.layers:
            raise DataError(f"{subject.id}: has no mask in '{layer}'; reload the page")
        return self._inside(self.run / layer / "masks" / f"{subject.id}.png")

    def maps_of(self, subject: Subject, kind: str) -> LocalizationMaps:
        """The stored maps; DataError for a kind that isn't there."""
        if kind not in subject.kinds:
            raise DataError(f"{subject.id}: has no '{kind}' maps; run localize on it")
        return load_maps(self._inside(self.run / self.folders[kind] / kind / f"{subject.id}.npz"))

    def _inside(self, path: Path) -> Path:
        """The path; DataError where a link leads out of the run's folder."""
        if not path.resolve().is_relative_to(self.run.resolve()):
            raise DataError(f"{path}: leads out of the run's folder; put the file itself there")
        return path

    def pixels(self, subject: Subject, side: int) -> np.ndarray:
        """The photo (H, W, 3) uint8, its longer side at most `side`; raises DataError."""
        return decode_image(subject.path, long_side=side, reading=self.reading)


def open_subjects(run: Path) -> Subjects:
    """Read what a run has of photos, masks and maps; ConfigError where there is nothing to look at."""
    info = as_dict(read_json(run / "run.json")) if (run / "run.json").is_file() else {}
    if not info or not (run / "index.json").is_file():
        raise ConfigError(f"{run}: is no run's folder (no run.json and index.json); give one that 'run' wrote")
    index, recipe = read_index(run / "index.json"), as_dict(info.get("recipe"))
    made = as_dict(read_json(path)) if (path := run / "pseudo_masks" / "manifest.json").is_file() else {}
    settings = as_dict(made.get("config")) or as_dict(recipe.get("refine"))
    folders = {kind: _maps_folder(run, kind, recipe, settings) for kind in KINDS}
    masks = {layer: _names(run / layer / "masks", ".png") for layer in LAYERS}
    kinds = {kind: _names(run / folders[kind] / kind, ".npz") for kind in KINDS}
    photos = {image.id: _subject(image, masks, kinds) for image in index.images.values() if _usable(image)}
    if not any(subject.layers or subject.kinds for subject in photos.values()):
        raise ConfigError(f"{run}: has neither masks nor maps to look at yet; run it until localize is done")
    reading = reading_of_run(info)
    name = as_text(info.get("name")) or run.name
    doubted = _doubted(run)
    cut = _cut(made, settings, kinds)
    own = _own(made, as_dict(recipe.get("refine")))
    return Subjects(run, name, index.classes, photos, folders, cut, own, reading, doubted)


def _maps_folder(run: Path, kind: str, recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The folder of the maps of a kind that refinements work on."""
    walked = f"walk_{kind}"
    if as_text(settings.get("method")).startswith("irn+") and (run / walked).is_dir():
        return walked
    return "affinity" if (run / "affinity").is_dir() and recipe.get("affinity") is not None else "localization"


def _usable(image: IndexedImage) -> bool:
    """Whether an entry of the index names a photo, by an id that stays in a folder."""
    return image.path is not None and image.id == Path(image.id).name and image.id not in ("", ".", "..")


def _names(folder: Path, suffix: str) -> frozenset[str]:
    paths: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    return frozenset(path.name[: -len(suffix)] for path in paths if path.name.endswith(suffix))


def _subject(
    image: IndexedImage, masks: Mapping[str, frozenset[str]], kinds: Mapping[str, frozenset[str]]
) -> Subject:
    assert image.path is not None
    layers = tuple(layer for layer in LAYERS if image.id in masks[layer])
    there = tuple(kind for kind in KINDS if image.id in kinds[kind])
    return Subject(image.id, image.path, image.own_labels, image.split, layers, there)


def _cut(made: Mapping[str, Any], config: Mapping[str, Any], kinds: Mapping[str, frozenset[str]]) -> Cut:
    kind = as_text(config.get("maps"))
    if kind not in KINDS or not kinds[kind]:
        kind = next((name for name in KINDS if kinds[name]), KINDS[0])
    found = (as_number(value) for value in (made.get("threshold"), config.get("threshold")))
    threshold = next((value for value in found if value is not None), FALLBACK)
    adjustable = config.get("method") != "irn" and bool(kinds[kind])
    return Cut(kind, threshold, as_numbers(config.get("thresholds")), adjustable)


def _own(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What masks are cut at where nothing is chosen by eye; an automatic score as long as it is the masks' own."""
    threshold = asked.get("threshold", FALLBACK)
    if threshold == "auto" and as_dict(made.get("config")).get("threshold") == "auto":
        threshold = made.get("threshold")
    return {"threshold": as_number(threshold), "thresholds": as_numbers(asked.get("thresholds"))}


def _doubted(run: Path) -> dict[str, list[dict[str, Any]]]:
    path = run / "classifier" / "manifest.json"
    figures = tag_figures(as_dict(read_json(path))) if path.is_file() else None
    found: dict[str, list[dict[str, Any]]] = {}
    for tag in figures.doubted if figures else ():
        found.setdefault(tag.id, []).append({"tag": tag.name, "tagged": tag.tagged, "score": round(tag.score, 3)})
    return found
