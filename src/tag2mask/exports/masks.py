"""Plain folders of masks, with files that say what their values and colours mean."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import atomic_folder
from tag2mask.data.class_files import write_class_files
from tag2mask.data.images import decode_image
from tag2mask.data.masks import palette_picture, voc_palette
from tag2mask.data.records import Reading
from tag2mask.exports.source import Photo, Source, add_source_options, out_of, source_of

KINDS = ("grey", "palette", "overlay")
_OPACITY = 0.5  # of a class's colour over the photo
_QUALITY = 90  # of overlays' JPEG


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_source_options(command, "masks")
    command.add_argument(
        "--as",
        dest="kind",
        choices=KINDS,
        default="grey",
        help="grey: PNG of class numbers; palette: the same in VOC's colours; overlay: JPEG, colours over the photo "
        "(default grey)",
    )


def export(options: argparse.Namespace) -> int:
    """Write the folder."""
    out, source = out_of(options), source_of(options)
    write_masks(source, out, options.kind)
    return source.report(out, "255 there too" if options.kind != "overlay" else "shown pale")


def write_masks(source: Source, out: Path, kind: str = "grey") -> None:
    """Write `out`/masks/NAME.png (or overlays/NAME.jpg) of all photos, classes.txt, labelmap.txt and classes.csv.

    kind: "grey" or "palette" (0 background, class + 1, 255 unsure), or "overlay" of the photos that are there. Raises
    ConfigError for another one, DataError, as for an overlay on a photo that can't be read.
    """
    if kind not in KINDS:
        raise ConfigError(f"no kind of masks '{kind}'; expected {', '.join(KINDS)}")
    source.check_stems("a folder of masks")
    if kind == "overlay":
        source.leave_out_missing()
    place = "overlays/{}.jpg" if kind == "overlay" else "masks/{}.png"
    with atomic_folder(out) as folder:
        for photo, mask in source:
            path = folder / place.format(photo.stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            # without subsampling a JPEG's colours are as sharp as its brightness; a PNG knows neither
            _picture(photo, mask, kind, source.reading).save(path, quality=_QUALITY, subsampling=0)
        write_class_files(folder, source.classes)


def _picture(photo: Photo, mask: np.ndarray, kind: str, reading: Reading) -> Image.Image:
    if kind == "grey":
        return Image.fromarray(mask)
    if kind == "palette":
        return palette_picture(mask)
    return Image.fromarray(overlay(decode_image(photo.path, reading=reading), mask))


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay the colours of a mask (H, W) uint8 over its photo (H, W, 3) uint8; the background stays as it is."""
    mixed = image.copy()
    shown = mask > 0
    mixed[shown] = np.rint((1 - _OPACITY) * image[shown] + _OPACITY * voc_palette()[mask[shown]])
    return mixed
