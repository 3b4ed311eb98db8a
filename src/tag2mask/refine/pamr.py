"""Pixel-adaptive mask refinement: probabilities averaged with the neighbours that look alike.

Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 3.2. Plain
torch, so it needs no compiler and runs on a GPU; the refinement where the dense CRF can't be installed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tag2mask.refine.pamr_numpy import DEFAULTS, FLAT, OFFSETS, PAMRParameters, check_sizes


@torch.inference_mode()
def pamr(
    image: npt.NDArray[np.uint8],
    probabilities: npt.NDArray,
    *,
    parameters: PAMRParameters = DEFAULTS,
    device: str | torch.device = "cpu",
) -> npt.NDArray[np.float32]:
    """Refine probabilities along the edges of the image.

    `image` (H, W, 3) uint8 RGB, `probabilities` (C, H, W) in 0..1. Returns (C, H, W) float32; where they
    summed to 1 over C, they still do. For maps use `crf.map_probabilities` first, then the argmax.
    Raises DataError on sizes that don't fit.
    """
    check_sizes(image, probabilities)
    photo = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float().div_(255)  # (3, H, W)
    current = torch.from_numpy(np.nan_to_num(probabilities.astype(np.float32), nan=0.0)).to(device)
    return refine_probabilities(photo, current, parameters).cpu().numpy()


def refine_probabilities(
    image: torch.Tensor, probabilities: torch.Tensor, parameters: PAMRParameters = DEFAULTS
) -> torch.Tensor:
    """Refine (C, H, W) probabilities by the image (3, H, W) in 0..1; tensors on one device in, one out.

    m_i <- sum_j a_ij m_j over the neighbours j of pixel i, with a_ij the softmax over j of
    -mean_rgb(|x_i - x_j| / (sharpness * sigma_i)), sigma_i the local standard deviation.
    """
    inverse_width = _inverse_width(image, parameters)  # (3, H, W)
    keep = image.shape[1] * image.shape[2] <= parameters.kept_pixels
    kept = list(_weights(image, inverse_width, parameters)) if keep else None
    total = torch.zeros_like(image[0])  # (H, W) softmax's divisor
    for weight in kept if kept is not None else _weights(image, inverse_width, parameters):
        total += weight
    current = probabilities
    for _ in range(parameters.iterations):
        weights = kept if kept is not None else _weights(image, inverse_width, parameters)
        averaged = torch.zeros_like(current)
        for weight, shifted in zip(weights, _neighbours(current, parameters), strict=True):
            averaged.addcmul_(weight, shifted)
        current = averaged.div_(total)
    return current


def _neighbours(values: torch.Tensor, parameters: PAMRParameters) -> Iterator[torch.Tensor]:
    """Yield `values` (C, H, W) seen from every neighbour in turn; the border is repeated outwards."""
    height, width = values.shape[1:]
    for dilation in parameters.dilations:
        padded = F.pad(values[None], (dilation,) * 4, mode="replicate")[0]
        for y, x in OFFSETS:
            top, left = dilation * (1 + y), dilation * (1 + x)
            yield padded[:, top : top + height, left : left + width]


def _inverse_width(image: torch.Tensor, parameters: PAMRParameters) -> torch.Tensor:
    """Return 1 / (sharpness * local standard deviation), (3, H, W), over the neighbours of all dilations.

    The pixel itself counts once a dilation (as the centre of each 3x3 window), which bounds the exponent:
    with a ninth of the weight on the pixel, sigma is at least 0.31 times the distance to its nearest
    neighbour in colour, so the largest affinity never underflows.
    """
    count = len(parameters.dilations) * (len(OFFSETS) + 1)
    summed, squared = torch.zeros_like(image), torch.zeros_like(image)
    for shifted in _neighbours(image, parameters):
        difference = shifted - image  # relative to the pixel, which therefore adds 0 itself
        summed += difference
        squared.addcmul_(difference, difference)
    variance = (squared - summed.square() / count).clamp_min_(0) / count
    return 1.0 / (parameters.sharpness * variance.sqrt() + FLAT)


def _weights(image: torch.Tensor, inverse_width: torch.Tensor, parameters: PAMRParameters) -> Iterator[torch.Tensor]:
    """Yield the affinity (H, W) to every neighbour in turn, not yet divided by their sum."""
    for shifted in _neighbours(image, parameters):
        yield (shifted - image).abs_().mul_(inverse_width).mean(dim=0).neg_().exp_()
