"""The localization criterion: a map on the object beats one beside it, whatever they cover."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tag2mask.networks import Backbone, CAMClassifier
from tag2mask.networks.erasing import along_border, criterion, keep_and_erase, top_masks


def seeing_red() -> CAMClassifier:
    """A classifier of one class: the share of red, no more."""
    trunk, head = nn.Conv2d(3, 1, 1, bias=False), nn.ReLU()
    classifier = CAMClassifier(Backbone(nn.Sequential(trunk), nn.Sequential(head), 1, "red"), 1)
    with torch.no_grad():
        trunk.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
        classifier.classifier.weight.fill_(40.0)
    return classifier


def photo() -> tuple[Tensor, Tensor]:
    """A red square on black, and its mask."""
    mask = torch.zeros(20, 20)
    mask[4:8, 4:8] = 1.0
    return torch.stack([mask, torch.zeros(20, 20), torch.zeros(20, 20)]), mask


def test_a_map_on_the_object_scores_higher_than_one_beside_it() -> None:
    image, on = photo()
    beside = on.flip(0, 1)
    kept, erased = keep_and_erase(seeing_red(), image, torch.stack([on, beside]), [0, 0], shares=(0.04, 0.1))
    assert kept.shape == erased.shape == (2, 2)
    assert kept[0].tolist() == pytest.approx([1.0, 1.0])  # 0.04 of 400 pixels are the square's 16
    whole = torch.sigmoid(torch.tensor(40.0 * 16 / 400)).item()
    assert erased[0].tolist() == pytest.approx([0.5 / whole, 0.5 / whole])
    assert kept[1, 0].item() == pytest.approx(0.5 / whole)
    assert erased[1, 0].item() == pytest.approx(1.0)
    assert criterion(kept[:1], erased[:1]) > 0 > criterion(kept[1:, :1], erased[1:, :1])


def test_masks_cover_their_share_also_where_a_map_is_flat() -> None:
    masks = top_masks(torch.zeros(10, 10), (0.05, 0.4, 0.001))
    assert masks.flatten(1).sum(dim=1).tolist() == [5, 40, 1]
    values = torch.arange(100.0).view(10, 10)
    assert torch.equal(top_masks(values, (0.25,))[0], values >= 75)


def test_strength_along_the_border() -> None:
    backdrop = torch.ones(32, 64)
    backdrop[8:24, 8:56] = 0.0
    inside, flat, nothing = 1 - backdrop, torch.ones(32, 64), torch.zeros(32, 64)
    found = along_border(torch.stack([inside, flat, backdrop, nothing]))
    assert found[:2].tolist() == [0.0, 1.0]
    assert found[2].item() == pytest.approx(1 / backdrop.mean().item())
    assert found[3].isnan()
