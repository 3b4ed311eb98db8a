"""A small run to be exported: photos in folders, one that EXIF turns, one without any object, one that failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data import Dataset, ImageRecord, write_mask
from tag2mask.runs.folder import StageFolder
from tag2mask.runs.info import describe_run, write_start

CLASSES = ("cat", "tin opener", "Kälb & <Co>")
NAMES = {  # id: where the photo lies
    "day1__IMG 1": "day1/IMG 1.jpg",
    "day2__IMG 1": "day2/IMG 1.jpg",
    "day2__empty": "day2/empty.png",
    "blätter": "blätter.png",
}
UNSURE = "blätter"


@dataclass
class World:
    """The run's folder, its photos, and the masks that its pseudo-masks hold."""

    run: Path
    photos: Path
    masks: dict[str, np.ndarray]  # by id

    def expected(self, image_id: str) -> np.ndarray:
        """The mask as a format gives it back that has no unsure pixels."""
        mask = self.masks[image_id]
        return np.where(mask == 255, 0, mask)


def speckled(height: int, width: int, seed: int, classes: int = 3) -> np.ndarray:
    """A mask (H, W) uint8 with holes, parts in holes, and parts that touch at corners only."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, classes + 1, (4, 5)), np.ones((height // 4, width // 5), int)).astype(np.uint8)
    noisy = rng.random(mask.shape) < 0.2
    mask[noisy] = rng.integers(0, classes + 1, int(noisy.sum()))
    return mask


def make_world(root: Path, classes: tuple[str, ...] = CLASSES) -> World:
    """Write the photos and a run whose pseudo-masks are finished; `predictions` are of one photo, without objects."""
    masks = {
        "day1__IMG 1": speckled(24, 40, 1),
        "day2__IMG 1": speckled(40, 20, 2),
        "day2__empty": np.zeros((9, 7), np.uint8),
        UNSURE: speckled(16, 15, 3),
    }
    masks[UNSURE][3:6, 2:9] = 255
    photos = root / "photos"
    for image_id, name in NAMES.items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        rows, columns = np.indices(masks[image_id].shape)
        pixels = np.stack([4 * rows, 5 * columns, 200 - 4 * rows], axis=2).astype(np.uint8)
        if image_id == "day2__IMG 1":  # stored lying, shown upright
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(np.rot90(pixels).copy()).save(photos / name, exif=exif)
        else:
            Image.fromarray(pixels).save(photos / name)
    run = root / "run"
    paths = {image_id: photos / name for image_id, name in NAMES.items()} | {"failed": photos / "failed.jpg"}
    records = tuple(ImageRecord(i, path, (0,), "val" if i == UNSURE else "train") for i, path in paths.items())
    dataset = Dataset("photos", classes, records)
    write_start(run, describe_run("tiny", {"seed": 0}, dataset, None, None, {}), [], [dataset])
    write_step(run / "pseudo_masks", masks, {"failed": "is empty"})
    write_step(run / "predictions", {UNSURE: np.zeros((16, 15), np.uint8)})
    return World(run, photos, masks)


def write_step(out: Path, masks: dict[str, np.ndarray], failed: dict[str, str] | None = None) -> None:
    """Write masks as a step of a run does."""
    folder = StageFolder(out, "refine", config={}, seed=0, inputs={})
    for image_id, mask in masks.items():
        write_mask(out / "masks" / f"{image_id}.png", mask)
    for image_id, error in (failed or {}).items():
        folder.fail(image_id, error)
    folder.finish(masks)
