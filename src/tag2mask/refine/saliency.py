"""Saliency's say in a pseudo-mask: it decides background, and where it contradicts the maps nobody decides.

How saliency enters RIB+Sal isn't published in detail. The line of work that the paper compares with takes background
where saliency is low and no class is confident, keeps confident foreground, and ignores pixels in conflict.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError
from tag2mask.data.records import IGNORED
from tag2mask.refine.threshold import Labels


def apply_saliency(
    labels: Labels, scores: npt.NDArray, saliency: npt.NDArray, *, salient: float, confident: float
) -> Labels:
    """Correct a pseudo-mask `labels` (H, W) uint8 (0 background, class + 1, 255 unsure) by saliency.

    `scores` (n, H, W) in 0..1 are the maps that `labels` were made of, `saliency` (H, W) in 0..1. A pixel is salient
    from `salient` on, and a class is confident above `confident`.

    - not salient, no confident class: background
    - not salient, a confident class: as it was (saliency overlooks objects too)
    - salient, with a class: as it was
    - salient, without a class: 255, an object that no tag explains or that the maps miss
    - a class where two or more are confident: 255
    Raises DataError when sizes differ.
    """
    _check(labels, scores, saliency)
    shown = np.nan_to_num(saliency) >= salient
    claims = (np.nan_to_num(scores) > confident).sum(axis=0)  # (H, W) confident classes
    result = labels.copy()
    result[~shown & (claims == 0)] = 0
    result[shown & (labels == 0)] = IGNORED
    result[(claims > 1) & (labels != 0)] = IGNORED
    return result


def _check(labels: npt.NDArray, scores: npt.NDArray, saliency: npt.NDArray) -> None:
    if labels.shape != saliency.shape or scores.shape[1:] != labels.shape:
        raise DataError(
            f"labels {labels.shape}, class scores {scores.shape[1:]} and saliency {saliency.shape} differ in size; "
            "resize them to the image first"
        )
