"""Masks of photos by an exported network: onnxruntime, NumPy and Pillow; torch isn't imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write, digest_file
from tag2mask.common.progress import track
from tag2mask.data.images import image_size, read_image
from tag2mask.data.masks import resize_labels, write_mask
from tag2mask.data.records import Dataset, ImageRecord
from tag2mask.onnx_file import OnnxNetwork
from tag2mask.runs.folder import StageFolder
from tag2mask.runs.photos import done_before, note_photos


def predict_onnx(
    dataset: Dataset, network: OnnxNetwork, out: Path, *, restrict: bool = False, confidence: bool = False
) -> dict[str, str]:
    """Write `out`/masks/ID.png for every photo; return what could not be used, by name.

    `restrict` allows a photo only the labels of its own tags, where they are told; `confidence` also writes
    `out`/confidence/ID.png. Resumes, and takes further photos, as `predict` does. Raises ConfigError.
    """
    config = {"onnx": True, "restrict": restrict, "confidence": confidence}
    inputs = {"weights": digest_file(network.path)}
    folder = StageFolder(out, "predict", config=config, seed=0, inputs=inputs)
    records = {record.id: record for record in dataset.worked_on_at(network.long_side).records}
    note_photos(folder, dataset.records, tagged=restrict)
    todo = folder.left(records, "masks/{}.png")
    for image_id in track(todo, total=len(records), description="predict", done=len(records) - len(todo)):
        try:
            _predict(records[image_id], network, out, restrict=restrict, confidence=confidence)
        except DataError as error:
            folder.fail(image_id, str(error))
        folder.tick()
    if todo or not folder.finished:
        folder.finish([*done_before(folder, records), *(i for i in records if i not in folder.failures)])
    return dict(folder.failures)


def _predict(record: ImageRecord, network: OnnxNetwork, out: Path, *, restrict: bool, confidence: bool) -> None:
    image, size = read_image(record), image_size(record.path)
    tags = [network.classes[index] for index in record.labels] if restrict and record.told else None
    answer = network.predict(image, tags)
    if confidence:  # before the mask, which says that the photo is done
        write_confidence(out / "confidence" / f"{record.id}.png", answer.confidence, size)
    write_mask(out / "masks" / f"{record.id}.png", resize_labels(answer.labels, size))


def write_confidence(path: Path, confidence: np.ndarray, size: tuple[int, int]) -> None:
    """Write a confidence map (H, W) uint8 as a grey PNG of `size` = (H', W'), whole or not at all."""
    picture = Image.fromarray(confidence).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
