"""Stage 3: localization maps become pseudo-masks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.config import to_mapping
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, decode_image, load_maps, write_mask
from tag2mask.refine.crf import crf_available, crf_labels, map_probabilities
from tag2mask.refine.pamr import pamr
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.stages.folder import StageFolder, read_manifest
from tag2mask.stages.parallel import Work, process_count, run_images
from tag2mask.stages.training import Execution

UNSURE = 255


@dataclass(frozen=True)
class RefineConfig:
    """How maps become pseudo-masks."""

    maps: Literal["rib", "cam"] = "rib"  # which of the two map folders
    method: Literal["auto", "crf", "pamr", "none"] = "auto"  # auto: dense CRF where installed, else PAMR
    threshold: float = 0.25  # background score, 0..1, against the normalised maps
    threshold_chosen_on: str = "fixed in the recipe"  # how that value was found, in words; goes into scores.json
    unsure: float = 0.0  # half-width around the threshold within which a pixel is left unsure (255); 0 = none


def resolve_method(config: RefineConfig) -> RefineConfig:
    """Replace method "auto" by what this installation has, so that the manifest says what was used."""
    if config.method == "crf" and not crf_available():
        raise MissingExtraError("pydensecrf2", "crf", "refine.method: crf")
    if config.method != "auto":
        return config
    return dataclasses.replace(config, method="crf" if crf_available() else "pamr")


def refine(
    dataset: Dataset, localization: Path, out: Path, config: RefineConfig, *, seed: int = 0,
    execution: Execution | None = None,
) -> None:  # fmt: skip
    """Write `out`/masks/ID.png (0 background, class index + 1, 255 unsure) for every image that has maps.

    Resumes; broken images are noted in the manifest and skipped. Raises ConfigError, MissingExtraError.
    """
    config = resolve_method(config)
    if not 0 <= config.unsure < min(config.threshold, 1 - config.threshold):
        raise ConfigError(f"refine.unsure is {config.unsure}; expected 0 <= unsure < threshold {config.threshold}")
    execution = execution or Execution()
    maps = read_manifest(localization, "localize")
    inputs = {"dataset": dataset.digest(), "maps": maps["inputs"]["classifier"], "maps_config": str(maps["config"])}
    folder = StageFolder(out, "refine", config=to_mapping(config), seed=seed, inputs=inputs)
    if folder.finished:
        return
    records = {r.id: r for r in dataset.records if (localization / config.maps / f"{r.id}.npz").is_file()}
    todo = [i for i in records if not (out / "masks" / f"{i}.png").is_file()]
    for record in dataset.records:
        if record.id not in records:
            folder.fail(record.id, "has no maps (its localisation failed)")
    arguments = (records, localization / config.maps, out / "masks", config, len(dataset.classes))
    run_images(todo, make_refiner, arguments, folder, processes=process_count(execution.processes, len(todo)),
               total=len(records), description=f"refine ({config.method})")  # fmt: skip
    folder.finish(i for i in records if i not in folder.failures)


def make_refiner(
    records: dict[str, ImageRecord], maps: Path, masks: Path, config: RefineConfig, n_classes: int
) -> Work:
    """Return the function that refines one image by its id."""

    def work(image_id: str) -> None:
        image = decode_image(records[image_id].path)
        labels = pseudo_mask(image, load_maps(maps / f"{image_id}.npz"), config)
        write_mask(masks / f"{image_id}.png", labels)

    return work


def pseudo_mask(image: np.ndarray, maps: LocalizationMaps, config: RefineConfig) -> np.ndarray:
    """Pseudo-mask (H, W) uint8 of an image (H, W, 3) from its maps; 255 where it is unsure."""
    full = maps.full()  # (n, H, W)
    if not config.unsure:
        return refined_labels(image, full, maps.classes, config.threshold, config.method)
    foreground = refined_labels(image, full, maps.classes, config.threshold + config.unsure, config.method)
    background = refined_labels(image, full, maps.classes, config.threshold - config.unsure, config.method)
    labels = np.full_like(foreground, UNSURE)
    labels[foreground > 0] = foreground[foreground > 0]
    labels[(foreground == 0) & (background == 0)] = 0
    return labels


def refined_labels(
    image: np.ndarray, maps: np.ndarray, classes: np.ndarray, threshold: float, method: str
) -> np.ndarray:
    """Labels (H, W) uint8 of maps (n, H, W) in 0..1 over a background of `threshold`, refined along edges.

    `method`: "crf" (dense CRF on hard labels, as the reference), "pamr" or "none".
    """
    labels = labels_from_maps(maps, classes, threshold)
    if method == "none" or not len(classes):
        return labels
    values = np.concatenate([[0], np.asarray(classes) + 1]).astype(np.uint8)
    if method == "crf":
        dense = np.searchsorted(values, labels)  # 0..n in the order of `values`, which is ascending
        return values[crf_labels(image, dense, len(values))]
    return values[pamr(image, map_probabilities(maps, threshold)).argmax(axis=0)]
