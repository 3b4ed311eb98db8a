"""A localization criterion without masks: does the classifier look where its map points?

Keep only the strongest part of a class map and the tag's score should stay; erase that part and it should fall. A
map that points beside the object fails both, however good the classifier's average precision is. Kept and erased
parts are always the same share of the photo for every map, so that a map can't win by covering more.

What neither sees: a classifier that tells a class by its backdrop (photos of one class taken in another light) looks
where its map points. But objects are seldom cut off by the photo's edge and a backdrop always is, so such a map is
stronger along the border than inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tag2mask.networks.classifier import CAMClassifier

SHARES = (0.05, 0.15, 0.4)  # of the photo's pixels: small, middle and large objects
BORDER = 1 / 16  # of a side: how wide the border is


@torch.no_grad()
def keep_and_erase(
    classifier: CAMClassifier, image: Tensor, maps: Tensor, classes: Sequence[int], shares: Sequence[float] = SHARES
) -> tuple[Tensor, Tensor]:
    """Scores of tags when only the top `shares` of their maps are kept, and when these are erased: (n, S) each.

    `image` (3, H, W), ImageNet-normalised; what is erased becomes 0, the mean colour. `maps` (n, H, W) >= 0 of
    `classes` (n,). Scores are sigmoids over that of the whole photo: 1 = unchanged.
    """
    whole = torch.sigmoid(classifier(image[None])[0, list(classes)])  # (n,)
    kept, erased = [], []
    for values, cls in zip(maps, classes, strict=True):
        masks = top_masks(values, shares)[:, None]  # (S, 1, H, W)
        scores = torch.sigmoid(classifier(torch.cat([image * masks, image * ~masks]))[:, cls])
        first, second = scores.chunk(2)
        kept.append(first)
        erased.append(second)
    return torch.stack(kept) / whole[:, None], torch.stack(erased) / whole[:, None]


def top_masks(values: Tensor, shares: Sequence[float]) -> Tensor:
    """The strongest positions of a map (H, W), for each of `shares` of them: bool (S, H, W)."""
    ranks = torch.empty(values.numel(), dtype=torch.long, device=values.device)
    ranks[values.flatten().argsort(descending=True)] = torch.arange(values.numel(), device=values.device)
    counts = [max(1, round(share * values.numel())) for share in shares]
    return torch.stack([(ranks < count).view_as(values) for count in counts])


def criterion(kept: Tensor, erased: Tensor) -> float:
    """Mean of kept minus erased, each score at most 1: from -1 to 1, the higher the better it points."""
    return float((kept.clamp(max=1) - erased.clamp(max=1)).mean())


def along_border(maps: Tensor) -> Tensor:
    """How strong maps (..., h, w) >= 0 are along the photo's border, over their mean: (...), NaN for maps of zeros.

    0 where nothing of the map lies there, 1 where it is as strong as elsewhere.
    """
    height, width = maps.shape[-2:]
    tall, wide = max(1, round(height * BORDER)), max(1, round(width * BORDER))
    ring = torch.ones(height, width, dtype=torch.bool, device=maps.device)
    ring[tall : height - tall, wide : width - wide] = False
    return maps[..., ring].mean(dim=-1) / maps.mean(dim=(-2, -1))
