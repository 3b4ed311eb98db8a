"""The ways in which labels follow an image's edges: a new one is a function and one line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import ConfigError, MissingExtraError, did_you_mean
from tag2mask.refine.crf import crf_available, crf_labels, crf_probabilities, map_probabilities
from tag2mask.refine.pamr_numpy import pamr_numpy
from tag2mask.refine.threshold import Labels, Threshold, labels_from_maps

# image (H, W, 3) uint8 RGB, maps (n, H, W) in 0..1, classes (n,) 0-based, background score 0..1, one for
# all or (H, W); and device=, where it is `on_device` -> labels (H, W) uint8: 0 background, else class index + 1
Refine = Callable[..., Labels]
# image (H, W, 3) uint8 RGB, a network's probabilities (L, H, W), summing to 1; device= as above -> the same refined
Sharpen = Callable[..., npt.NDArray[np.float32]]
WITHOUT_TORCH = "numpy"  # in place of a torch device
SEEN = 0.02  # a label whose probability is below this everywhere is left out of what costs time by label


@dataclass(frozen=True)
class Method:
    """One way to refine labels, what it is called in tables, and the extra that it needs."""

    refine: Refine
    title: str
    sharpen: Sharpen | None = None  # the same of a network's probabilities; None: they stay as they are
    package: str = ""  # that it needs, and the extra that brings it; "" = nothing
    extra: str = ""
    available: Callable[[], bool] = lambda: True
    on_device: bool = False  # takes the torch device that it works on; else it works on the CPU


def by_crf(image: npt.NDArray[np.uint8], maps: npt.NDArray, classes: npt.NDArray, threshold: Threshold) -> Labels:
    """Dense CRF on hard labels, as the reference code has it."""
    values = _values(classes)
    dense = np.searchsorted(values, labels_from_maps(maps, classes, threshold))  # 0..n, as `values` are ascending
    return values[crf_labels(image, dense, len(values))]


def by_pamr(
    image: npt.NDArray[np.uint8], maps: npt.NDArray, classes: npt.NDArray, threshold: Threshold, device: str = "cpu"
) -> Labels:
    """Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020) of the maps' probabilities."""
    return _values(classes)[_pamr(image, map_probabilities(maps, threshold), device=device).argmax(axis=0)]


def by_threshold(
    image: npt.NDArray[np.uint8], maps: npt.NDArray, classes: npt.NDArray, threshold: Threshold
) -> Labels:
    """The background score alone: edges are not looked at."""
    return labels_from_maps(maps, classes, threshold)


def _pamr(image: npt.NDArray[np.uint8], probabilities: npt.NDArray, device: str = "cpu") -> npt.NDArray[np.float32]:
    if device == WITHOUT_TORCH:
        return pamr_numpy(image, probabilities)
    from tag2mask.refine.pamr import pamr  # here, as not everything that follows edges has torch

    return pamr(image, probabilities, device=device)


METHODS = {
    "crf": Method(by_crf, "CRF", crf_probabilities, "pydensecrf2", "crf", lambda: crf_available()),
    "pamr": Method(by_pamr, "PAMR", _pamr, on_device=True),
    "none": Method(by_threshold, "threshold"),
}
AUTOMATIC = ("crf", "pamr")  # "auto" is the first of these that is there


def method_named(name: str, setting: str) -> str:
    """The method of this name, or what "auto" means on this machine.

    ConfigError, naming `setting`, for an unknown one; MissingExtraError where it needs an extra that isn't there.
    """
    if name == "auto":
        return next(one for one in AUTOMATIC if METHODS[one].available())
    if name not in METHODS:
        raise ConfigError(f"{setting} is '{name}'{did_you_mean(name, ('auto', *METHODS))}")
    method = METHODS[name]
    if not method.available():
        raise MissingExtraError(method.package, method.extra, f"{setting}: {name}")
    return name


def sharpened(
    image: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32], method: str, device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """A network's probabilities (L, H, W), made to follow the image's edges by a method of this name.

    Labels that are nowhere likely keep what they have, so that the cost doesn't grow with the number of classes.
    """
    chosen = METHODS[method]
    seen = np.flatnonzero(probabilities.max(axis=(1, 2)) >= SEEN)
    if chosen.sharpen is None or len(seen) < 2:
        return probabilities
    part = probabilities[seen]
    share = part.sum(axis=0)
    more = {"device": device} if chosen.on_device else {}
    result = probabilities.copy()
    result[seen] = share * chosen.sharpen(image, part / share, **more)
    return result


def _values(classes: npt.NDArray) -> Labels:
    """Mask values of background and of the classes, in their order."""
    return np.concatenate([[0], np.asarray(classes) + 1]).astype(np.uint8)
