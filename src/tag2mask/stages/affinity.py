"""Maps that follow things: CAM and RIB averaged over the positions of a photo that look alike to a frozen network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import digest_value, ids_in
from tag2mask.config import Free
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, load_maps, read_image, save_maps
from tag2mask.data.maps import strided_up_size
from tag2mask.data.transforms import resize, scaled_size, to_tensor
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.images import process_count, run_images
from tag2mask.networks.weights import build_stages
from tag2mask.refine.feature_affinity import AffinityConfig, descriptors, spread, tapped, working_size
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.scores import Score
from tag2mask.stages.evaluate import score_maps
from tag2mask.stages.stage import Context, Planned, Stage
from tag2mask.stages.train_classifier import ClassifierConfig

STRIDE = 16  # sides are padded to its multiples, as maps are enlarged to them


@dataclass(frozen=True)
class AffinityStageConfig(AffinityConfig):
    """Settings of the stage: those of the affinity, and the network whose features are compared."""

    # timm's name; null = the classifier's
    backbone: Annotated[str | None, Free("timm's names; built once before anything is computed")] = None
    # ImageNet weights: "auto", "none" or a file's path; null = what the classifier started from
    weights: Annotated[str | None, Free("a path; loaded once before anything is computed")] = None


def follow(
    dataset: Dataset,
    localization: Path,
    out: Path,
    config: AffinityStageConfig,
    *,
    execution: Execution | None = None,
) -> None:
    """Write `out`/KIND/ID.npz for every image and kind of maps ("cam", "rib") in the folder that `localize` wrote.

    Nothing is trained and no mask is read. Resumes; broken images are noted in the manifest, and tried again by a
    later call. `config.backbone` and `config.weights` must be given here. Raises ConfigError, WeightsError.
    """
    if config.backbone is None or config.weights is None:  # without weights the network would be random
        raise ConfigError("affinity.backbone and affinity.weights: null stands for the classifier's in a recipe only")
    execution = execution or Execution()
    made = read_manifest(localization, "localize")
    kinds = [kind for kind in ("cam", "rib") if (localization / kind).is_dir()]
    inputs = {
        "dataset": dataset.digest(),
        "classifier": made["inputs"]["classifier"],
        "maps_config": digest_value([made["config"], made["inputs"]]),
    }
    folder = STAGE.open(out, config, seed=0, inputs=inputs)
    there = set.intersection(*(ids_in(localization / kind, ".npz") for kind in kinds))
    records = {record.id: record for record in dataset.records if record.id in there}
    todo = folder.left(records, *(f"{kind}/{{}}.npz" for kind in kinds))
    if folder.finished and not todo:
        return
    device = resolve_device(execution.device)
    arguments = (records, localization, out, kinds, config, str(device))
    run_images(
        todo,
        Follower,
        arguments,
        folder,
        processes=process_count(execution.processes, len(todo), device.type),
        total=len(records),
        description="affinity",
        cluster=execution.cluster(device),
        here_first=not execution.processes and device.type == "cpu",
    )
    folder.finish(image_id for image_id in records if image_id not in folder.failures)


class Follower:
    """Everything that every image needs, once a process: the frozen network."""

    def __init__(
        self,
        records: dict[str, ImageRecord],
        localization: Path,
        out: Path,
        kinds: list[str],
        config: AffinityStageConfig,
        device: str = "cpu",
    ) -> None:
        self.records, self.localization, self.out = records, localization, out
        self.kinds, self.config, self.device = kinds, config, device
        assert config.backbone is not None
        assert config.weights is not None
        self.network = build_stages(config.backbone, config.weights).to(device)

    def __call__(self, image_id: str) -> None:
        """Follow the maps of one image; the file that marks it as done comes last."""
        image = read_image(self.records[image_id])
        stored = [load_maps(self.localization / kind / f"{image_id}.npz") for kind in self.kinds]
        for kind, maps in zip(self.kinds, self.followed(image, stored), strict=True):
            save_maps(self.out / kind / f"{image_id}.npz", maps)

    def followed(self, image: np.ndarray, stored: Sequence[LocalizationMaps]) -> list[LocalizationMaps]:
        """Several maps of one image (H, W, 3) uint8, averaged over what looks alike in it."""
        looks, grid = self.looks(image)
        found = []
        for maps in stored:
            seen = maps.at_size((image.shape[0], image.shape[1]))  # maps say the photo's own size
            values = spread(torch.from_numpy(seen.on_grid(grid)).to(self.device), looks, self.config)
            found.append(dataclasses.replace(maps, scales=(1.0,), sums=[values.cpu().numpy()], whole=False))
        return found

    def looks(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """What each position of a grid (h, w) over an image (H, W, 3) looks like: (h * w, C), and the grid."""
        if min(image.shape[:2]) < 2:
            raise DataError(f"a photo of {image.shape[0]} x {image.shape[1]} pixels has no positions to compare")
        height, width = strided_up_size((image.shape[0], image.shape[1]), STRIDE)
        rest = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
        size = working_size((height, width), self.config)
        grid = (max(1, size[0] // self.config.stride), max(1, size[1] // self.config.stride))
        seen = resize(np.pad(image, rest, mode="edge"), scaled_size(size, self.config.scale))
        pixels = to_tensor(seen)[None].to(self.device)
        features = tapped(list(self.network.stages), pixels, self.config.taps, list(self.network.shown))
        return descriptors(features, grid), grid


def filled_in(config: AffinityStageConfig | None, classifier: ClassifierConfig) -> AffinityStageConfig | None:
    """The settings with the classifier's network where they name none; None where the recipe has no affinity."""
    if config is None:
        return None
    backbone = config.backbone or classifier.backbone
    own = classifier.weights if backbone == classifier.backbone else "auto"
    return dataclasses.replace(config, backbone=backbone, weights=own if config.weights is None else config.weights)


def maps_folder(context: Context) -> str:
    """The folder of the maps that refinements work on: what this stage writes, else the localization's own."""
    return "localization" if context.recipe.affinity is None else "affinity"


def _entries(context: Context) -> Iterable[Planned]:
    config = filled_in(context.recipe.affinity, context.recipe.classifier)
    if config is not None:
        yield Planned(STAGE, "affinity", config, {"localization": "localization"}, seed=0, heading="maps by affinity")


def _run(entry: Planned, context: Context) -> None:
    localization, out = context.out / entry.reads["localization"], context.out / entry.folder
    follow(context.train, localization, out, entry.config, execution=context.execution)


def _check(entry: Planned, context: Context) -> None:
    network = build_stages(entry.config.backbone, entry.config.weights)
    tapped(list(network.stages), torch.zeros(1, 3, 32, 32), entry.config.taps)


def _score_keys(entry: Planned, context: Context) -> list[str]:
    kinds = ("cam", "rib") if context.recipe.localize.method == "rib" else ("cam",)
    return [f"seed_{kind}_affinity" for kind in kinds]


def _score(entry: Planned, context: Context) -> dict[str, Score]:
    return {
        key: score_maps(
            context.train,
            context.out / entry.folder / key.split("_")[1],
            context.recipe.evaluate,
            split=context.recipe.data.train_split,
            processes=context.execution.processes,
            seed=context.seed,
        )
        for key in _score_keys(entry, context)
    }


STAGE = Stage(
    name="affinity",
    title="Maps by affinity",
    config=AffinityStageConfig,
    entries=_entries,
    run=_run,
    check=_check,
    score_keys=_score_keys,
    score=_score,
    idle="the recipe has no affinity; add: --set affinity={}",
)
