"""From maps to labels: thresholds with refined edges, confident labels, and what the random walk's output means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.records import IGNORED
from tag2mask.refine.methods import METHODS, by_threshold
from tag2mask.refine.threshold import Labels, Threshold

WALK_STRIDE = 4  # image pixels a position of the walk


def refined_labels(
    image: npt.NDArray[np.uint8],
    maps: npt.NDArray,
    classes: npt.NDArray,
    threshold: Threshold,
    method: str,
    device: str = "cpu",
) -> Labels:
    """Labels (H, W) uint8 of maps (n, H, W) in 0..1 over a background of `threshold`, refined along edges.

    `image` (H, W, 3) uint8 RGB, `classes` (n,) 0-based; 0 is background, else class index + 1.
    `method` is a name in `METHODS`, `device` where those of them work that can.
    """
    if not len(classes):
        return by_threshold(image, maps, classes, threshold)
    where = {"device": device} if METHODS[method].on_device else {}
    return METHODS[method].refine(image, maps, classes, threshold, **where)


def confident_labels(
    image: npt.NDArray[np.uint8],
    maps: npt.NDArray,
    classes: npt.NDArray,
    *,
    foreground: Threshold,
    background: Threshold,
    method: str,
    device: str = "cpu",
) -> Labels:
    """Labels (H, W) uint8 of the pixels that two background scores agree on, 255 elsewhere.

    A pixel has a class where `refined_labels` over the score `foreground` gives one, and is background where both
    that and the lower score `background` give background (IRN, section 4.1, as RIB's reference code computes it).
    """
    strict = refined_labels(image, maps, classes, foreground, method, device)
    generous = refined_labels(image, maps, classes, background, method, device)
    labels = np.full_like(strict, IGNORED)
    labels[strict > 0] = strict[strict > 0]
    labels[(strict == 0) & (generous == 0)] = 0
    return labels


def walk_scores(walked: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Class scores (n, H, W) in 0..1 of an image of `size` = (H, W) from walked maps (n, ceil(H/4), ceil(W/4)).

    Enlarged four times (bilinear), cut to the image, and divided by the maximum over all classes, so that classes
    keep their proportions; maps without any evidence stay 0.
    """
    if not len(walked):
        return np.zeros((0, *size), np.float32)
    raised = F.interpolate(walked[None].float(), scale_factor=WALK_STRIDE, mode="bilinear", align_corners=False)[0]
    scores = raised[:, : size[0], : size[1]]
    peak = torch.nan_to_num(scores).amax().clamp_min(torch.finfo(torch.float32).tiny)
    return (torch.nan_to_num(scores) / peak).cpu().numpy()
