"""Exports of annotation tools and services, as folders of a few pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data import Dataset, check_dataset, read_dataset, read_mask, write_mask

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes texts, and pictures where there is none."""

    def put(files: dict[str, str | None]) -> Path:
        for number, (name, text) in enumerate(files.items()):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                Image.new("RGB", (8, 6), (30 * number % 256, 50, 90)).save(path)
            else:
                path.write_text(text, encoding="utf-8")
        return tmp_path

    return put


def labels(dataset: Dataset) -> dict[str, list[str]]:
    return {r.id: [dataset.classes[label] for label in r.labels] for r in dataset.records}


def splits(dataset: Dataset) -> list[str]:
    return [record.split for record in dataset.records]


def problems(dataset: Dataset) -> list[str]:
    return [problem.kind for problem in dataset.problems if not problem.note]


# ---------------------------------------------------------------- YOLO

BOX = "0.5 0.5 0.1 0.1"


@pytest.mark.parametrize(
    "paths",
    [
        "path: .\ntrain: images/train\nval: images/val\n",
        "path: ../datasets/pets\ntrain: images/train\nval: images/val\n",
        "path: /home/other/pets\ntrain: images/train\nval: images/val\n",
        "train: ../images/train\nval: ../images/val\n",
        "train: /content/pets/images/train\nval: [images/val]\n",
        "train: C:\\data\\pets\\images\\train\nval: ./images/val\n",
    ],
)
def test_yolo(write: Write, paths: str) -> None:
    root = write(
        {
            "data.yaml": paths + "names:\n  0: dog\n  1: cat\n",
            "images/train/a.jpg": None,
            "images/train/b.jpg": None,
            "images/val/c.jpg": None,
            "labels/train/a.txt": f"1 {BOX}\n1 0.1 0.1 0.2 0.2 0.3 0.3\n0 {BOX}\n",
            "labels/train/b.txt": "",
            "labels/val/c.txt": f"0 {BOX}\n",
        }
    )
    dataset = read_dataset(root)
    assert dataset.classes == ("dog", "cat")
    assert list(labels(dataset).values()) == [["dog", "cat"], [], ["dog"]]
    assert splits(dataset) == ["train", "train", "val"]
    assert dataset.problems == ()


def test_yolo_of_roboflow_with_lists_and_missing_labels(write: Write) -> None:
    files = {"data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n"}
    files |= {f"train/images/{i}.jpg": None for i in range(3)} | {"valid/images/9.jpg": None}
    files |= {
        "train/labels/0.txt": f"0 {BOX}\n",
        "train/labels/1.txt": f"0 {BOX}\n",
        "valid/labels/9.txt": f"0 {BOX}\n",
    }
    dataset = read_dataset(write(files))
    assert splits(dataset) == ["train"] * 3 + ["val"]
    assert labels(dataset)["train__images__2"] == []
    assert [str(p) for p in dataset.problems if p.kind == "no-label-file"] != []
    root = write(
        {
            "data.yaml": "train: train.txt\nval: valid/images\nnames: [cat]\n",
            "train.txt": "./train/images/0.jpg\n/elsewhere/train/images/1.jpg\ngone.jpg\n",
        }
    )
    assert problems(read_dataset(root)) == ["missing-image"]
    assert len(read_dataset(root)) == 3


def test_yolo_without_yaml_and_with_wrong_files(write: Write) -> None:
    root = write(
        {
            "images/a.jpg": None,
            "images/b.jpg": None,
            "labels/a.txt": f"1 {BOX}\n",
            "labels/b.txt": "cat 1 2\n",
            "labels/classes.txt": "dog\ncat\n",
        }
    )
    dataset = read_dataset(root)
    assert labels(dataset) == {"images__a": ["cat"]}
    assert problems(dataset) == ["bad-annotation"]
    write({"labels/b.txt": f"7 {BOX}\n"})
    assert [p.fatal for p in read_dataset(root).problems] == [True]


@pytest.mark.parametrize(
    "names",
    ["[background, cat, dog]", "[__ignore__, cat, dog]", "{0: void, 1: cat, 2: dog}", "{1: cat, 2: dog}"],
)
def test_yolo_numbers_are_those_of_the_list_as_it_is_written(write: Write, names: str) -> None:
    files = {f"images/{stem}.jpg": None for stem in "abc"}
    files |= {"labels/a.txt": f"1 {BOX}\n", "labels/b.txt": f"2 {BOX}\n", "labels/c.txt": ""}
    dataset = read_dataset(write({"data.yaml": f"train: images\nnames: {names}\n", **files}))
    assert dataset.classes == ("cat", "dog")
    assert list(labels(dataset).values()) == [["cat"], ["dog"], []]
    assert problems(dataset) == []


def test_yolo_background_is_none_of_the_classes_and_a_list_named_twice_counts_once(write: Write) -> None:
    files = {"images/a.jpg": None, "images/b.jpg": None, "labels/a.txt": f"0 {BOX}\n", "labels/b.txt": f"1 {BOX}\n"}
    yaml = "train: images\nval: images\nnames: [background, cat]\n"  # validation is on what is learned from
    dataset = read_dataset(write({"data.yaml": yaml, **files}))
    assert list(labels(dataset).values()) == [[], ["cat"]]
    assert splits(dataset) == ["train", "train"]
    assert problems(dataset) == []


def test_yolo_never_leaves_its_folder(write: Write, tmp_path: Path) -> None:
    root = write(
        {
            "set/data.yaml": "train: ../../outside\nnames: [cat]\n",
            "outside/a.jpg": None,
            "set/images/b.jpg": None,
            "set/labels/b.txt": f"0 {BOX}\n",
        }
    )
    dataset = read_dataset(root / "set")
    assert problems(dataset) == ["missing-split"]
    assert [record.path.name for record in dataset.records] == ["b.jpg"]


# ---------------------------------------------------------------- CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
{extra}<annotations><version>1.1</version><meta><job><labels>
<label><name>dog</name><attributes><attribute><name>old</name></attribute></attributes></label>
<label><name>cat &amp; co</name></label></labels></job></meta>
<image id="0" name="a.jpg" subset="Train" width="8" height="6"><tag label="dog"><attribute name="old">x
</attribute></tag><box label="cat &amp; co" xtl="1"></box></image>
<image id="1" name="sub/b.jpg" subset="Validation"><polygon label="dog" points="1,1"></polygon></image>
<image id="2" name="c.jpg" subset="Train"></image></annotations>"""


def test_cvat_for_images(write: Write) -> None:
    root = write(
        {"annotations.xml": CVAT.format(extra=""), "images/a.jpg": None, "images/sub/b.jpg": None, "c.jpg": None}
    )
    dataset = read_dataset(root)
    assert dataset.classes == ("dog", "cat & co")
    assert list(labels(dataset).values()) == [["dog", "cat & co"], ["dog"], []]
    assert splits(dataset) == ["train", "val", "train"]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CVAT.format(extra='<!DOCTYPE a [<!ENTITY x "dog">]>'), "declares a document type"),
        ("<annotations><track id='0' label='dog'></track></annotations>", "tracks of a video"),
        ("<annotations><image>", "not valid XML"),
    ],
)
def test_cvat_files_that_cannot_be_used(write: Write, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_dataset(write({"annotations.xml": text, "a.jpg": None}))


@pytest.mark.parametrize("listed", ["default", "Train", "my list"])
def test_cvat_segmentation_masks(write: Write, listed: str) -> None:
    root = write(
        {
            "JPEGImages/day 1/a.jpg": None,
            "JPEGImages/b.jpg": None,
            "labelmap.txt": "# label:color_rgb:parts:actions\ncat:9,200,9::\nbackground:0,0,0::\ndog:200,9,9::\n",
            f"ImageSets/Segmentation/{listed}.txt": "day 1/a\nb\n",
        }
    )
    for name, colour in (("day 1/a", (200, 9, 9)), ("b", (9, 200, 9))):
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), colour).save(path)
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert list(labels(dataset).values()) == [["dog"], ["cat"]]
    assert splits(dataset) == ["train" if listed == "Train" else ""] * 2
    assert check_dataset(dataset, progress=False).by_kind().keys() == {"no-background", "small-image"}


# ---------------------------------------------------------------- COCO


def test_names_of_yolo_are_what_is_written(write: Write) -> None:
    files = {"images/a.jpg": None, "labels/a.txt": f"1 {BOX}\n"}
    assert read_dataset(write({**files, "data.yaml": "names: [no, yes, null, 007]\n"})).classes == (
        *("no", "yes", "null", "007"),
    )
    root = write({**files, "data.yaml": "names: {0: on, 1: 1.50}\n"})
    assert read_dataset(root).classes == ("on", "1.50")


@pytest.mark.parametrize("line", ["0.5 0.5 0.2 0.2", f"1.9 {BOX}", "0 0.5 0.5 0.2"])
def test_lines_of_yolo_without_a_class_are_refused(write: Write, line: str) -> None:
    root = write(
        {
            **{f"images/{name}.jpg": None for name in "ab"},
            "labels/a.txt": f"0.0 {BOX}\n",
            "labels/b.txt": f"0 {BOX}\n{line}\n",
            "data.yaml": "names: [cat, dog]\n",
        }
    )
    dataset = read_dataset(root)
    assert labels(dataset) == {"images__a": ["cat"]}
    assert problems(dataset) == ["bad-annotation"]
    assert f"'{line}'"[:8] in dataset.problems[0].message


def test_splits_of_yolo_are_not_dropped_from_a_path(write: Write) -> None:
    root = write(
        {
            **{f"images/{split}/{split}.jpg": None for split in ("train", "val")},
            **{f"labels/{split}/{split}.txt": f"0 {BOX}\n" for split in ("train", "val")},
            "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n",
        }
    )
    dataset = read_dataset(root)
    assert splits(dataset) == ["train", "val"]
    assert problems(dataset) == ["missing-split"] * 2


def test_a_label_file_of_yolo_is_one_images(write: Write) -> None:
    root = write(
        {
            **{f"images/{name}.jpg": None for name in ("train/1", "train/2", "val/1")},
            **{f"labels/{name}.txt": f"{name[-1]} {BOX}\n" for name in ("0", "1", "2")},
            "data.yaml": "train: images/train\nval: images/val\nnames: [cat, dog, fox]\n",
        }
    )
    dataset = read_dataset(root)
    assert [record.path.name for record in dataset.records] == ["2.jpg"]
    assert problems(dataset) == ["bad-annotation"] * 2


def coco(names: list[str], annotations: list[tuple[int, int]], categories: list[dict], crowd: int = 0) -> str:
    return json.dumps(
        {
            "info": {},
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [
                {"id": k, "image_id": i, "category_id": c, "iscrowd": crowd} for k, (i, c) in enumerate(annotations)
            ],
            "categories": categories,
        }
    )


PETS = [
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "pets"},
    {"id": 2, "name": "dog", "supercategory": "pets"},
]


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("train/_annotations.coco.json", "train"),
        ("_annotations.coco.json", ""),
        ("result.json", "images"),
        ("annotations/instances_default.json", "images"),
        ("annotations/instances_Train.json", "images/Train"),
        ("labels.json", "data"),
        ("train/anything.json", "train/images"),
    ],
)
def test_coco_exports(write: Write, file: str, images: str) -> None:
    root = write(
        {
            file: coco(["a.jpg", "b.jpg", "c.jpg"], [(0, 2), (0, 2), (1, 1)], PETS),
            **{f"{images}/{name}.jpg".lstrip("/"): None for name in "abc"},
        }
    )
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert list(labels(dataset).values()) == [["dog"], ["cat"], []]
    assert problems(dataset) == []
    assert set(splits(dataset)) == {"train" if "rain" in file else ""}
    assert [p.kind for p in dataset.problems if p.kind == "root-category"] == ["root-category"]


@pytest.mark.parametrize(
    "names",
    [
        ("coco_train", "coco_val"),
        ("annotations_train", "annotations_val"),
        ("train_annotations", "val_annotations"),
        ("train-set", "val-set"),
        ("instances_train_2017", "instances_val_2017"),
        ("v3.train", "v3.val"),
    ],
)
def test_splits_in_the_names_of_coco_files(write: Write, names: tuple[str, str]) -> None:
    train, val = (f"annotations/{name}.json" for name in names)
    root = write(
        {
            train: coco(["a.jpg", "b.jpg"], [(0, 1), (1, 2)], PETS),
            val: coco(["a.jpg"], [(0, 1)], PETS),
            "train/a.jpg": None,
            "train/b.jpg": None,
            "images/val/a.jpg": None,
        }
    )
    dataset = read_dataset(root)
    assert problems(dataset) == []
    assert [(record.path.parent.name, record.split) for record in dataset.records] == [
        ("train", "train"),
        ("train", "train"),
        ("val", "val"),
    ]


def test_coco_files_that_name_no_split_are_said(write: Write) -> None:
    files = {f"annotations/{name}.json": coco([f"{name}.jpg"], [(0, 1)], PETS) for name in ("a", "train_val")}
    dataset = read_dataset(write({**files, "a.jpg": None, "train_val.jpg": None}))
    assert set(splits(dataset)) == {""}
    assert [p.message for p in dataset.problems if p.kind == "split"] == [
        "2 of 2 files are called as no split is, such as 'a.json'"
    ]


def test_coco_roots_that_bear_a_class_name_or_are_used(write: Write) -> None:
    same = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
        {"id": 2, "name": "dog", "supercategory": "cat"},
    ]
    names = {"a.jpg": None, "b.jpg": None}
    assert read_dataset(write({"x.json": coco(["a.jpg", "b.jpg"], [(0, 1), (1, 2)], same), **names})).classes == (
        "cat",
        "dog",
    )
    root = write({"x.json": coco(["a.jpg", "b.jpg"], [(0, 0), (1, 2)], PETS)})
    assert read_dataset(root).classes == ("pets", "cat", "dog")  # it owns an annotation
    flat = [{"id": 1, "name": "cat", "supercategory": "cat"}, {"id": 2, "name": "dog"}]
    assert read_dataset(write({"x.json": coco(["a.jpg"], [(0, 2)], flat)})).classes == ("cat", "dog")


def test_coco_crowds_are_no_negatives_and_paths_are_found(write: Write) -> None:
    root = write(
        {"x.json": coco(["C:\\p\\a.jpg", "/x/b.jpg"], [(0, 1)], PETS, crowd=1), "i/a.jpg": None, "i/b.jpg": None}
    )
    dataset = read_dataset(root)
    assert labels(dataset) == {"b": []}
    assert problems(dataset) == ["no-label"]


def test_coco_categories_with_one_id_are_refused(write: Write) -> None:
    twice = [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]
    root = write({"x.json": coco(["a.jpg"], [(0, 1)], twice), "a.jpg": None})
    with pytest.raises(DataError, match=r"categories\[1\]: id 1 is 'dog' here, 'cat' before"):
        read_dataset(root)


@pytest.mark.parametrize(("given", "crowd"), [("0", False), (False, False), ("1", True), (True, True)])
def test_coco_crowds_written_as_text(write: Write, given: object, crowd: bool) -> None:
    text = coco(["a.jpg", "b.jpg"], [(0, 1), (1, 2)], PETS)
    values = json.loads(text)
    values["annotations"][0]["iscrowd"] = given
    root = write({"x.json": json.dumps(values), "a.jpg": None, "b.jpg": None})
    assert ("a" not in labels(read_dataset(root))) == crowd


# ---------------------------------------------------------------- images and masks alone


def test_masks_of_roboflow(write: Write) -> None:
    root = write(
        {
            "train/a.jpg": None,
            "train/b.jpg": None,
            "valid/c.jpg": None,
            "train/_classes.csv": "Pixel Value, Class\n0, background\n1, cat\n2, dog\n",
            "valid/_classes.csv": "Pixel Value, Class\n0, background\n1, cat\n2, dog\n",
        }
    )
    for name, value in (("train/a", 2), ("train/b", 0), ("valid/c", 1)):
        write_mask(root / f"{name}_mask.png", np.full((6, 8), value))
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert list(labels(dataset).values()) == [["dog"], [], ["cat"]]
    assert splits(dataset) == ["train", "train", "val"]
    assert [problem.kind for problem in dataset.problems] == ["tags"]


def test_images_and_masks_with_a_class_file(write: Write) -> None:
    root = write(
        {
            "images/train/a.jpg": None,
            "images/val/b.jpg": None,
            "images/val/c.jpg": None,
            "data.yaml": "masks_dir: masks\nnames: {0: background, 1: cat, 2: dog}\n",
        }
    )
    write_mask(root / "masks" / "train" / "a.png", np.array([[1, 2]]).repeat(6, 0).repeat(4, 1))
    write_mask(root / "masks" / "val" / "b.png", np.zeros((6, 8)))
    dataset = read_dataset(root)
    assert list(labels(dataset).values()) == [["cat", "dog"], []]
    assert problems(dataset) == ["no-label"]  # c.jpg has no mask
    assert read_mask(root / "masks" / "train" / "a.png", dataset.mask_lut).max() == 2


# ---------------------------------------------------------------- VOC's XML without its lists


def xml(*names: str) -> str:
    return "<annotation>" + "".join(f"<object><name>{name}</name></object>" for name in names) + "</annotation>"


@pytest.mark.parametrize("place", ["images/{}.xml", "annotations/{}.xml", "Annotations/{}.xml"])
def test_xml_for_each_image(write: Write, place: str) -> None:
    root = write(
        {"images/a.jpg": None, "images/b.jpg": None, place.format("a"): xml("dog", "cat"), place.format("b"): xml()}
    )
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert list(labels(dataset).values()) == [["cat", "dog"], []]


def test_xml_below_folders_and_images_without_any(write: Write) -> None:
    files: dict[str, str | None] = {f"images/day{day}/1.jpg": None for day in (1, 2, 3)} | {"images/x/2.jpg": None}
    files |= {f"annotations/day{day}/1.xml": xml(f"c{day}") for day in (1, 2)} | {"annotations/2.xml": xml("c2")}
    dataset = read_dataset(write(files))
    assert list(labels(dataset).values()) == [["c1"], ["c2"], ["c2"]]
    assert problems(dataset) == ["no-label"]  # a bare name would be that of three photos
    assert "images/day3/1.jpg" in str(dataset.problems[0])


def test_masks_in_a_class_folder_are_no_photos(write: Write) -> None:
    files: dict[str, str | None] = {}
    for name in ("COVID", "Normal", "masks of dogs"):
        files |= {f"{name}/{place}/{n}.png": None for place in ("images", "masks") for n in (1, 2)}
    files |= {"COVID/annotations/other.png": None}  # is called as none of its photos, so it is one
    dataset = read_dataset(write(files))
    assert len(dataset) == 3 * 2 + 1
    assert not any("masks__" in record.id for record in dataset.records)
    assert problems(dataset) == ["masks"] * 3


def test_labels_called_background_are_none_of_the_classes(write: Write) -> None:
    text = (
        CVAT.format(extra="")
        .replace("<name>dog</name>", "<name>_background_</name>")
        .replace('"dog"', '"_background_"')
    )
    root = write({"annotations.xml": text, "a.jpg": None, "sub/b.jpg": None, "c.jpg": None})
    dataset = read_dataset(root)
    assert dataset.classes == ("cat & co",)
    assert list(labels(dataset).values()) == [["cat & co"], [], []]


def test_masks_count_labels_as_they_are_listed_whatever_is_a_negative(write: Write) -> None:
    text = CVAT.format(extra="").replace(
        "<label><name>cat &amp; co</name></label>",
        "<label><name>healthy</name></label><label><name>cat &amp; co</name></label>",
    )
    root = write({"annotations.xml": text, "a.jpg": None, "sub/b.jpg": None, "c.jpg": None})
    for name in ("a", "b"):
        write_mask(root / "masks" / f"{name}.png", np.array([[1, 2, 3, 3]]).repeat(6, 0).repeat(2, 1))
    dataset = read_dataset(root, negatives=["healthy"])
    assert dataset.mask_lut[[1, 3]].tolist() == [1, dataset.classes.index("cat & co") + 1]


def test_coco_of_any_order_and_length(write: Write) -> None:
    """Label Studio writes categories between many images and many annotations, and perhaps one for the background."""
    images = [{"id": n, "file_name": f"{n}.jpg", "note": "x" * 700} for n in range(150)]
    annotations = [
        {"id": n, "image_id": n, "category_id": n % 2, "bbox": [1, 1, 2, 2], "note": "x" * 700} for n in range(150)
    ]
    categories = [{"id": 0, "name": "background"}, {"id": 1, "name": "cat"}]
    values = {"images": images, "categories": categories, "annotations": annotations, "info": {}}
    root = write({f"images/{n}.jpg": None for n in range(150)})
    (root / "result.json").write_text(json.dumps(values), encoding="utf-8")
    dataset = read_dataset(root)
    assert dataset.classes == ("cat",)
    assert sum(record.labels == (0,) for record in dataset.records) == 75
    assert len(dataset) == 150


def test_voc_annotation_without_objects_is_a_negative(write: Write) -> None:
    root = write(
        {
            "JPEGImages/a.jpg": None,
            "JPEGImages/b.jpg": None,
            "JPEGImages/c.jpg": None,
            "Annotations/a.xml": xml("crack"),
            "Annotations/b.xml": xml(),
            "ImageSets/Main/train.txt": "a\nb\nc\n",
        }
    )
    dataset = read_dataset(root)
    assert labels(dataset) == {"a": ["crack"], "b": []}
    assert problems(dataset) == ["no-label"]  # of c.jpg nothing is known


# ---------------------------------------------------------------- names of files and folders


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("{label}_*", ("cat_1.jpg", "golden_retriever_22.jpg"), [["cat"], ["golden_retriever"]]),
        ("{label}_#", ("cat_1.jpg", "guide dog_22.jpg"), [["cat"], ["guide dog"]]),
        ("*-{label}", ("1-cat.jpg", "2-cat+dog.jpg", "3-background.jpg"), [["cat"], ["cat", "dog"], []]),
        ("{split}/{group}_{label}", ("train/p1_cat.jpg", "valid/p2_dog.jpg"), [["cat"], ["dog"]]),
        (r"\d+\.(?P<label>[a-z]+)", ("1.cat.jpg", "2.dog.jpg"), [["cat"], ["dog"]]),
    ],
)
def test_labels_in_file_names(write: Write, pattern: str, names: tuple[str, ...], expected: list[list[str]]) -> None:
    dataset = read_dataset(write(dict.fromkeys(names)), pattern=pattern)
    assert list(labels(dataset).values()) == expected
    if "{split}" in pattern:
        assert [(r.split, r.group) for r in dataset.records] == [("train", "p1"), ("val", "p2")]


def test_names_that_do_not_match_and_wrong_patterns(write: Write) -> None:
    root = write({"cat_1.jpg": None, "IMG.jpg": None})
    dataset = read_dataset(root, pattern="{label}_*")
    assert labels(dataset) == {"cat_1": ["cat"]}
    assert problems(dataset) == ["no-label"]
    for pattern, words in (("(?P<label>[", "can't be read"), ("*_x", "doesn't say where the label stands")):
        with pytest.raises(DataError, match=words):
            read_dataset(root, pattern=pattern)


@pytest.mark.parametrize("name", ["background", "Negative", "negatives", "_background_", "no_class", "none"])
def test_folders_of_negatives(write: Write, name: str) -> None:
    dataset = read_dataset(write({"cat/a.jpg": None, f"{name}/b.jpg": None}))
    assert dataset.classes == ("cat",)
    assert list(labels(dataset).values()).count([]) == 1
    assert [(p.kind, p.note) for p in dataset.problems] == [("negatives", True)]
    assert read_dataset(dataset.records[0].path.parents[1], negatives=False).negatives() == 0


def test_folders_that_the_recipe_calls_negatives(write: Write) -> None:
    root = write(
        {"train/crack/a.jpg": None, "train/intact/b.jpg": None, "val/crack/c.jpg": None, "val/intact/d.jpg": None}
    )
    plain = read_dataset(root)
    assert plain.classes == ("crack", "intact")
    assert any("class 'intact' may mean" in line for line in check_dataset(plain, progress=False).summary())
    dataset = read_dataset(root, negatives="intact")
    assert dataset.classes == ("crack",)
    assert dataset.select("val").negatives() == 1
    (root / "classes.txt").write_text("intact\ncrack\n")
    assert read_dataset(root).classes == ("intact", "crack")
