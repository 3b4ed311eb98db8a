"""Stage 5: masks of unseen images by the trained segmentation network, over scales and mirrors."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.common.files import digest_file
from tag2mask.config import Range, Settings, to_mapping
from tag2mask.data import Dataset, ImageRecord, image_size, read_image, resize_labels, write_mask
from tag2mask.data.records import printable
from tag2mask.data.transforms import rescale
from tag2mask.networks import DeepLabV2
from tag2mask.refine.crf import DEEPLAB_CRF, crf_available, crf_probabilities
from tag2mask.stages.folder import StageFolder, read_manifest
from tag2mask.stages.parallel import Work, process_count, run_images
from tag2mask.stages.train_segmenter import load_segmenter
from tag2mask.stages.training import Execution, resolve_device, to_tensor


@dataclass(frozen=True)
class PredictConfig(Settings):
    """Settings of inference; defaults are those of the paper's line of work."""

    scales: Annotated[tuple[float, ...], Range(gt=0, le=8, items=(1, 20))] = (0.5, 0.75, 1.0, 1.25, 1.5)
    mirror: bool = True
    combine: Literal["mean", "max"] = "mean"  # of the logits over scales and mirrors
    crf: bool = False  # dense CRF on the probabilities (extra 'crf')


ABSENT = {"config": to_mapping(PredictConfig())}  # what a manifest means that doesn't name a setting


def check(config: PredictConfig) -> None:
    """Raise MissingExtraError for settings that can't work here, before any work is done."""
    if config.crf and not crf_available():
        raise MissingExtraError("pydensecrf2", "crf", "predict.crf: true")


def predict(
    dataset: Dataset, segmenter: Path, out: Path, config: PredictConfig, *, execution: Execution | None = None
) -> None:
    """Write `out`/masks/ID.png for every image of `dataset`; labels and masks of the data set are not used.

    Resumes; broken images are noted in the manifest, and tried again by a later call. Images of a data set's split
    are told by the data set's digest. Photos, which belong to no split, are told one by one, by path, size and time:
    further ones may be added to a folder of masks, while a mask that was made from another photo of the same name is
    kept and raises ConfigError. Raises ConfigError, MissingExtraError.
    """
    check(config)
    execution = execution or Execution()
    read_manifest(segmenter, "train-segmenter")
    inputs = {"weights": digest_file(segmenter / "weights.safetensors")}
    photos = not any(record.split for record in dataset.records)
    if not photos:
        inputs["images"] = dataset.digest()
    folder = StageFolder(out, "predict", config=to_mapping(config), seed=0, inputs=inputs, absent=ABSENT)
    records = {record.id: record for record in dataset.records}
    if photos:
        _note_photos(folder, dataset.records)
    todo = folder.left(records, "masks/{}.png")
    if folder.finished and not todo:
        return
    device = resolve_device(execution.device)
    processes = process_count(execution.processes, len(todo), device.type)
    if todo:
        run_images(todo, make_predictor, (records, segmenter, out / "masks", config, str(device)), folder,
                   processes=processes, total=len(records),
                   description="predict", cluster=execution.cluster(device))  # fmt: skip
    done = [i for i in records if i not in folder.failures]
    folder.finish([*_done_before(folder, records), *done] if photos else done)


def _note_photos(folder: StageFolder, records: Sequence[ImageRecord]) -> None:
    """Note in the manifest which photos the masks are of; ConfigError where a mask that is there is of another."""
    known: dict[str, Any] = folder.manifest.get("photos", {})
    given = {record.id: _stamp(record.path) for record in records}
    others = [record for record in records
              if known.get(record.id) != given[record.id] and (folder.path / "masks" / f"{record.id}.png").is_file()
              ]  # fmt: skip
    if others:
        first, old = others[0], (known.get(others[0].id) or {}).get("path", "one that was not noted")
        of = "an earlier state of this photo" if old == given[first.id]["path"] else f"another photo ({old})"
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise ConfigError(
            f"{printable(first.path)}{more}: {folder.path / 'masks' / first.id}.png was made from {of}; nothing is "
            "overwritten: choose another folder for the masks, or delete that mask to have it made again"
        )
    folder.save(finished=False, photos=known | given)  # before any mask is written


def _stamp(path: Path) -> dict[str, Any]:
    """What tells a photo from another one, or from an earlier state of it."""
    state = path.stat()
    return {"path": printable(os.path.realpath(path)), "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def _done_before(folder: StageFolder, given: Container[str]) -> list[str]:
    """Photos of earlier calls that have their mask; those that failed are forgotten until they are given again."""
    masks = {path.name for path in (folder.path / "masks").glob("*.png")}
    return [i for i in folder.manifest["photos"] if i not in given and f"{i}.png" in masks]


def make_predictor(
    records: dict[str, ImageRecord], segmenter: Path, masks: Path, config: PredictConfig, device: str = "cpu"
) -> Work:
    """Return the function that predicts one image by its id."""
    network = load_segmenter(segmenter).to(device)

    def work(image_id: str) -> None:
        record = records[image_id]
        image = read_image(record)
        size = (image.shape[0], image.shape[1]) if record.long_side is None else image_size(record.path)
        write_mask(masks / f"{image_id}.png", resize_labels(predict_mask(network, image, config), size))

    return work


def predict_mask(network: DeepLabV2, image: np.ndarray, config: PredictConfig) -> np.ndarray:
    """Mask (H, W) uint8 of an image (H, W, 3) uint8: 0 background, class index + 1."""
    logits = combined_logits(network, image, config)
    if config.crf:
        probabilities = logits.softmax(dim=0).numpy()
        return crf_probabilities(image, probabilities, DEEPLAB_CRF).argmax(axis=0).astype(np.uint8)
    return logits.argmax(dim=0).to(torch.uint8).numpy()


@torch.inference_mode()
def combined_logits(network: DeepLabV2, image: np.ndarray, config: PredictConfig) -> Tensor:
    """Logits (L, H, W) combined over scales and mirrors, at the image's own size; on the CPU."""
    size = image.shape[:2]
    device = next(network.parameters()).device
    combined: Tensor | None = None
    for scale in config.scales:
        pixels = to_tensor(rescale(image, scale))[None].to(device)  # (1, 3, h, w)
        views = torch.cat([pixels, pixels.flip(3)]) if config.mirror else pixels
        logits = network(views.contiguous(memory_format=torch.channels_last))
        if config.mirror:
            logits = torch.stack([logits[0], logits[1].flip(2)])
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        view = logits.mean(dim=0) if config.combine == "mean" else logits.amax(dim=0)  # (L, H, W)
        if combined is None:
            combined = view
        else:
            combined = combined + view if config.combine == "mean" else torch.maximum(combined, view)
    assert combined is not None
    return combined.cpu()
