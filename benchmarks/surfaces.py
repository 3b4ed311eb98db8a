"""Grey surfaces with drawn defects and their true masks: a data set to try `photos` on that nothing was chosen on.

    python benchmarks/surfaces.py OUT [--images 400]
    tag2mask run photos --data OUT

Five classes: blowhole (small dark spots), break (of the border), crack and scratch (2 to 5 pixels wide), stain (a
darker region); a sixth of the pictures has none, some have two. Sides of 170 to 400 pixels, uneven light, grain,
brushing. Every fourth picture is held out. The same pictures on any machine with the same NumPy, SciPy and Pillow.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

CLASSES = ("blowhole", "break", "crack", "scratch", "stain")
SEED = 7
SMALLEST = 60  # pixels of a defect; smaller ones are drawn again
Rng = np.random.Generator
Drawn = tuple[np.ndarray, np.ndarray]  # grey values (H, W) and where the defect is


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    for name in ("images", "masks"):
        (options.out / name).mkdir(parents=True)
    rows = [picture(number, options.out) for number in range(options.images)]
    with open(options.out / "labels.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "labels", "split"), *rows])
    (options.out / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def picture(number: int, out: Path) -> tuple[str, str, str]:
    """Write one picture and its mask; returns its row of the table."""
    rng = np.random.default_rng([SEED, number])
    height, width = int(rng.integers(170, 330)), int(rng.integers(180, 400))
    grey = surface(rng, height, width)
    tags = set() if number % 6 == 5 else {CLASSES[number % 5]}
    if tags and rng.random() < 0.15:
        tags.add(CLASSES[int(rng.integers(5))])
    mask = np.zeros((height, width), np.uint8)
    for name in sorted(tags):
        for _ in range(20):
            drawn, place = DEFECTS[name](rng, grey)
            if place.sum() > SMALLEST:
                break
        grey, mask[place] = drawn, CLASSES.index(name) + 1
    grey = ndimage.gaussian_filter(grey, 0.6) + rng.normal(size=grey.shape) * 3
    name = f"s{number:04d}"
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(out / "images" / f"{name}.jpg", quality=92)
    Image.fromarray(mask).save(out / "masks" / f"{name}.png")
    return f"{name}.jpg", ";".join(sorted(tags)), "val" if number % 4 == 3 else "train"


def noise(rng: Rng, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth noise (H, W) of standard deviation near 1, that changes over `cell` pixels."""
    coarse = rng.normal(size=(height // cell + 3, width // cell + 3))
    return ndimage.zoom(coarse, cell, order=3)[:height, :width]


def surface(rng: Rng, height: int, width: int) -> np.ndarray:
    """Grey values (H, W) of a surface without defect."""
    grey = rng.uniform(90, 170) + noise(rng, height, width, 64) * rng.uniform(5, 18)
    grey += noise(rng, height, width, 16) * rng.uniform(1, 6)
    grain = ndimage.gaussian_filter(rng.normal(size=(height, width)), (0.4, rng.uniform(0.5, 6)))
    grey += grain * rng.uniform(5, 14)
    if rng.random() < 0.4:  # brushed
        grey += np.sin(np.arange(width) / rng.uniform(6, 20))[None] * rng.uniform(2, 8)
    return grey


def line(rng: Rng, shape: tuple[int, int], width: int, bend: float) -> np.ndarray:
    """Where a line runs that turns by `bend` radians (standard deviation) every 8 pixels."""
    picture = Image.new("L", (shape[1], shape[0]))
    x, y = rng.uniform(0.1, 0.9) * shape[1], rng.uniform(0.1, 0.9) * shape[0]
    angle = rng.uniform(0, 2 * np.pi)
    points = [(x, y)]
    for _ in range(rng.integers(8, 26)):
        angle += rng.normal() * bend
        x, y = x + 8 * np.cos(angle), y + 8 * np.sin(angle)
        points.append((x, y))
    ImageDraw.Draw(picture).line(points, fill=255, width=width, joint="curve")
    return np.array(picture) > 0


def blob(rng: Rng, shape: tuple[int, int], radius: float, rough: float) -> np.ndarray:
    """Where a stretched disc with a rough edge lies."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middle = rng.uniform(0.15, 0.85) * shape[0], rng.uniform(0.15, 0.85) * shape[1]
    stretch = rng.uniform(0.6, 1.6)
    distance = np.hypot((rows - middle[0]) * stretch, (columns - middle[1]) / stretch)
    return distance + noise(rng, *shape, 8) * rough < radius


def blowhole(rng: Rng, grey: np.ndarray) -> Drawn:
    """One to three small dark spots."""
    place = np.zeros(grey.shape, bool)
    for _ in range(rng.integers(1, 4)):
        place |= blob(rng, grey.shape, rng.uniform(5, 11), 1.2)
    return np.where(place, grey - rng.uniform(35, 70), grey), place


def crack(rng: Rng, grey: np.ndarray) -> Drawn:
    """A dark line that winds."""
    place = line(rng, grey.shape, int(rng.integers(2, 5)), 0.45)
    return np.where(place, grey - rng.uniform(30, 60), grey), place


def scratch(rng: Rng, grey: np.ndarray) -> Drawn:
    """A bright line that is nearly straight."""
    place = line(rng, grey.shape, int(rng.integers(2, 6)), 0.03)
    return np.where(place, grey + rng.uniform(30, 60), grey), place


def stain(rng: Rng, grey: np.ndarray) -> Drawn:
    """A darker, rougher region."""
    place = blob(rng, grey.shape, rng.uniform(28, 60), 8)
    return np.where(place, grey - rng.uniform(15, 30) + noise(rng, *grey.shape, 8) * 5, grey), place


def broken(rng: Rng, grey: np.ndarray) -> Drawn:
    """A dark, torn part of the border."""
    height, width = grey.shape
    side = rng.integers(4)
    torn = noise(rng, height, width, 16) * 8 + noise(rng, height, width, 8) * 4
    rows, columns = np.mgrid[:height, :width]
    along = columns / width if side < 2 else rows / height
    depth = [rows, height - 1 - rows, columns, width - 1 - columns][side]
    middle = rng.uniform(0.2, 0.8)
    reach = rng.uniform(18, 40) * np.exp(-(((along - middle) / rng.uniform(0.1, 0.25)) ** 2)) * 1.2
    place = depth + torn < reach
    return np.where(place, 30 + noise(rng, height, width, 8) * 12, grey), place


DEFECTS = {"blowhole": blowhole, "break": broken, "crack": crack, "scratch": scratch, "stain": stain}

if __name__ == "__main__":
    main()
