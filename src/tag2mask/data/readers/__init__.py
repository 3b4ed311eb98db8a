"""Readers: one file a format, each registered by one line in READERS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.data.readers import class_folders, coco, csv_labels, prepared, voc
from tag2mask.data.readers.found import Found, Query, assemble, nfc
from tag2mask.data.records import VOC_CLASSES, Dataset


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
    "folders": Reader(class_folders.matches, class_folders.read, class_folders.LOOKS_FOR),
}


def read_dataset(
    root: Path | str,
    *,
    reader: str = "auto",
    classes: Sequence[str] | None = None,
    mask_classes: Sequence[str] | str | None = None,
    split: str | None = None,
) -> Dataset:
    """Read the index of a dataset; no picture is decoded (except masks, where only they hold the labels).

    root: a folder, or a label file (.csv). reader: "csv", "voc", "coco", "folders", "prepared", or "auto" (what is
    there); what `tag2mask data prepare` wrote comes before VOC's and COCO's own files. Folders that don't look like
    classes are refused by "auto", not by "folders". classes: the wanted classes in order; None takes all that are
    found, sorted (COCO: by category id). mask_classes: names of the mask values 1..N, or "voc"; None takes VOC's
    numbering for VOC folders and VOC names, else the numbering of the dataset's classes. split: keep "train" or "val"
    only.

    What is wrong with single rows becomes `Dataset.problems` and the rows are left out. Raises DataError
    when nothing can be read or nothing is left.
    """
    folder = Path(root).expanduser().absolute()
    if not folder.exists():
        raise DataError(f"{root}: there is no such file or folder; give the dataset's folder or its label file")
    query = Query(_names(classes, "classes"), _mask_names(mask_classes), split)
    chosen, folder = _choose(folder, reader)
    dataset = assemble(chosen.read(folder, query), query)
    return dataset if split is None else dataset.select(split)


def _names(names: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{what} must be a list of class names, got {names!r}; for one class write ['cat']")
    return tuple(nfc(name.strip()) for name in names)


def _mask_names(mask_classes: Sequence[str] | str | None) -> tuple[str, ...] | None:
    return VOC_CLASSES if mask_classes == "voc" else _names(mask_classes, "mask_classes")


def _choose(root: Path, name: str) -> tuple[Reader, Path]:
    """Return the reader and what it shall read; an index that was prepared stands for VOC's or COCO's own files."""
    if name == "auto":
        name = _guess(root)
    if name not in READERS:
        raise DataError(f"no reader '{name}'{did_you_mean(name, ['auto', *READERS])}")
    index = prepared.folder_of(root, name) if name in ("voc", "coco") else None
    return (READERS[name], root) if index is None else (READERS["prepared"], index)


def _guess(root: Path) -> str:
    for name, reader in READERS.items():
        if reader.matches(root):
            if name == "folders":
                class_folders.refuse_other_layouts(root)
            return name
    looked = "; ".join(f"{key}: {reader.looks_for}" for key, reader in READERS.items())
    raise DataError(f"{root}: no known kind of dataset; looked for {looked}")
