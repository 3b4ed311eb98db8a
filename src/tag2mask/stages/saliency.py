"""Where saliency comes from: a folder of greyscale PNGs, or an ONNX model that the user names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError
from tag2mask.common.files import digest_file, digest_value, ids_in
from tag2mask.config import Free, Range, Settings, to_mapping
from tag2mask.data.images import open_picture
from tag2mask.data.transforms import resize

ASPECT_SLACK = 0.05  # a map's proportions may be off by this share; small maps are rounded to whole pixels
ABOUT = "about.txt"  # in a folder of maps: one line that says how they were made; goes into scores.json

Saliency = Callable[[str, np.ndarray], np.ndarray | None]  # id, image (H, W, 3) uint8 -> (H, W) 0..1, or None


@dataclass(frozen=True)
class OnnxConfig(Settings):
    """How an ONNX saliency model wants its input and what its output means; the defaults are U2-Net's kind."""

    # the image is squeezed to size x size. 0 = the image's own size
    size: Annotated[int, Range(ge=0, le=4096, note="pixels")] = 320
    # of values 0..1, in the order of `channels`
    mean: Annotated[tuple[float, ...], Range(ge=-1000, le=1000, items=(3, 3))] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[float, ...], Range(ge=1e-6, le=1000, items=(3, 3))] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"
    output: Annotated[int, Range(ge=0, le=1000)] = 0  # which of the model's outputs
    sigmoid: bool = False  # apply a sigmoid: for models that give logits
    stretch: bool = False  # stretch each image's map to 0..1, as some models' own scripts do


@dataclass(frozen=True)
class SaliencyConfig(Settings):
    """Whether and how saliency corrects pseudo-masks; the rule is `tag2mask.refine.saliency`."""

    # a folder with ID.png, or a file NAME.onnx; null = no saliency
    source: Annotated[str | None, Free("a path; opened once before anything is computed")] = None
    # Both defaults are the middle of what is possible, picked as such and never tuned on true masks.
    salient: Annotated[float, Range(ge=0, le=1)] = 0.5  # from here on a pixel is salient
    # a class score above it stands even where saliency is low. null = half-way from the background score to 1
    confident: Annotated[float | None, Range(ge=0, le=1)] = None
    onnx: OnnxConfig = dataclasses.field(default_factory=OnnxConfig)

    def confident_from(self, threshold: float) -> float:
        """The class score from which a class is confident, for pseudo-masks over a background of `threshold`."""
        return (threshold + 1) / 2 if self.confident is None else self.confident

    @property
    def is_model(self) -> bool:
        """Whether the source is an ONNX model."""
        return self.source is not None and self.source.lower().endswith(".onnx")

    def used(self) -> dict[str, Any]:
        """The settings that have an effect, for a manifest; the source itself is told by its digest."""
        values = to_mapping(self)
        return {key: value for key, value in values.items() if key != "source" and (key != "onnx" or self.is_model)}


def check_source(config: SaliencyConfig) -> None:
    """Raise ConfigError when the source isn't there or no such model, MissingExtraError when it needs onnxruntime."""
    path = Path(config.source or "")
    if config.is_model:
        if not path.is_file():
            raise ConfigError(f"refine.saliency.source: {path}: no such file; give an existing .onnx model")
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            what = f"refine.saliency.source: {path.name}"
            raise MissingExtraError("onnxruntime", "sal", what) from error
        OnnxSaliency(path, config.onnx)
    elif not path.is_dir():
        raise ConfigError(f"refine.saliency.source: {path}: no such folder; give a folder of ID.png, or a .onnx file")


def source_digest(config: SaliencyConfig) -> str:
    """Digest of what decides saliency: the model's bytes, or the folder's file names and sizes."""
    path = Path(config.source or "")
    if config.is_model:
        return digest_file(path)
    return digest_value(sorted((p.name, p.stat().st_size) for p in path.glob("*.png")))


def source_about(config: SaliencyConfig) -> str:
    """How the maps were made, as their folder says it; "" if it doesn't."""
    path = Path(config.source or "") / ABOUT
    lines = path.read_text(encoding="utf-8").strip().splitlines() if path.is_file() else []
    return lines[0].strip() if lines else ""


def without_map(config: SaliencyConfig, ids: list[str]) -> list[str]:
    """Ids that a folder has no map for; these images are refined without saliency."""
    if config.is_model:
        return []
    there = ids_in(Path(config.source or ""), ".png")
    return [image_id for image_id in ids if image_id not in there]


def open_saliency(config: SaliencyConfig) -> Saliency:
    """Return the function from an image to its saliency (H, W) float32 in 0..1, or None where there is no map."""
    if config.is_model:
        return OnnxSaliency(Path(config.source or ""), config.onnx)
    folder = Path(config.source or "")

    def read(image_id: str, image: np.ndarray) -> np.ndarray | None:
        path = folder / f"{image_id}.png"
        return read_saliency(path, (image.shape[0], image.shape[1])) if path.is_file() else None

    return read


def read_saliency(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a greyscale PNG (0..255 or 16 bit) as (H, W) float32 in 0..1, resized (bilinear) to `size` = (H, W).

    Raises DataError for a colour or palette picture and for other proportions than the image's.
    """
    with open_picture(path) as picture:
        picture.load()
        values = _grey(path, picture)
    height, width = values.shape
    if abs(math.log((height * size[1]) / (width * size[0]))) > ASPECT_SLACK + 1 / min(height, width):
        raise DataError(
            f"{path}: the saliency map is {height} x {width} (height x width) but its image {size[0]} x {size[1]}: "
            "other proportions; make the map anew for this image (mind EXIF rotation)"
        )
    return resized(values, size)


def _grey(path: Path, picture: Image.Image) -> np.ndarray:
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"), np.float32) / 255
    if picture.mode.startswith("I"):
        return np.asarray(picture, np.float32) / 65535
    pixels = np.asarray(picture.convert("RGB"))
    if picture.mode == "P" or (pixels != pixels[..., :1]).any():
        kind = "palette" if picture.mode == "P" else "colour"
        raise DataError(
            f"{path}: is a {kind} picture, not a greyscale saliency map; save it as 8-bit grey, 0 = not salient, "
            "255 = salient"
        )
    return pixels[..., 0].astype(np.float32) / 255


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w) floats to `size` = (H, W), bilinear, as float32 clipped to 0..1."""
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    larger = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return np.clip(np.nan_to_num(larger), 0, 1)


class OnnxSaliency:
    """An ONNX model that gives one saliency map of an image, on one CPU thread a process."""

    def __init__(self, path: Path, config: OnnxConfig) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "sal", f"the saliency model {path.name}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # so that results don't depend on the machine's width
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises its own kinds, all of which mean this
            raise ConfigError(f"{path}: not a usable ONNX model ({' '.join(str(error).split())[:200]})") from error
        outputs = self.session.get_outputs()
        if config.output >= len(outputs):
            names = ", ".join(output.name for output in outputs)
            raise ConfigError(f"{path}: saliency.onnx.output is {config.output}; it has {len(outputs)}: {names}")
        self.path, self.config = path, config
        self.name, self.output = self.session.get_inputs()[0].name, outputs[config.output].name

    def __call__(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """Saliency (H, W) float32 in 0..1 of an image (H, W, 3) uint8; DataError names what the model gave."""
        try:
            (found,) = self.session.run([self.output], {self.name: self.network_input(image)})
        except Exception as error:  # as above
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{image_id}: {self.path.name} fails ({reason}); check saliency.onnx.size") from error
        values = np.squeeze(np.asarray(found, np.float32))
        if values.ndim != 2:
            raise DataError(
                f"{image_id}: output '{self.output}' of {self.path.name} has shape {np.shape(found)}; expected one "
                "map (1, 1, h, w): choose another saliency.onnx.output"
            )
        return resized(self._scaled(values), (image.shape[0], image.shape[1]))

    def network_input(self, image: np.ndarray) -> np.ndarray:
        """The model's input (1, 3, h, w) float32 of an image (H, W, 3) uint8."""
        size = self.config.size
        squeezed = resize(image, (size, size)) if size else image
        ordered = squeezed[..., ::-1] if self.config.channels == "bgr" else squeezed
        values = (ordered.astype(np.float32) / 255 - np.array(self.config.mean, np.float32)) / np.array(
            self.config.std, np.float32
        )
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)  # (h, w, 3) -> (1, 3, h, w)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        if self.config.sigmoid:
            values = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
        if self.config.stretch:
            low, high = float(values.min()), float(values.max())
            values = (values - low) / (high - low) if high > low else np.zeros_like(values)
        return values
