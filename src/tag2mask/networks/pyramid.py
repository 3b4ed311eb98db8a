"""A plain ViT under a decoder: what it gives at four depths, as features at strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import WholeCells, at_strides
from tag2mask.networks.families import Family


class PyramidEncoder(nn.Module):
    """An encoder as segmentation_models_pytorch has them, of a network with one stride throughout.

    The last four of its five stages are resized to the strides that a decoder expects; without parameters, as each
    decoder begins with convolutions of its own.
    """

    def __init__(self, network: Any, family: Family) -> None:
        super().__init__()
        assert family.cell is not None
        assert family.patch is not None
        self.cells = WholeCells(family.cell, family.patch(network))
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in family.stages(network))
        self.shown = nn.ModuleList(family.shown(network))
        self.out_channels = [3, 0, *[family.channels(network)] * 4]
        self.strides = (4, 8, 16, 32)
        self.output_stride = 32

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Part of the interface; there are always three."""

    def make_dilated(self, output_stride: int) -> None:
        """Give the last features at `output_stride`, 8 or 16, where a decoder asks for it."""
        self.strides = tuple(min(stride, output_stride) for stride in self.strides)  # type: ignore[assignment]
        self.output_stride = output_stride

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """The images (B, 3, H, W), nothing at stride 2, and features (B, c, H / s, W / s) at each of `strides`."""
        features, taps = self.cells(images), []
        for stage, shown in zip(self.stages, self.shown, strict=True):
            features = stage(features)
            taps.append(shown(features))
        nothing = torch.empty(len(images), 0, images.shape[2] // 2, images.shape[3] // 2, device=images.device)
        return [images, nothing, *at_strides(taps[1:], images, self.strides)]
