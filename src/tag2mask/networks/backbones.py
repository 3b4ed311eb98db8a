"""Backbones from timm, split into a frozen trunk (to stride 8) and a tuned head.

The split follows RIB: gradients stop after ResNet's layer2, so the trunk never changes and its features can be
computed once. A new family of networks is one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ALIASES = {"efficientnet_lite0": "tf_efficientnet_lite0"}


Stages = list[list[nn.Module]]

# How each family of timm networks is cut in five, one stage after the other. The first three, up to stride 8, are the
# trunk; the rest is the head, and the first module of the last stage has the stride that a classifier undoes. The
# boundary network looks at what each of the five gives.
FAMILIES: dict[type[nn.Module], Callable[[Any], Stages]] = {
    ResNet: lambda net: [
        [net.conv1, net.bn1, net.act1, net.maxpool],
        [net.layer1],
        [net.layer2],
        [net.layer3],
        [net.layer4],
    ],
    # strides 2, 4, 8, 16, 16: the last block before each stride, and the last features
    EfficientNet: lambda net: [
        [net.conv_stem, net.bn1, net.blocks[0]],
        [net.blocks[1]],
        [net.blocks[2]],
        [net.blocks[3], net.blocks[4]],
        [*net.blocks[5:], net.conv_head, net.bn2],
    ],
}
TRUNK_STAGES = 3


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


class Backbone(nn.Module):
    """A feature extractor in two parts: `trunk` to stride 8, frozen, and `head` to the last features, tuned.

    `channels` is the width of the last features: 2048 for ResNet-50/101, 1280 for EfficientNet-Lite0.
    """

    def __init__(self, trunk: nn.Sequential, head: nn.Sequential, channels: int, name: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.channels = channels
        self.name = name

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
    as in the reference. `dilated=True` (DeepLab): strides are traded for dilation, keeping the receptive field.
    Raises ConfigError for an unknown name, an unsupported family or stride.
    """
    name = timm_name(name)
    stages = stages_of(name)
    if dilated:
        return _create(name, output_stride=output_stride)
    if output_stride not in (16, 32):
        raise ConfigError(f"output_stride {output_stride} without dilation is not supported; use 16 or 32")
    network = _create(name)
    if output_stride == 16:
        undo_stride(stages(network)[-1][0])
    return network


def _create(name: str, output_stride: int = 32) -> nn.Module:
    return timm.create_model(name.split(".")[0], pretrained=False, output_stride=output_stride)


def stages_of(name: str) -> Callable[[Any], Stages]:
    """Return how the network `name` is cut into stages; ConfigError names the families that are supported."""
    entry = timm.model_entrypoint(name.split(".")[0])
    with torch.device("meta"):
        network = entry(pretrained=False)
    for family, stages in FAMILIES.items():
        if isinstance(network, family):
            return stages
    known = ", ".join(family.__name__ for family in FAMILIES)
    raise ConfigError(f"backbone '{name}' is a {type(network).__name__}; supported families: {known}")


def undo_stride(stage: nn.Module) -> None:
    """Set every stride-2 convolution and pooling of a stage to stride 1 (no dilation)."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d | nn.AvgPool2d):
            stride = module.stride if isinstance(module.stride, tuple) else (module.stride, module.stride)
            if stride == (2, 2):
                module.stride = (1, 1)


def normalisation_of(network: Any) -> list[nn.Module]:
    """The conversion that comes before the network's first part, or nothing where it takes ImageNet's."""
    mean, std = tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])
    return [] if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD) else [Normalisation(mean, std)]


def split_network(network: Any, name: str) -> Backbone:
    """Cut a timm network into trunk and head; its classifier is dropped."""
    stages = stages_of(timm_name(name))(network)
    trunk, head = (
        [part for stage in half for part in stage] for half in (stages[:TRUNK_STAGES], stages[TRUNK_STAGES:])
    )
    trunk = [*normalisation_of(network), *trunk]
    return Backbone(nn.Sequential(*trunk), nn.Sequential(*head), network.num_features, name)


class StagedBackbone(nn.Module):
    """A frozen feature extractor in five stages; all parameters are without gradient, batch norm is in evaluation.

    `channels` and `strides` of what the five stages give are measured on a blank image, so that they hold for any
    family: ResNet-50 at stride 16 has (64, 256, 512, 1024, 2048) and (4, 4, 8, 16, 16), EfficientNet-Lite0
    (16, 24, 40, 112, 1280) and (2, 4, 8, 16, 16).
    """

    def __init__(self, stages: list[nn.Sequential], name: str) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.name = name
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
        taps = []
        for stage in self.stages:
            images = stage(images)
            taps.append(images)
        return taps


def stage_network(network: Any, name: str) -> StagedBackbone:
    """Cut a timm network into its five stages; its classifier is dropped."""
    stages = stages_of(timm_name(name))(network)
    stages[0] = [*normalisation_of(network), *stages[0]]
    return StagedBackbone([nn.Sequential(*stage) for stage in stages], name)


def keep_batch_norm_in_eval(module: nn.Module) -> None:
    """Put batch norm (and timm's fused norm-act layers) in evaluation mode: pretrained statistics are used."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
