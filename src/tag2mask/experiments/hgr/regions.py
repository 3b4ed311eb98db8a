"""What a pixel of a photo is to a classifier: told apart by the true mask and by the classifier's own map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.data import at_full
from tag2mask.networks import CAMClassifier
from tag2mask.rib import merge_mirror

REGIONS = ("discriminative", "non-discriminative", "background")
Bools = npt.NDArray[np.bool_]


@torch.no_grad()
def class_activation(classifier: CAMClassifier, view: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """CAM of all classes (C, H, W) in 0..1 from the views (V, 3, h, w) of an image at one scale."""
    maps = classifier.class_maps(classifier.trunk_features(view)).float()
    return at_full([merge_mirror(maps)], size, whole=classifier.backbone.whole).cpu().numpy()


def regions_of(mask: npt.NDArray, activation: npt.NDArray, value: int, tau: float) -> dict[str, Bools]:
    """Regions (H, W) of the class with mask value `value`, given its CAM (H, W) in 0..1.

    Discriminative: in the object and at or above `tau` of the map's maximum; non-discriminative: in the object and
    below; background: mask value 0. Other classes' and ignored pixels (255) are in none.
    """
    inside, high = mask == value, activation >= tau * activation.max()
    return dict(zip(REGIONS, (inside & high, inside & ~high, mask == 0), strict=True))
