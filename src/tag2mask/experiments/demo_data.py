"""Material for a demonstration without any download: scenes of handwritten digits, and a few real photos.

The digits come inside scikit-learn's wheel, the photos inside scikit-image's; both are the extra `demo`.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tag2mask.common.errors import DataError, MissingExtraError
from tag2mask.common.files import atomic_write, read_json, write_json
from tag2mask.common.seeding import rng_for, seed_for
from tag2mask.config import Range, SettingError, Settings
from tag2mask.data.masks import write_mask

# --- scenes of digits --------------------------------------------------------------------------------

# In alphabetical order, so that the classes have the same numbers however they are read. Digits 1 and 7
# are left out: a stroke of the clutter can't be told from them.
DIGITS = {"four": 4, "six": 6, "three": 3, "two": 2, "zero": 0}
CLASSES = tuple(DIGITS)

FORMAT = 1  # raised when the same arguments would give other pixels
EDGE = 0.38  # share of full ink at a digit's edge; lower joins strokes that half ink would break
OVERLAP = 0.10  # share of a digit's box that another may cover at most
TRIES = 40  # attempts to find a place before a digit is given up
MIN_CONTRAST = 90.0  # distance in RGB (0..255) between a digit's colour and the background under it
VAL_SHARE = 4  # every fourth handwritten digit of a class is kept for the val scenes

Pixels = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SceneSettings(Settings):
    """Everything the scenes depend on; stored in `scenes.json`."""

    images: Annotated[int, Range(ge=1, le=1_000_000)] = 240  # training scenes
    # scenes of digits written by hand that no training scene shows
    val_images: Annotated[int, Range(ge=0, le=1_000_000)] = 80
    size: Annotated[int, Range(ge=32, le=4096, note="pixels")] = 128  # scenes are square
    smallest: Annotated[float, Range(gt=0, le=0.9, note="of the size")] = 0.36  # height of the smallest digit
    largest: Annotated[float, Range(gt=0, le=0.9, note="of the size")] = 0.54  # height of the largest digit
    # digits in a scene, 1 to this many, of different classes
    most_digits: Annotated[int, Range(ge=1, le=len(CLASSES))] = 3
    clutter: Annotated[int, Range(ge=0, le=10_000)] = 9  # strokes, arcs and blobs in a scene that are no digits
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0

    def check_relations(self) -> None:
        """Raise ConfigError for digits that are too small to be read, or smaller at most than at least."""
        if not self.smallest * self.size >= 8:
            raise SettingError(self, ("smallest", "size"), f"{8 / self.size:.2f} or more, 8 pixels of {self.size}")
        if self.smallest > self.largest:
            raise SettingError(self, ("smallest", "largest"), f"at most largest, {self.largest}")


DEFAULT_SCENES = SceneSettings()


def digit_scenes(folder: Path | str, settings: SceneSettings = DEFAULT_SCENES, **changes: Any) -> Path:
    """Write the scenes, their exact masks and their image-level labels; return the folder.

    `changes` replace single settings: `digit_scenes(folder, images=40, val_images=10, seed=3)`.

    `folder` then holds images/*.jpg (RGB), masks/*.png (0 background, class index + 1; no ignored pixels),
    labels.csv (image, labels, split) and, last, scenes.json. A second call with the same settings does
    nothing. The folder appears whole: it is written beside its place and renamed.
    Raises DataError when the folder holds anything else, MissingExtraError without scikit-learn.
    """
    folder, settings = Path(folder), replace(settings, **changes)
    if _is_complete(folder, settings):
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_scenes(partial, settings)
        if folder.is_dir():
            folder.rmdir()  # empty, or _is_complete had refused it
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_complete(folder: Path, settings: SceneSettings) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    note = folder / "scenes.json"
    if note.is_file():
        if read_json(note) == _note(settings):
            return True
        raise DataError(f"{folder} holds scenes of other settings; delete it or name another folder")
    raise DataError(f"{folder} holds other files and no scenes.json; name an empty or new folder")


def _note(settings: SceneSettings) -> dict[str, object]:
    return {"format": FORMAT, "classes": list(CLASSES), **asdict(settings)}


def _write_scenes(folder: Path, settings: SceneSettings) -> None:
    shapes = _digit_shapes()
    rows = []
    for split, count in (("train", settings.images), ("val", settings.val_images)):
        for index in range(count):
            name = f"{split}_{index:04d}"
            image, mask = _scene(shapes[split], settings, split, index)
            with atomic_write(folder / "images" / f"{name}.jpg") as temporary:
                Image.fromarray(image).save(temporary, quality=95)
            write_mask(folder / "masks" / f"{name}.png", mask)
            present = [CLASSES[value - 1] for value in np.unique(mask) if value]
            rows.append([f"images/{name}.jpg", ";".join(present), split])
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([["image", "labels", "split"], *rows])
    with atomic_write(folder / "labels.csv") as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")
    write_json(folder / "scenes.json", _note(settings))


def _digit_shapes() -> dict[str, list[Grey]]:
    """Return for "train" and "val" the 8x8 digits (k, 8, 8) in 0..1 of each class; no digit is in both."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "demo", "the demonstration's digits") from error
    stored = load_digits()
    pictures = (stored.images / 16.0).astype(np.float32)  # (1797, 8, 8), ink 0..16 there
    of_class = [pictures[stored.target == digit] for digit in DIGITS.values()]
    for_val = [np.arange(len(shapes)) % VAL_SHARE == 0 for shapes in of_class]
    return {
        "train": [shapes[~kept] for shapes, kept in zip(of_class, for_val, strict=True)],
        "val": [shapes[kept] for shapes, kept in zip(of_class, for_val, strict=True)],
    }


def _scene(shapes: Sequence[Grey], settings: SceneSettings, split: str, index: int) -> tuple[Pixels, Pixels]:
    """Return one scene (S, S, 3) and its mask (S, S); the same for the same seed, split and index."""
    draw = rng_for(settings.seed, "digit scene", split, index)
    noise = np.random.default_rng(seed_for(settings.seed, "texture", split, index))
    canvas = _background(settings, noise)
    for _ in range(settings.clutter):
        canvas = _blend(canvas, _clutter(settings.size, draw), _colour(draw))
    mask = np.zeros((settings.size, settings.size), np.uint8)
    first = index % len(CLASSES)  # every class is the certain one equally often
    others = draw.sample([c for c in range(len(CLASSES)) if c != first], settings.most_digits - 1)
    boxes: list[tuple[int, int, int]] = []  # top, left, side
    for number in [first, *others[: draw.randrange(settings.most_digits)]]:
        side = round(settings.size * draw.uniform(settings.smallest, settings.largest))
        box = _free_box(boxes, side, settings.size, draw)
        if box is None:
            continue
        boxes.append(box)
        shape = shapes[number][draw.randrange(len(shapes[number]))]
        ink = _placed(_drawn_digit(shape, side, draw), box, settings.size)
        canvas = _blend(canvas, ink, _contrasting(canvas[ink > 0.5], draw))
        mask[ink > 0.5] = number + 1
    grainy = canvas + noise.normal(0, 5, canvas.shape)
    return np.clip(grainy, 0, 255).astype(np.uint8), mask


def _background(settings: SceneSettings, noise: np.random.Generator) -> Grey:
    """Return clouds of two sizes, their light and their colour apart, (S, S, 3) in 0..255."""
    size = settings.size
    canvas = np.full((size, size, 3), noise.uniform(60, 195, 3), np.float32)
    for cells, light, colour in ((3, 32.0, 18.0), (14, 14.0, 6.0)):
        shared = noise.normal(0, light, (cells, cells))
        for channel in range(3):
            coarse = (shared + noise.normal(0, colour, (cells, cells))).astype(np.float32)
            canvas[..., channel] += _resized(coarse, size, size)
    return np.clip(canvas, 0, 255).astype(np.float32)


def _clutter(size: int, draw: Random) -> Grey:
    """Return the cover (S, S) in 0..1 of one stroke, bent line, arc or blob."""
    picture = Image.new("L", (size * 2, size * 2))  # drawn at twice the size for smooth edges
    pen = ImageDraw.Draw(picture)
    x, y = draw.uniform(0, 2 * size), draw.uniform(0, 2 * size)
    reach = size * draw.uniform(0.15, 0.6)
    width = max(2, round(size * draw.uniform(0.02, 0.09)))
    kind = draw.choice(("stroke", "bent", "arc", "blob"))
    if kind == "blob":
        pen.ellipse((x, y, x + reach * draw.uniform(0.2, 0.7), y + reach * draw.uniform(0.2, 0.7)), fill=255)
    elif kind == "arc":
        start = draw.uniform(0, 360)
        pen.arc((x, y, x + reach, y + reach), start, start + draw.uniform(60, 150), fill=255, width=width)
    else:
        corners = [(x, y)]
        for _ in range(1 if kind == "stroke" else 2):
            angle = draw.uniform(0, 2 * math.pi)
            x, y = x + reach * math.cos(angle), y + reach * math.sin(angle)
            corners.append((x, y))
        pen.line(corners, fill=255, width=width, joint="curve")
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.float32) / np.float32(255)


def _drawn_digit(shape: Grey, side: int, draw: Random) -> Grey:
    """Return a digit's cover (side, side) in 0..1: enlarged smoothly, turned a little, with a soft edge."""
    narrow = max(4, round(side * draw.uniform(0.75, 1.0)))
    ink = Image.new("F", (side, side))
    ink.paste(Image.fromarray(_resized(shape, narrow, side)), ((side - narrow) // 2, 0))
    ink = ink.rotate(draw.uniform(-14, 14), Image.Resampling.BICUBIC)
    # Ink rises from 0 to 1 within about one of the 8 stored cells, so this ramp is about two pixels wide.
    ramp = side / 8 / 2
    return np.clip((np.asarray(ink, np.float32) - EDGE) * ramp + 0.5, 0, 1).astype(np.float32)


def _free_box(
    taken: Sequence[tuple[int, int, int]], side: int, size: int, draw: Random
) -> tuple[int, int, int] | None:
    for _ in range(TRIES):
        top, left = draw.randint(0, size - side), draw.randint(0, size - side)
        if all(_shared((top, left, side), other) <= OVERLAP for other in taken):
            return top, left, side
    return None


def _shared(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Return the overlap of two square boxes as a share of the smaller."""
    (top, left, side), (other_top, other_left, other_side) = one, other
    height = min(top + side, other_top + other_side) - max(top, other_top)
    width = min(left + side, other_left + other_side) - max(left, other_left)
    return max(height, 0) * max(width, 0) / min(side, other_side) ** 2


def _placed(ink: Grey, box: tuple[int, int, int], size: int) -> Grey:
    top, left, side = box
    cover = np.zeros((size, size), np.float32)
    cover[top : top + side, left : left + side] = ink
    return cover


def _blend(canvas: Grey, cover: Grey, colour: Sequence[float]) -> Grey:
    paint = np.asarray(colour, np.float32)
    return (canvas + cover[..., None] * (paint - canvas)).astype(np.float32)


def _colour(draw: Random) -> tuple[float, ...]:
    return tuple(draw.uniform(0, 255) for _ in range(3))


def _contrasting(covered: Grey, draw: Random) -> tuple[float, ...]:
    """Return a random colour that stands out from the mean of the pixels (k, 3) it covers."""
    under = covered.mean(axis=0) if len(covered) else np.full(3, 128.0)
    while True:
        colour = _colour(draw)
        if math.dist(colour, under.tolist()) >= MIN_CONTRAST:
            return colour


def _resized(values: Grey, width: int, height: int) -> Grey:
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC), np.float32)


# --- real photos -------------------------------------------------------------------------------------

# ImageNet-1k class numbers of the photos' tags, with the class names of ILSVRC 2012. The numbers were
# chosen by what an ImageNet classifier sees: each is its first or second guess for the photo.
IMAGENET_NAMES = {285: "Egyptian cat", 657: "missile", 665: "moped", 872: "tripod", 967: "espresso"}

_PHOTOS = (  # file, tag a person would give, ImageNet class
    ("chelsea.png", "cat", 285),
    ("coffee.png", "espresso", 967),
    ("motorcycle_left.png", "motorcycle", 665),
    ("rocket.jpg", "rocket", 657),
    ("camera.png", "tripod", 872),
)


@dataclass(frozen=True)
class DemoPhoto:
    """A real photo with one image-level tag."""

    name: str  # "chelsea"
    path: Path
    tag: str  # as a person would say it
    imagenet_class: int  # 0..999
    class_name: str  # ImageNet's name of that class


def sample_photos() -> list[DemoPhoto]:
    """Return the photos inside scikit-image's wheel that show something ImageNet has a class for.

    Raises MissingExtraError without scikit-image, DataError when it was installed without its photos.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise MissingExtraError("scikit-image", "demo", "the demonstration's photos")
    folder = Path(found.origin).parent / "data"
    missing = [file for file, _, _ in _PHOTOS if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}; reinstall the photos with: "
            "pip install --force-reinstall scikit-image"
        )
    return [
        DemoPhoto(Path(file).stem, folder / file, tag, number, IMAGENET_NAMES[number])
        for file, tag, number in _PHOTOS
    ]
