"""Network input of one image: each scale beside its mirror."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_with_mirror(scaled_images: Sequence[Tensor]) -> list[Tensor]:
    """Turn normalised images (3, h, w), one a scale, into (2, 3, h, w): image and mirror.

    Raises ValueError for another layout, (h, w, 3) say.
    """
    for image in scaled_images:
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image of shape {tuple(image.shape)} is not (3, h, w)")
    return [torch.stack([image, image.flip(-1)]) for image in scaled_images]


def merge_mirror(maps: Tensor) -> Tensor:
    """ReLU the class maps (2, n, h, w) of image and mirror and add them, the mirror turned back: (n, h, w)."""
    positive = maps.relu()
    return positive[0] + positive[1].flip(-1)
