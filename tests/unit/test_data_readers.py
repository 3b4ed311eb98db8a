"""Readers: what each format gives, and one line for each thing that is wrong while the rest goes on."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.errors import DataError
from tag2mask.common.files import write_json
from tag2mask.data import VOC_CLASSES, Dataset, check_dataset, read_dataset, read_mask, write_mask
from tag2mask.data.photos import photos_dataset
from tag2mask.data.readers.csv_labels import split_labels
from tag2mask.data.readers.found import inside
from tag2mask.data.readers.ids import safe_id

Labels = dict[str, list[str]]


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value, 50, 90)).save(path)


def labels(dataset: Dataset) -> Labels:
    return {r.id: [dataset.classes[label] for label in r.labels] for r in dataset.records}


def problem_lines(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems]


@pytest.fixture
def csv_set(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes labels.csv and empty-looking pictures."""

    def write(text: str | bytes, images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
        for number, name in enumerate(images):
            picture(tmp_path / name, number)
        (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return tmp_path

    return write


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_from_any_program(csv_set: Callable[..., Path], newline: str, encoding: str) -> None:
    rows = ["image,labels", "", "мой кот.png,кошка", ",", "b.png,dog", "", ""]
    folder = csv_set(newline.join(rows).encode(encoding), ("мой кот.png", "b.png"))
    dataset = read_dataset(folder)
    assert labels(dataset) == {"мой кот": ["кошка"], "b": ["dog"]}
    assert dataset.problems == ()
    assert all(record.path.is_file() and record.path.is_absolute() for record in dataset.records)


@pytest.mark.parametrize("cell", ["cat;dog", "cat|dog", '"cat,dog"', '"cat, dog"', "cat ; dog;", "cat,dog"])
def test_csv_label_separators(csv_set: Callable[..., Path], cell: str) -> None:
    folder = csv_set(f"image,labels\na.png,{cell}\n")
    assert labels(read_dataset(folder)) == {"a": ["cat", "dog"]}
    assert labels(read_dataset(folder, classes=["dog", "cat"])) == {"a": ["dog", "cat"]}


def test_csv_names_of_several_words(csv_set: Callable[..., Path]) -> None:
    assert split_labels("traffic light", {"traffic light", "car"}) == ["traffic light"]
    assert split_labels("car traffic light cat", {"traffic light", "car", "cat"}) == [
        "car",
        "traffic light",
        "cat",
    ]
    assert split_labels("traffic ligth", {"traffic light", "car"}) == ["traffic ligth"]
    assert split_labels("cat cat;cat") == ["cat cat", "cat"]
    folder = csv_set("image,labels\na.png,traffic light;car\nb.png,traffic light\n")
    assert read_dataset(folder).classes == ("car", "traffic light")


def test_csv_semicolon_and_tab_files(csv_set: Callable[..., Path]) -> None:
    assert labels(read_dataset(csv_set("image;labels\na.png;cat|dog\n"))) == {"a": ["cat", "dog"]}
    assert labels(read_dataset(csv_set("Image\tLabels\na.png\tcat;dog\n"))) == {"a": ["cat", "dog"]}


def test_csv_each_wrong_row_is_named_and_the_rest_goes_on(csv_set: Callable[..., Path]) -> None:
    text = (
        "image,labels,split\n"
        "a.png,cat,train\n"  # 2
        "gone.png,cat,train\n"  # 3
        "b.png,hose,val\n"  # 4
        "a.png,cat,val\n"  # 5
        "c.png,,train\n"  # 6
        "../secret.png,cat,train\n"  # 7
        "/etc/passwd,cat,train\n"  # 8
        "d.png,cat,tarin\n"  # 9
        "d.png,cat,val,extra,more\n"  # 10
        "A.png,cat,val\n"  # 11
        "d.png,horse,val\n"  # 12
    )
    folder = csv_set(text, ("a.png", "b.png", "c.png", "d.png"))
    dataset = read_dataset(folder, classes=["cat", "horse", "unicorn"])
    assert labels(dataset) == {"a": ["cat"], "c": [], "d": ["horse"]}
    found = {problem.place: problem for problem in dataset.problems}
    assert {place: problem.kind for place, problem in found.items() if not problem.note} == {
        "line 3": "missing-image",
        "line 4": "unknown-class",
        "line 5": "duplicate",
        "line 7": "unsafe-path",
        "line 8": "unsafe-path",
        "line 9": "unknown-split",
        "line 10": "bad-row",
        "line 11": "missing-image",
    }
    assert str(found["line 4"]).startswith(
        "labels.csv line 4: class 'hose' is not in the class list; did you mean 'horse'?"
    )
    assert "did you mean 'a.png'?" in str(found["line 11"])
    assert "'../secret.png'" in str(found["line 7"])
    assert all(problem.remedy and "\n" not in str(problem) for problem in dataset.problems)


def test_csv_other_voc_classes_are_dropped_but_slips_are_not(csv_set: Callable[..., Path]) -> None:
    folder = csv_set("image,labels\na.png,cat chair\nb.png,sofa\nc.png,cat chiar\n", ("a.png", "b.png", "c.png"))
    dataset = read_dataset(folder, classes=["cat", "dog"])
    assert labels(dataset) == {"a": ["cat"]}
    assert [problem.place for problem in dataset.problems if not problem.note] == ["line 4"]
    assert len([problem for problem in dataset.problems if problem.note]) == 2  # chair and sofa


@pytest.mark.parametrize("folder_name", ["", "JPEGImages", "images", "Images", "images/deep"])
def test_csv_image_folders(csv_set: Callable[..., Path], folder_name: str) -> None:
    name = "deep/a.png" if folder_name == "images/deep" else "a.png"
    folder = csv_set(f"image,labels\n{name},cat\n", (f"{folder_name}/a.png".strip("/"),))
    assert read_dataset(folder).records[0].path == folder / folder_name / "a.png"
    assert labels(read_dataset(folder / "labels.csv")) == {"a": ["cat"]}


def test_csv_name_without_suffix_or_with_backslash(csv_set: Callable[..., Path]) -> None:
    folder = csv_set("image,labels\na,cat\nsub\\b.png,cat\n", ("a.png", "sub/b.png"))
    assert set(labels(read_dataset(folder))) == {"a", "b"}


def test_csv_accents_joined_or_not(csv_set: Callable[..., Path]) -> None:
    folder = csv_set("image,labels\ncafe\u0301.png,re\u0301sume\u0301\n", ("caf\u00e9.png",))
    assert labels(read_dataset(folder, classes=["r\u00e9sum\u00e9"])) == {"caf\u00e9": ["r\u00e9sum\u00e9"]}


def test_csv_ids_stay_different(csv_set: Callable[..., Path]) -> None:
    names = ("a.png", "a.bmp", "x/b.png", "y/b.png", ".c.png")
    rows = "".join(f"{name},cat\n" for name in names[:4])
    dataset = read_dataset(csv_set("image,labels\n" + rows, names))
    assert sorted(labels(dataset)) == ["a.bmp", "a.png", "x__b.png", "y__b.png"]


def test_ids_are_safe_file_names() -> None:
    assert safe_id("a/b\\c") == "a__b__c"
    assert safe_id(".hidden") == "_hidden"
    assert safe_id("a\tb\x00") == "a_b_"
    long = safe_id("ы" * 200)
    assert len(long.encode()) <= 150
    assert safe_id(os.fsdecode(b"caf\xe9")) != safe_id(os.fsdecode(b"caf\xe8"))
    assert safe_id(os.fsdecode(b"caf\xe9")).startswith("caf_-")
    assert len(safe_id(os.fsdecode(b"\xe9" * 200)).encode()) <= 150
    assert long != safe_id("ы" * 201)


@pytest.mark.parametrize("name", ["../a", "/a", "C:\\a", "a/../../b", "", "\\\\host\\a", "a\0b", "."])
def test_paths_outside_are_refused(name: str) -> None:
    assert inside(name) is None


def test_csv_masks_and_splits(csv_set: Callable[..., Path], tmp_path: Path) -> None:
    names = ("JPEGImages/a.png", "JPEGImages/b.png", "JPEGImages/c.png", "JPEGImages/d.png")
    folder = csv_set("image,labels,mask\na.png,cat,m/x.png\nb.png,cat,gone.png\nc.png,cat\nd.png,cat\n", names)
    for name in ("m/x.png", "SegmentationClass/b.png", "SegmentationClass/c.png"):
        write_mask(folder / name, np.ones((6, 8)))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n\r\n")
    (lists / "val.txt").write_text("c\n")
    dataset = read_dataset(folder)
    by_id = {record.id: record for record in dataset.records}
    masks = {key: r.mask_path and r.mask_path.relative_to(folder).as_posix() for key, r in by_id.items()}
    assert masks == {"a": "m/x.png", "b": None, "c": "SegmentationClass/c.png", "d": None}
    assert {key: record.split for key, record in by_id.items()} == {"a": "train", "b": "train", "c": "val", "d": ""}
    assert [problem.kind for problem in dataset.problems] == ["missing-mask"]
    assert [record.id for record in read_dataset(folder, split="train").records] == ["a", "b"]


def test_csv_masks_of_images_with_one_name(csv_set: Callable[..., Path]) -> None:
    names = ("day1/IMG_1.png", "images/day2/IMG_1.png", "day3/IMG_1.png", "day3/IMG_2.png", "a.jpg", "a.png")
    folder = csv_set("image,labels\n" + "".join(f"{name},cat\n" for name in names), names)
    for name in ("day1/IMG_1", "day2/IMG_1", "IMG_1", "IMG_2", "a"):
        write_mask(folder / "masks" / f"{name}.png", np.ones((6, 8)))
    dataset = read_dataset(folder)
    masks = {r.id: r.mask_path and r.mask_path.relative_to(folder / "masks").as_posix() for r in dataset.records}
    assert masks == {
        "day1__IMG_1.png": "day1/IMG_1.png",
        "images__day2__IMG_1.png": "day2/IMG_1.png",
        "day3__IMG_1.png": None,
        "IMG_2": "IMG_2.png",
        "a.jpg": None,
        "a.png": None,
    }
    assert [(p.kind, p.place) for p in dataset.problems] == [
        ("ambiguous-mask", "line 4"),
        ("ambiguous-mask", "line 6"),
        ("ambiguous-mask", "line 7"),
    ]
    assert "'masks/IMG_1.png' may be that of 3 images, one of them 'day3/IMG_1.png'" in problem_lines(dataset)[0]


def test_csv_split_lists_with_paths(csv_set: Callable[..., Path]) -> None:
    folder = csv_set("image,labels\nx/a.png,cat\ny/a.png,cat\nz/b.png,cat\n", ("x/a.png", "y/a.png", "z/b.png"))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("x/a\nb\n")
    (lists / "val.txt").write_text("y/a\n")
    assert [record.split for record in read_dataset(folder).records] == ["train", "val", "train"]


def test_mask_numbering(csv_set: Callable[..., Path]) -> None:
    folder = csv_set("image,labels\na.png,dog\nb.png,cat\n")
    assert read_dataset(folder).mask_lut[:4].tolist() == [0, 1, 2, 255]
    assert read_dataset(folder, mask_classes="voc").mask_lut[[8, 12, 15, 21]].tolist() == [1, 2, 0, 255]
    swapped = read_dataset(folder, mask_classes=["dog", "bird", "cat"])
    assert swapped.mask_lut[:5].tolist() == [0, 2, 0, 1, 255]
    (folder / "SegmentationClass").mkdir()
    assert read_dataset(folder).mask_lut[[8, 12]].tolist() == [1, 2]
    assert read_dataset(folder, mask_classes=["cat", "dog"]).mask_lut[:4].tolist() == [0, 1, 2, 255]


def test_mask_values_reach_class_numbers(csv_set: Callable[..., Path]) -> None:
    folder = csv_set("image,labels\na.png,dog\n")
    write_mask(folder / "SegmentationClass" / "a.png", np.array([[0, 12, 8, 255]]))
    dataset = read_dataset(folder, classes=["dog"])
    mask_path = dataset.records[0].mask_path
    assert mask_path is not None
    assert read_mask(mask_path, dataset.mask_lut).tolist() == [[0, 1, 0, 255]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"imag,labels\na,cat\n", "has no column 'image'; did you mean 'imag'"),
        (b"image,labls\na.png,cat\n", "no column 'labels'; did you mean 'labls'"),
        (b"image,labels\na.png,caf\xe9\n", "line 2: byte b'\\\\xe9' is not UTF-8"),
        (b"image,labels\ngone.png,cat\n", "no usable image is left of 0 found; labels.csv line 2"),
        (b"image,labels\n", "has a header and no row"),
    ],
)
def test_csv_files_that_cannot_be_used(csv_set: Callable[..., Path], content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_dataset(csv_set(content), reader="csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": "cat"}, "must be a list"),
        ({"classes": []}, "must be a list"),
        ({"classes": ["cat", "cat"]}, "repeats 'cat'"),
        ({"classes": ["background", "cat"]}, "without the background"),
        ({"classes": [f"c{i}" for i in range(255)]}, "at most 254"),
        ({"reader": "cvs"}, "no reader 'cvs'; did you mean 'csv'"),
        ({"split": "train"}, "split 'train'; splits there are: \\(unspecified\\)"),
    ],
)
def test_wrong_arguments(csv_set: Callable[..., Path], arguments: dict, words: str) -> None:
    folder = csv_set("image,labels\na.png,cat\n")
    with pytest.raises(DataError, match=words):
        read_dataset(folder, **arguments)


def test_background_cannot_be_a_label(csv_set: Callable[..., Path]) -> None:
    dataset = read_dataset(csv_set("image,labels\na.png,cat\nb.png,background\n"))
    assert (dataset.classes, labels(dataset)) == (("cat",), {"a": ["cat"], "b": []})
    assert "'background' on 1 image(s) is read as none of the classes" in problem_lines(dataset)[0]


def test_a_large_index_needs_no_look_at_single_files(
    csv_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"images/{number}.png" for number in range(200))
    folder = csv_set("image,labels\n" + "".join(f"{n},c{i % 3}\n" for i, n in enumerate(names)), names)
    calls: list[str] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: (calls.append(str(path)), real(path, *a, **k))[1])
    assert len(read_dataset(folder)) == 200
    assert len(calls) < 50


# ---------------------------------------------------------------- class folders


def test_class_folders(tmp_path: Path) -> None:
    for name in ("кошка/a 1.jpg", "dog/b.JPG", "dog/deep/c.png", ".git/x.jpg"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("dog", "empty", "кошка")
    assert labels(dataset) == {"dog__b": ["dog"], "dog__deep__c": ["dog"], "кошка__a 1": ["кошка"]}


def test_class_folders_under_splits_with_masks(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cat/1.png", "train/dog/1.png", "validation/cat/1.png")):
        picture(tmp_path / name, number)
    write_mask(tmp_path / "masks" / "train" / "cat" / "1.png", np.ones((6, 8)))
    dataset = read_dataset(tmp_path)
    assert [(r.id, r.split, r.mask_path is not None) for r in dataset.records] == [
        ("train__cat__1", "train", True),
        ("train__dog__1", "train", False),
        ("validation__cat__1", "val", False),
    ]
    assert dataset.classes == ("cat", "dog")


def test_same_file_in_two_classes(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "both.png", 1)
    picture(tmp_path / "dog" / "both.png", 1)
    picture(tmp_path / "cat" / "1.png", 2)
    picture(tmp_path / "dog" / "1.png", 3)
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"cat__1": ["cat"], "cat__both": ["cat", "dog"], "dog__1": ["dog"]}
    assert problem_lines(dataset) == [
        "dog/both.png: is the same file as cat/both.png; counted once, with both labels; "
        "use a label CSV for images with several labels"
    ]


def test_class_folders_report_what_is_left_out(tmp_path: Path) -> None:
    for name in ("hose/a.jpg", "cat/b.jpg", "loose.jpg", "background/c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "cat" / "c.heic").write_bytes(b"x")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    dataset = read_dataset(tmp_path, classes=["cat", "horse"])
    assert labels(dataset) == {"background__c": [], "cat__b": ["cat"]}
    text = "\n".join(problem_lines(dataset))
    assert "class 'horse' has no folder; did you mean 'hose'?" in text
    assert "1 file(s) that are not pictures by their name (.heic)" in text
    assert "1 picture(s) lie beside the class folders (such as 'loose.jpg')" in text
    assert "'background' on 1 image(s) is read as none of the classes" in text
    assert "class 'hose' of 1 image(s) is not in the recipe's data.classes; did you mean 'horse'?" in text
    assert len(dataset.problems) == 5


def test_class_folders_ids_on_collision(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.jpg")
    picture(tmp_path / "cat" / "a.png")
    assert sorted(labels(read_dataset(tmp_path))) == ["cat__a.jpg", "cat__a.png"]


def test_class_folders_give_no_mask_to_two_images(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/1.jpg", "cat/1.png", "dog/2.png")):
        picture(tmp_path / name, number)
    for name in ("cat/1", "2"):
        write_mask(tmp_path / "masks" / f"{name}.png", np.ones((6, 8)))
    dataset = read_dataset(tmp_path)
    assert [r.mask_path is not None for r in dataset.records] == [False, False, True]
    assert [p.kind for p in dataset.problems] == ["ambiguous-mask"] * 2


@pytest.mark.parametrize("names", [("mask", "mask"), ("Masks", "Masks"), ("gt", "gt"), ("cat_masks", "dog-GT")])
@pytest.mark.parametrize("end", ["", "_mask"])
def test_folders_of_masks_beside_classes_are_no_classes(tmp_path: Path, names: tuple[str, str], end: str) -> None:
    for number, name in enumerate(("cat/1.jpg", "dog/2.jpg")):
        picture(tmp_path / name, number)
        write_mask(tmp_path / names[number] / f"{number + 1}{end}.png", np.full((6, 8), number + 1))
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [record.mask_path is not None for record in dataset.records] == [True, True]
    assert {problem.kind for problem in dataset.problems} == {"masks"}


def test_a_class_called_as_masks_is_asked_about(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/1.png", "dog/2.png", "label/1.png", "with_mask/2.png")):
        picture(tmp_path / name, number)
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog", "label", "with_mask")
    assert [(problem.kind, problem.file) for problem in dataset.problems] == [("masks", "label/")]
    write_mask(tmp_path / "label" / "1.png", np.ones((6, 8)))
    assert read_dataset(tmp_path).classes == ("cat", "dog", "with_mask")
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / f"no-{name}-mask")  # each is called so
    assert "with_mask" in read_dataset(tmp_path).classes


@pytest.mark.parametrize("masks", [("a_mask.png", "a_mask_1.png"), ("a_gt.jpg",), ("a-GT2.png",)])
def test_masks_beside_photos_are_no_photos(tmp_path: Path, masks: tuple[str, ...]) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg"):
        picture(tmp_path / name)
    for name in masks:
        picture(tmp_path / "cat" / name)
    dataset = read_dataset(tmp_path)
    assert [record.path.name for record in dataset.records] == ["a.jpg", "b.jpg"]
    used = masks == ("a-GT2.png",)
    assert (dataset.records[0].mask_path is not None) == used
    assert [problem.kind for problem in dataset.problems] == ([] if used else ["ambiguous-mask"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("images/a.jpg", "tags.csv"), r"tags\.csv: may hold the labels, but only labels\.csv .*; rename it"),
        (("images/a.jpg", "Masks/a.png"), r"'Masks' is no class, .*labels\.csv"),
        (("photos/cat/a.jpg", "photos/dog/b.jpg"), "'photos' is no class.* give .*photos, if the folders in it"),
        (("train/images/a.jpg", "train/labels/a.txt", "valid/images/b.jpg"), "'images' is no class"),
        (("train2014/a.jpg", "val2014/b.jpg"), "'train2014' is no class"),
        (("train/cat/a.jpg", "val/cat/b.jpg", "extra/c.jpg"), "'train' is a split and 'extra' isn't.*; move 'extra'"),
        (("train/cat/a.jpg", "val/cat/b.jpg", "notes/c.txt"), "'train' is a split and 'notes' isn't"),
        (("cat/a.jpg", "dog/b.jpg", "val/c.jpg"), "'val' is a split and 'cat' isn't"),
        (
            ("my set/cat/a.jpg", "my set/dog/b.jpg", "__MACOSX/c.jpg"),
            r"only 'my set' has pictures.*give .*my set instead",
        ),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=words + ".*or, if every folder is a class, say so by"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, reader="folders").classes


def test_words_about_pictures_are_no_labels(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg"):
        picture(tmp_path / name)
    (tmp_path / "README.txt").write_text("Our animals.\nTaken in 2023.\ncat/a.jpg is the first.\n", encoding="utf-8")
    assert read_dataset(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("labels.json", '{"2023/a.jpg": ["cat"]}', "names pictures.* JSON of this form isn't read"),
        ("metadata.jsonl", '{"file_name": "2023/a.jpg", "label": "cat"}', "names pictures"),
        ("labels.xlsx", "PK", "may hold the labels, and isn't read"),
        ("labels.parquet", "PAR1", "may hold the labels, and isn't read"),
        ("labels.txt", "2023/a.jpg cat\n", "names pictures and labels"),
        ("train.txt", "image label\n2023/a b.jpg\t0\n", "names pictures and labels"),
        ("2023/a.json", '{"shapes": [], "imagePath": "a.jpg"}', "is Labelme's JSON.*labelme2coco"),
        ("2023/ann/a.jpg.json", '{"objects": [{"classTitle": "cat"}]}', "Supervisely.* export as COCO"),
        ("x/1.json", '{"item": {"name": "a.jpg"}, "annotations": []}', "Darwin.* export as COCO"),
        ("annotations/default.json", '{"categories": {}, "items": []}', "Datumaro.* export as COCO"),
        ("via.json", '{"a.jpg": {"regions": [{"region_attributes": {}}]}}', "VGG Image Annotator"),
        ("2023/a.txt", "0 .5 0.5 .1 .1\n", "YOLO's label file.* put classes.txt .*data.reader=yolo"),
    ],
)
def test_labels_in_other_forms_are_named(tmp_path: Path, file: str, text: str, words: str) -> None:
    for name in ("2023/a.jpg", "2024/b.jpg"):
        picture(tmp_path / name)
    (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{re.escape(file)}: .*{words}.* or, if every folder is a class"):
        read_dataset(tmp_path)
    assert {"2023", "2024"} <= set(read_dataset(tmp_path, reader="folders").classes)
    for name in ("2023/a.jpg", "2024/b.jpg"):
        (tmp_path / name).unlink()
    if "YOLO" not in words:
        with pytest.raises(DataError, match=words):
            read_dataset(tmp_path)


def test_labels_of_hugging_face_in_splits_are_named(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg"):
        picture(tmp_path / name)
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a/1.jpg", "label": "cat"}')
    with pytest.raises(DataError, match=r"train/metadata\.jsonl: names pictures"):
        read_dataset(tmp_path)
    (tmp_path / "train" / "metadata.jsonl").rename(tmp_path / "train" / "metadata.csv")
    with pytest.raises(DataError, match=r"train/metadata\.csv: may hold the labels"):
        read_dataset(tmp_path)


def test_files_beside_class_folders_that_hold_no_labels(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg"):
        picture(tmp_path / name)
    for name, text in (
        ("class_indices.json", '{"0": "cat"}'),
        ("list.txt", "cat/a.jpg\ndog/b.jpg\n"),
        ("README.txt", "Photos of cats and dogs.\n"),
        ("cat/a.txt", "a cat on a mat\n"),
    ):
        (tmp_path / name).write_text(text)
    assert read_dataset(tmp_path).classes == ("cat", "dog")


def test_links_to_folders_are_followed_without_going_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("set/cat/a.jpg", "set/dog/b.jpg", "away/c.jpg", "away/deep/d.jpg"):
        picture(tmp_path / name)
    for link, target in (("cat/more", "away"), ("fox", "away"), ("cat/up", "set"), ("dog/itself", "set/dog")):
        (root / link).symlink_to(tmp_path / target)
    (tmp_path / "away" / "back").symlink_to(root / "cat")
    dataset = read_dataset(root)
    assert sorted(r.path.relative_to(root).as_posix() for r in dataset.records) == [
        "cat/a.jpg",
        "cat/more/c.jpg",
        "cat/more/deep/d.jpg",
        "dog/b.jpg",
        "fox/back/a.jpg",
        "fox/c.jpg",
        "fox/deep/d.jpg",
    ]


def test_a_file_hidden_by_another_way_to_write_accents_is_said(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "b\u00fcr.jpg") for form in ("NFC", "NFD")]
    for number, name in enumerate((*names, "c.jpg")):
        picture(tmp_path / name, number)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system doesn't tell them apart")
    (tmp_path / "labels.csv").write_text(f"image,labels\n{names[0]},cat\nc.jpg,dog\n", encoding="utf-8")
    assert "same-name" in [problem.kind for problem in read_dataset(tmp_path).problems]


def test_a_list_test_of_voc_is_said_not_to_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text("<a><object><name>cat</name></object></a>")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "test.txt").write_text("b\n")
    found = read_dataset(tmp_path).problems
    assert [(p.kind, p.file, p.note) for p in found] == [("split", "ImageSets/Main/test.txt", True)]


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "bus/b.jpg"):
        picture(tmp_path / name)
    assert read_dataset(tmp_path).classes == ("bus", "train")


def test_files_that_file_systems_leave_are_no_data(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.jpg")
    for name in ("Thumbs.db", "desktop.ini", "Icon\r"):
        (tmp_path / "cat" / name).touch()
    assert read_dataset(tmp_path).problems == ()


def test_what_runs_and_computers_leave_is_no_data(tmp_path: Path) -> None:
    for name in (
        "cat/a.jpg",
        "cat/old/b.jpg",
        "cat/@eaDir/a.jpg/thumb.jpg",
        "__MACOSX/cat/c.jpg",
        "lost+found/d.jpg",
        "runs/photos/predictions/masks/a.png",
        "predicted/masks/a.png",
        "cat/predicted/masks/b.png",
        "dog/c.jpg",
    ):
        picture(tmp_path / name)
    write_json(tmp_path / "runs" / "photos" / "run.json", {"name": "photos", "recipe": {}})
    for name in ("predicted", "cat/predicted"):
        write_json(tmp_path / name / "manifest.json", {"stage": "predict"})
    for name in ("dog/manifest.json", "dog/run.json"):
        (tmp_path / name).write_text("[somebody else's", encoding="utf-8")
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"cat__a": ["cat"], "cat__old__b": ["cat"], "dog__c": ["dog"]}
    assert dataset.classes == ("cat", "dog")
    photos = photos_dataset(tmp_path, ("cat",))
    assert [record.id for record in photos.records] == ["cat__a", "cat__old__b", "dog__c"]


def test_photos_keep_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("a/b.jpg", "a__b.jpg", "c.jpg", "c.png", "d\te.jpg"):
        picture(tmp_path / name)
    found = {record.id: record.path.name for record in photos_dataset(tmp_path, ()).records}
    other = next(name for name in found if name.startswith("a__b.jpg-"))
    assert found == {"a__b.jpg": "b.jpg", other: "a__b.jpg", "c.jpg": "c.jpg", "c.png": "c.png", "d_e": "d\te.jpg"}


def test_names_that_are_not_utf8(tmp_path: Path, capsysbinary: pytest.CaptureFixture) -> None:
    folder = tmp_path / os.fsdecode(b"d\xe9p\xf4t")
    try:
        for name in (b"caf\xe9/a.jpg", b"dog/\xe8.jpg", b"dog/\xe9.jpg"):
            picture(folder / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    picture(folder / "dog" / "x.jpg")
    (folder / "dog" / os.fsdecode(b"\xe8.jpg")).write_bytes(b"")
    dataset = read_dataset(folder)
    assert len(dataset) == 4
    assert len({record.id for record in photos_dataset(folder, ()).records}) == 4
    texts = [*(r.id for r in dataset.records), *dataset.classes, dataset.name, photos_dataset(folder, ()).name]
    report = check_dataset(dataset, progress=False)
    for text in (*texts, *report.summary(), *map(str, report.problems)):
        text.encode("utf-8")
    assert any("\\udce8.jpg" in str(problem) for problem in report.problems)
    assert dataset.records[0].path.is_file()
    assert main(["data", "check", str(folder)]) == 1
    assert b"unreadable-image" in capsysbinary.readouterr().out


def test_folders_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "cat" / "a.jpg")
    (tmp_path / "cat" / "closed").mkdir()
    real = os.scandir

    def scandir(path: str | Path) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed: may not be listed; make the folder readable"):
        read_dataset(tmp_path)


def test_folder_of_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no known kind of data set; there are no files\. Write labels\.csv .*folders"
    ):
        read_dataset(tmp_path)
    (tmp_path / "a.HEIC").touch()
    with pytest.raises(DataError, match=r"there are 1 \.heic, none of them a picture that is read \(convert them"):
        read_dataset(tmp_path)
    picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"there are 1 \.heic, 1 \.jpg\. Write") as caught:
        read_dataset(tmp_path)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300
    with pytest.raises(DataError, match="this is a picture"):
        read_dataset(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="no such file or folder"):
        read_dataset(tmp_path / "gone")


# ---------------------------------------------------------------- VOC


def voc_annotation(*names: str, extra: str = "") -> str:
    objects = "".join(
        f"<object><name>{n}</name><difficult>1</difficult><part><name>head</name></part></object>" for n in names
    )
    return f"<?xml version='1.0'?>{extra}<annotation><folder>x</folder>{objects}</annotation>"


@pytest.fixture
def voc_home(tmp_path: Path) -> Path:
    home = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for number, name in enumerate(("2007_01", "2007_02", "2007_03", "2007_04")):
        picture(home / "JPEGImages" / f"{name}.jpg", number)
    for folder in ("Annotations", "SegmentationClass", "ImageSets/Segmentation", "ImageSets/Main"):
        (home / folder).mkdir(parents=True)
    (home / "ImageSets/Segmentation/train.txt").write_text("2007_01\n2007_02\n")
    (home / "ImageSets/Segmentation/val.txt").write_text("2007_03\n")
    (home / "ImageSets/Main/train.txt").write_text("2007_04\n")
    (home / "Annotations/2007_01.xml").write_text(voc_annotation("person", "dog", "dog"))
    (home / "Annotations/2007_02.xml").write_text(voc_annotation("tvmonitor"))
    write_mask(home / "SegmentationClass/2007_01.png", np.array([[15, 12]]))
    write_mask(home / "SegmentationClass/2007_03.png", np.array([[0, 8, 255, 1]]))
    return home


@pytest.mark.parametrize("up", [0, 1, 2])
def test_voc_from_any_height(voc_home: Path, up: int) -> None:
    dataset = read_dataset([voc_home, *voc_home.parents][up])
    assert labels(dataset) == {
        "2007_01": ["dog", "person"],
        "2007_02": ["tvmonitor"],
        "2007_03": ["aeroplane", "cat"],  # no annotation: from the mask
    }
    assert dataset.classes == ("aeroplane", "cat", "dog", "person", "tvmonitor")
    assert [record.split for record in dataset.records] == ["train", "train", "val"]
    assert dataset.mask_lut[[1, 8, 12, 15, 20, 2]].tolist() == [1, 2, 3, 4, 5, 0]
    assert dataset.records[0].mask_path == voc_home / "SegmentationClass/2007_01.png"


def test_voc_full_class_list(voc_home: Path) -> None:
    dataset = read_dataset(voc_home, classes=VOC_CLASSES)
    assert dataset.mask_lut[:22].tolist() == [*range(21), 255]


def test_voc_too_deep_or_wrong(voc_home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is inside a VOC folder; give .*VOC2012 instead"):
        read_dataset(voc_home / "JPEGImages", reader="voc")
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="JPEGImages and ImageSets missing"):
        read_dataset(tmp_path / "x", reader="voc")


def test_voc_main_lists(voc_home: Path) -> None:
    for name in ("train", "val"):
        (voc_home / f"ImageSets/Segmentation/{name}.txt").unlink()
    (voc_home / "ImageSets/Main/train.txt").write_text("2007_01  1\n2007_02 -1\n")
    assert set(labels(read_dataset(voc_home))) == {"2007_01", "2007_02"}
    (voc_home / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(DataError, match=r"no list train\.txt or val\.txt"):
        read_dataset(voc_home)


def test_voc_other_list(voc_home: Path) -> None:
    (voc_home / "ImageSets/Segmentation/train_aug.txt").write_text("2007_01\n2007_03\n")
    dataset = read_dataset(voc_home, split="train_aug")
    assert [(r.id, r.split) for r in dataset.records] == [("2007_01", "train_aug"), ("2007_03", "train_aug")]


def test_voc_problems(voc_home: Path) -> None:
    (voc_home / "ImageSets/Segmentation/val.txt").write_text("2007_03\ngone\n2007_04\n2007_01\n\n")
    (voc_home / "Annotations/2007_02.xml").write_text("<annotation><object>")
    write_mask(voc_home / "SegmentationClass/2007_03.png", np.array([[8, 77]]))
    dataset = read_dataset(voc_home)
    assert labels(dataset) == {"2007_01": ["dog", "person"], "2007_03": ["cat"]}
    found = {problem.kind: str(problem) for problem in dataset.problems if not problem.note}
    assert sorted(found) == ["bad-annotation", "duplicate", "mask-values", "missing-image", "no-label"]
    assert found["missing-image"].startswith("ImageSets/Segmentation/val.txt line 2: image 'gone'")
    assert found["bad-annotation"].startswith("Annotations/2007_02.xml: is not valid XML")
    assert "value 77" in found["mask-values"]
    assert found["duplicate"].startswith("ImageSets/Segmentation/val.txt line 4")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_voc_annotation_with_entities_is_refused(voc_home: Path, encoding: str) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "dog"><!ENTITY y "&x;&x;&x;&x;">]>'
    text = voc_annotation("&y;", extra=bomb).replace("<?xml version='1.0'?>", "")
    (voc_home / "Annotations/2007_01.xml").write_text(text, encoding=encoding)
    dataset = read_dataset(voc_home)
    assert "2007_01" not in labels(dataset)
    assert "Annotations/2007_01.xml: declares a document type or entities" in problem_lines(dataset)[0]


def test_voc_layout_with_own_classes(voc_home: Path) -> None:
    (voc_home / "SegmentationClass/2007_03.png").unlink()
    (voc_home / "Annotations/2007_02.xml").write_text(voc_annotation("лиса", "zebra"))
    dataset = read_dataset(voc_home)
    assert dataset.classes == ("dog", "person", "zebra", "лиса")
    assert dataset.mask_lut[:6].tolist() == [0, 1, 2, 3, 4, 255]


# ---------------------------------------------------------------- COCO


@pytest.fixture
def coco_home(tmp_path: Path) -> Path:
    for split, numbers in (("train2014", (1, 2, 3, 4)), ("val2014", (9,))):
        for number in numbers:
            picture(tmp_path / split / f"COCO_{split}_{number:03d}.jpg", number)
        write_instances(tmp_path, split, [(n, f"COCO_{split}_{n:03d}.jpg") for n in numbers], ANNOTATIONS[split])
    return tmp_path


CATEGORIES = [(90, "toothbrush"), (1, "person"), (18, "dog"), (10, "traffic light")]
ANNOTATIONS = {
    "train2014": [(1, 18, 0), (1, 1, 0), (1, 18, 0), (2, 10, 0), (2, 1, 1), (3, 1, 1)],
    "val2014": [(9, 90, 0)],
}


def write_instances(home: Path, split: str, images: list, annotations: list) -> None:
    content = {
        "images": [{"id": n, "file_name": name} for n, name in images],
        "annotations": [{"image_id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in annotations],
        "categories": [{"id": n, "name": name} for n, name in CATEGORIES],
    }
    path = home / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def test_coco(coco_home: Path) -> None:
    dataset = read_dataset(coco_home)
    assert dataset.classes == ("person", "traffic light", "dog", "toothbrush")  # by category id
    assert labels(dataset) == {
        "COCO_train2014_001": ["person", "dog"],
        "COCO_train2014_002": ["traffic light"],
        "COCO_val2014_009": ["toothbrush"],
    }
    assert [record.split for record in dataset.records] == ["train", "train", "val"]
    assert [problem.kind for problem in dataset.problems] == ["no-label", "no-label"]
    assert "instances_train2014.json images[2]" in problem_lines(dataset)[0]
    only = read_dataset(coco_home / "annotations" / "instances_val2014.json", classes=["toothbrush", "dog"])
    assert labels(only) == {"COCO_val2014_009": ["toothbrush"]}
    with pytest.raises(DataError, match="no category 'hot dgo'"):
        read_dataset(coco_home, classes=["hot dgo"])


def test_coco_problems(coco_home: Path) -> None:
    images = [(1, "COCO_train2014_001.jpg"), (5, "gone.jpg"), (6, "../val2014/x.jpg"), (1, "again.jpg")]
    write_instances(coco_home, "train2014", images, [(1, 18, 0), (1, 77, 0), (1, 77, 0), (5, 1, 0), (88, 1, 0)])
    dataset = read_dataset(coco_home)
    assert labels(dataset) == {"COCO_train2014_001": ["dog"], "COCO_val2014_009": ["toothbrush"]}
    text = "\n".join(problem_lines(dataset))
    assert "instances_train2014.json: category id 77 of 2 annotation(s)" in text
    assert "images[1]: image 'gone.jpg' is not on disk" in text
    assert "images[2]: image path '../val2014/x.jpg'" in text
    assert "images[3]: image id 1 comes twice" in text
    assert "1 image id(s) that the file doesn't list" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "no object at the top"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\] lacks id or file_name"),
    ],
)
def test_coco_files_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_own.json").write_text(content)
    with pytest.raises(DataError, match=words):
        read_dataset(tmp_path)


def test_coco_years_are_not_mixed(coco_home: Path) -> None:
    write_instances(coco_home, "train2017", [(1, "001.jpg")], [(1, 18, 0)])
    picture(coco_home / "train2017" / "001.jpg")
    assert all("2014" in record_id for record_id in labels(read_dataset(coco_home)))
