"""The layout of PASCAL VOC 2012: lists in ImageSets, labels from Annotations, a label file or else from masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.parsers import expat

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.data.masks import read_mask
from tag2mask.data.readers.found import BINARY, Folders, Found, Query, Row, check_complete, inside
from tag2mask.data.records import IGNORED, VOC_CLASSES, BadFileError
from tag2mask.data.words import BACKGROUND, nfc, split_name

LOOKS_FOR = "folders JPEGImages and ImageSets (here, or in VOC2012 or VOCdevkit/VOC2012)"
_LIST_FOLDERS = ("Segmentation", "Main")
_MASKS = ("SegmentationClass",)
_LOOKED_AT = 50  # annotations; the first with an object tells whether the names are VOC's
AUGMENTED = ("trainaug", "train_aug")  # lists of the 10,582 images, train plus those of SBD, under their usual names


def matches(root: Path) -> bool:
    """Tell whether `root`, or a VOC folder below it, has the layout."""
    return find_home(root) is not None


def read(root: Path, query: Query) -> Found:
    """Read lists and labels; objects marked difficult count as labels too.

    Labels come from Annotations/ID.xml, or from the values of SegmentationClass/ID.png where that is missing. Where
    there is a list "trainaug", it is the train split, without the images of val.
    """
    home = voc_home(root)
    lines = listed(home, query.split)
    found = read_lists(home, lines, query)
    lists = {name for _, name, _, _ in lines}
    test = (home / lines[0][1]).with_name("test.txt")
    shown = test.relative_to(home).as_posix()
    if query.split is None and shown not in lists and test.is_file():
        message = f"its {len(list_lines(test, 'test'))} image(s) are not read, only those of train and val"
        found.report("split", shown, "", message, "name it val.txt to score by them", note=True)
    return found


def read_lists(
    home: Path, lines: Sequence[tuple[str, str, int, str]], query: Query, more: Mapping[str, list[str]] | None = None
) -> Found:
    """Read the images of `lines` (split, list, line, stem); `more` has the labels of images without annotation."""
    folders = Folders(home)
    annotated = folders.files("Annotations")
    found = Found(home.name, voc_masks=True, keep_unlabelled=frozenset({"test"}))
    found.known_from = "the annotations' names, sorted"
    values = _meanings(home, query)
    for split, list_name, line, stem in lines:
        image = folders.image_by_stem("JPEGImages", stem)
        place = f"line {line}"
        if image is None:
            message = f"image '{stem}' is not in JPEGImages"
            found.report("missing-image", list_name, place, message, "add the file or delete the line")
            continue
        mask = folders.mask(stem, _MASKS)
        row = Row(home / image, image, [], split, mask, list_name, line)
        if _fill_labels(found, row, annotated.get(f"{nfc(stem)}.xml"), values, (more or {}).get(stem)):
            found.rows.append(row)
    check_complete(found, lines[0][1])
    from_masks = sum(row.label_file.startswith("SegmentationClass/") for row in found.rows)
    if from_masks:
        message = f"the tags of {from_masks} image(s) are taken from their masks"
        found.report("tags", "SegmentationClass", "", message, "give tags, to learn from tags alone", note=True)
    return found


def _meanings(home: Path, query: Query) -> Mapping[int, str] | None:
    """Return what the values of masks are called: by the recipe, a class file, or VOC; None where nothing says so.

    VOC's names are only taken where classes that were asked for, or annotations, are VOC's: names are not invented.
    """
    if query.mask_values is not None:
        one = (query.classes or (query.listed.names if query.listed else ()))[:1]
        return {value: one[0] if name == BINARY and one else name for value, name in query.mask_values.items()}
    if query.listed is not None:
        return query.listed.values
    vocs = set(query.classes or ()) <= set(VOC_CLASSES) if query.classes else _first_names_are_vocs(home)
    return dict(enumerate(VOC_CLASSES, start=1)) if vocs else None


def _first_names_are_vocs(home: Path) -> bool:
    for path in sorted((home / "Annotations").glob("*.xml"))[:_LOOKED_AT]:
        try:
            names = object_names(path)
        except BadFileError:
            continue
        if names:
            return set(names) <= set(VOC_CLASSES)
    return False


def voc_home(root: Path) -> Path:
    """Return the folder VOC2012 at `root` or below it; DataError, naming the right folder where there is one near."""
    home = find_home(root)
    if home is None:
        raise _wrong_folder(root)
    return home


def find_home(root: Path) -> Path | None:
    """Return the folder VOC2012 at `root` or below it, None where there is none."""
    if not root.is_dir():
        return None
    inner = [*sorted(root.glob("VOC2*"), reverse=True), *sorted(root.glob("VOCdevkit/VOC2*"), reverse=True)]
    preferred = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012", *inner]
    return next((folder for folder in preferred if _has_layout(folder)), None)


def _has_layout(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()


def _wrong_folder(root: Path) -> DataError:
    above = next((p for p in (*root.parents,)[:3] if _has_layout(p)), None)
    if above is not None:
        return DataError(f"{root}: is inside a VOC folder; give {above} instead")
    for pattern in ("*/JPEGImages", "*/*/JPEGImages", "*/*/*/JPEGImages", "*/*/*/*/JPEGImages"):
        below = next((path.parent for path in sorted(root.glob(pattern)) if _has_layout(path.parent)), None)
        if below is not None:
            return DataError(f"{root}: is above a VOC folder; give {below} instead")
    missing = [name for name in ("JPEGImages", "ImageSets") if not (root / name).is_dir()]
    half = " (the archive seems half unpacked: unpack it again)" if len(missing) == 1 else ""
    return DataError(
        f"{root}: no VOC layout, {' and '.join(missing)} missing{half}; give the folder VOC2012 that holds "
        "JPEGImages, ImageSets and Annotations, or VOCdevkit above it"
    )


def listed(home: Path, split: str | None, *, with_augmented: bool = True) -> list[tuple[str, str, int, str]]:
    """Return (split, list's name, line, stem) for every listed image; DataError without any list.

    with_augmented: take the list "trainaug" for the train split, where there is one.
    """
    wanted = ("train", "val") if split in (None, "", "train", "val") else (split,)
    for folder in _LIST_FOLDERS:
        paths = [(name, home / "ImageSets" / folder / f"{name}.txt") for name in wanted]
        if not any(path.is_file() for _, path in paths):
            paths = [("", home / "ImageSets" / folder / "trainval.txt")] if split in (None, "") else []
        augmented = augmented_list(home) if with_augmented and folder == "Segmentation" else None
        if augmented is not None and paths[:1] == [("train", home / "ImageSets" / folder / "train.txt")]:
            paths[0] = ("train", augmented)
        rows = [row for name, path in paths if path.is_file() for row in list_lines(path, name)]
        if not rows and split in (None, ""):
            rows = [row for name, path in _own_lists(home / "ImageSets" / folder) for row in list_lines(path, name)]
        if rows:
            held_out = {stem for name, _, _, stem in rows if name == "val"} if augmented is not None else set()
            return [row for row in rows if row[0] != "train" or row[3] not in held_out]
    names = " or ".join(f"{name}.txt" for name in wanted)
    raise DataError(
        f"{home / 'ImageSets'}: no list {names} with any image in Segmentation or Main; "
        "write one, with an image's name without suffix on each line"
    )


def _own_lists(folder: Path) -> list[tuple[str, Path]]:
    """Return (split, list) of lists with other names: all named as splits are, or a single one, which is no split."""
    paths = sorted(folder.glob("*.txt"))
    named = [(split_name(path.stem), path) for path in paths]
    if all(split for split, _ in named):
        return [(split or "", path) for split, path in named]
    return [("", paths[0])] if len(paths) == 1 else []


def listed_stems(home: Path, split: str) -> set[str]:
    """Return the names in ImageSets/Segmentation/SPLIT.txt itself; empty where there is no such list."""
    path = home / "ImageSets" / "Segmentation" / f"{split}.txt"
    return {stem for _, _, _, stem in list_lines(path, split)} if path.is_file() else set()


def augmented_list(home: Path) -> Path | None:
    """Return the list of the augmented training images, where there is one."""
    places = (
        home / "ImageSets" / folder / f"{name}.txt"
        for folder in ("Segmentation", "SegmentationAug")
        for name in AUGMENTED
    )
    return next((path for path in places if path.is_file()), None)


def list_lines(path: Path, split: str) -> list[tuple[str, str, int, str]]:
    """Return (split, list's name, line, stem) for every image of one list."""
    official = path.parent.parent.name == "ImageSets"
    name = f"ImageSets/{path.parent.name}/{path.name}" if official else path.name
    images = path.parents[2] / "JPEGImages" if official else None
    return [(split, name, n, _stem(line, images)) for n, line in enumerate(_lines(path), start=1) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadFileError(path, f"is not UTF-8 ({error.reason})", "save the list as UTF-8") from error


def _stem(line: str, images: Path | None = None) -> str:
    """Return the image's name: all of the line, without a trailing -1, 0, 1 or mask and without suffix.

    A folder stays where `images` has it, and a trailing number that belongs to an image's name there.
    """
    image, _, mask = line.strip().rpartition(" ")
    if image.lower().endswith(".jpg") and mask.lower().endswith(".png"):  # lists of pairs, as SBD's often come
        line = image
    text, _, flag = line.strip().rpartition(" ")
    flagged = text and flag in ("-1", "0", "1") and not _has_image(images, line.strip())
    name = text.strip() if flagged else line.strip()
    folder, _, name = name.replace("\\", "/").rpartition("/")
    name = name[: -len(".jpg")] if name.lower().endswith((".jpg", ".png")) else name
    relative = inside(folder) if folder and images is not None else None
    return f"{relative}/{name}" if relative and images is not None and (images / relative).is_dir() else name


def _has_image(images: Path | None, name: str) -> bool:
    return images is not None and any((images / f"{name}{suffix}").is_file() for suffix in (".jpg", ".png"))


def _fill_labels(
    found: Found, row: Row, annotation: str | None, values: Mapping[int, str] | None, more: list[str] | None
) -> bool:
    """Put the labels' names into the row; report and return False when its annotation can't be used."""
    try:
        if annotation is not None:
            path = found_home(row) / "Annotations" / annotation
            row.label_file = f"Annotations/{annotation}"
            row.names = object_names(path)
        elif more is not None:
            row.names = more
        elif row.mask_path is not None:
            row.label_file = f"SegmentationClass/{row.mask_path.name}"
            row.names = _names_in_mask(found, row, row.mask_path, values)
        row.negative = not row.names and (annotation is not None or more is not None or row.mask_path is not None)
    except BadFileError as error:
        found.report("bad-annotation", row.label_file, "", error.message, error.remedy)
        return False
    return True


def found_home(row: Row) -> Path:
    """Return the folder that an image's path inside the data set begins in."""
    return row.path.parents[row.relative.count("/")]


def object_names(path: Path) -> list[str]:
    """Return the names of the objects in an annotation file, each once, sorted.

    A document type is refused, because entities declared there can blow up to any size. Raises DataError.
    """
    stack: list[str] = []
    names: list[str] = []
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadFileError(path, "declares a document type or entities", "delete the <!DOCTYPE ...> part")

    def start(tag: str, _: dict[str, str]) -> None:
        stack.append(tag)
        if stack[1:] == ["object", "name"]:
            names.append("")

    def text(data: str) -> None:
        if stack[1:] == ["object", "name"]:
            names[-1] += data

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop() and None
    parser.CharacterDataHandler = text
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadFileError(path, f"is not valid XML ({error})", "repair or delete the file") from error
    return sorted({nfc(name.strip()) for name in names} - {""})


def _names_in_mask(found: Found, row: Row, mask: Path, meanings: Mapping[int, str] | None) -> list[str]:
    values = [int(value) for value in np.flatnonzero(np.bincount(read_mask(mask).ravel(), minlength=256))]
    if meanings is None:
        raise DataError(
            f"{found_home(row)}: nothing names the classes: there is no annotation of '{row.relative}', and no "
            "classes.txt, class_names.txt, labels.txt, labelmap.txt or data.yaml says what its mask's numbers mean; "
            "write one (a class a line, in the masks' order), or data.mask_classes: voc for VOC's twenty"
        )
    outside = [value for value in values if value not in (0, IGNORED) and value not in meanings]
    if outside:
        message = f"value {outside[0]} names no class; the mask classes are {', '.join(map(str, sorted(meanings)))}"
        found.report("mask-values", row.label_file, "", message, "those pixels are ignored; give mask_classes")
    names = {meanings[value] for value in values if value in meanings}
    return sorted(names - {BACKGROUND, "ignored"})
