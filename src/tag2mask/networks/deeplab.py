"""DeepLabV2: four parallel dilated 3x3 classifiers on dilated features, summed (Chen et al., TPAMI 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone, keep_batch_norm_in_eval
from tag2mask.networks.tag_prior import Prior

DILATIONS = (6, 12, 18, 24)  # at output stride 8; halved at stride 16, so that the field of view stays the same


class DeepLabV2(nn.Module):
    """Segmentation network: backbone features -> sum of four dilated 3x3 convolutions -> logits.

    Batch norm keeps its pretrained statistics. `frozen_trunk` leaves the parts up to stride 8 unchanged.
    """

    def __init__(
        self, backbone: Backbone, n_labels: int, *, output_stride: int = 8, frozen_trunk: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.frozen_trunk = frozen_trunk
        rates = [rate * 8 // output_stride for rate in DILATIONS]
        self.branches = nn.ModuleList(
            nn.Conv2d(backbone.channels, n_labels, 3, padding=rate, dilation=rate) for rate in rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]
        backbone.trunk.requires_grad_(not frozen_trunk)
        self.prior: Prior | None = None  # added by whoever answers photos, not by forward
        self.train(False)

    def train(self, mode: bool = True) -> DeepLabV2:
        """Set training mode, except for batch norm."""
        super().train(mode)
        keep_batch_norm_in_eval(self)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, L, h, w) at the output stride for ImageNet-normalised images (B, 3, H, W)."""
        if self.frozen_trunk:
            with torch.no_grad():
                features = self.backbone.trunk(images)
        else:
            features = self.backbone.trunk(images)
        features = self.backbone.head(features)
        return torch.stack([branch(features) for branch in self.branches]).sum(dim=0)

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters that are trained: the backbone's, and the new branches' (10x the learning rate)."""
        backbone = [p for p in self.backbone.parameters() if p.requires_grad]
        return backbone, list(self.branches.parameters())

    def freeze_early(self) -> None:
        """Leave the parts up to stride 4 as they are."""
        self.backbone.trunk[: self.backbone.early].requires_grad_(False)
