"""Backbones from timm, split into a frozen trunk and a tuned head.

The split follows RIB: gradients stop after ResNet's layer2, so the trunk never changes and its features can be
computed once. How each family of networks is cut is in `families.py`.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.networks.families import EARLY_STAGES, FAMILIES, LAST_STAGE, TRUNK_STAGES, Family, Stages

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ALIASES = {"efficientnet_lite0": "tf_efficientnet_lite0"}
TAP_STRIDES = (4, 4, 8, 16, 16)  # of the five stages where photos are resized to whole cells: those of ResNet
SIDE_MULTIPLE = 32  # pixels: encoders halve five times


class Normalisation(nn.Module):
    """Turn ImageNet-normalised input into the normalisation that a backbone's weights were trained with.

    Images always come in with ImageNet's mean and standard deviation, so that readers, augmentation and padding
    know one convention; a backbone trained with another one (EfficientNet-Lite: 0.5, 0.5) converts here.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        imagenet_mean, imagenet_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        scale = imagenet_std / torch.tensor(std)
        shift = (imagenet_mean - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) from ImageNet's normalisation to the backbone's."""
        return torch.addcmul(self.shift, images, self.scale)


def whole_multiples(images: Tensor) -> Tensor:
    """Pad images (B, 3, H, W) by the mean colour, right and below, to sides that are multiples of 32."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % SIDE_MULTIPLE, 0, -height % SIDE_MULTIPLE))


class WholeCells(nn.Module):
    """Resize photos to whole cells of `cell` pixels, in each of which the network sees `patch` pixels a side.

    A position of the features is then a cell of the photo: nothing is padded, so no padding can enter attention,
    pooling or maps, and a photo and its mirror lie on each other.
    """

    def __init__(self, cell: int, patch: int) -> None:
        super().__init__()
        self.cell, self.patch = cell, patch

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, h * patch, w * patch), h and w being the nearest counts of cells, at least 1."""
        size = [max(1, (side + self.cell // 2) // self.cell) * self.patch for side in images.shape[-2:]]
        return _resized(images, size)


class Backbone(nn.Module):
    """A feature extractor in two parts: `trunk`, frozen, and `head` to the last features, tuned.

    The first `early` parts of the trunk are what comes before its third stage, on a ResNet before stride 8.
    `channels` is the width of the last features: 2048 for ResNet-50/101, 1280 for EfficientNet-Lite0. `stages`:
    which of the network's five give them. `whole`: they cover the photo exactly; else they begin at its left upper
    corner and may reach over its right and lower edges.
    """

    def __init__(
        self,
        trunk: nn.Sequential,
        head: nn.Module,
        channels: int,
        name: str,
        *,
        early: int = 0,
        stages: Sequence[int] = (LAST_STAGE,),
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.channels = channels
        self.name = name
        self.early = early
        self.stages = tuple(stages)
        self.whole = whole

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, channels, h, w) of ImageNet-normalised images (B, 3, H, W)."""
        return self.head(self.trunk(images))


def timm_name(name: str) -> str:
    """Return timm's name of a backbone, or raise ConfigError with the nearest known name."""
    name = ALIASES.get(name, name)
    if not timm.is_model(name.split(".")[0]):
        raise ConfigError(f"backbone '{name}' is not known to timm{did_you_mean(name, timm.list_models())}")
    return name


def create_network(name: str, *, output_stride: int = 16, dilated: bool = False) -> nn.Module:
    """Create timm's network `name` with random weights at the given output stride.

    `dilated=False` (the classifier): stride 16 by undoing the last stage's stride, its 3x3 convolutions undilated,
    as in the reference; where a family can't, by what does the same to its last stage as dilation. `dilated=True`
    (DeepLab): strides are traded for dilation, keeping the receptive field. Raises ConfigError for an unknown name,
    an unsupported family or stride.
    """
    name = timm_name(name)
    family = family_of(name)
    if dilated:
        if not family.dilates:
            raise ConfigError(
                f"backbone '{name}' has no dilated form, which deeplabv2 asks for; take a decoder such as "
                "segmenter.architecture=fpn"
            )
        return _create(name, **family.arguments, output_stride=output_stride)
    if output_stride not in (16, 32):
        raise ConfigError(f"output_stride {output_stride} without dilation is not supported; use 16 or 32")
    if output_stride == 32:
        return _create(name, **family.arguments)
    network = _create(name, **family.arguments, **family.lowered)
    family.lower(family.stages(network))
    return network


def _create(name: str, **arguments: Any) -> nn.Module:
    return timm.create_model(name, pretrained=False, **arguments)  # a tag in the name decides the normalisation


def family_of(name: str) -> Family:
    """Return what the family of the network `name` needs; ConfigError names the families that are supported."""
    return family_of_kind(_kind_of(timm_name(name).split(".")[0]), name)


@functools.cache
def _kind_of(name: str) -> type[nn.Module]:
    with torch.device("meta"):
        return type(timm.model_entrypoint(name)(pretrained=False))


def family_or_none(name: str) -> Family | None:
    """As `family_of`; None for a network of another family."""
    try:
        return family_of(name)
    except ConfigError:
        return None


def family_of_kind(kind: type[nn.Module], name: str = "") -> Family:
    """As `family_of`, of a network's class."""
    for known, family in FAMILIES.items():
        if issubclass(kind, known):
            return family if isinstance(family, Family) else Family(family)
    families = ", ".join(known.__name__ for known in FAMILIES)
    raise ConfigError(f"backbone '{name}' is a {kind.__name__}; supported families: {families}")


def normalisation_of(network: Any) -> list[nn.Module]:
    """The conversion that comes before the network's first part, or nothing where it takes ImageNet's."""
    mean, std = tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])
    return [] if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD) else [Normalisation(mean, std)]


def entrance_of(network: Any, family: Family) -> list[nn.Module]:
    """What comes before the network's first part: its own size and normalisation, as far as they differ."""
    cells = []
    if family.cell is not None:
        cells = [WholeCells(family.cell, family.patch(network) if family.patch else family.cell)]
    return [*cells, *normalisation_of(network)]


def split_network(
    network: Any, name: str, *, classifies: bool = False, stages: Sequence[int] = (LAST_STAGE,)
) -> Backbone:
    """Cut a timm network into trunk and head; its classifier is dropped. `classifies`: ours comes in its place.

    `stages`: those whose features are the last ones, of the fourth and the fifth; of both they are joined, and all
    that follows the fourth is in the head.
    """
    family = family_of_kind(type(network), name)
    own_cell = family.classifier_cell if classifies else None
    kept = family.stages(network)[: max(stages)]
    parts = [part for stage in kept for part in stage]
    earlier = sum(map(len, kept[: min(stages)]))  # parts up to the first of the stages that are asked for
    cut = min(earlier, _first_tuned(parts, family, kept))
    shown = [family.shown(network)[stage - 1] for stage in sorted(stages)]
    trunk = {str(place): part for place, part in enumerate([*entrance_of(network, family), *parts[:cut]])}
    if own_cell is not None:  # by a name, so that weights of earlier versions, whose parts are numbered, fit
        trunk = {"cells": WholeCells(own_cell, own_cell)} | trunk
    early = len(trunk) - cut + sum(map(len, kept[:EARLY_STAGES]))
    frozen = nn.Sequential(OrderedDict(trunk))
    head: nn.Module
    if len(shown) > 1:
        head = TwoDepths(nn.Sequential(*parts[cut:earlier]), nn.Sequential(*parts[earlier:]), shown)
    else:
        head = nn.Sequential(*parts[cut:], *([] if isinstance(shown[0], nn.Identity) else shown))
    return Backbone(
        frozen,
        head,
        family.channels(network) if tuple(stages) == (LAST_STAGE,) else _channels_of(nn.Sequential(frozen, head)),
        name,
        early=min(early, len(trunk)),
        stages=stages,
        whole=family.cell is not None or own_cell is not None,
    )


def _first_tuned(parts: Sequence[nn.Module], family: Family, stages: Stages) -> int:
    """Where the head begins: with the last quarter of the blocks, or after the stages of the trunk."""
    if family.blocks is None:
        return sum(map(len, stages[:TRUNK_STAGES]))
    blocks = [place for place, part in enumerate(parts) if isinstance(part, family.blocks)]
    return blocks[-max(1, len(blocks) // 4)]


class TwoDepths(nn.Module):
    """A head whose features are those of two stages, joined along their channels.

    A position of the deeper stage knows more of what is around it, one of the other where it ends.
    """

    def __init__(self, first: nn.Sequential, second: nn.Sequential, shown: Sequence[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.shown = nn.ModuleList(shown)  # from what each gives to a map

    def forward(self, features: Tensor) -> Tensor:
        """Map the trunk's features to those of both stages (B, c1 + c2, h, w)."""
        given = self.first(features)
        return torch.cat([self.shown[0](given), self.shown[1](self.second(given))], dim=1)


@torch.no_grad()
def _channels_of(network: nn.Module) -> int:
    """How many channels a network's features have, by those of a blank image."""
    return int(network.eval()(torch.zeros(1, 3, 64, 64)).shape[1])


class StagedBackbone(nn.Module):
    """A frozen feature extractor in five stages; all parameters are without gradient, batch norm is in evaluation.

    `channels` and `strides` of what the five stages give are measured on a blank image, so that they hold for any
    family: ResNet-50 at stride 16 has (64, 256, 512, 1024, 2048) and (4, 4, 8, 16, 16), EfficientNet-Lite0
    (16, 24, 40, 112, 1280) and (2, 4, 8, 16, 16). Where photos are resized to `whole` cells, a plain ViT's one stride
    among them, the five are brought to ResNet's strides. `shown` makes maps of what each stage gives to the next.
    """

    def __init__(
        self, stages: list[nn.Sequential], name: str, shown: Sequence[nn.Module] = (), *, whole: bool = False
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.shown = nn.ModuleList(shown or [nn.Identity() for _ in stages])
        self.name = name
        self.whole = whole
        self.requires_grad_(False)
        self.eval()
        taps = self(torch.zeros(1, 3, 64, 64))
        self.channels = [tap.shape[1] for tap in taps]
        self.strides = [64 // tap.shape[2] for tap in taps]

    def train(self, mode: bool = True) -> StagedBackbone:
        """Stay in evaluation mode, whatever is asked: nothing here is trained."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (B, channels, h, w) after each stage, of ImageNet-normalised images (B, 3, H, W)."""
        taps, features = [], images
        for stage, shown in zip(self.stages, self.shown, strict=True):
            features = stage(features)
            taps.append(shown(features))
        return at_strides(taps, images, TAP_STRIDES) if self.whole else taps


def at_strides(maps: Sequence[Tensor], images: Tensor, strides: Sequence[int]) -> list[Tensor]:
    """Bring maps that cover images (B, 3, H, W) to (ceil(H / stride), ceil(W / stride)), each to its own stride."""
    sizes = [[-(-side // stride) for side in images.shape[-2:]] for stride in strides]
    return [_resized(values, size) for values, size in zip(maps, sizes, strict=True)]


def _resized(maps: Tensor, size: list[int]) -> Tensor:
    """Maps (B, C, h, w) at another size; as they are where it is theirs."""
    if list(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def stage_network(network: Any, name: str) -> StagedBackbone:
    """Cut a timm network into its five stages; its classifier is dropped."""
    family = family_of_kind(type(network), name)
    stages = family.stages(network)
    stages[0] = [*entrance_of(network, family), *stages[0]]
    whole = family.cell is not None
    return StagedBackbone([nn.Sequential(*stage) for stage in stages], name, family.shown(network), whole=whole)


def keep_batch_norm_in_eval(module: nn.Module) -> None:
    """Put batch norm (and timm's fused norm-act layers) in evaluation mode: pretrained statistics are used."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
