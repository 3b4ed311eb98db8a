"""Pictures of a digit on a larger black canvas, some with a mark of the digit's class beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.common.errors import DataError, MissingExtraError
from tag2mask.common.seeding import seed_for
from tag2mask.experiments.toy.config import DIGITS, MARKS, ToyConfig
from tag2mask.experiments.toy.mnist import read_mnist

Grey = npt.NDArray[np.float32]
IRRELEVANT, DIGIT, MARK = 0, 1, 2  # values of a region map
REGIONS = {"discriminative": DIGIT, "non-discriminative": MARK, "irrelevant": IRRELEVANT}
INK = 0.2  # share of full ink below which an enlarged digit's soft edge counts as background
TEST_SHARE = 4  # every fourth of scikit-learn's handwritten digits is held out
Shapes = Sequence[Sequence[Grey]]  # for each class its digits, cut to their ink, (h, w) in 0..1


@dataclass(frozen=True)
class Pictures:
    """Pictures, their classes, and what each pixel belongs to."""

    images: Grey  # (N, S, S), 0 black to 1
    labels: npt.NDArray[np.int64]  # (N,), place in DIGITS
    regions: npt.NDArray[np.uint8]  # (N, S, S): IRRELEVANT, DIGIT or MARK

    def __len__(self) -> int:
        return len(self.labels)

    def without_marks(self) -> Pictures:
        """The same pictures with their marks erased."""
        marks = self.regions == MARK
        return Pictures(np.where(marks, 0, self.images), self.labels, np.where(marks, IRRELEVANT, self.regions))


@dataclass(frozen=True)
class ToyData:
    """Everything one seed works with; no handwritten digit is in both the first and the others."""

    train: Pictures
    test: Pictures  # the same mixture
    marked: Pictures  # digit and mark in every picture: HGR is measured on these
    mark_only: Pictures  # no digit: has the network learned the mark at all?


def toy_data(config: ToyConfig, seed: int, digits: Path | str = "sklearn") -> ToyData:
    """Draw all pictures of one seed; `digits` is "sklearn" or the folder of MNIST's original files.

    The same arguments give the same pixels. Raises MissingExtraError without scikit-learn, DataError for a folder
    without usable files.
    """
    train, test = sklearn_shapes() if str(digits) == "sklearn" else mnist_shapes(Path(digits))

    def draw(name: str, shapes: Shapes | None, count: int, share: float) -> Pictures:
        return _pictures(shapes, count, share, config, np.random.default_rng(seed_for(seed, "toy", name)))

    return ToyData(
        train=draw("train", train, config.images, config.marked_share),
        test=draw("test", test, config.test_images, config.marked_share),
        marked=draw("marked", test, config.marked_images, 1.0),
        mark_only=draw("mark only", None, config.marked_images, 1.0),
    )


def sklearn_shapes() -> tuple[Shapes, Shapes]:
    """Training and held-out digits of scikit-learn's wheel (8x8 pixels, the test part of UCI's set)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "demo", "the toy experiment's digits") from error
    stored = load_digits()
    of_class = [(stored.images[stored.target == digit] / 16).astype(np.float32) for digit in DIGITS]
    held_out = [np.arange(len(shapes)) % TEST_SHARE == 0 for shapes in of_class]
    return (
        [[_cut(shape) for shape in shapes[~out]] for shapes, out in zip(of_class, held_out, strict=True)],
        [[_cut(shape) for shape in shapes[out]] for shapes, out in zip(of_class, held_out, strict=True)],
    )


def mnist_shapes(folder: Path) -> tuple[Shapes, Shapes]:
    """Training and held-out digits of MNIST's original files in `folder`."""
    parts = []
    for part in ("train", "t10k"):
        images, labels = read_mnist(folder, part)
        chosen = [
            [_cut(image / np.float32(255)) for image in images[labels == digit] if image.any()] for digit in DIGITS
        ]
        if not all(chosen):
            raise DataError(f"{folder}: no digit {DIGITS[0]} or no {DIGITS[1]} in '{part}'; are these MNIST's files?")
        parts.append(chosen)
    return parts[0], parts[1]


def _cut(shape: npt.NDArray) -> Grey:
    """Cut a digit to the box of its ink, so that those of all sources come in one size."""
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    return shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)


def _pictures(
    shapes: Shapes | None, count: int, share: float, config: ToyConfig, draw: np.random.Generator
) -> Pictures:
    """Draw `count` pictures, classes in turn; exactly `share` of each class carries its mark."""
    labels = np.arange(count) % len(DIGITS)
    marked = (np.arange(count) // len(DIGITS)) < round(share * count / len(DIGITS))
    images = np.zeros((count, config.canvas, config.canvas), np.float32)
    regions = np.zeros(images.shape, np.uint8)
    for index, label in enumerate(labels.tolist()):
        box = None
        if shapes is not None:
            digit = _enlarged(shapes[label][int(draw.integers(len(shapes[label])))], config.digit)
            box = _paint(images[index], regions[index], digit, DIGIT, None, draw)
        if marked[index]:
            _paint(images[index], regions[index], mark_shape(MARKS[label], config.mark), MARK, box, draw)
    return Pictures(images, labels.astype(np.int64), regions)


def _enlarged(shape: Grey, height: int) -> Grey:
    """Enlarge a digit's ink to `height` pixels, at most as wide, and drop its faint edge."""
    width = min(height, max(3, round(height * shape.shape[1] / shape.shape[0])))
    ink = np.asarray(Image.fromarray(shape).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return np.where(ink > INK, ink.clip(0, 1), 0).astype(np.float32)


def mark_shape(name: str, box: int) -> Grey:
    """Return a filled mark (box, box): a diamond that touches the box, or a square with one pixel around it."""
    offset = np.abs(np.arange(box) - box // 2)
    if name == "diamond":
        return (np.add.outer(offset, offset) <= box // 2).astype(np.float32)
    return (np.maximum.outer(offset, offset) < box // 2).astype(np.float32)


def _paint(
    image: Grey,
    region: npt.NDArray[np.uint8],
    ink: Grey,
    value: int,
    taken: tuple[int, int, int, int] | None,
    draw: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Put `ink` at a random place that leaves `taken` (top, left, bottom, right) free; return its own box."""
    height, width = ink.shape
    while True:
        top, left = (int(draw.integers(image.shape[0] - side + 1)) for side in (height, width))
        box = (top, left, top + height, left + width)
        if taken is None or not _touches(box, taken):
            break
    image[box[0] : box[2], box[1] : box[3]] = ink
    region[box[0] : box[2], box[1] : box[3]][ink > 0] = value
    return box


def _touches(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Whether two boxes overlap or leave no pixel between them."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
