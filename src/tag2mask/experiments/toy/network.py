"""The six-stage network: five convolutions and a fully connected layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tag2mask.experiments.toy.config import DIGITS, ToyConfig

STAGES = 6


class SixStages(nn.Module):
    """Stages 1 to 5: 3x3 convolution and ReLU. Stage 6: average pooling and a fully connected layer.

    Pooling before the last layer is the shape of the classifiers that CAM and RIB work with.
    """

    def __init__(self, config: ToyConfig, seed: int) -> None:
        super().__init__()
        channels = (1, *config.widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [
                nn.Conv2d(channels[k], channels[k + 1], 3, stride=config.strides[k], padding=1) for k in range(5)
            ]
            self.convolutions = nn.ModuleList(layers)
            self.last = nn.Linear(config.widths[-1], len(DIGITS))
            for layer in layers:  # ReLU needs twice the variance, or training starts on a plateau
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            nn.init.constant_(self.last.bias, 0.5)  # or outputs that begin below 0 stay there under a last ReLU

    def stages(self, images: Tensor) -> list[Tensor]:
        """Outputs of the six stages for images (N, 1, S, S); the last are logits (N, 2) before any activation."""
        outputs, values = [], images
        for convolution in self.convolutions:
            values = convolution(values).relu()
            outputs.append(values)  # (N, width, s, s)
        outputs.append(self.last(values.mean(dim=(2, 3))))
        return outputs

    def class_maps(self, images: Tensor) -> Tensor:
        """Raw class maps (N, 2, s, s) of images (N, 1, S, S): their mean over positions is the logits."""
        features = self.stages(images)[-2]  # (N, width, s, s)
        return self.last(features.movedim(1, -1)).movedim(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, 1, S, S)."""
        return self.stages(images)[-1]
