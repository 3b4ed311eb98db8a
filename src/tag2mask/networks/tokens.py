"""Plain vision transformers (ViT) as parts that pass maps: patch tokens in their places, other tokens in rows above.

Between the parts of a network go tensors (B, C, r + h, w): below, the patch tokens at their places (h, w); above
them, in the last cells of r = ceil(P / w) rows, the P tokens of class and registers, and zeros before these. So
frozen features can be kept, batched and passed on as those of any other network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def pack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay tokens (B, P + h * w, C) out as (B, C, r + h, w); `grid` is (h, w)."""
    height, width = grid
    empty = -(tokens.shape[1] - height * width) % width
    tokens = F.pad(tokens, (0, 0, empty, 0))
    return tokens.unflatten(1, (-1, width)).permute(0, 3, 1, 2)


def unpack(features: Tensor, prefix: int) -> tuple[Tensor, tuple[int, int]]:
    """Undo `pack` for `prefix` = P tokens: (B, C, r + h, w) -> tokens (B, P + h * w, C) and the grid (h, w)."""
    height, width = features.shape[-2:]
    empty = -prefix % width
    return features.flatten(2).transpose(1, 2)[:, empty:], (height - (prefix + empty) // width, width)


class Embedding(nn.Module):
    """Patches and their positions, at any size: images (B, 3, H, W) -> packed tokens."""

    OWN = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "rope")

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = _only(net, self.OWN)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images whose sides are multiples of the patch."""
        patches = self.net.patch_embed(images)  # (B, h, w, C)
        grid = (patches.shape[1], patches.shape[2])
        tokens = self.net._pos_embed(patches)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens  # rotary embeddings are made anew in each block
        return pack(self.net.norm_pre(tokens), grid)


def _only(net: Any, names: Iterable[str]) -> Any:
    """A network of the same parameters that has only some of its modules; `net` itself stays whole."""
    part = copy.copy(net)
    part._modules = {name: module for name, module in net._modules.items() if name in names}
    part._parameters = dict(net._parameters)
    return part


class TokenBlock(nn.Module):
    """One transformer block on packed tokens, with rotary position embeddings where the network has them."""

    def __init__(self, net: Any, index: int) -> None:
        super().__init__()
        self.block = net.blocks[index]
        self.index, self.prefix = index, net.num_prefix_tokens
        self.mixed = bool(getattr(net, "rope_mixed", False))
        self._rope = (getattr(net, "rope", None),)  # in a tuple: the embedding owns it

    def forward(self, features: Tensor) -> Tensor:
        """Packed tokens of the same shape."""
        tokens, grid = unpack(features, self.prefix)
        (rope,) = self._rope
        if rope is None:
            return pack(self.block(tokens), grid)
        turns = rope.get_embed(shape=grid)
        return pack(self.block(tokens, rope=turns[self.index] if self.mixed else turns), grid)


class TokenNorm(nn.Module):
    """The network's last norms, of each token by itself, on packed tokens."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.norms = nn.Sequential(net.norm, net.fc_norm)
        self.prefix = net.num_prefix_tokens

    def forward(self, features: Tensor) -> Tensor:
        """Packed tokens of the same shape."""
        tokens, grid = unpack(features, self.prefix)
        return pack(self.norms(tokens), grid)


class PatchMap(nn.Module):
    """What shows of packed tokens: the patches' (B, C, h, w), without class and register tokens."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, features: Tensor) -> Tensor:
        """Cut the rows of other tokens off."""
        return features[:, :, -(-self.prefix // features.shape[-1]) :]


def token_stages(net: Any) -> list[list[nn.Module]]:
    """Five stages of as many blocks each as can be; the first embeds, the last norms."""
    depth = len(net.blocks)
    blocks: list[nn.Module] = [TokenBlock(net, index) for index in range(depth)]
    ends = [round(depth * stage / 5) for stage in range(6)]
    stages = [blocks[start:end] for start, end in pairwise(ends)]
    return [[Embedding(net), *stages[0]], *stages[1:4], [*stages[4], TokenNorm(net)]]
