"""Localization maps: how scales are joined into one map (method of CAM and RIB), and their files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write
from tag2mask.data.records import MAX_CLASSES, MAX_PIXELS, BadFileError

if TYPE_CHECKING:  # torch takes seconds to import, and most of this package's users need no map
    import torch

EPSILON = 1e-5  # added to each class map's maximum before dividing by it
# what numpy and zipfile raise for a file that was cut off or altered; RuntimeError: a flag or version it can't have
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    AttributeError,
    IndexError,
    RuntimeError,
    MemoryError,
    OverflowError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)
_MOST_BYTES = 256 * 2**20  # of a map file once it is unpacked: 20 classes of a photo of 16,000 pixels a side
_MOST_PIXELS = 4 * MAX_PIXELS
_REMAKE = "delete the file and run the localization again"


def strided_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return (ceil(H / stride), ceil(W / stride))."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def strided_up_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return (H, W) raised to the next multiples of `stride`."""
    height, width = strided_size(size, stride)
    return height * stride, width * stride


def at_stride4(sums: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Join scales into maps (n, ceil(H/4), ceil(W/4)) float32 in 0..1.

    sums: per scale (n, h_s, w_s) >= 0; size: (H, W) of the image. Each class is divided by its maximum.
    """
    return _normalised(_joined(sums, strided_size(size, 4)))


def at_full(sums: Sequence[torch.Tensor], size: tuple[int, int], *, whole: bool = False) -> torch.Tensor:
    """Join scales into maps (n, H, W) float32 in 0..1; arguments as `at_stride4`.

    Scales are brought to the next multiple of 16 above the image's size, then cropped to it. `whole`: they cover the
    image exactly and are brought to its size.
    """
    return _normalised(_joined(sums, size if whole else strided_up_size(size, 16))[:, : size[0], : size[1]])


def _joined(sums: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    import torch
    import torch.nn.functional as F

    total = torch.zeros((sums[0].shape[0], *size), dtype=torch.float32, device=sums[0].device)
    for scale_sum in sums if len(total) else ():
        finite = torch.nan_to_num(scale_sum.float(), nan=0.0, posinf=0.0, neginf=0.0)
        # (n, h_s, w_s) -> (1, n, h_s, w_s) -> (1, n, H', W') -> (n, H', W')
        total += F.interpolate(finite[None], size, mode="bilinear", align_corners=False)[0]
    return total


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + EPSILON)  # all-zero maps stay zero


@dataclass
class LocalizationMaps:
    """The accumulated maps of one image, per scale, at the network's resolution."""

    classes: np.ndarray  # (n,) int: 0-based indices of the present classes
    size: tuple[int, int]  # (H, W) of the image
    scales: tuple[float, ...]
    sums: list[np.ndarray]  # per scale (n, h_s, w_s) float32: sum over steps of ReLU(CAM) of image and mirror
    absolute: bool = False  # the sums are scores in 0..1; else each class is divided by its maximum
    whole: bool = False  # the network resized the image to whole cells: its maps cover it exactly

    @classmethod
    def none(cls, size: tuple[int, int]) -> LocalizationMaps:
        """The maps of an image of `size` (H, W) without any class."""
        return cls(np.zeros(0, np.int64), size, (1.0,), [np.zeros((0, 1, 1), np.float32)])

    def at_size(self, size: tuple[int, int]) -> LocalizationMaps:
        """The same maps for the image at another size (H, W) of the same proportions."""
        return replace(self, size=(size[0], size[1]))

    def on_grid(self, grid: tuple[int, int]) -> np.ndarray:
        """Return (n, h, w) float32 in 0..1 at a grid over the image, its sides raised to multiples of 16."""
        return self._finished(self._over_raised(grid) if self.whole else self._at(grid))

    def at_stride4(self) -> np.ndarray:
        """Return (n, ceil(H/4), ceil(W/4)) float32 in 0..1."""
        return self._finished(self._at(strided_size(self.size, 4)))

    def full(self) -> np.ndarray:
        """Return (n, H, W) float32 in 0..1."""
        size = self.size if self.whole else strided_up_size(self.size, 16)
        return self._finished(self._at(size)[:, : self.size[0], : self.size[1]])

    def _at(self, size: tuple[int, int]) -> torch.Tensor:
        import torch

        return _joined([torch.from_numpy(s) for s in self.sums], size)

    def _over_raised(self, grid: tuple[int, int]) -> torch.Tensor:
        """Maps that cover the image exactly on a grid over it with sides raised: beyond its edge they go on."""
        import torch.nn.functional as F

        height, width = strided_up_size(self.size, 16)
        rest = (0, width - self.size[1], 0, height - self.size[0])
        maps = F.pad(self._at(self.size), rest, mode="replicate")  # (n, H, W) -> (n, H', W')
        return F.interpolate(maps[None], grid, mode="area")[0]

    def _finished(self, maps: torch.Tensor) -> np.ndarray:
        return (maps.clamp(0, 1) if self.absolute else _normalised(maps)).numpy()


def save_maps(path: Path | str, maps: LocalizationMaps) -> None:
    """Write maps as a compressed .npz in half precision, whole or not at all.

    Values are stored divided by `peak`, each class's maximum over all scales, so that half precision costs
    at most 2^-11 of a value whatever the network's range.
    """
    count = len(maps.classes)
    if len(maps.sums) != len(maps.scales) or not maps.sums or any(s.shape[0] != count for s in maps.sums):
        shapes = [s.shape for s in maps.sums]
        raise DataError(f"{path}: maps {shapes} do not fit {count} classes at {len(maps.scales)} scales")
    sums = [np.nan_to_num(s.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0) for s in maps.sums]
    peak = np.max([s.max(axis=(1, 2), initial=0.0) for s in sums], axis=0).astype(np.float32)
    divisor = np.where(peak > 0, peak, np.float32(1))[:, None, None]
    arrays = {f"sum_{index}": (s / divisor).astype(np.float16) for index, s in enumerate(sums)}
    arrays |= {name: np.asarray(True) for name in ("absolute", "whole") if getattr(maps, name)}
    with atomic_write(path) as temporary:
        np.savez_compressed(
            temporary,
            classes=np.asarray(maps.classes, dtype=np.int16),
            size=np.asarray(maps.size, dtype=np.int32),
            scales=np.asarray(maps.scales, dtype=np.float32),
            peak=peak,
            **arrays,  # type: ignore[arg-type]  # the stub takes its flag for one of these
        )


def load_maps(path: Path | str) -> LocalizationMaps:
    """Read what `save_maps` wrote; raises DataError for a missing, damaged or foreign file."""
    if not Path(path).is_file():
        raise BadFileError(path, "does not exist", "run the localization for this image")
    try:
        _refuse_bomb(Path(path))
        with np.load(path, allow_pickle=False) as stored:
            peak = numbers(stored, "peak")[:, None, None]
            scales = tuple(round(float(scale), 6) for scale in numbers(stored, "scales"))
            sums = [numbers(stored, f"sum_{index}").astype(np.float32) * peak for index in range(len(scales))]
            height, width = (int(side) for side in numbers(stored, "size"))
            absolute, whole = (name in stored and bool(numbers(stored, name)) for name in ("absolute", "whole"))
            classes = numbers(stored, "classes").astype(np.int64)
            maps = LocalizationMaps(classes, (height, width), scales, sums, absolute, whole)
        _refuse_nonsense(maps)
        return maps
    except _DAMAGED as error:
        raise BadFileError(path, f"is no whole map file ({' '.join(str(error).split())})", _REMAKE) from error


def numbers(stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An array of a .npz file; ValueError where it holds text, dates or anything else that is no number."""
    values = stored[name]
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its '{name}' are no numbers but {values.dtype}")
    return values


def _refuse_bomb(path: Path) -> None:
    """Raise ValueError for a file that is small but unpacks to more than maps can be."""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, at most {_MOST_BYTES} are read")


def _refuse_nonsense(maps: LocalizationMaps) -> None:
    """Raise ValueError for what no localization writes."""
    height, width = maps.size
    if min(maps.size) < 1 or height * width > _MOST_PIXELS:
        raise ValueError(f"of a photo of {height} x {width} pixels")
    classes = maps.classes
    if classes.ndim != 1 or (len(classes) and not 0 <= classes.min() <= classes.max() < MAX_CLASSES):
        raise ValueError("its classes are none")
    if not maps.sums or any(s.ndim != 3 or len(s) != len(classes) or 0 in s.shape[1:] for s in maps.sums):
        raise ValueError(f"maps {[s.shape for s in maps.sums]} for {len(classes)} classes")
