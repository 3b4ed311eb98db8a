"""A tiny data set with maps, for the tests of the stages between maps and pseudo-masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.common.files import write_json
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, save_maps, write_mask

SIZE = (48, 64)  # pixels
COLOURS = ((200, 40, 40), (40, 180, 60))


def make_world(folder: Path, images: int = 6) -> tuple[Dataset, Path]:
    """Squares of two classes before a grey wall, and coarse maps that are strongest in their middle.

    Image 1 has both classes, the last one is a file of zero bytes that still has maps.
    """
    rng = np.random.default_rng(0)
    records = []
    (folder / "photos").mkdir(parents=True)
    for number in range(images):
        name = f"image {number}"
        labels = (0, 1) if number == 1 else (number % 2,)
        truth = np.zeros(SIZE, np.uint8)
        for label in labels:
            left = 6 + 30 * label
            truth[12:36, left : left + 22] = label + 1
        pixels = 120 + rng.integers(0, 12, (*SIZE, 3))
        for label in labels:
            pixels[truth == label + 1] = COLOURS[label]
        path, mask = folder / "photos" / f"{name}.png", folder / "photos" / f"{name}_mask.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        write_mask(mask, truth)
        _write_maps(folder, name, truth, labels)
        records.append(ImageRecord(name, path, labels, "train", mask))
    records[-1].path.write_bytes(b"")
    manifest = {"stage": "localize", "config": {}, "inputs": {"classifier": "0"}, "finished": True}
    write_json(folder / "localization" / "manifest.json", manifest)
    return Dataset("world", ("red", "green"), tuple(records)), folder / "localization"


def _write_maps(folder: Path, name: str, truth: np.ndarray, labels: tuple[int, ...]) -> None:
    small = []
    for label in labels:
        inside = (truth == label + 1).astype(np.float32)
        small.append(inside.reshape(SIZE[0] // 8, 8, SIZE[1] // 8, 8).mean(axis=(1, 3)) ** 2)  # stride 8
    maps = LocalizationMaps(np.array(labels), SIZE, (1.0,), [np.stack(small)])
    for kind in ("cam", "rib"):
        save_maps(folder / "localization" / kind / f"{name}.npz", maps)
