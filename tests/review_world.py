"""A run to be reviewed, as its stages write it: photos with one or two squares, their maps and pseudo-masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from exports_world import write_step
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, save_maps, write_mask
from tag2mask.runs.folder import StageFolder
from tag2mask.runs.info import describe_run, write_start

CLASSES = ("cat", "dog", "Kälb & <Co>")
COLOURS = ((200, 60, 40), (60, 170, 80), (70, 90, 210))
KINDS = 12  # of photos that differ; further ones are links to these
SIZE = (60, 80)  # pixels
RECIPE = {
    "seed": 0,
    "name": "review",
    "classifier": {"backbone": "efficientnet_lite0"},
    "refine": {"maps": "rib", "method": "none", "threshold": 0.4},
}
LOST = "photo 0001"  # its mask lacks a tag
PLAIN = "photo 0002"  # without any tag
VAL = "photo 0003"  # held out: a prediction and no maps


def make_run(root: Path, photos: int = KINDS) -> Path:
    """Write photos and run to `root`/photos and `root`/run; returns the run."""
    names = [f"photo {number:04d}" for number in range(photos)]
    records = []
    for number, name in enumerate(names):
        kind = number % KINDS
        tags = () if name == PLAIN else (kind % 3, 1) if kind % 3 != 1 and kind % 2 else (kind % 3,)
        path = root / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        split = "val" if name == VAL else "train"
        records.append(ImageRecord(name, path, tuple(sorted(set(tags))), split))
        if number >= KINDS + len((LOST, PLAIN, VAL)) + 1:
            os.link(records[number % KINDS if number % KINDS > 3 else number % KINDS + KINDS].path, path)
        else:
            Image.fromarray(_pixels(kind, tags)).save(path)
    dataset = Dataset("photos", CLASSES, tuple(records))
    run = root / "run"
    write_start(run, describe_run("review", RECIPE, dataset, None, None, {}), [], [dataset])
    train = [record for record in records if record.split == "train"]
    _write_maps(run / "localization", train)
    masks = {record.id: _mask(number % KINDS, record.labels) for number, record in enumerate(records)}
    masks[LOST][masks[LOST] == records[1].labels[0] + 1] = 0
    _write_masks(run / "pseudo_masks", {r.id: masks[r.id] for r in train}, RECIPE["refine"])
    write_step(run / "predictions", {VAL: masks[VAL]})
    return run


def square(kind: int, place: int) -> tuple[slice, slice]:
    """Where the square of a photo's tag is."""
    top, left = 6 + 2 * (kind % 5), 4 + kind % 7 + 38 * place
    return slice(top, top + 30), slice(left, left + 26)


def _pixels(kind: int, tags: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(kind)
    pixels = (110 + rng.integers(0, 25, (*SIZE, 3))).astype(np.uint8)
    for place, tag in enumerate(sorted(set(tags))):
        pixels[square(kind, place)] = COLOURS[tag]
    return pixels


def _mask(kind: int, tags: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for place, tag in enumerate(tags):
        mask[square(kind, place)] = tag + 1
    return mask


def _write_maps(out: Path, records: list[ImageRecord]) -> None:
    folder = StageFolder(out, "localize", config={}, seed=0, inputs={"classifier": "0"})
    first: dict[tuple[int, tuple[int, ...]], Path] = {}
    for record in (record for record in records if record.labels):
        kind = int(record.id[-4:]) % KINDS
        for name in ("cam", "rib"):
            path = out / name / f"{record.id}.npz"
            path.parent.mkdir(exist_ok=True)
            made = first.get((kind, record.labels))
            if made is not None:
                os.link(out / name / made.name, path)
                continue
            save_maps(path, maps_of(kind, record.labels, narrow=name == "cam"))
        first.setdefault((kind, record.labels), path)
    folder.finish(record.id for record in records)


def maps_of(kind: int, labels: tuple[int, ...], *, narrow: bool) -> LocalizationMaps:
    """Maps (n, 15, 20) that fall off from the middle of each tag's square."""
    rows, columns = np.mgrid[2 : SIZE[0] : 4, 2 : SIZE[1] : 4]
    found = []
    for place in range(len(labels)):
        part = square(kind, place)
        y, x = part[0].start + 15, part[1].start + 13
        far = np.maximum(abs(rows - y) / 30, abs(columns - x) / 26)
        found.append(np.clip(1 - far * (1.6 if narrow else 1.0), 0, 1))
    return LocalizationMaps(np.array(labels), SIZE, (1.0,), [np.array(found, np.float32)])


def _write_masks(out: Path, masks: dict[str, np.ndarray], config: object) -> None:
    folder = StageFolder(out, "refine", config=dict(config), seed=0, inputs={})  # type: ignore[call-overload]
    (out / "masks").mkdir()
    first: dict[bytes, Path] = {}
    for name, mask in masks.items():
        path = out / "masks" / f"{name}.png"
        if mask.tobytes() in first:
            os.link(first[mask.tobytes()], path)
        else:
            write_mask(path, mask)
            first[mask.tobytes()] = path
    folder.finish(masks)
