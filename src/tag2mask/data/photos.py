"""Photos without labels, to be segmented by a trained network."""

from __future__ import annotations

from pathlib import Path

from tag2mask.common.errors import DataError
from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.readers.ids import unique_ids
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.records import Dataset, ImageRecord, own_lut, printable
from tag2mask.data.tags import read_tags, with_tags


def photos_dataset(photos: Path | str, classes: tuple[str, ...], tags: Path | None = None) -> Dataset:
    """Return the images of a folder (and of the folders below it), or one file, as a dataset without labels.

    `tags` is a CSV file (image,labels) whose tags become the photos' labels, where it lists them; rows of no photo
    are told among the set's problems.
    Ids are the path below the folder with '__' for '/', keeping the suffix where two files differ only in it. What
    runs wrote there (such as earlier predictions) is left out. Raises DataError when there is no image.
    """
    root = Path(photos).expanduser().absolute()
    if root.is_file():
        paths = [root]
    else:
        paths = sorted(parent / name for parent, names in walk(root) for name in names if is_picture(name))
        paths = [path for path in paths if path.is_file()]
    if not paths:
        raise DataError(f"{photos}: no images there; looked for files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    base = root.parent if root.is_file() else root
    ids = unique_ids([path.relative_to(base).as_posix() for path in paths], by_path=True)
    records = tuple(ImageRecord(i, path, ()) for i, path in zip(ids, paths, strict=True))
    dataset = Dataset(printable(root.name), classes, records, (), own_lut(classes))
    return dataset if tags is None else with_tags(dataset, root, read_tags(tags, classes), str(tags))
