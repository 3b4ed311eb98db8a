"""The image classifier whose class maps are the CAMs."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone, keep_batch_norm_in_eval
from tag2mask.networks.pooling import Pooling

Tuned = Literal["head", "late", "all"]
BatchNorm = Literal["fixed", "trained"]


class CAMClassifier(nn.Module):
    """Frozen trunk, tuned head, and a bias-free 1x1 convolution to C classes (RIB, section 3; CAM, CVPR 2016).

    Batch norm stays in evaluation mode with the pretrained statistics, and the trunk frozen, whatever `train()` is
    asked; `learn` can change both for the training of the classifier itself. `pooling` joins positions to logits.
    """

    def __init__(self, backbone: Backbone, n_classes: int, pooling: Pooling | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling or Pooling()
        self.learning: tuple[Tuned, BatchNorm] = ("head", "fixed")
        self.classifier = nn.Conv2d(backbone.channels, n_classes, kernel_size=1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)
        backbone.trunk.requires_grad_(False)
        self.train(False)

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.classifier.out_channels

    def train(self, mode: bool = True) -> CAMClassifier:
        """Set training mode, except for batch norm with fixed statistics."""
        super().train(mode)
        if self.learning[1] == "fixed":
            keep_batch_norm_in_eval(self)
        elif self.learning[0] != "all":
            early = self.learning[0] == "late"
            keep_batch_norm_in_eval(self.backbone.trunk[: self.backbone.early] if early else self.backbone.trunk)
        return self

    def learn(self, tuned: Tuned = "head", batch_norm: BatchNorm = "fixed") -> CAMClassifier:
        """Choose what the coming training changes; `learn()` goes back to the frozen trunk and fixed batch norm."""
        self.learning = (tuned, batch_norm)
        self.backbone.trunk.requires_grad_(tuned != "head")
        if tuned == "late":
            self.backbone.trunk[: self.backbone.early].requires_grad_(False)
        return self.train(self.training)

    def trunk_features(self, images: Tensor) -> Tensor:
        """Frozen features (B, c, h', w'), on a ResNet at stride 8, of ImageNet-normalised images (B, 3, H, W)."""
        with torch.no_grad():
            return self.backbone.trunk(images)

    def class_maps(self, features: Tensor) -> Tensor:
        """Raw class maps (B, C, h, w), before ReLU, from trunk features (B, c, h', w')."""
        return self.classifier(self.backbone.head(features))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C): for the reference, global average pooling first, then the 1x1 convolution."""
        return self.pooled(self.backbone.head(self._learning_features(images)))

    def pooled(self, features: Tensor) -> Tensor:
        """Logits (B, C) from the backbone's last features (B, channels, h, w)."""
        if self.pooling.of_features:
            return self.classifier(self.pooling(features)[:, :, None, None]).flatten(1)
        return self.pooling(self.classifier(features))

    def learned_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The two groups that the classifier's own training changes, as `learn` chose: pretrained and new."""
        return [p for p in self.backbone.parameters() if p.requires_grad], self.tuned_parameters()[1]

    def _learning_features(self, images: Tensor) -> Tensor:
        """As `trunk_features`, with gradient through what `learn` chose."""
        frozen = {"head": len(self.backbone.trunk), "late": self.backbone.early, "all": 0}[self.learning[0]]
        with torch.no_grad():
            features = self.backbone.trunk[:frozen](images)
        return self.backbone.trunk[frozen:](features)

    def tuned_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The two groups that RIB tunes: the head's (learning rate as given) and the classifier's (10x)."""
        return list(self.backbone.head.parameters()), [cast(nn.Parameter, self.classifier.weight)]
