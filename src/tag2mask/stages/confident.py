"""Confident labels: the pixels of which maps are sure, from which the boundary network learns (method section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import ids_in, read_object
from tag2mask.config import Free, Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, image_size, load_maps, read_image, write_mask
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.images import Work, process_count, run_images
from tag2mask.refine.methods import METHODS, method_named
from tag2mask.refine.pseudo import confident_labels
from tag2mask.runs.folder import StageFolder, read_manifest
from tag2mask.stages.stage import Context, Planned, Stage
from tag2mask.stages.thresholds import carried_over


@dataclass(frozen=True)
class ConfidentConfig(Settings):
    """When a pixel counts as known; defaults are the RIB reference's for VOC 2012."""

    # background scores: over the first a class is taken, under the second background (reference)
    foreground: Annotated[float, Range(ge=0, le=1)] = 0.35
    background: Annotated[float, Range(ge=0, le=1)] = 0.17
    # cam: the two scores are CAM's; other maps get the scores at which they cover as much of the images
    scale: Literal["own", "cam"] = "own"
    # auto: dense CRF where installed, else PAMR
    refinement: Annotated[str, Free("a name in METHODS or auto, checked below")] = "auto"

    def check_relations(self) -> None:
        """Raise ConfigError for scores in the wrong order."""
        if self.background > self.foreground:
            raise SettingError(self, ("background", "foreground"), f"at most foreground, {self.foreground}")
        if self.refinement not in ("auto", *METHODS):
            raise SettingError(self, ("refinement",), f"one of auto, {', '.join(METHODS)}")


def confident(
    dataset: Dataset,
    localization: Path,
    out: Path,
    config: ConfidentConfig,
    *,
    maps: str = "rib",
    seed: int = 0,
    execution: Execution | None = None,
) -> None:
    """Write `out`/masks/ID.png (0 background, class index + 1, 255 unsure) for every image with maps.

    `localization` is the folder that `localize` wrote, `maps` which of its two kinds is used. Resumes; broken images
    are noted in the manifest, and tried again by a later call. Raises ConfigError, MissingExtraError.
    """
    config = dataclasses.replace(config, refinement=method_named(config.refinement, "refine.confident.refinement"))
    execution = execution or Execution()
    made = read_manifest(localization, "localize", "affinity")
    inputs = {"dataset": dataset.digest(), "maps": made["inputs"]["classifier"], "maps_config": str(made["config"])}
    folder = STAGE.open(out, config, seed=seed, inputs=inputs, more={"maps": maps})
    records = records_with_maps(dataset, localization / maps, folder)
    todo = folder.left(records, "masks/{}.png")
    if folder.finished and not todo:
        return
    config = _on_own_scale(config, localization, maps, folder, [i for i in records if records[i].labels], seed)
    device = resolve_device(execution.device if METHODS[config.refinement].on_device else "cpu")
    run_images(
        todo,
        make_work,
        (records, localization / maps, out / "masks", config, str(device)),
        folder,
        processes=process_count(execution.processes, len(todo), device.type),
        total=len(records),
        description=f"confident labels of {maps} ({config.refinement})",
        cluster=execution.cluster(device),
        apart=config.refinement == "crf",  # whose C++ ends the process where it has no memory
        here_first=not execution.processes and device.type == "cpu",
    )
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


def make_work(
    records: dict[str, ImageRecord], maps: Path, masks: Path, config: ConfidentConfig, device: str = "cpu"
) -> Work:
    """Return the function that labels one image by its id."""

    def work(image_id: str) -> None:
        image = read_image(records[image_id])
        found = maps_of(records[image_id], maps).at_size(image.shape[:2])
        labels = confident_labels(
            image,
            found.full(),
            found.classes,
            foreground=config.foreground,
            background=config.background,
            method=config.refinement,
            device=device,
        )
        write_mask(masks / f"{image_id}.png", labels)

    return work


def as_made(folder: Path, setting: str, asked: Any) -> Any:
    """What a setting "auto" means for `folder`: what it was begun with, else what this installation has."""
    path = folder / "manifest.json"
    if asked != "auto":
        return asked
    made = read_object(path)["config"].get(setting, "auto") if path.is_file() else "auto"
    return method_named("auto", setting) if made == "auto" else made


def _check(config: ConfidentConfig) -> None:
    method_named(config.refinement, "refine.confident.refinement")


def records_with_maps(dataset: Dataset, maps: Path, folder: StageFolder) -> dict[str, ImageRecord]:
    """Records by id that have a file in `maps` or need none, since they have no tag; others fail in `folder`."""
    there = ids_in(maps, ".npz")
    if not there:
        raise ConfigError(
            f"{maps}: no maps there; run the stage that makes them, or see why it failed for each image: "
            f"{maps.parent / 'manifest.json'}"
        )
    records = {r.id: r for r in dataset.records if not r.labels or r.id in there}
    for record in dataset.records:
        if record.id not in records:
            folder.fail(record.id, "has no maps (its localisation failed)")
    return records


def maps_of(record: ImageRecord, maps: Path) -> LocalizationMaps:
    """The maps of an image in the folder `maps`; of a negative, an image without any tag, maps of no class."""
    return load_maps(maps / f"{record.id}.npz") if record.labels else LocalizationMaps.none(image_size(record.path))


def _entries(context: Context) -> Iterable[Planned]:
    from tag2mask.stages.refinements import distinct, refinements_of, spoken  # which imports this module

    for first in distinct(refinements_of(context), "confident"):
        assert first.confident is not None
        method = as_made(context.out / first.confident, "refinement", first.config.confident.refinement)
        config = dataclasses.replace(first.config.confident, refinement=method)
        maps = first.config.maps
        yield Planned(
            STAGE,
            first.confident,
            config,
            {"localization": "localization"},  # plain maps, of which the scores were chosen
            more={"maps": maps},
            heading=f"confident {maps} labels",
            title=f"{STAGE.title}: {spoken(first.confident.removeprefix('confident_'))}",
        )


def _run(entry: Planned, context: Context) -> None:
    confident(
        context.train,
        context.out / entry.reads["localization"],
        context.out / entry.folder,
        entry.config,
        maps=entry.more["maps"],
        seed=context.seed,
        execution=context.execution,
    )


STAGE = Stage(
    name="confident",
    title="Confident labels",
    config=ConfidentConfig,
    entries=_entries,
    run=_run,
    check=lambda entry, context: _check(entry.config),
    idle="no refinement of this run learns from confident labels (refine.method: irn does)",
)
