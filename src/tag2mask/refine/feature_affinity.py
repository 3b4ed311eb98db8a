"""Maps that follow things: spread over the positions of a photo that look alike to a frozen network.

Nothing is trained and no mask is read. What an untouched ImageNet network sees at a position in its early layers,
colour and texture, says which positions belong together; class maps, blobs around what gives a class away, are
averaged over all positions that are alike (kernel regression in the space of features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.config import Range, SettingError, Settings
from tag2mask.data.maps import strided_size
from tag2mask.data.transforms import scaled_size

NEAR_ZERO = 1e-12  # keeps a photo without any contrast from dividing 0 by 0
EMPTY = 0.1  # of a class's maximum: a position under it is none of the class's, by its map before the averages


@dataclass(frozen=True)
class AffinityConfig(Settings):
    """What makes two positions of a photo alike, and how far maps follow it."""

    # stages of the frozen backbone whose features are compared, from 0
    taps: Annotated[tuple[int, ...], Range(ge=0, le=4, items=(1, 5))] = (1, 2)
    scale: Annotated[float, Range(gt=0, le=8)] = 2.0  # of the photo that the backbone sees: finer features
    stride: Annotated[int, Range(ge=1, le=256, note="photo pixels a position")] = 8
    # most positions, a larger photo gets a coarser grid; the matrix is this squared, 25 MB
    positions: Annotated[int, Range(ge=16, le=40_000)] = 2500
    temperature: Annotated[float, Range(gt=0, le=100)] = 0.12  # of the cosines: smaller asks for more alikeness
    products: Annotated[int, Range(ge=0, le=1000)] = 2  # times that the maps are averaged
    # the share of the positions without a class that its map is 0 at again: for things far smaller than what is like
    # them, spots on a leaf, where the averages leave some of each class everywhere; 0 = maps are not lowered
    floor: Annotated[float, Range(ge=0, lt=1)] = 0.0

    def check_relations(self) -> None:
        """Raise ConfigError for a stage that is named twice."""
        if len(set(self.taps)) < len(self.taps):
            raise SettingError(self, ("taps",), "each stage once")


def working_size(size: tuple[int, int], config: AffinityConfig) -> tuple[int, int]:
    """The size (H, W) at which a photo of `size` is worked on: its own, or smaller, so that its grid has room."""
    height, width = size
    grid = strided_size(size, config.stride)
    scale = 1.0
    while grid[0] * grid[1] > config.positions:
        scale *= 0.99
        grid = strided_size(scaled_size(size, scale), config.stride)
    return scaled_size((height, width), scale)


@torch.no_grad()
def tapped(
    stages: Sequence[nn.Module], images: Tensor, taps: Sequence[int], shown: Sequence[nn.Module] = ()
) -> list[Tensor]:
    """Features (B, c, h, w) after each of the stages `taps`, of images (B, 3, H, W); later stages don't run.

    `shown` makes a map of what each stage gives to the next, where that is none already. Raises ConfigError for a
    stage that isn't there.
    """
    if max(taps) >= len(stages):
        raise ConfigError(f"affinity.taps is {list(taps)}; this backbone has the stages 0 to {len(stages) - 1}")
    features = []
    for place, stage in enumerate(stages[: max(taps) + 1]):
        images = stage(images)
        features.append(shown[place](images) if shown else images)
    return [features[tap] for tap in taps]


def descriptors(features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """What each position of the grid (h, w) looks like: (h * w, C), with products that are mean cosines.

    `features`: (1, c, H', W') each, averaged down to the grid or enlarged to it. Of each tap the photo's mean is
    taken off, so that cosines tell positions of this photo apart, and every tap counts the same.
    """
    parts = []
    for tap in features:
        values = _on_grid(tap, grid).flatten(2)[0].float()  # (c, h * w)
        values = values - values.mean(dim=1, keepdim=True)
        parts.append(F.normalize(values, dim=0, eps=NEAR_ZERO))
    return torch.cat(parts).T / len(parts) ** 0.5


def affinity(looks: Tensor, temperature: float) -> Tensor:
    """How much each position (row) takes from each other (column), from descriptors (N, C): (N, N), rows sum to 1.

    exp(cosine / temperature), divided by each column's sum and then by each row's. The first keeps what there is
    much of, a wall or a lawn, from drawing everything to it by its number (Coifman & Lafon 2006, alpha = 1).
    """
    kernel = torch.exp((looks @ looks.T - 1) / temperature)
    kernel /= kernel.sum(dim=0, keepdim=True)
    return kernel.div_(kernel.sum(dim=1, keepdim=True))


def spread(maps: Tensor, looks: Tensor, config: AffinityConfig) -> Tensor:
    """Maps (n, h, w) in 0..1 averaged over positions that look alike, `products` times, and lowered to the floor.

    `looks` (h * w, C) are the grid's descriptors. Raises DataError where they don't fit, or the grid is too large.
    """
    count = maps.shape[-2] * maps.shape[-1]
    if len(looks) != count or count > config.positions:
        raise DataError(
            f"affinity of {len(looks)} positions for maps of {tuple(maps.shape)}; they must have one position each, "
            f"at most affinity.positions, {config.positions}"
        )
    values = maps
    if config.products:
        takes = affinity(looks, config.temperature)
        for _ in range(config.products):
            values = (values.flatten(1) @ takes.T).view_as(maps)
    return lowered(values, maps, config.floor) if config.floor else values


def lowered(values: Tensor, maps: Tensor, share: float) -> Tensor:
    """Values (n, h, w) less what `share` of each class's empty positions don't exceed, 0 where that is under 0.

    A position is empty where `maps` (n, h, w), before the averages, are under `EMPTY` of the class's maximum.
    """
    result = values.clone()
    for kept, before in zip(result, maps, strict=True):
        empty = kept[before < EMPTY * before.max()]
        if empty.numel():
            kept.sub_(empty.quantile(share)).clamp_(min=0)
    return result


def _on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    if features.shape[-2] >= grid[0] and features.shape[-1] >= grid[1]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, grid, mode="bilinear", align_corners=False)
