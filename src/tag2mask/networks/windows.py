"""Swin transformers as parts that pass maps (B, C, h, w), and their last stage at stride 16 instead of 32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelsLast(nn.Module):
    """A module that works on (B, h, w, C), for maps (B, C, h, w)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        """Turn the channels last, and back."""
        return self.module(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowBlock(ChannelsLast):
    """One transformer block on windows."""


class Patches(nn.Module):
    """The patch embedding: images (B, 3, H, W) -> (B, C, H / 4, W / 4)."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, images: Tensor) -> Tensor:
        """Embed images whose sides are multiples of the patch."""
        return self.embedding(images).permute(0, 3, 1, 2)


def window_stages(net: Any) -> list[list[nn.Module]]:
    """The patches, then each layer: the merging of patches and its blocks; last the norm."""
    stages: list[list[nn.Module]] = [[Patches(net.patch_embed)]]
    for layer in net.layers:
        merging = [] if isinstance(layer.downsample, nn.Identity) else [ChannelsLast(layer.downsample)]
        stages.append([*merging, *map(WindowBlock, layer.blocks)])
    stages[-1].append(ChannelsLast(net.norm))
    return stages


def in_phases(stages: list[list[nn.Module]]) -> None:
    """Take the stride of the last stage off, exactly as dilation does: it works on four interleaved maps by itself.

    A merging sees its input from each of four places, and blocks then see each of the four maps as they would at
    stride 32 (the algorithm a trous, for modules that know no dilation). Nothing is learned anew.
    """
    for part in stages[-1]:
        if isinstance(part, WindowBlock):
            part.module.register_forward_pre_hook(_parted)
            part.module.register_forward_hook(_joined)
        elif isinstance(part.module, nn.Module) and hasattr(part.module, "reduction"):
            part.module.register_forward_pre_hook(_from_four_places)
            part.module.register_forward_hook(_joined)


def _from_four_places(_: nn.Module, given: tuple[Tensor]) -> Tensor:
    """A map and its neighbours to the right, below and both: (B, h, w, C) -> (4 * B, h, w, C), the edge repeated."""
    maps = given[0].permute(0, 3, 1, 2)
    height, width = maps.shape[-2:]
    wide = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    places = [wide[..., dy : dy + height, dx : dx + width] for dy in (0, 1) for dx in (0, 1)]
    return torch.cat(places).permute(0, 2, 3, 1)


def _parted(_: nn.Module, given: tuple[Tensor]) -> Tensor:
    """The four interleaved maps of one: (B, h, w, C) -> (4 * B, h / 2, w / 2, C)."""
    values = given[0]
    count, height, width, channels = values.shape
    parts = values.view(count, height // 2, 2, width // 2, 2, channels).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(4 * count, height // 2, width // 2, channels)


def _joined(_: nn.Module, given: object, parts: Tensor) -> Tensor:
    """Undo `_parted`: (4 * B, h / 2, w / 2, C) -> (B, h, w, C)."""
    count, height, width, channels = parts.shape
    values = parts.view(2, 2, count // 4, height, width, channels).permute(2, 3, 0, 4, 1, 5)
    return values.reshape(count // 4, 2 * height, 2 * width, channels)
