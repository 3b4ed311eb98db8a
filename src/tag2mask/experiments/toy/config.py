"""Every setting of the toy experiment. The paper names the digits, marks, shares, stages and threshold only."""

from __future__ import annotations

from dataclasses import dataclass

from tag2mask.common.errors import ConfigError
from tag2mask.experiments.hgr.ratio import THRESHOLD

DIGITS = (2, 8)  # the two classes, in order; paper
MARKS = ("diamond", "square")  # the mark of each class; paper


@dataclass(frozen=True)
class ToyConfig:
    """Settings; "paper" marks what the paper states, everything else is our choice.

    Raises ConfigError for values that can't work.
    """

    # pictures
    canvas: int = 48  # pixels; pictures are square, black where nothing is drawn
    digit: int = 20  # pixels; height of a digit
    mark: int = 9  # pixels; box of a mark: a diamond 9 wide (41 pixels), a square 7 wide (49 pixels)
    images: int = 2000  # training pictures
    marked_share: float = 0.1  # of the training pictures; paper
    test_images: int = 500  # held-out pictures of the same mixture, for the accuracy
    marked_images: int = 50  # held-out pictures that all carry a mark, for HGR

    # network: five 3x3 convolutions with ReLU, then average pooling and a fully connected layer as the sixth stage
    widths: tuple[int, ...] = (16, 32, 32, 64, 64)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1)

    # training
    epochs: int = 6
    batch_size: int = 50
    learning_rate: float = 2e-3  # Adam

    # fine-tuning without the last activation, with RIB's number of steps and decay
    steps: int = 10  # RIB's K
    growth: float = 0.2  # of the true class's output in the first step, relative to where it starts; sets the rate
    tuning_batch: int = 200  # pictures a step, when one network is tuned for all
    # Pictures of the other class a step, when the network is tuned for each marked picture by itself, as RIB does.
    # RIB's B is 20, out of many classes; here all would be of the one other class, whose output is opposed to the
    # target's, and twenty of them push the target's own output down.
    partners: int = 1

    # measurement
    threshold: float = THRESHOLD  # paper
    other_thresholds: tuple[float, ...] = (0.1, 0.2, 0.5)  # reported besides

    def __post_init__(self) -> None:
        # the mark must find a place wherever the digit lies, also in the middle
        if self.canvas < self.digit + 2 * (self.mark + 1) or self.digit < 8 or self.mark < 5 or self.mark % 2 == 0:
            raise ConfigError(
                f"canvas {self.canvas}, digit {self.digit}, mark {self.mark}: the canvas must be digit + 2 (mark + 1)"
                " at least, the digit 8 or more, the mark odd and 5 or more"
            )
        if len(self.widths) != 5 or len(self.strides) != 5:
            raise ConfigError(f"widths {self.widths} and strides {self.strides}: five convolutions need five of each")
        if not 0 < self.marked_share < 1:
            raise ConfigError(f"marked_share is {self.marked_share}; it must be between 0 and 1")
        counts = (self.images, self.test_images, self.marked_images, self.epochs, self.batch_size, self.steps,
                  self.tuning_batch, self.partners)  # fmt: skip
        if min(counts) < 1 or self.images < 20 or self.marked_images < 2:
            raise ConfigError(
                f"images {self.images}, marked_images {self.marked_images}, test_images, epochs, batch_size, steps, "
                f"tuning_batch, partners {counts[1:2] + counts[3:]}: need 20 images, 2 marked ones, 1 of the others"
            )


QUICK = ToyConfig(images=200, test_images=60, marked_images=4, epochs=2, steps=3, tuning_batch=40)
