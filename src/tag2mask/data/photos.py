"""Photos without labels, to be segmented by a trained network."""

from __future__ import annotations

from pathlib import Path

from tag2mask.common.errors import DataError
from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.records import Dataset, ImageRecord, own_lut


def photos_dataset(photos: Path | str, classes: tuple[str, ...]) -> Dataset:
    """Return the images of a folder (and of the folders below it), or one file, as a dataset without labels.

    Ids are the path below the folder with '__' for '/', keeping the suffix where two files differ only in it.
    Raises DataError when there is no image.
    """
    root = Path(photos).expanduser().absolute()
    if root.is_file():
        paths = [root]
    else:
        paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    if not paths:
        raise DataError(f"{photos}: no images there; looked for files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    base = root.parent if root.is_file() else root
    stems = ["__".join(p.relative_to(base).with_suffix("").parts) for p in paths]
    repeated = {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else set()
    ids = [stem + path.suffix if stem in repeated else stem for stem, path in zip(stems, paths, strict=True)]
    records = tuple(ImageRecord(i, path, ()) for i, path in zip(ids, paths, strict=True))
    return Dataset(root.name, classes, records, (), own_lut(classes))
