"""The decoder of SegFormer, computed where it is cheapest.

SegFormer (Xie et al., NeurIPS 2021) brings every stage's features through a linear layer each to one width, all to
stride 4, and joins them by a 1x1 convolution. All of that is linear, and bilinear resizing keeps constants, so the
order is free: both layers are one product at the stage's own stride, and features finer than stride 4 are resized
before they get wide. The same function of the same parameters as segmentation_models_pytorch's, up to round-off, in
half the time (`benchmarks/decoders.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # of what the decoder gives
STRIDES = (32, 16, 8, 4, 2)  # of the features, the deepest first; encoders without stride 2 have the first four


class SegformerDecoder(nn.Module):
    """Features at strides 2, if any, to 32 -> features at stride 4; the layers of `decoder`, by their names."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.mlp_stage: nn.ModuleList = decoder.mlp_stage  # a linear layer for each stride of `STRIDES`
        self.fuse_stage: nn.Sequential = decoder.fuse_stage  # convolution without bias, norm, activation

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map the image (B, 3, H, W) and features (B, c, H / s, W / s), the finest first, to (B, C, H / 4, W / 4).

        Features without channels, which stand for a stride that the encoder lacks, are passed over.
        """
        size = [side // STRIDE for side in features[0].shape[-2:]]
        deepest_first = [values for values in features[1:] if values.shape[1]][::-1]
        join, *rest = self.fuse_stage
        assert isinstance(join, nn.Conv2d)
        parts = join.weight[:, :, 0, 0].chunk(len(self.mlp_stage), dim=1)
        found: Any = 0
        for stride, layer, part, values in zip(STRIDES, self.mlp_stage, parts, deepest_first, strict=False):
            if stride < STRIDE:
                values = _resized(values, size)
            linear: Any = layer.linear
            values = F.conv2d(values, (part @ linear.weight)[:, :, None, None], part @ linear.bias)
            found = found + (_resized(values, size) if stride > STRIDE else values)
        for layer in rest:
            found = layer(found)
        return found


def _resized(values: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
