"""Prediction with an exported network: onnxruntime, NumPy and Pillow, no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tag2mask.common.errors import MissingExtraError, WeightsError
from tag2mask.common.values import as_dict, as_number
from tag2mask.data.records import AS_USUAL, LongSide, Reading
from tag2mask.refine.methods import WITHOUT_TORCH, method_named, sharpened

FORMAT = 1  # of the file's metadata


@dataclass(frozen=True)
class Usage:
    """How a network predicts, as the metadata of its ONNX file has it."""

    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    long_side: LongSide = None  # larger photos are made smaller first; of two numbers, smaller ones larger
    tagged: float = 0.0  # what is added to the logits of tags that are given
    combine: str = "mean"  # or "max": of logits over scales and mirrors
    edges: str = "none"  # how probabilities follow the photo's edges: a name in refine.METHODS, or "auto"
    background: bool = True  # False: every pixel has a class
    reading: Reading = AS_USUAL  # how pictures become 8-bit RGB
    about: str = ""


class Prediction(NamedTuple):
    """Labels of an image's pixels and the probability of each."""

    labels: np.ndarray  # (H, W) uint8: 0 background, class index + 1
    confidence: np.ndarray  # (H, W) uint8: 0..255 for a probability of 0..1


class OnnxNetwork:
    """A network written by `tag2mask export onnx`: `predict` takes a photo and gives its labels.

    `classes` are the names of the labels 1, 2, ...; everything is read from the file itself. Raises
    MissingExtraError without onnxruntime, WeightsError for a file that isn't there or isn't one of ours.
    """

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        self.path = Path(path)
        self.session = _session(self.path, threads)
        notes = self.session.get_modelmeta().custom_metadata_map
        try:
            values = {key: json.loads(notes[key]) for key in ("labels", "mean", "std", "size", "scales", "mirror")}
            # earlier files say nothing of these
            values["tagged"] = json.loads(notes.get("tagged", "0"))
            values["combine"] = json.loads(notes.get("combine", '"mean"'))
            values["background"] = json.loads(notes.get("background", "true"))
            values["reading"] = json.loads(notes.get("reading", "{}"))
            values["edges"] = json.loads(notes.get("edges", '"none"'))
            self.reading = Reading.of(as_dict(values["reading"]))  # how pictures become 8-bit RGB
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise WeightsError(
                f"{path}: says nothing of {error} in its metadata; give a file that 'tag2mask export onnx' wrote"
            ) from error
        self.classes: tuple[str, ...] = tuple(values["labels"][1:])
        self.multiple = int(values["size"]["multiple"])
        # larger photos are to be made smaller first; of two numbers, smaller ones enlarged
        side = values["size"]["long_side"]
        self.long_side: LongSide = tuple(side) if isinstance(side, list) else side
        self.scales: tuple[float, ...] = tuple(values["scales"])
        self.mirror = bool(values["mirror"])
        self.tagged = as_number(values["tagged"]) or 0.0  # what tags that are given add to their logits
        self.combine = np.max if values["combine"] == "max" else np.mean  # of logits over scales and mirrors
        self.edges = str(values["edges"])  # how probabilities follow the photo's edges, checked where it is used
        self.background = bool(values["background"])  # False: every pixel gets a class
        outputs = [output.name for output in self.session.get_outputs()]
        self._outputs = ["logits", "prior"] if "prior" in outputs else ["logits"]
        self._mean = np.array(values["mean"], np.float32)
        self._std = np.array(values["std"], np.float32)

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """Turn an image (H, W, 3) uint8 into the network's input (1, 3, H', W') float32, sides padded."""
        height, width = image.shape[:2]
        pixels = ((image.astype(np.float32) / 255 - self._mean) / self._std).transpose(2, 0, 1)
        padding = ((0, 0), (0, -height % self.multiple), (0, -width % self.multiple))
        return np.ascontiguousarray(np.pad(pixels, padding)[None], np.float32)

    def run(self, prepared: np.ndarray) -> list[np.ndarray]:
        """Logits (1, L, H', W') of a prepared image; and the tag prior (1, L) in them, where the network has one."""
        return self.session.run(self._outputs, {"images": prepared})

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Logits (L, H, W) of an image (H, W, 3) uint8 at its size, joined over the file's scales and mirrors.

        The tag prior isn't in them.
        """
        height, width = image.shape[:2]
        views = []
        for scale in self.scales:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
            views.append(_resized(self._logits(pixels), (width, height)))
            if self.mirror:
                mirrored = self._logits(np.ascontiguousarray(pixels[:, ::-1]))
                views.append(_resized(mirrored[:, :, ::-1], (width, height)))
        return self.combine(views, axis=0)

    def prior(self, image: np.ndarray) -> np.ndarray | None:
        """What an image (H, W, 3) uint8 as a whole adds to its logits, (L,); None where the network has no prior."""
        return self.run(self.prepared(image))[1][0] if "prior" in self._outputs else None

    def _logits(self, image: np.ndarray) -> np.ndarray:
        logits, *prior = self.run(self.prepared(image))
        for part in prior:
            logits = logits - part[:, :, None, None]
        return logits[0, :, : image.shape[0], : image.shape[1]]

    def predict(self, image: np.ndarray, tags: Sequence[str] | None = None) -> Prediction:
        """Labels and confidence of an image (H, W, 3) uint8 RGB, among `tags` (class names); None: of any class."""
        names = self.classes if tags is None else tags
        allowed = sorted(self.classes.index(name) + 1 for name in names)
        kept = np.array([0, *allowed] if self.background or not allowed else allowed)
        logits = self.logits(image)
        prior = self.prior(image) if tags is None else None
        if prior is not None:
            logits = logits + prior[:, None, None]
        known = np.float32(0 if tags is None else self.tagged)
        logits = logits[kept] + known * (kept > 0)[:, None, None]
        shares = np.exp(logits - logits.max(axis=0))
        shares /= shares.sum(axis=0)
        method = method_named(self.edges, "predict.edges")
        best = sharpened(image, shares.astype(np.float32), method, WITHOUT_TORCH).argmax(axis=0)
        sure = np.take_along_axis(shares, best[None], axis=0)[0]
        return Prediction(kept[best].astype(np.uint8), np.rint(255 * sure).astype(np.uint8))


def _resized(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring logits (L, h, w) to `size` = (width, height), linearly."""
    if (logits.shape[2], logits.shape[1]) == size:
        return logits
    parts = [Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BILINEAR) for part in logits]
    return np.stack([np.asarray(part) for part in parts])


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "predict --onnx") from error
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; write it with: tag2mask export onnx RUN")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many kinds, each for a file that it can't take
        raise WeightsError(f"{path}: not an ONNX file that onnxruntime takes ({error}); export it again") from error
