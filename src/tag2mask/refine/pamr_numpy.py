"""Pixel-adaptive mask refinement by NumPy alone, for where there is no torch; what it is: pamr.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError
from tag2mask.config import Range, Settings

OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
FLAT = 1e-6  # grey levels of 0..1; keeps a patch without any contrast from dividing 0 by 0


@dataclass(frozen=True)
class PAMRParameters(Settings):
    """Neighbourhood and iterations; the defaults are the paper's."""

    # distances of the 8 neighbours
    dilations: Annotated[tuple[int, ...], Range(ge=1, le=1000, note="pixels", items=(1, 100))] = (1, 2, 4, 8, 12, 24)
    iterations: Annotated[int, Range(ge=0, le=10_000)] = 10  # averaging steps
    # Share of the local standard deviation at which affinity falls by e. The paper's equation has no such
    # factor; 0.1 is the value its experiments used, and smaller is sharper.
    sharpness: Annotated[float, Range(gt=0, le=1000)] = 0.1
    # Pixels up to which all affinities (8 maps a dilation) are kept between iterations: 1.5 million are
    # 290 MB. Above it they are computed again in every iteration, which is slower but holds one at a time.
    kept_pixels: Annotated[int, Range(ge=0)] = 1_500_000


DEFAULTS = PAMRParameters()


def pamr_numpy(
    image: npt.NDArray[np.uint8], probabilities: npt.NDArray, *, parameters: PAMRParameters = DEFAULTS
) -> npt.NDArray[np.float32]:
    """Refine probabilities (C, H, W) along the edges of an image (H, W, 3) uint8; arguments and errors as `pamr`."""
    check_sizes(image, probabilities)
    photo = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 255  # (3, H, W)
    width = _inverse_width(photo, parameters)
    keep = image.shape[0] * image.shape[1] <= parameters.kept_pixels
    kept = list(_weights(photo, width, parameters)) if keep else None
    total = np.zeros(image.shape[:2], np.float32)  # softmax's divisor
    for weight in kept if kept is not None else _weights(photo, width, parameters):
        total += weight
    current = np.nan_to_num(probabilities.astype(np.float32), nan=0.0)
    for _ in range(parameters.iterations):
        weights = kept if kept is not None else _weights(photo, width, parameters)
        averaged = np.zeros_like(current)
        for weight, shifted in zip(weights, _neighbours(current, parameters), strict=True):
            averaged += weight * shifted
        current = averaged / total
    return current


def _neighbours(values: npt.NDArray, parameters: PAMRParameters) -> Iterator[npt.NDArray]:
    """Yield `values` (C, H, W) seen from every neighbour in turn; the border is repeated outwards."""
    height, width = values.shape[1:]
    for dilation in parameters.dilations:
        padded = np.pad(values, ((0, 0), (dilation, dilation), (dilation, dilation)), mode="edge")
        for y, x in OFFSETS:
            top, left = dilation * (1 + y), dilation * (1 + x)
            yield padded[:, top : top + height, left : left + width]


def _inverse_width(image: npt.NDArray, parameters: PAMRParameters) -> npt.NDArray:
    """1 / (sharpness * local standard deviation), (3, H, W); the pixel itself counts once a dilation."""
    count = len(parameters.dilations) * (len(OFFSETS) + 1)
    summed, squared = np.zeros_like(image), np.zeros_like(image)
    for shifted in _neighbours(image, parameters):
        difference = shifted - image
        summed += difference
        squared += difference * difference
    variance = np.maximum(squared - summed * summed / count, 0) / count
    return np.float32(1) / (np.float32(parameters.sharpness) * np.sqrt(variance) + np.float32(FLAT))


def _weights(image: npt.NDArray, inverse_width: npt.NDArray, parameters: PAMRParameters) -> Iterator[npt.NDArray]:
    """Yield the affinity (H, W) to every neighbour in turn, not yet divided by their sum."""
    for shifted in _neighbours(image, parameters):
        yield np.exp(-(np.abs(shifted - image) * inverse_width).mean(axis=0))


def check_sizes(image: npt.NDArray, probabilities: npt.NDArray) -> None:
    """Raise DataError where an image (H, W, 3) uint8 and probabilities (C, H, W) don't fit each other."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"the image has shape {tuple(image.shape)} and type {image.dtype}; give (H, W, 3) uint8 RGB")
    if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[:2]:
        raise DataError(
            f"the image is {image.shape[0]}x{image.shape[1]} (height x width) but the probabilities have "
            f"shape {tuple(probabilities.shape)}; give them as (C, H, W) at the size of the image"
        )
