"""Stage 3: localization maps become pseudo-masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from tag2mask.common.errors import ConfigError, DataError, did_you_mean
from tag2mask.common.files import atomic_write, digest_file, digest_value, read_object
from tag2mask.config import Free, Range, SettingError, Settings, to_mapping
from tag2mask.data import (
    Dataset,
    ImageRecord,
    LocalizationMaps,
    limited_size,
    read_image,
    read_mask,
    resize_labels,
    write_mask,
)
from tag2mask.data.class_files import write_class_files
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.images import process_count, run_images
from tag2mask.refine.methods import METHODS, method_named
from tag2mask.refine.pseudo import confident_labels, refined_labels, walk_scores
from tag2mask.refine.saliency import apply_saliency
from tag2mask.refine.threshold import best_class, threshold_by_class
from tag2mask.runs.folder import StageFolder, read_manifest
from tag2mask.runs.scores import Score
from tag2mask.stages.affinity import maps_folder
from tag2mask.stages.confident import ConfidentConfig, maps_of, records_with_maps
from tag2mask.stages.evaluate import score_masks
from tag2mask.stages.saliency import (
    SaliencyConfig,
    check_source,
    open_saliency,
    source_about,
    source_digest,
    without_map,
)
from tag2mask.stages.stage import Context, Planned, Stage
from tag2mask.stages.thresholds import BY_COVER, automatic_threshold
from tag2mask.stages.train_boundary import BoundaryConfig, load_boundary
from tag2mask.stages.walk import WalkConfig, walked

WALKED = "irn+"  # before a name in METHODS: the walk's maps, joined with those by affinity, refined by that
WIDEST_BAND = 0.9  # of the way from a score that was found to 0 or 1: how far `unsure` reaches at most


@dataclass(frozen=True)
class RefineConfig(Settings):
    """How maps become pseudo-masks."""

    maps: Literal["rib", "cam"] = "rib"  # which of the two map folders
    # irn: boundary network and random walk; auto: dense CRF where installed, else PAMR; irn+crf, irn+pamr, irn+none:
    # the walk joined with the maps by affinity, then that method
    method: Annotated[str, Free("irn, auto, a name in METHODS or irn+ with one, checked below")] = "auto"
    # background score against the normalised maps; irn alone has its own, walk.threshold
    # auto: found for the set, without masks
    threshold: Annotated[float | Literal["auto"], Range(ge=0, le=1)] = 0.25
    # with threshold "auto": the power of CAM's values that are parted; "auto": as the classifier's pooling asks for
    threshold_power: Annotated[float | Literal["auto"], Range(gt=0, le=10)] = "auto"
    # how that value was found, where it isn't "auto"; goes into scores.json
    threshold_chosen_on: Annotated[str, Free("any words")] = "fixed in the recipe"
    # background scores of single classes by name, in place of `threshold`; not for irn
    thresholds: Annotated[dict[str, float], Free("0..1, checked below")] = dataclasses.field(default_factory=dict)
    # half-width around the threshold within which a pixel is left unsure (255); 0 = none
    unsure: Annotated[float, Range(ge=0, lt=0.5)] = 0.0
    confident: ConfidentConfig = dataclasses.field(default_factory=ConfidentConfig)  # for irn
    boundary: BoundaryConfig = dataclasses.field(default_factory=BoundaryConfig)  # for irn
    walk: WalkConfig = dataclasses.field(default_factory=WalkConfig)  # for irn
    saliency: SaliencyConfig = dataclasses.field(default_factory=SaliencyConfig)  # for any method

    def check_relations(self) -> None:
        """Raise ConfigError where the unsure scores around the threshold leave 0..1."""
        known = ("auto", "irn", *METHODS, *(WALKED + name for name in METHODS))
        if self.method not in known:
            raise SettingError(self, ("method",), f"one of {', '.join(known)}")
        if self.method == "irn" and self.thresholds:
            raise SettingError(self, ("thresholds", "method"), "empty for irn, which has walk.threshold")
        for name, own in self.thresholds.items():
            if not 0 <= own <= 1:
                raise SettingError(self, ("thresholds",), f"0 or more, at most 1, for each class ({name}: {own})")
            if self.unsure and not self.unsure < min(own, 1 - own):
                raise SettingError(self, ("unsure", "thresholds"), f"below {name}'s, {own}, and below 1 - that")
        threshold = 0.5 if self.threshold == "auto" and self.method != "irn" else self.background[0]
        if self.unsure and not self.unsure < min(threshold, 1 - threshold):
            name = "walk.threshold" if self.method == "irn" else "threshold"
            raise SettingError(self, ("unsure", name), f"below {name}, {threshold}, and below 1 - {name}")

    @property
    def by_irn(self) -> bool:
        """Whether it needs a boundary network."""
        return self.method == "irn" or self.method.startswith(WALKED)

    @property
    def along_edges(self) -> str:
        """The name in METHODS of what follows the image's edges; the walk has done so already."""
        return "none" if self.method == "irn" else self.method.removeprefix(WALKED)

    @property
    def background(self) -> tuple[float, str]:
        """The background score that this method uses, and how it was chosen, in words."""
        if self.method == "irn":
            return self.walk.threshold, self.walk.threshold_chosen_on
        assert self.threshold != "auto"  # it was found for the set
        return self.threshold, self.threshold_chosen_on

    def used(self) -> dict[str, Any]:
        """The settings that have an effect with this method, for a manifest."""
        unused = {"confident", "boundary", "saliency"}  # the first two are told by the boundary network's digest
        # and the walk before another method by its maps' settings
        unused |= {"threshold", "threshold_chosen_on"} if self.method == "irn" else {"walk"}
        unused |= set() if self.thresholds else {"thresholds"}
        unused |= set() if self.threshold == "auto" and self.method != "irn" else {"threshold_power"}
        values = {key: value for key, value in to_mapping(self).items() if key not in unused}
        return values if self.saliency.source is None else values | {"saliency": self.saliency.used()}


def background_of(manifest: Mapping[str, Any]) -> tuple[float, str]:
    """The background score that pseudo-masks were made with and how it was chosen, from their manifest."""
    made = manifest["config"]
    section = made["walk"] if made["method"] == "irn" else made
    if section["threshold"] == "auto":
        return float(manifest["threshold"]), str(manifest.get("threshold_found", BY_COVER))
    return float(section["threshold"]), str(section["threshold_chosen_on"])


def resolve_method(config: RefineConfig) -> RefineConfig:
    """Replace method "auto" by what this installation has, so that the manifest says what was used."""
    if config.by_irn:
        return config
    return dataclasses.replace(config, method=method_named(config.method, "refine.method"))


def check(config: RefineConfig, classes: Sequence[str]) -> None:
    """Raise MissingExtraError or ConfigError for what this installation or the set lacks, before any work is done."""
    class_thresholds(config, classes)
    resolve_method(config)
    method_named(config.along_edges, "refine.method")
    if config.by_irn:
        method_named(config.confident.refinement, "refine.confident.refinement")
    if config.saliency.source is not None:
        check_source(config.saliency)


def title_of(config: RefineConfig) -> str:
    """What a refinement is, e.g. "RIB+IRN+Sal"."""
    if config.method == "irn":
        method = "IRN"
    elif config.by_irn:
        method = f"IRN+{METHODS[config.along_edges].title}"
    else:
        method = METHODS[config.method].title if config.method in METHODS else config.method.upper()
    return f"{config.maps.upper()}+{method}" + ("+Sal" if config.saliency.source else "")


def refine(
    dataset: Dataset,
    localization: Path,
    out: Path,
    config: RefineConfig,
    *,
    boundary: Path | None = None,
    cam: Path | None = None,
    seed: int = 0,
    execution: Execution | None = None,
) -> None:
    """Write `out`/masks/ID.png (0 background, class index + 1, 255 unsure) for every image that has maps.

    `cam` is a folder of plain CAM, by which threshold "auto" is found, and CAM beside the maps too, if an affinity
    made these (default: that beside the maps alone). A `threshold_power` of "auto" is 1 here, as for CAM of an
    average; `refinements.completed` knows the classifier's.
    `boundary` is the folder that `train_boundary` wrote, for method "irn"; of `execution.trace` images the edges and
    the walked maps are kept in `out`/steps/ID.npz. Resumes; broken images are noted in the manifest, and tried again
    by a later call. Raises ConfigError, MissingExtraError.
    """
    config = resolve_method(config)
    execution = execution or Execution()
    inputs = _inputs(dataset, localization, boundary, config)
    by_class = class_thresholds(config, dataset.classes)
    folder = STAGE.open(out, config, seed=seed, inputs=inputs)
    records = records_with_maps(dataset, localization / config.maps, folder)
    todo = folder.left(records, "masks/{}.png")
    if folder.finished and not todo:
        return
    traced = (
        frozenset(r.id for r in dataset.positives().limit(execution.trace, seed).records)
        if execution.trace
        else frozenset()
    )
    on_device = config.method == "irn" or METHODS[config.along_edges].on_device
    device = resolve_device(execution.device if on_device else "cpu")
    own = localization / "cam"
    followed = own if cam is not None and cam != own and not config.by_irn else None
    config = _with_threshold(
        config, (cam or own, localization / config.maps), followed, folder, records, seed, str(device)
    )
    where = (records, localization / config.maps, out)
    arguments = (*where, config, boundary, traced, str(device), dataset.background, by_class)
    processes = process_count(execution.processes, len(todo), device.type)
    run_images(
        todo,
        Refiner,
        arguments,
        folder,
        processes=processes,
        total=len(records),
        description=f"refine {config.maps} ({config.method})",
        cluster=execution.cluster(device),
        apart=config.along_edges == "crf",  # whose C++ ends the process where it has no memory
        here_first=not execution.processes and device.type == "cpu",
    )
    more: dict[str, Any] = {"title": title_of(config), "tags_without_pixels": _lost(dataset, records, out)}
    if config.saliency.source is not None:
        missing = without_map(config.saliency, list(records))
        more |= {"saliency": source_about(config.saliency), "without_saliency": missing}
    folder.finish((i for i in records if i not in folder.failures), **more)


def _lost(dataset: Dataset, records: Mapping[str, ImageRecord], out: Path) -> dict[str, int]:
    """Of each class the tags without a pixel in their image's mask."""
    lost = dict.fromkeys(dataset.classes, 0)
    for image_id, record in records.items():
        path = out / "masks" / f"{image_id}.png"
        if record.labels and path.is_file():
            there = np.flatnonzero(np.bincount(read_mask(path).ravel(), minlength=256))
            for label in record.labels:
                lost[dataset.classes[label]] += label + 1 not in there
    return {name: int(count) for name, count in lost.items()}


def _with_threshold(
    config: RefineConfig,
    maps: tuple[Path, Path],
    followed: Path | None,
    folder: StageFolder,
    records: Mapping[str, ImageRecord],
    seed: int,
    device: str,
) -> RefineConfig:
    """The settings with the threshold that "auto" means for this set, found once and noted in the manifest.

    `maps` are the folders of plain CAM and of what is refined, `followed` that of CAM by an affinity, if any.
    """
    if config.threshold != "auto" or config.method == "irn":
        return config
    if "threshold" not in folder.manifest:
        tagged = {image_id: record for image_id, record in records.items() if record.labels}

        def labels_at(photo: np.ndarray, own: LocalizationMaps, score: float) -> np.ndarray:
            return refined_labels(photo, own.full(), own.classes, score, config.along_edges, device)

        power = 1.0 if config.threshold_power == "auto" else config.threshold_power
        score, found = automatic_threshold(*maps, tagged, seed, labels_at, followed, power)
        unsure = min(config.unsure, WIDEST_BAND * min(score, 1 - score))
        folder.save(threshold=score, threshold_found=found, unsure=round(unsure, 4))
    score, found = background_of(folder.manifest)
    unsure = folder.manifest.get("unsure", config.unsure)
    return dataclasses.replace(config, threshold=score, threshold_chosen_on=found, unsure=unsure)


def _inputs(dataset: Dataset, localization: Path, boundary: Path | None, config: RefineConfig) -> dict[str, str]:
    """Check the settings that need other files and return the digests of everything that is read."""
    maps = read_manifest(localization, "localize", "affinity", "walk")
    inputs = {"dataset": dataset.digest(), "maps": maps["inputs"]["classifier"], "maps_config": str(maps["config"])}
    if maps["stage"] == "walk":  # whose settings don't tell the boundary network that it walked by
        inputs["walk"] = digest_value(maps["inputs"])
    if config.method == "irn":
        if boundary is None:
            raise ConfigError("refine.method: irn needs a trained boundary network; run train-boundary first")
        read_manifest(boundary, "train-boundary")
        inputs["boundary"] = digest_file(boundary / "weights.safetensors")
    if config.saliency.source is not None:
        check_source(config.saliency)
        inputs["saliency"] = source_digest(config.saliency)
    return inputs


class Refiner:
    """Everything that every image needs, once a process: the boundary network and the source of saliency."""

    def __init__(
        self,
        records: dict[str, ImageRecord],
        maps: Path,
        out: Path,
        config: RefineConfig,
        boundary: Path | None = None,
        traced: frozenset[str] = frozenset(),
        device: str = "cpu",
        background: bool = True,
        by_class: Mapping[int, float] | None = None,
    ) -> None:
        self.records, self.maps, self.out, self.config = records, maps, out, config
        self.traced, self.device, self.background = traced, device, background
        self.by_class = by_class or {}
        self.saliency = open_saliency(config.saliency) if config.saliency.source is not None else None
        if config.method == "irn":
            assert boundary is not None
            self.network = load_boundary(boundary).to(device)
            # the square that the reference pads to; group norm sees the padding, in training as here
            self.pad_to = int(read_manifest(boundary, "train-boundary")["config"]["crop_size"])

    def __call__(self, image_id: str) -> None:
        """Refine one image and write its files; the one that marks it as done comes last."""
        record = self.records[image_id]
        image, stored = read_image(record), maps_of(record, self.maps)
        maps = stored.at_size(limited_size(stored.size, record.long_side))
        if image.shape[:2] != maps.size:
            height, width = image.shape[:2]
            raise DataError(
                f"{image_id}: the image is {height} x {width} but its maps are of {maps.size[0]} x "
                f"{maps.size[1]}; run the localization again"
            )
        steps: dict[str, np.ndarray] = {"classes": np.asarray(maps.classes, np.int16)}
        walks = self.config.method == "irn" and len(maps.classes) > 0
        scores = self._walk(image, maps, steps) if walks else maps.full()
        labels = labels_of(image, scores, maps.classes, self.config, self.by_class, self.device)
        if not self.background:  # every pixel is one of the tags
            labels = np.where(labels == 0, best_class(scores, maps.classes)[0], labels)
        saliency = self.saliency(image_id, image) if self.saliency is not None else None
        if saliency is not None:
            rule = self.config.saliency
            confident = rule.confident_from(self.config.background[0])
            labels = apply_saliency(labels, scores, saliency, salient=rule.salient, confident=confident)
            steps["saliency"] = saliency[::4, ::4].astype(np.float16)
        if image_id in self.traced and len(steps) > 1:
            with atomic_write(self.out / "steps" / f"{image_id}.npz") as temporary:
                np.savez_compressed(temporary, **steps)  # type: ignore[arg-type]  # the stub's flag is no array
        write_mask(self.out / "masks" / f"{image_id}.png", resize_labels(labels, stored.size))

    def _walk(self, image: np.ndarray, maps: LocalizationMaps, steps: dict[str, np.ndarray]) -> np.ndarray:
        """Class scores (n, H, W) in 0..1 by boundary network and random walk; notes edges and walk in `steps`."""
        edge, walked_maps = walked(self.network, image, maps, self.config.walk, self.pad_to)
        steps["edge"] = edge.cpu().numpy().astype(np.float16)
        shown = walked_maps / walked_maps.amax().clamp_min(1e-30) if len(walked_maps) else walked_maps
        steps["walked"] = shown.cpu().numpy().astype(np.float16)
        return walk_scores(walked_maps, maps.size)


def class_thresholds(config: RefineConfig, classes: Sequence[str]) -> dict[int, float]:
    """The background scores of single classes by 0-based index; ConfigError for a class that isn't there."""
    for name in config.thresholds:
        if name not in classes:
            raise ConfigError(f"refine.thresholds: there is no class '{name}'{did_you_mean(name, classes)}")
    return {classes.index(name): float(own) for name, own in config.thresholds.items()}


def labels_of(
    image: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    config: RefineConfig,
    by_class: Mapping[int, float] | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Pseudo-mask (H, W) uint8 of scores (n, H, W) in 0..1; 255 where it is unsure.

    `by_class` are the background scores of single classes, by 0-based index.
    """
    threshold = threshold_by_class(scores, classes, config.background[0], by_class or {})
    method = config.along_edges
    if not config.unsure:
        return refined_labels(image, scores, classes, threshold, method, device)
    high, low = threshold + config.unsure, threshold - config.unsure
    return confident_labels(image, scores, classes, foreground=high, background=low, method=method, device=device)


def _entries(context: Context) -> Iterable[Planned]:
    from tag2mask.stages.refinements import refinements_of  # which imports this module

    for one in refinements_of(context):
        maps = one.walk or ("localization" if one.boundary else maps_folder(context))  # a walk starts from plain maps
        reads = {"localization": maps} | ({"boundary": one.boundary} if one.boundary and not one.walk else {})
        yield Planned(
            STAGE,
            one.folder,
            one.config,
            reads,
            score=one.score,
            heading=f"pseudo-masks {one.title}",
            title=f"Compare: {one.title}" if one.name else "",
            quiet=bool(one.name),
        )


def _run(entry: Planned, context: Context) -> None:
    out, boundary = context.out / entry.folder, entry.reads.get("boundary")
    refine(
        context.train,
        context.out / entry.reads["localization"],
        out,
        entry.config,
        boundary=context.out / boundary if boundary else None,
        cam=context.out / "localization" / "cam",
        seed=context.seed,
        execution=dataclasses.replace(context.execution, trace=0) if entry.quiet else context.execution,
    )
    write_class_files(out, context.train.classes, background=context.train.background)
    made = read_object(out / "manifest.json")
    narrowed = made.get("unsure", entry.config.unsure)
    if narrowed < entry.config.unsure:
        context.say(
            f"! {entry.heading}: unsure is {narrowed:g} here, not {entry.config.unsure:g}: around the score that was "
            f"found, {made['threshold']:g}, more would leave nothing decided"
        )
    for line in _tags_without_pixels(made, context.train.classes, _lower_cut(entry.config, context.train.background)):
        context.say(f"! {entry.heading}: {line}")
    lacking = made.get("without_saliency")
    if lacking:
        context.say(f"! {entry.heading}: {len(lacking)} images without a saliency map, e.g. {lacking[0]}")


def _lower_cut(config: RefineConfig, background: bool) -> str:
    """What to do where masks leave out tags; without background every pixel is a tag's, and there is no cut."""
    name = "refine.walk.threshold" if config.method == "irn" else "refine.threshold"
    return f"; a lower {name} keeps more" if background else ""


def _tags_without_pixels(made: Mapping[str, Any], classes: Sequence[str], remedy: str) -> Iterable[str]:
    """One line on the tags that have no pixel in their image's mask, by class; none where all have some."""
    lost = {name: made.get("tags_without_pixels", {}).get(name, 0) for name in classes}
    if any(lost.values()):
        named = ", ".join(f"{name} {count}" for name, count in lost.items() if count)
        yield f"{sum(lost.values())} tags have no pixel in their mask ({named}){remedy}"


def _score(entry: Planned, context: Context) -> dict[str, Score]:
    made = read_object(context.out / entry.folder / "manifest.json")  # which may be of other settings than these
    threshold, chosen_on = background_of(made)
    score = score_masks(
        context.train,
        context.out / entry.folder / "masks",
        split=context.recipe.data.train_split,
        threshold=threshold,
        chosen_on=chosen_on,
        config=context.recipe.evaluate,
        processes=context.execution.processes,
        seed=context.seed,
    )
    planned = title_of(entry.config)
    score.row["title"] = made.get("title", planned) + entry.heading.removeprefix(f"pseudo-masks {planned}")
    if made.get("saliency"):
        score.row["saliency"] = made["saliency"]
    return {entry.score: score}


def _notes(context: Context) -> Iterable[str]:
    from tag2mask.stages.refinements import left_out  # which imports this module

    return left_out(context)


STAGE = Stage(
    name="refine",
    title="Refine to pseudo-masks",
    config=RefineConfig,
    entries=_entries,
    run=_run,
    check=lambda entry, context: check(entry.config, context.train.classes),
    score_keys=lambda entry, context: [entry.score],
    score=_score,
    used=RefineConfig.used,
    notes=_notes,
    needs=("confident", "train-boundary", "walk"),
)
