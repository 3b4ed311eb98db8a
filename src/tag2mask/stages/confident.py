"""Confident labels: the pixels of which maps are sure, from which the boundary network learns (method section 3)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.config import Range, SettingError, Settings, to_mapping
from tag2mask.data import Dataset, ImageRecord, load_maps, read_image, write_mask
from tag2mask.refine.crf import crf_available
from tag2mask.refine.pseudo import confident_labels
from tag2mask.stages.carry_over import carried_over
from tag2mask.stages.folder import StageFolder, read_manifest
from tag2mask.stages.parallel import Work, process_count, run_images
from tag2mask.stages.training import Execution


@dataclass(frozen=True)
class ConfidentConfig(Settings):
    """When a pixel counts as known; defaults are the RIB reference's for VOC 2012."""

    # background scores: over the first a class is taken, under the second background (reference)
    foreground: Annotated[float, Range(ge=0, le=1)] = 0.35
    background: Annotated[float, Range(ge=0, le=1)] = 0.17
    # cam: the two scores are CAM's; other maps get the scores at which they cover as much of the images
    scale: Literal["own", "cam"] = "own"
    refinement: Literal["auto", "crf", "pamr", "none"] = "auto"  # auto: dense CRF where installed, else PAMR

    def check_relations(self) -> None:
        """Raise ConfigError for scores in the wrong order."""
        if self.background > self.foreground:
            raise SettingError(self, ("background", "foreground"), f"at most foreground, {self.foreground}")


ABSENT = {"config": to_mapping(ConfidentConfig())}  # what a manifest means that doesn't name a setting


def confident(
    dataset: Dataset, localization: Path, out: Path, config: ConfidentConfig, *, maps: str = "rib", seed: int = 0,
    execution: Execution | None = None,
) -> None:  # fmt: skip
    """Write `out`/masks/ID.png (0 background, class index + 1, 255 unsure) for every image with maps.

    `localization` is the folder that `localize` wrote, `maps` which of its two kinds is used. Resumes; broken images
    are noted in the manifest, and tried again by a later call. Raises ConfigError, MissingExtraError.
    """
    config = dataclasses.replace(config, refinement=edge_method(config.refinement, "refine.confident.refinement"))
    execution = execution or Execution()
    made = read_manifest(localization, "localize")
    inputs = {"dataset": dataset.digest(), "maps": made["inputs"]["classifier"], "maps_config": str(made["config"])}
    folder = StageFolder(out, "confident", config=settings_of(config, maps), seed=seed, inputs=inputs,
                         absent=ABSENT)  # fmt: skip
    records = records_with_maps(dataset, localization / maps, folder)
    todo = folder.left(records, "masks/{}.png")
    if folder.finished and not todo:
        return
    config = _on_own_scale(config, localization, maps, folder, list(records), seed)
    run_images(todo, make_work, (records, localization / maps, out / "masks", config), folder,
               processes=process_count(execution.processes, len(todo)), total=len(records),
               description=f"confident labels of {maps} ({config.refinement})",
               cluster=execution.cluster())  # fmt: skip
    folder.finish(i for i in records if i not in folder.failures)


def _on_own_scale(
    config: ConfidentConfig, localization: Path, maps: str, folder: StageFolder, ids: list[str], seed: int
) -> ConfidentConfig:
    """The scores for these maps: as given, or carried over from CAM once and noted in the manifest."""
    if config.scale == "own" or maps == "cam":
        return config
    if "carried_over" not in folder.manifest:
        asked = (config.foreground, config.background)
        foreground, background = carried_over(localization, maps, asked, ids, seed)
        folder.save(carried_over={"foreground": foreground, "background": background})
    return dataclasses.replace(config, **folder.manifest["carried_over"])


def settings_of(config: ConfidentConfig, maps: str) -> dict[str, Any]:
    """What decides the labels, for a manifest."""
    return to_mapping(config) | {"maps": maps}


def make_work(records: dict[str, ImageRecord], maps: Path, masks: Path, config: ConfidentConfig) -> Work:
    """Return the function that labels one image by its id."""

    def work(image_id: str) -> None:
        image = read_image(records[image_id])
        found = load_maps(maps / f"{image_id}.npz").at_size(image.shape[:2])
        labels = confident_labels(image, found.full(), found.classes, foreground=config.foreground,
                                  background=config.background, method=config.refinement)  # fmt: skip
        write_mask(masks / f"{image_id}.png", labels)

    return work


def edge_method(asked: str, setting: str) -> Literal["crf", "pamr", "none"]:
    """Replace "auto" by what this installation has, so that the manifest says what was used.

    MissingExtraError names `setting` when it asks for the dense CRF and that isn't installed.
    """
    if asked == "crf" and not crf_available():
        raise MissingExtraError("pydensecrf2", "crf", f"{setting}: crf")
    if asked == "auto":
        return "crf" if crf_available() else "pamr"
    return "crf" if asked == "crf" else "pamr" if asked == "pamr" else "none"


def records_with_maps(dataset: Dataset, maps: Path, folder: StageFolder) -> dict[str, ImageRecord]:
    """Records by id that have a file in `maps`; the others are noted as failed in `folder`."""
    there = {path.name for path in maps.glob("*.npz")} if maps.is_dir() else set()
    if not there:
        raise ConfigError(f"{maps}: no maps there; run localize first, with localize.method: {maps.name}")
    records = {record.id: record for record in dataset.records if f"{record.id}.npz" in there}
    for record in dataset.records:
        if record.id not in records:
            folder.fail(record.id, "has no maps (its localisation failed)")
    return records
