"""Every setting of the toy experiment. The paper names the digits, marks, shares, stages and threshold only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tag2mask.config import Range, SettingError, Settings
from tag2mask.experiments.hgr.ratio import THRESHOLD

DIGITS = (2, 8)  # the two classes, in order; paper
MARKS = ("diamond", "square")  # the mark of each class; paper


@dataclass(frozen=True)
class ToyConfig(Settings):
    """Settings; "paper" marks what the paper states, everything else is our choice.

    Raises ConfigError for values that can't work.
    """

    # pictures
    # pictures are square, black where nothing is drawn
    canvas: Annotated[int, Range(ge=20, le=1024, note="pixels")] = 48
    digit: Annotated[int, Range(ge=8, le=1024, note="pixels")] = 20  # height of a digit
    # box of a mark: a diamond 9 wide (41 pixels), a square 7 wide (49 pixels)
    mark: Annotated[int, Range(ge=5, le=1024, note="pixels, odd")] = 9
    images: Annotated[int, Range(ge=20, le=1_000_000)] = 2000  # training pictures
    marked_share: Annotated[float, Range(gt=0, lt=1)] = 0.1  # of the training pictures; paper
    # held-out pictures of the same mixture, for the accuracy
    test_images: Annotated[int, Range(ge=1, le=1_000_000)] = 500
    marked_images: Annotated[int, Range(ge=2, le=1_000_000)] = 50  # held-out pictures that all carry a mark, for HGR

    # network: five 3x3 convolutions with ReLU, then average pooling and a fully connected layer as the sixth stage
    widths: Annotated[tuple[int, ...], Range(ge=1, le=4096, items=(5, 5))] = (16, 32, 32, 64, 64)
    strides: Annotated[tuple[int, ...], Range(ge=1, le=16, items=(5, 5))] = (1, 2, 2, 2, 1)

    # training
    epochs: Annotated[int, Range(ge=1, le=100_000)] = 6
    batch_size: Annotated[int, Range(ge=1, le=1_000_000)] = 50
    learning_rate: Annotated[float, Range(gt=0, le=1000)] = 2e-3  # Adam

    # fine-tuning without the last activation, with RIB's number of steps and decay
    steps: Annotated[int, Range(ge=1, le=10_000)] = 10  # RIB's K
    # of the true class's output in the first step, relative to where it starts; sets the rate
    growth: Annotated[float, Range(gt=0, le=1000)] = 0.2
    # pictures a step, when one network is tuned for all
    tuning_batch: Annotated[int, Range(ge=1, le=1_000_000)] = 200
    # Pictures of the other class a step, when the network is tuned for each marked picture by itself, as RIB does.
    # RIB's B is 20, out of many classes; here all would be of the one other class, whose output is opposed to the
    # target's, and twenty of them push the target's own output down.
    partners: Annotated[int, Range(ge=1, le=8192)] = 1

    # measurement
    threshold: Annotated[float, Range(gt=0, lt=1)] = THRESHOLD  # paper
    # reported besides
    other_thresholds: Annotated[tuple[float, ...], Range(gt=0, lt=1, items=(0, 100))] = (0.1, 0.2, 0.5)

    def check_relations(self) -> None:
        """Raise ConfigError where a mark doesn't find a place wherever the digit lies, also in the middle."""
        if self.mark % 2 == 0:
            raise SettingError(self, ("mark",), "an odd number")
        needed = self.digit + 2 * (self.mark + 1)
        if self.canvas < needed:
            raise SettingError(self, ("canvas", "digit", "mark"), f"digit + 2 (mark + 1), {needed}, or more")


QUICK = ToyConfig(images=200, test_images=60, marked_images=4, epochs=2, steps=3, tuning_batch=40)
