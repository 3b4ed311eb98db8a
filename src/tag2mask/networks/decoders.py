"""Decoders of segmentation_models_pytorch on timm encoders: logits at the image's own resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.networks.backbones import (
    SIDE_MULTIPLE,
    family_or_none,
    keep_batch_norm_in_eval,
    normalisation_of,
    timm_name,
    whole_multiples,
)
from tag2mask.networks.deeplab import DeepLabV2
from tag2mask.networks.pyramid import PyramidEncoder
from tag2mask.networks.segformer import SegformerDecoder
from tag2mask.networks.tag_prior import Prior
from tag2mask.networks.weights import build_backbone, build_pyramid, find_weights, load_encoder_state

PYRAMID = "tag2mask-pyramid"  # what segmentation_models_pytorch calls our encoder of a plain ViT


class EncoderDecoder(nn.Module):
    """Segmentation network: features of a timm encoder at several strides -> decoder -> logits of every pixel.

    Batch norm of the encoder keeps its pretrained statistics; the decoder's is replaced by group norm, so that
    nothing depends on which images share a batch. Everything is tuned, unless `freeze_early` was called.
    """

    def __init__(self, network: Any, normalisation: list[nn.Module]) -> None:
        super().__init__()
        self.normalisation = nn.Sequential(*normalisation)
        self.encoder: Any = network.encoder
        self.decoder: Any = lean(network.decoder)
        self.head: Any = network.segmentation_head
        use_group_norm(self.decoder)
        self.prior: Prior | None = None  # added by whoever answers photos, not by forward
        self.train(False)

    def train(self, mode: bool = True) -> EncoderDecoder:
        """Set training mode, except for the encoder's batch norm."""
        super().train(mode)
        keep_batch_norm_in_eval(self)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, L, H, W) of ImageNet-normalised images (B, 3, H, W) of any size.

        Sides are padded by the mean colour, as crops are in training, to multiples of 32, and cut back.
        """
        height, width = images.shape[-2:]
        return self.of_padded(whole_multiples(images))[..., :height, :width]

    def of_padded(self, images: Tensor) -> Tensor:
        """Logits (B, L, H, W) of images whose sides are multiples of 32."""
        return self.head(self.decoder(self.encoder(self.normalisation(images))))

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters that are trained: the encoder's, and the new ones of decoder and head."""
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        return encoder, [*self.decoder.parameters(), *self.head.parameters()]

    def freeze_early(self) -> None:
        """Leave what features at stride 4 are made of as it is.

        Raises ConfigError where that is most of the encoder, as in a network that exchanges features between strides.
        """
        blank = torch.zeros(1, 3, 2 * SIDE_MULTIPLE, 2 * SIDE_MULTIPLE, device=next(self.parameters()).device)
        parameters = list(self.encoder.parameters())
        early = self.encoder(self.normalisation(blank))[2]
        found = torch.autograd.grad(early.sum(), parameters, allow_unused=True)
        if 2 * sum(gradient is not None for gradient in found) > len(parameters):
            raise ConfigError("segmenter.tuned is late, but this backbone has no early parts; take all")
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.requires_grad_(gradient is None)


SegmentationNetwork = DeepLabV2 | EncoderDecoder
Builder = Callable[..., SegmentationNetwork]


def lean(decoder: nn.Module) -> nn.Module:
    """The same decoder in less time, where there is a way."""
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder as Plain

    return SegformerDecoder(decoder) if isinstance(decoder, Plain) else decoder


def use_group_norm(module: nn.Module) -> None:
    """Replace every batch norm below `module` by group norm of eight channels a group, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            setattr(module, name, nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels))
        else:
            use_group_norm(child)


def _deeplabv2(
    backbone: str, n_labels: int, weights: str | None, *, output_stride: int, frozen_trunk: bool, seed: int
) -> DeepLabV2:
    trunk_and_head = build_backbone(backbone, weights, output_stride=output_stride, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DeepLabV2(trunk_and_head, n_labels, output_stride=output_stride, frozen_trunk=frozen_trunk)


def _encoder_decoder(
    decoder: str, backbone: str, n_labels: int, weights: str | None, *, seed: int, **shape: Any
) -> EncoderDecoder:
    import segmentation_models_pytorch as smp  # here: it imports all of its encoders

    family = family_or_none(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family is not None and family.plain:
            encoder, normalisation = build_pyramid(backbone, weights)
            with as_encoder(encoder) as name:
                network = getattr(smp, decoder)(name, encoder_weights=None, classes=n_labels, **shape)
            return EncoderDecoder(network, normalisation)
        arguments = shape | dict(family.arguments if family is not None else {})
        try:
            network = getattr(smp, decoder)(
                f"tu-{timm_name(backbone)}", encoder_weights=None, classes=n_labels, **arguments
            )
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, 2 * SIDE_MULTIPLE, SIDE_MULTIPLE))  # some take one size only
        except (ValueError, RuntimeError, AttributeError, TypeError, KeyError, AssertionError) as error:
            raise ConfigError(
                f"backbone '{backbone}' doesn't fit under the decoder {decoder} ({error}); take a network for images "
                "of any size with features at strides 4, 8, 16 and 32, such as efficientnet_lite0 or resnet50"
            ) from error
        state = find_weights(backbone, weights, network.encoder.model)
        if state is not None:
            load_encoder_state(network.encoder.model, state, source=str(weights))
        return EncoderDecoder(network, normalisation_of(network.encoder.model))


@contextmanager
def as_encoder(encoder: PyramidEncoder) -> Iterator[str]:
    """Make a network known to segmentation_models_pytorch under a name, for the while."""
    from segmentation_models_pytorch.encoders import encoders

    encoders[PYRAMID] = {"encoder": lambda **_: encoder, "params": {}, "pretrained_settings": {}}
    try:
        yield PYRAMID
    finally:
        del encoders[PYRAMID]


# name -> builder; a further decoder of segmentation_models_pytorch is one line
ARCHITECTURES: dict[str, Builder] = {
    "deeplabv2": _deeplabv2,
    "fpn": partial(_encoder_decoder, "FPN", decoder_pyramid_channels=128, decoder_segmentation_channels=64),
    "fpn_wide": partial(_encoder_decoder, "FPN"),
    "deeplabv3plus": partial(_encoder_decoder, "DeepLabV3Plus", decoder_channels=128),
    "unet": partial(_encoder_decoder, "Unet"),
    "segformer": partial(_encoder_decoder, "Segformer", decoder_segmentation_channels=128),
}


def build_segmentation_network(
    architecture: str,
    backbone: str,
    n_labels: int,
    weights: str | None = "auto",
    *,
    output_stride: int = 8,
    frozen_trunk: bool = False,
    late: bool = False,
    seed: int = 0,
) -> SegmentationNetwork:
    """Build a segmentation network for `n_labels` = classes + background; what is new in it is random, from `seed`.

    `backbone`: a timm name; `weights`: its ImageNet weights, "auto", "none" or a file's path. `output_stride` and
    `frozen_trunk` are DeepLabV2's; the decoders have strides of their own. `late`: what comes before the features at
    stride 4 isn't tuned. Raises ConfigError for an unknown name or a backbone that doesn't fit, WeightsError for
    weights that are missing or don't fit.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture '{architecture}' is not known{did_you_mean(architecture, ARCHITECTURES)}")
    own = {"output_stride": output_stride, "frozen_trunk": frozen_trunk} if architecture == "deeplabv2" else {}
    network = ARCHITECTURES[architecture](backbone, n_labels, weights, seed=seed, **own)
    if late:
        network.freeze_early()
    return network.to(memory_format=torch.channels_last)
