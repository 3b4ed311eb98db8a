"""What each family of timm networks needs to serve here: where it is cut, what is tuned, how it takes any photo.

A further family is one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva
from timm.models.hrnet import HighResolutionNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tag2mask.networks.pooling import Pooling
from tag2mask.networks.streams import StreamBlock, shown_streams, stream_stages
from tag2mask.networks.tokens import PatchMap, TokenBlock, token_stages
from tag2mask.networks.windows import WindowBlock, in_phases, window_stages

Stages = list[list[nn.Module]]
LAST_STAGE = 5  # of the stages that each network is cut in, counted from 1
TRUNK_STAGES = 3
EARLY_STAGES = 2  # up to stride 4: the most pixels, and features that hardly change when they are tuned


def undo_stride(stage: nn.Module) -> None:
    """Set every stride-2 convolution and pooling of a stage to stride 1 (no dilation)."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d | nn.AvgPool2d):
            stride = module.stride if isinstance(module.stride, tuple) else (module.stride, module.stride)
            if stride == (2, 2):
                module.stride = (1, 1)
                if isinstance(module, nn.AvgPool2d):  # a pooling that only halved
                    module.kernel_size = (1, 1)


def _undo_last(stages: Stages) -> None:
    undo_stride(stages[-1][0])


def _nothing(_: Stages) -> None:
    """The stride is 16 already."""


def _no_parts(_: Any) -> list[nn.Module]:
    return [nn.Identity() for _ in range(5)]


@dataclass(frozen=True)
class Family:
    """How the networks of one family are cut in five, one stage after the other, and what else they need.

    The boundary network and the affinity look at what each of the five stages gives. RIB tunes the last quarter of
    the parts of type `blocks`; without these, everything after the third stage, stride 8, as the paper on ResNet.
    """

    stages: Callable[[Any], Stages]
    blocks: type[nn.Module] | None = None
    # Photos are resized to whole cells of so many pixels, so that no padding is seen and maps cover them exactly;
    # None: they come as they are, and convolutions pad. In a cell the network sees `patch` pixels a side, or as many.
    cell: int | None = None
    # The same for the classifier alone, where its convolutions take any photo. How strided ones pad, as TensorFlow's,
    # goes by whether a side is odd, at each of four strides: maps of odd photos lie up to a cell off, and a photo's
    # mirror doesn't lie on it. None: photos as they come, as in the reference.
    classifier_cell: int | None = None
    patch: Callable[[Any], int] | None = None
    lower: Callable[[Stages], None] = _undo_last  # brings the last stage's stride from 32 to 16
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm's create_model
    lowered: Mapping[str, Any] = field(default_factory=dict)  # and those that do what `lower` would
    dilates: bool = True  # whether timm trades its strides for dilation, as DeepLabV2 asks
    shown: Callable[[Any], list[nn.Module]] = _no_parts  # from what each stage gives to a map (B, C, h, w)
    channels: Callable[[Any], int] = lambda net: net.num_features  # of the last map
    plain: bool = False  # one stride throughout: decoders need a pyramid made of it
    signed: bool = False  # half of what the last stage gives is below 0: layer norm comes last
    rectified: bool = False  # what each stage gives is at least 0; else that of the last alone may be
    # what a preset of this family takes (presets.py)
    pooling: Pooling = field(default_factory=Pooling)  # of the classifier
    rate: float = 3e-4  # AdamW's learning rate, of what is pretrained
    taps: tuple[int, ...] = (1, 2)  # stages that tell the affinity what is alike

    def __call__(self, net: Any) -> Stages:
        """Cut a network."""
        return self.stages(net)


def _resnet(net: Any) -> Stages:
    return [[net.conv1, net.bn1, net.act1, net.maxpool], [net.layer1], [net.layer2], [net.layer3], [net.layer4]]


def _by_strides(net: Any) -> Stages:
    """Blocks up to each of the strides 2, 4, 8, 16, 32: the last block before each stride, and the last features."""
    ends = [0] + [feature["stage"] for feature in net.feature_info[:-1]] + [len(net.blocks)]
    stages = [[*net.blocks[start:end]] for start, end in pairwise(ends)]
    stages[0] = [net.conv_stem, net.bn1, *stages[0]]
    return stages


def _efficientnet(net: Any) -> Stages:
    *stages, last = _by_strides(net)
    return [*stages, [*last, net.conv_head, net.bn2]]


def _regnet(net: Any) -> Stages:
    return [[net.stem], [net.s1], [net.s2], [net.s3], [net.s4, net.final_conv]]


def _convnext(net: Any) -> Stages:
    stages = [[stage.downsample, *stage.blocks] for stage in net.stages]
    norm = getattr(net.head, "norm", nn.Identity())  # after the pooling, in training; here at each position
    return [[net.stem], *stages[:-1], [*stages[-1], net.norm_pre, norm]]


def _patch(net: Any) -> int:
    return int(net.patch_embed.feat_ratio())


# Ranking as in MCTformer+ (arXiv 2308.03005), whose weights 0.996^k on 28 x 28 patches give a fifth of them half of
# the weight; the average lets every patch of a ViT speak for the class.
_RANKING = Pooling.of("ranking", 0.2)
_CAREFUL = 1e-4  # without batch norm
# Each position is 16 photo pixels, whatever the patch: photos are resized by patch / 16. Features of late blocks tell
# best what belongs together.
_VIT: dict[str, Any] = {
    "stages": token_stages,
    "blocks": TokenBlock,
    "cell": 16,
    "patch": _patch,
    "lower": _nothing,
    "arguments": {"dynamic_img_size": True},
    "dilates": False,
    "shown": lambda net: [PatchMap(net.num_prefix_tokens) for _ in range(5)],
    "plain": True,
    "signed": True,
    "pooling": _RANKING,
    "rate": _CAREFUL,
    "taps": (3, 4),
}
_SWIN: dict[str, Any] = {
    "stages": window_stages,
    "blocks": WindowBlock,
    "cell": 32,
    "lower": in_phases,
    "arguments": {"strict_img_size": False},
    "dilates": False,
    "signed": True,
    "rate": _CAREFUL,
}

FAMILIES: dict[type[nn.Module], Family | Callable[[Any], Stages]] = {
    ResNet: Family(_resnet, rectified=True),  # ResNeXt, SE-ResNet and Wide ResNet among them
    EfficientNet: Family(_efficientnet, classifier_cell=16),  # Lite, V1, V2, MobileNetV2, MnasNet
    RegNet: Family(_regnet, classifier_cell=16, rectified=True),
    MobileNetV3: Family(_by_strides, classifier_cell=16, dilates=False),  # V3 and V4
    ConvNeXt: Family(  # V1, V2, DINOv3's
        _convnext,
        ConvNeXtBlock,
        cell=16,
        lower=_nothing,
        lowered={"output_stride": 16},
        signed=True,
        rate=_CAREFUL,
    ),
    SwinTransformer: Family(**_SWIN),
    SwinTransformerV2: Family(**_SWIN),
    VisionTransformer: Family(**_VIT),  # DeiT, AugReg, DINO, DINOv2, CLIP, SigLIP
    Eva: Family(**_VIT),  # EVA-02, DINOv3
    HighResolutionNet: Family(
        stream_stages,
        StreamBlock,
        cell=32,
        lower=_nothing,
        dilates=False,
        shown=shown_streams,
        rectified=True,
        channels=lambda net: sum(net.stage4[0].num_in_chs),
    ),
}
