"""Readers: one file a format, each registered by one line in READERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.classes import ClassList, find_class_list
from tag2mask.data.readers import (
    class_folders,
    coco,
    csv_labels,
    cvat,
    file_names,
    image_masks,
    label_studio,
    prepared,
    voc,
    xml_files,
    yolo,
)
from tag2mask.data.readers.found import BINARY, Found, Query, assemble
from tag2mask.data.readers.unread import seen, unread_labels
from tag2mask.data.records import VOC_CLASSES, Dataset
from tag2mask.data.words import BACKGROUND, is_background, is_ignored, nfc

MaskClasses = Sequence[str] | Mapping[str, str] | str | None
_BINARY_FROM = 128  # a binary mask's edge may be blended: from here on it is the class


@dataclass(frozen=True)
class Reader:
    """One format: how to tell it, how to read it, and what `reader="auto"` looks for, in words."""

    matches: Callable[[Path], bool]
    read: Callable[[Path, Query], Found]
    looks_for: str


# In the order in which "auto" tries them.
READERS: dict[str, Reader] = {
    "prepared": Reader(prepared.matches, prepared.read, prepared.LOOKS_FOR),
    "csv": Reader(csv_labels.matches, csv_labels.read, csv_labels.LOOKS_FOR),
    "voc": Reader(voc.matches, voc.read, voc.LOOKS_FOR),
    "coco": Reader(coco.matches, coco.read, coco.LOOKS_FOR),
    "yolo": Reader(yolo.matches, yolo.read, yolo.LOOKS_FOR),
    "cvat": Reader(cvat.matches, cvat.read, cvat.LOOKS_FOR),
    "label-studio": Reader(label_studio.matches, label_studio.read, label_studio.LOOKS_FOR),
    "masks": Reader(image_masks.matches, image_masks.read, image_masks.LOOKS_FOR),
    "xml": Reader(xml_files.matches, xml_files.read, xml_files.LOOKS_FOR),
    "names": Reader(file_names.matches, file_names.read, file_names.LOOKS_FOR),
    "folders": Reader(class_folders.matches, class_folders.read, class_folders.LOOKS_FOR),
}


def read_dataset(
    root: Path | str,
    *,
    reader: str = "auto",
    classes: Sequence[str] | None = None,
    mask_classes: MaskClasses = None,
    split: str | None = None,
    negatives: bool | str | Sequence[str] = True,
    pattern: str | None = None,
    background: bool = True,
) -> Dataset:
    """Read the index of a dataset; no picture is decoded (except masks, where only they hold the labels).

    root: a folder, or a label file (.csv). reader: "csv", "voc", "coco", "folders", "prepared", or "auto" (what is
    there); what `tag2mask data prepare` wrote comes before VOC's and COCO's own files. Folders that don't look like
    classes are refused by "auto", not by "folders". classes: the wanted classes in order; None takes those of
    classes.txt, labelmap.txt or data.yaml, else all found, sorted (COCO: by category id). mask_classes: names
    of the mask values 1..N, or by value, "voc", or "binary" for one class in 0/255; None takes the class file's
    numbering, VOC's for VOC folders and VOC names, else that of the dataset's classes. split: keep "train" or "val"
    only. negatives: False leaves images without any class out; names are labels or folders that mean none of the
    classes. pattern: of file names that carry their labels. background: False where every pixel belongs to a class.

    What is wrong with single rows becomes `Dataset.problems` and the rows are left out. Raises DataError
    when nothing can be read or nothing is left.
    """
    folder = _there(root)
    listed = _listed(folder)
    wanted, values = _names(classes, "classes"), mask_values(mask_classes)
    query = Query(wanted, values, split, listed, _negatives(negatives), pattern, background)
    chosen, folder = _choose(folder, reader, query)
    if chosen is READERS["prepared"]:
        query = replace(query, listed=None)  # the index says its classes and how its masks are numbered
    dataset = assemble(chosen.read(folder, query), query)
    return dataset if split is None else dataset.select(split)


def _negatives(given: bool | str | Sequence[str]) -> tuple[str, ...] | None:
    if isinstance(given, bool):
        return () if given else None
    return (given,) if isinstance(given, str) else tuple(given)


def _names(names: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{what} must be a list of class names, got {names!r}; for one class write ['cat']")
    return tuple(nfc(name.strip()) for name in names)


def mask_values(mask_classes: MaskClasses) -> Mapping[int, str] | None:
    """Return what each mask value means, by a recipe's `mask_classes`: a class, "background" or "ignored"."""
    if mask_classes == "binary":
        return dict.fromkeys((1, *range(_BINARY_FROM, 256)), BINARY) | dict.fromkeys(
            range(2, _BINARY_FROM), BACKGROUND
        )
    if isinstance(mask_classes, Mapping):
        return {_mask_value(value): _meaning(name) for value, name in mask_classes.items()}
    names = VOC_CLASSES if mask_classes == "voc" else _names(mask_classes, "mask_classes")
    return None if names is None else dict(enumerate(names, start=1))


def _mask_value(value: object) -> int:
    if not str(value).isdecimal() or int(str(value)) > 255:
        raise DataError(f"mask_classes: {value!r} is no mask value; write 0..255 before each name")
    return int(str(value))


def _meaning(name: str) -> str:
    return BACKGROUND if is_background(name) else "ignored" if is_ignored(name) else nfc(name.strip())


def _listed(root: Path) -> ClassList | None:
    """Return the class file of a data set given by its folder or its label file."""
    homes = [root] if root.is_dir() else [root.parent]
    if root.is_file() and root.parent.name.casefold() in ("annotations", "labels"):
        homes.append(root.parent.parent)
    deeper = voc.find_home(root) if root.is_dir() else None
    inner = image_masks.split_folders(root) if root.is_dir() else []
    found = (find_class_list(home) for home in [*homes, *([deeper] if deeper else []), *inner])
    return next((one for one in found if one is not None), None)


def _choose(root: Path, name: str, query: Query) -> tuple[Reader, Path]:
    """Return the reader and what it shall read; an index that was prepared stands for VOC's or COCO's own files."""
    if name == "auto":
        name = _guess(root) if query.pattern is None else "names"
    if name not in READERS:
        raise DataError(f"no reader '{name}'{did_you_mean(name, ['auto', *READERS])}")
    if name == "names" and query.pattern is None:
        raise DataError("reader 'names' needs a pattern, such as data.pattern='{label}_*'")
    index = prepared.folder_of(root, name) if name in ("voc", "coco") else None
    return (READERS[name], root) if index is None else (READERS["prepared"], index)


def taken_for(root: Path | str) -> str:
    """The name of the reader that "auto" takes for a folder or label file; DataError where there is none."""
    return _guess(_there(root))


def _there(root: Path | str) -> Path:
    folder = Path(root).expanduser().absolute()
    if not folder.exists():
        raise DataError(f"{root}: there is no such file or folder; give the dataset's folder or its label file")
    return folder


def _guess(root: Path) -> str:
    for name, reader in READERS.items():
        if reader.matches(root):
            if name == "folders":
                class_folders.refuse_other_layouts(root)
            return name
    unread = unread_labels(root) if root.is_dir() else None
    if unread is not None:
        raise DataError(unread)
    raise DataError(
        f"{root}: no known kind of data set; {seen(root)}. Write labels.csv (columns image,labels) beside the "
        f"pictures, or sort them into a folder for each class; what else is read: {', '.join(READERS)} (docs/data.md)"
    )
