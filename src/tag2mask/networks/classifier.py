"""The image classifier whose class maps are the CAMs."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone, keep_batch_norm_in_eval


class CAMClassifier(nn.Module):
    """Frozen trunk, tuned head, and a bias-free 1x1 convolution to C classes (RIB, section 3; CAM, CVPR 2016).

    Batch norm always stays in evaluation mode with the pretrained statistics; `train()` doesn't change that.
    """

    def __init__(self, backbone: Backbone, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.channels, n_classes, kernel_size=1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)
        backbone.trunk.requires_grad_(False)
        self.train(False)

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.classifier.out_channels

    def train(self, mode: bool = True) -> CAMClassifier:
        """Set training mode, except for batch norm."""
        super().train(mode)
        keep_batch_norm_in_eval(self)
        return self

    def trunk_features(self, images: Tensor) -> Tensor:
        """Frozen features (B, c, H/8, W/8) of ImageNet-normalised images (B, 3, H, W); no gradient."""
        with torch.no_grad():
            return self.backbone.trunk(images)

    def class_maps(self, features: Tensor) -> Tensor:
        """Raw class maps (B, C, h, w), before ReLU, from trunk features (B, c, H/8, W/8)."""
        return self.classifier(self.backbone.head(features))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C): global average pooling first, then the 1x1 convolution."""
        features = self.backbone.head(self.trunk_features(images))
        pooled = features.mean(dim=(2, 3), keepdim=True)  # (B, channels, 1, 1)
        return self.classifier(pooled).flatten(1)

    def tuned_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The two groups that are tuned: the head's (learning rate as given) and the classifier's (10x)."""
        return list(self.backbone.head.parameters()), [cast(nn.Parameter, self.classifier.weight)]
