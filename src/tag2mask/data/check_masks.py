"""Looking at the headers of true masks: what would make their scores wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tag2mask.data.images import image_size, open_picture, stored_turned
from tag2mask.data.masks import read_mask
from tag2mask.data.records import BadFileError, Dataset, Problem


def check_masks(dataset: Dataset) -> list[Problem]:
    """Look at the headers of all true masks: colours instead of numbers, lossy formats, another size.

    Some tenths of a millisecond a mask; nothing is decoded, except a suspicious mask. Returned problems are fatal.
    """
    found: list[Problem] = []
    for record in dataset.records:
        if record.mask_path is None:
            continue
        try:
            size = image_size(record.path)
        except BadFileError:
            continue  # reported where the image is used
        try:
            found += _header_problems(record.mask_path, record.path, size)
        except BadFileError as error:
            found.append(
                Problem("unreadable-mask", record.mask_path.name, "", error.message, error.remedy, fatal=True)
            )
    return found


def _header_problems(path: Path, image: Path, size: tuple[int, int]) -> Iterator[Problem]:
    with open_picture(path, 1 << 40) as picture:
        suspicious = picture.mode not in ("P", "L", "1") or picture.format != "PNG"
        height, width = picture.size[::-1]
    if suspicious:
        height, width = read_mask(path).shape
    yield from size_problem(path, (height, width), image, size, fatal=True)


def size_problem(
    path: Path, mask: tuple[int, int], image: Path, size: tuple[int, int], *, fatal: bool = False
) -> Iterator[Problem]:
    """Report a mask whose size isn't its image's, and whether it was drawn on the photo before EXIF turned it."""
    if mask == size:
        return
    message = f"the mask is {mask[0]} x {mask[1]} pixels, its image {size[0]} x {size[1]}"
    remedy = "make it anew at the image's size (upright by EXIF)"
    if mask == size[::-1] and stored_turned(image):
        message += ": EXIF turns the photo, and the mask was drawn on it as it is stored"
        remedy = "turn the mask too, or store the photos upright without the EXIF tag and draw anew"
    yield Problem("mask-size", path.name, "", message, remedy, fatal=fatal)
