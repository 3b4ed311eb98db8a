"""Families of backbones by a line: what a new one needs to be cut, trained and looked at."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import timm
import torch
from timm.models import register_model
from torch import nn

from tag2mask.common.errors import ConfigError
from tag2mask.networks import build_boundary_network, build_classifier
from tag2mask.networks.backbones import FAMILIES


def convolution(before: int, after: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class FiveConvolutions(nn.Module):
    """A family that timm doesn't have."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.parts = nn.ModuleList(convolution(before, 8) for before in (3, 8, 8, 8, 8))
        self.num_features = 8


@register_model
def five_convolutions(pretrained: bool = False, **_: Any) -> FiveConvolutions:
    """A network of the family, as timm makes it by name."""
    return FiveConvolutions()


def test_a_new_family_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "five_convolutions" in timm.list_models(module=sys.modules[__name__].__name__.split(".")[-1])
    with pytest.raises(ConfigError, match="is a FiveConvolutions; supported families: ResNet, EfficientNet"):
        build_classifier("five_convolutions", 2, "none")
    monkeypatch.setitem(FAMILIES, FiveConvolutions, lambda net: [[part] for part in net.parts])
    classifier = build_classifier("five_convolutions", 2, "none")
    images = torch.randn(1, 3, 64, 96)
    assert classifier.trunk_features(images).shape == (1, 8, 8, 12)  # stride 8
    assert classifier(images).shape == (1, 2)
    assert classifier.backbone(images).shape == (1, 8, 4, 6)  # the last stage's stride is undone: 16
    assert classifier.backbone.channels == 8
    edge, displacement = build_boundary_network("five_convolutions", "none")(images)
    assert edge.shape == (1, 1, 16, 24)
    assert displacement.shape == (1, 2, 16, 24)
