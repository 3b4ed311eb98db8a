"""High-resolution networks (HRNet) as parts that pass one tensor: streams at strides 4, 8, 16, 32 packed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8  # of the joined map that class maps are read from


def pack(streams: Sequence[Tensor]) -> Tensor:
    """Bring streams (B, c_i, h / 2^i, w / 2^i), at most four, to the size (h / 8, w / 8) without losing a value."""
    return torch.cat([F.pixel_unshuffle(stream, 8 >> index) for index, stream in enumerate(streams)], dim=1)


def unpack(packed: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """Undo `pack`; `channels` are the streams' own."""
    factors = [8 >> index for index in range(len(channels))]
    parts = packed.split([c * factor**2 for c, factor in zip(channels, factors, strict=True)], dim=1)
    return [F.pixel_shuffle(part, factor) for part, factor in zip(parts, factors, strict=True)]


class StreamBlock(nn.Module):
    """One module of parallel branches and their exchange, on packed streams."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.channels = tuple(module.num_in_chs)

    def forward(self, packed: Tensor) -> Tensor:
        """Packed streams of the same shape."""
        return pack(self.module(unpack(packed, self.channels)))


class Transition(nn.Module):
    """From the streams before (one map at the start) to those of the coming stage, one more: packed streams."""

    def __init__(self, layers: nn.ModuleList, channels: Sequence[int]) -> None:
        super().__init__()
        self.layers, self.channels = layers, tuple(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Packed streams of the coming stage."""
        streams = unpack(features, self.channels) if self.channels else [features] * len(self.layers)
        pairs = enumerate(self.layers)
        return pack([streams[i] if isinstance(t, nn.Identity) else t(streams[-1]) for i, t in pairs])


class Joined(nn.Module):
    """What shows of packed streams: all of them side by side at stride 8 (HRNetV2, TPAMI 2020, there at stride 4)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)

    def forward(self, packed: Tensor) -> Tensor:
        """Map (B, sum of channels, H / 8, W / 8)."""
        first, second, *others = unpack(packed, self.channels)
        larger = [F.interpolate(o, second.shape[-2:], mode="bilinear", align_corners=False) for o in others]
        return torch.cat([F.avg_pool2d(first, 2), second, *larger], dim=1)


def stream_stages(net: Any) -> list[list[nn.Module]]:
    """The stem and first stage at stride 4, then the stages of two, three and four streams, the last in two parts."""
    stem = [net.conv1, net.bn1, net.act1, net.conv2, net.bn2, net.act2, net.layer1]
    two, three, four = ([StreamBlock(module) for module in stage] for stage in (net.stage2, net.stage3, net.stage4))
    return [
        stem,
        [Transition(net.transition1, ()), *two],
        [Transition(net.transition2, two[0].channels), *three],
        [Transition(net.transition3, three[0].channels), *four[:-1]],
        four[-1:],
    ]


def shown_streams(net: Any) -> list[nn.Module]:
    """What shows after each of the five stages."""
    return [
        nn.Identity(),
        *(Joined(stage[0].num_in_chs) for stage in (net.stage2, net.stage3, net.stage4, net.stage4)),
    ]
