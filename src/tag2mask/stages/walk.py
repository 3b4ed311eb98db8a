"""IRN's random walk as maps: scores that stop at boundaries, joined with the maps by affinity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tag2mask.common.files import digest_file, digest_value
from tag2mask.config import Free, Range, Settings, to_mapping
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, load_maps, read_image, save_maps
from tag2mask.data.maps import strided_up_size
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.images import process_count, run_images
from tag2mask.networks import BoundaryNetwork
from tag2mask.refine.pseudo import WALK_STRIDE
from tag2mask.refine.random_walk import random_walk
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.scores import Score
from tag2mask.stages.evaluate import score_maps
from tag2mask.stages.stage import Context, Planned, Stage
from tag2mask.stages.train_boundary import load_boundary, with_mirror

RAISED = 16  # maps lie over the photo with its sides raised to multiples of this


@dataclass(frozen=True)
class WalkConfig(Settings):
    """IRN's random walk over the edges, and the threshold on what it gives."""

    # positions of 4 pixels; a step goes to neighbours nearer than this (reference)
    radius: Annotated[int, Range(ge=2, le=32, note="(a smaller one reaches no neighbour)")] = 5
    beta: Annotated[float, Range(gt=0, le=1_000_000)] = 10.0  # exponent of the affinities (reference)
    times: Annotated[int, Range(ge=0, le=16)] = 8  # 2^times steps (reference)
    power: Annotated[float, Range(gt=0, le=1000)] = 1.3  # exponent of the maps before the walk (reference)
    method: Literal["chebyshev", "power"] = "chebyshev"  # the same numbers to 1e-6 in a third of the products, or all
    # irn: background score against scores divided by their maximum (reference: COCO 0.22)
    threshold: Annotated[float, Range(ge=0, le=1)] = 0.27
    # irn: goes into scores.json
    threshold_chosen_on: Annotated[str, Free("any words")] = "the reference's value for VOC 2012"
    # irn+...: share of the maps by affinity in the scores, where the recipe has an affinity
    affinity: Annotated[float, Range(ge=0, le=1)] = 0.5

    def used(self) -> dict[str, Any]:
        """The settings that decide the walked maps."""
        values = to_mapping(self)
        return {key: value for key, value in values.items() if key not in ("threshold", "threshold_chosen_on")}


def walked(
    network: BoundaryNetwork, image: np.ndarray, maps: LocalizationMaps, config: WalkConfig, pad_to: int
) -> tuple[Tensor, Tensor]:
    """Edges (h, w) and walked maps (n, h, w) >= 0 of an image (H, W, 3) uint8; h = ceil(H / 4), w likewise.

    `pad_to`: the square that the network sees the image in, as in its training.
    """
    device = str(next(network.parameters()).device)
    edge, _ = network.infer(with_mirror(image, device), pad_to=pad_to)
    start = torch.from_numpy(maps.at_stride4()).to(edge.device) ** config.power
    return edge, random_walk(
        start, edge, radius=config.radius, beta=config.beta, times=config.times, method=config.method
    )


def walk(
    dataset: Dataset,
    localization: Path,
    boundary: Path,
    out: Path,
    config: WalkConfig,
    *,
    maps: str = "rib",
    affinity: Path | None = None,
    execution: Execution | None = None,
) -> None:
    """Write `out`/`maps`/ID.npz: for every image the walked maps, joined with those by affinity.

    `localization` and `affinity` are the folders that those stages wrote, `boundary` that of `train_boundary`. No
    mask is read. Resumes; broken images are noted in the manifest, and tried again by a later call.
    """
    execution = execution or Execution()
    folder = STAGE.open(
        out, config, seed=0, inputs=_inputs(dataset, localization, boundary, affinity), more={"maps": maps}
    )
    records = {r.id: r for r in dataset.records if (localization / maps / f"{r.id}.npz").is_file()}
    todo = folder.left(records, f"{maps}/{{}}.npz")
    if folder.finished and not todo:
        return
    device = resolve_device(execution.device)
    arguments = (
        records,
        localization / maps,
        boundary,
        out / maps,
        config,
        affinity and affinity / maps,
        str(device),
    )
    run_images(
        todo,
        Walker,
        arguments,
        folder,
        processes=process_count(execution.processes, len(todo), device.type),
        total=len(records),
        description=f"random walk of {maps}",
        cluster=execution.cluster(device),
    )
    folder.finish(image_id for image_id in records if image_id not in folder.failures)


def _inputs(dataset: Dataset, localization: Path, boundary: Path, affinity: Path | None) -> dict[str, str]:
    made = read_manifest(localization, "localize")
    read_manifest(boundary, "train-boundary")
    inputs = {
        "dataset": dataset.digest(),
        "classifier": made["inputs"]["classifier"],
        "maps_config": digest_value([made["config"], made["inputs"]]),
        "boundary": digest_file(boundary / "weights.safetensors"),
    }
    if affinity is not None:
        inputs["affinity"] = digest_value(read_manifest(affinity, "affinity")["config"])
    return inputs


class Walker:
    """Everything that every image needs, once a process: the boundary network."""

    def __init__(
        self,
        records: dict[str, ImageRecord],
        maps: Path,
        boundary: Path,
        out: Path,
        config: WalkConfig,
        affinity: Path | None,
        device: str = "cpu",
    ) -> None:
        self.records, self.maps, self.out, self.config, self.affinity = records, maps, out, config, affinity
        self.network = load_boundary(boundary).to(device)
        self.pad_to = int(read_manifest(boundary, "train-boundary")["config"]["crop_size"])

    def __call__(self, image_id: str) -> None:
        """Walk over one image, and write its maps."""
        image, maps = read_image(self.records[image_id]), load_maps(self.maps / f"{image_id}.npz")
        size = (image.shape[0], image.shape[1])  # that it is worked on at; maps say the photo's own
        _, found = walked(self.network, image, maps.at_size(size), self.config, self.pad_to)
        other = load_maps(self.affinity / f"{image_id}.npz").at_size(size) if self.affinity is not None else None
        scores = joined(found.cpu().numpy(), size, other, self.config.affinity)
        save_maps(
            self.out / f"{image_id}.npz",
            replace(maps, scales=(1.0,), sums=[scores], absolute=True, whole=False),
        )


def joined(found: np.ndarray, size: tuple[int, int], affinity: LocalizationMaps | None, share: float) -> np.ndarray:
    """Scores (n, H', W') float32 of walked maps (n, h, w), over an image (H, W) raised to multiples of 16.

    Walked maps are divided by their largest value, then averaged with the maps by affinity, which count `share`.
    The mean keeps its height: where the two disagree nothing reaches 1, and dividing by the maximum would hide that.
    """
    height, width = (side // WALK_STRIDE for side in strided_up_size(size, RAISED))
    scores = np.nan_to_num(found.astype(np.float32))
    scores = scores / max(float(scores.max(initial=0.0)), float(np.finfo(np.float32).tiny))
    scores = np.pad(scores, ((0, 0), (0, height - scores.shape[1]), (0, width - scores.shape[2])), mode="edge")
    return scores if affinity is None else (1 - share) * scores + share * affinity.on_grid((height, width))


def _entries(context: Context) -> Iterable[Planned]:
    from tag2mask.stages.refinements import distinct, refinements_of, spoken  # which imports this module

    affinity = {} if context.recipe.affinity is None else {"affinity": "affinity"}
    for first in distinct(refinements_of(context), "walk"):
        assert first.boundary is not None
        assert first.walk is not None
        yield Planned(
            STAGE,
            first.walk,
            first.config.walk,
            {"localization": "localization", "boundary": first.boundary} | affinity,
            more={"maps": first.config.maps},
            seed=0,
            heading=f"random walk of {first.config.maps} maps",
            title=f"{STAGE.title}: {spoken(first.walk.removeprefix('walk_'))}",
        )


def _run(entry: Planned, context: Context) -> None:
    reads = {role: context.out / folder for role, folder in entry.reads.items()}
    walk(
        context.train,
        reads["localization"],
        reads["boundary"],
        context.out / entry.folder,
        entry.config,
        maps=entry.more["maps"],
        affinity=reads.get("affinity"),
        execution=context.execution,
    )


def _score_keys(entry: Planned, context: Context) -> list[str]:
    maps, _, name = entry.folder.removeprefix("walk_").partition("_")
    return [f"seed_{maps}_walk" + (f"_{name}" if name else "")]


def _score(entry: Planned, context: Context) -> dict[str, Score]:
    (key,) = _score_keys(entry, context)
    maps = context.out / entry.folder / entry.more["maps"]
    return {
        key: score_maps(
            context.train,
            maps,
            context.recipe.evaluate,
            split=context.recipe.data.train_split,
            processes=context.execution.processes,
            seed=context.seed,
        )
    }


STAGE = Stage(
    name="walk",
    title="Random walk",
    config=WalkConfig,
    entries=_entries,
    run=_run,
    score_keys=_score_keys,
    score=_score,
    used=WalkConfig.used,
    needs=("confident", "train-boundary"),
    idle="no refinement of this run walks first (refine.method: irn+crf, irn+pamr or irn+none does)",
)
