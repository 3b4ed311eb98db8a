"""Dense CRF (Krähenbühl & Koltun, NIPS 2011): labels that follow the edges of the image.

The work is done by the package pydensecrf2, which compiles C++ when it is installed; it is the extra `crf`.
Where there is no compiler, `tag2mask.refine.pamr` is the refinement without a compiled part.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import DataError, MissingExtraError
from tag2mask.config import Range, Settings
from tag2mask.refine.threshold import Threshold

SMALLEST_PROBABILITY = 1e-5  # an impossible class keeps a finite energy, so that neighbours can overrule it


@dataclass(frozen=True)
class CRFParameters(Settings):
    """Kernels and iterations of the mean-field inference; the defaults are RIB's for hard labels.

    Source of the defaults: the confident-label step of IRN (Ahn, Cho, Kwak, CVPR 2019), which RIB reuses.
    """

    gaussian_sxy: Annotated[float, Range(ge=0.01, le=10_000, note="pixels")] = 3.0  # width of the smoothness kernel
    gaussian_compat: Annotated[float, Range(ge=0, le=10_000)] = 3.0  # weight of the smoothness kernel (Potts)
    # width in space of the appearance kernel
    bilateral_sxy: Annotated[float, Range(ge=0.01, le=10_000, note="pixels")] = 50.0
    # width in colour of the appearance kernel
    bilateral_srgb: Annotated[float, Range(ge=0.01, le=10_000, note="grey levels of 0..255")] = 5.0
    bilateral_compat: Annotated[float, Range(ge=0, le=10_000)] = 10.0  # weight of the appearance kernel (Potts)
    iterations: Annotated[int, Range(ge=0, le=10_000)] = 10  # mean-field steps
    # trust in a given hard label, the rest is spread over the others
    label_probability: Annotated[float, Range(gt=0, lt=1)] = 0.7


LABEL_CRF = CRFParameters()  # hard labels, as RIB and IRN refine thresholded maps

# Outputs of a segmentation network: the values of the DeepLab-PyTorch line of work for VOC and COCO
# (position 1 / weight 3, bilateral position 67 / colour 3 / weight 4, 10 iterations), which were found by
# the cross-validation that the DeepLab papers describe (Chen et al., TPAMI 2018, section 4.1).
DEEPLAB_CRF = CRFParameters(
    gaussian_sxy=1.0, gaussian_compat=3.0, bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0
)


def crf_available() -> bool:
    """Return whether the dense CRF can be used, without loading it."""
    return importlib.util.find_spec("pydensecrf") is not None


def crf_labels(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray,
    n_labels: int,
    *,
    parameters: CRFParameters = LABEL_CRF,
) -> npt.NDArray[np.int64]:
    """Refine hard labels along the edges of the image.

    `image` (H, W, 3) uint8 RGB, `labels` (H, W) integers in 0..n_labels-1; `n_labels` may exceed what
    occurs. Returns (H, W) int64 in 0..n_labels-1.
    Raises MissingExtraError without pydensecrf2, DataError on sizes or values that don't fit.
    """
    _check_labels(labels, n_labels)
    if n_labels == 1:
        _check_sizes(image, labels.shape)
        return np.zeros(labels.shape, np.int64)
    return _infer(image, label_energy(labels, n_labels, parameters.label_probability), parameters).argmax(axis=0)


def crf_probabilities(
    image: npt.NDArray[np.uint8],
    probabilities: npt.NDArray,
    parameters: CRFParameters = DEEPLAB_CRF,
) -> npt.NDArray[np.float32]:
    """Refine soft probabilities along the edges of the image.

    `image` (H, W, 3) uint8 RGB, `probabilities` (C, H, W) in 0..1, summing to 1 over C. Returns the
    posterior (C, H, W) float32, summing to 1 over C.
    Raises MissingExtraError without pydensecrf2, DataError on sizes that don't fit.
    """
    if probabilities.ndim != 3:
        raise DataError(f"probabilities have shape {tuple(probabilities.shape)}; give them as (C, H, W)")
    if len(probabilities) == 1:
        _check_sizes(image, probabilities.shape[1:])
        return np.ones(probabilities.shape, np.float32)
    certain = np.nan_to_num(probabilities.astype(np.float32), nan=0.0)
    return _infer(image, -np.log(np.clip(certain, SMALLEST_PROBABILITY, 1.0)), parameters)


def map_probabilities(maps: npt.NDArray, threshold: Threshold) -> npt.NDArray[np.float32]:
    """Turn maps (n, H, W) in 0..1 into probabilities (n + 1, H, W) with the background first.

    The background's strength is `threshold`, one for all or (H, W); background and maps are divided by their sum, so
    the argmax is that of `labels_from_maps`. NaN counts as 0.
    """
    if maps.ndim != 3:
        raise DataError(f"maps have shape {tuple(maps.shape)}; give them as (n, H, W)")
    strengths = np.clip(np.nan_to_num(maps.astype(np.float32), nan=0.0), 0.0, 1.0)
    background = np.broadcast_to(np.maximum(threshold, SMALLEST_PROBABILITY), (1, *maps.shape[1:]))
    stacked = np.concatenate([background.astype(np.float32), strengths])
    return stacked / stacked.sum(axis=0, keepdims=True)


def label_energy(labels: npt.NDArray, n_labels: int, probability: float) -> npt.NDArray[np.float32]:
    """Return the unary energies (n_labels, H, W) of hard labels (H, W) in 0..n_labels-1, n_labels >= 2.

    -log(probability) at the given label, -log((1 - probability) / (n_labels - 1)) at every other.
    """
    other = -np.log((1.0 - probability) / (n_labels - 1))
    given = labels[None] == np.arange(n_labels).reshape(-1, 1, 1)  # (n_labels, H, W)
    return np.where(given, np.float32(-np.log(probability)), np.float32(other)).astype(np.float32)


def _infer(image: npt.NDArray, energy: npt.NDArray, parameters: CRFParameters) -> npt.NDArray[np.float32]:
    n_labels, height, width = energy.shape
    _check_sizes(image, (height, width))
    model = _densecrf().DenseCRF2D(width, height, n_labels)
    # The C++ side takes raw memory: both arrays must be contiguous, and it refuses read-only ones.
    model.setUnaryEnergy(np.require(energy.reshape(n_labels, -1), np.float32, ["C", "W"]))
    model.addPairwiseGaussian(sxy=parameters.gaussian_sxy, compat=parameters.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=parameters.bilateral_sxy,
        srgb=parameters.bilateral_srgb,
        rgbim=np.require(image, np.uint8, ["C", "W"]),
        compat=parameters.bilateral_compat,
    )
    return np.array(model.inference(parameters.iterations), np.float32).reshape(n_labels, height, width)


def _densecrf() -> Any:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise MissingExtraError("pydensecrf2", "crf", "the dense CRF") from error
    return densecrf


def _check_sizes(image: npt.NDArray, size: tuple[int, ...]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"the image has shape {tuple(image.shape)} and type {image.dtype}; give (H, W, 3) uint8 RGB")
    if image.shape[:2] != tuple(size):
        raise DataError(
            f"the image is {image.shape[0]}x{image.shape[1]} but its labels are {'x'.join(map(str, size))} "
            "(height x width); resize the labels to the image first"
        )


def _check_labels(labels: npt.NDArray, n_labels: int) -> None:
    if n_labels < 1:
        raise DataError(f"n_labels is {n_labels}; it must be at least 1")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < n_labels:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()} but n_labels is {n_labels}; "
            "map them to 0..n_labels-1 (no 255) first"
        )
