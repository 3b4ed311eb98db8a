"""Preparing VOC 2012 and COCO 2014: counts, labels, masks, and every kind of damaged input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_set import coco_set
from tag2mask.cli import main
from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json
from tag2mask.data import VOC_CLASSES, read_dataset, read_mask, write_mask
from tag2mask.data.prepare import prepare_coco, prepare_voc


def photo(path: Path, size: tuple[int, int] = (24, 16), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


# --- VOC ---------------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three train (one without XML), two val, and two more that only a list of augmented images names."""
    home = tmp_path / "VOCdevkit" / "VOC2012"
    (home / "ImageSets" / "Segmentation").mkdir(parents=True)
    (home / "Annotations").mkdir()
    for number, name in enumerate(("t1", "t2", "t3", "v1", "v2", "a1", "a2")):
        photo(home / "JPEGImages" / f"{name}.jpg", seed=number)
        if name not in ("t3", "a2"):
            text = "<annotation><object><name>cat</name></object></annotation>"
            (home / "Annotations" / f"{name}.xml").write_text(text)
        if name[0] in "tv" and name != "t3":
            mask = np.zeros((16, 24), np.uint8)
            mask[2:9, 3:12] = 8
            mask[0] = 255
            write_mask(home / "SegmentationClass" / f"{name}.png", mask)
    (home / "ImageSets" / "Segmentation" / "train.txt").write_text("t1\nt2\nt3\n")
    (home / "ImageSets" / "Segmentation" / "val.txt").write_text("v1\nv2\n")
    return home


def test_voc_counts_labels_and_index(voc: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "prepare", "voc2012", str(voc.parent)]) == 0
    shown = capsys.readouterr().out
    assert "list train: 3 of the published 1,464" in shown
    assert "val: 2 of the published 1,449" in shown
    assert "true masks for scoring: 2 train, 2 val" in shown
    assert "labels from XML: 4" in shown
    assert "images without any label: 1; give --labels FILE" in shown
    assert "image 'JPEGImages/t3.jpg' has no label" in shown
    dataset = read_dataset(voc, reader="voc")
    assert dataset.classes == VOC_CLASSES
    assert [(r.id, r.split) for r in dataset.records] == [
        ("t1", "train"),
        ("t2", "train"),
        ("v1", "val"),
        ("v2", "val"),
    ]
    assert dataset.records[0].mask_path == voc / "SegmentationClass" / "t1.png"
    assert dataset.mask_lut[:22].tolist() == [*range(21), 255]


def test_voc_label_file_and_augmented_lists(voc: Path, tmp_path: Path) -> None:
    labels = tmp_path / "more.csv"
    labels.write_text("image,labels\nt3.jpg,dog\nJPEGImages/a2.jpg,dog;person\n")
    lists = tmp_path / "sbd_train.txt", tmp_path / "sbd_val.txt"
    lists[0].write_text("/JPEGImages/a1.jpg /SegmentationClassAug/a1.png\nt1\nv1\n")
    lists[1].write_text("a2\n")
    write_mask(voc / "SegmentationClassAug" / "a1.png", np.zeros((16, 24)))
    prepare_voc(voc, tmp_path / "index", labels=labels, trainaug=lists)
    found = {r.id: r for r in read_dataset(tmp_path / "index").records}
    assert {i: [VOC_CLASSES[n] for n in r.labels] for i, r in found.items() if i[0] in "ta"} == {
        "t1": ["cat"],
        "t2": ["cat"],
        "t3": ["dog"],
        "a1": ["cat"],
        "a2": ["dog", "person"],
    }
    assert found["v1"].split == "val"  # the augmented list's own copy of it is not trained on
    assert found["a1"].mask_path is None  # the official masks are those that seeds are scored on
    prepare_voc(voc, tmp_path / "index2", labels=labels, trainaug=lists, aug_masks=True)
    found = {r.id: r for r in read_dataset(tmp_path / "index2").records}
    assert found["a1"].mask_path == voc / "SegmentationClassAug" / "a1.png"
    facts = read_json(tmp_path / "index" / "prepared.json")
    assert facts["labels_from"] == {"XML": 5, "label file": 2}
    assert facts["counts"] == {"train_list": 3, "train": 5, "val": 2, "masks": {"train": 2, "val": 2}}


def test_the_augmented_list_is_the_train_split_unprepared_too(voc: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("t1\nt2\na1\nv2\n")
    dataset = read_dataset(voc)
    assert [(r.id, r.split) for r in dataset.records] == [(i, "train") for i in ("t1", "t2", "a1")] + [
        ("v1", "val"),
        ("v2", "val"),
    ]


def test_given_lists_stand_instead_of_the_folders_augmented_one(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("t1\nt2\na1\n")
    (tmp_path / "mine.txt").write_text("a2\n")
    (tmp_path / "more.csv").write_text("image,labels\nt3,dog\na2,dog\n")
    prepare_voc(voc, labels=tmp_path / "more.csv", trainaug=[tmp_path / "mine.txt"])
    assert [r.id for r in read_dataset(voc).select("train").records] == ["t1", "t2", "t3", "a2"]


@pytest.mark.parametrize("reader", ["auto", "voc", "prepared"])
@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_index_is_found_from_wherever_voc_is_prepared(voc: Path, tmp_path: Path, reader: str, up: int) -> None:
    (tmp_path / "train_aug.txt").write_text("t1\nt2\na1\n")
    root = [voc, *voc.parents][up]
    prepare_voc(root, trainaug=[tmp_path / "train_aug.txt"])
    assert [r.id for r in read_dataset(root, reader=reader).select("train").records] == ["t1", "t2", "a1"]


def test_sets_in_one_folder_keep_their_own_index(voc: Path, coco: Path, tmp_path: Path) -> None:
    (coco / "VOCdevkit").symlink_to(voc.parent, target_is_directory=True)
    prepare_voc(coco)
    prepare_coco(coco)
    assert read_dataset(coco, reader="voc").classes == VOC_CLASSES
    assert len(read_dataset(coco, reader="coco").classes) == 4
    assert len(read_dataset(coco, reader="auto").classes) == 4


def test_a_csv_is_read_before_an_index_in_the_folders_below(voc: Path) -> None:
    prepare_voc(voc)
    photo(voc.parent / "a.jpg")
    (voc.parent / "labels.csv").write_text("image,labels\na.jpg,teapot\n")
    assert read_dataset(voc.parent).classes == ("teapot",)


def test_misspelt_paths_leave_an_index_as_it_is(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare_voc(voc)
    for option, words in (("--labels", "gone.csv: no such label file"), ("--trainaug", "gone.csv: no such list")):
        assert main(["data", "prepare", "voc2012", str(voc), option, str(tmp_path / "gone.csv")]) == 2
        assert words in capsys.readouterr().err
        assert len(read_dataset(voc)) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,labels\nt3,dgo\n", r"more\.csv: line 2: class 'dgo' is not one of VOC's; did you mean 'dog'"),
        ("nam,labels\nt3,dog\n", "no column 'image'"),
    ],
)
def test_bad_label_files(voc: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "more.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        prepare_voc(voc, labels=tmp_path / "more.csv")
    with pytest.raises(DataError, match="is not a CSV"):
        prepare_voc(voc, labels=tmp_path / "cls_labels.npy")


def test_voc_roots_at_the_wrong_height(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is inside a VOC folder; give .*VOC2012 instead"):
        prepare_voc(voc / "JPEGImages")
    deep = tmp_path / "far"
    (deep / "away").mkdir(parents=True)
    (deep / "away" / "VOCdevkit").symlink_to(voc.parent, target_is_directory=True)
    with pytest.raises(DataError, match=r"is above a VOC folder; give .*away/VOCdevkit/VOC2012 instead"):
        prepare_voc(deep)
    with pytest.raises(DataError, match="is above a VOC folder"):
        read_dataset(deep, reader="voc")
    (tmp_path / "half" / "ImageSets").mkdir(parents=True)
    with pytest.raises(DataError, match=r"JPEGImages missing \(the archive seems half unpacked"):
        prepare_voc(tmp_path / "half")


def test_half_unpacked_archives_stop_before_training(voc: Path) -> None:
    names = [f"x{number}" for number in range(30)]
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(["t1", *names]))
    for use in (read_dataset, prepare_voc):
        with pytest.raises(
            DataError, match=r"30 of 33 listed images are missing .*'x0' is not in JPEGImages.*half unpac"
        ):
            use(voc)


def broken_voc(home: Path, what: str) -> str:
    """Damage a VOC folder; return what the message must say."""
    mask = home / "SegmentationClass" / "t1.png"
    if what == "missing":
        (home / "JPEGImages" / "t1.jpg").unlink()
        return r"ImageSets/Segmentation/train\.txt line 1: image 't1' is not in JPEGImages; .*--allow-bad"
    if what == "cut":
        whole = (home / "JPEGImages" / "t1.jpg").read_bytes()
        (home / "JPEGImages" / "t1.jpg").write_bytes(whole[: len(whole) // 2])
        return r"JPEGImages/t1\.jpg: .*"
    if what == "colours":
        Image.open(mask).convert("RGB").save(mask)
        return r"SegmentationClass/t1\.png: holds the colours of PASCAL VOC as RGB instead of palette indices; save"
    if what == "size":
        write_mask(mask, np.zeros((24, 16)))
        return r"SegmentationClass/t1\.png: the mask is 24 x 16 pixels, its image 16 x 24"
    write_mask(mask, np.full((16, 24), 33))
    return r"SegmentationClass/t1\.png: holds the value\(s\) 33; VOC's are 0\.\.20 and 255"


@pytest.mark.parametrize("what", ["missing", "cut", "colours", "size", "values"])
def test_damaged_voc_files_are_named_or_left_out(voc: Path, what: str) -> None:
    words = broken_voc(voc, what)
    with pytest.raises(DataError, match=words):
        prepare_voc(voc)
    with pytest.raises(DataError, match="preparation was not finished"):
        read_dataset(voc)
    prepare_voc(voc, allow_bad=True)
    record = {r.id: r for r in read_dataset(voc).records}.get("t1")
    assert record is None if what in ("missing", "cut") else record is not None and record.mask_path is None


def test_images_that_went_away_after_preparing(voc: Path) -> None:
    prepare_voc(voc)
    (voc / "JPEGImages" / "t2.jpg").unlink()
    dataset = read_dataset(voc)
    assert "t2" not in {r.id for r in dataset.records}
    assert "index.jsonl line 2: image 'JPEGImages/t2.jpg' is not on disk any more" in str(dataset.problems[0])


# --- COCO --------------------------------------------------------------------------------------------


CATEGORIES = {1: "person", 3: "car", 17: "cat", 90: "toothbrush"}


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_an_index_from_elsewhere_cannot_leave_the_folder(voc: Path, key: str, name: str) -> None:
    assert main(["data", "prepare", "voc2012", str(voc)]) == 0
    index = voc / "tag2mask" / "index.jsonl"
    first, *rest = index.read_text().splitlines()
    index.write_text("\n".join([json.dumps(json.loads(first) | {key: name}), *rest]) + "\n")
    with pytest.raises(DataError, match=r"index.jsonl line 1: '.*secret.png' leads out of the data set's folder"):
        read_dataset(voc)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three train images (the third has no label) and two val ones (the second has none)."""
    pairs: dict[str, list[tuple[Path, Path]]] = {"train": [], "val": []}
    for number, values in enumerate(([8, 15], [7], [], [8, 255], [])):
        mask = np.zeros((16, 24), np.uint8)
        for place, value in enumerate(values):
            mask[2:9, 2 + 10 * place : 9 + 10 * place] = value
        photo(tmp_path / f"{number}.jpg", seed=number)
        write_mask(tmp_path / f"{number}.png", mask)
        pairs["train" if number < 3 else "val"].append((tmp_path / f"{number}.jpg", tmp_path / f"{number}.png"))
    return coco_set(tmp_path / "coco", pairs, CATEGORIES, {8: 17, 15: 1, 7: 3})


def edit(home: Path, change: object, split: str = "train2014") -> None:
    path = home / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)  # type: ignore[operator]
    path.write_text(json.dumps(content))


def test_coco_masks_labels_and_unlabelled_images(coco: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "prepare", "coco2014", str(coco)]) == 0
    shown = capsys.readouterr().out
    assert "train images: 3 of the published 82,783" in shown
    assert "without any label: 1, left out of training" in shown
    assert "without any label: 1, kept for scoring, as background" in shown
    assert "4 classes: mask values 1..4 in the order of the category ids" in shown
    dataset = read_dataset(coco, reader="coco")
    assert dataset.classes == ("person", "car", "cat", "toothbrush")
    assert [(r.split, r.labels) for r in dataset.records] == [
        ("train", (0, 2)),
        ("train", (1,)),
        ("val", (2,)),
        ("val", ()),
    ]
    expected = np.zeros((16, 24), np.uint8)
    expected[2:9, 2:9] = 3
    expected[2:9, 12:19] = 1
    np.testing.assert_array_equal(read_mask(dataset.records[0].mask_path, dataset.mask_lut), expected)
    crowd = read_mask(dataset.records[2].mask_path, dataset.mask_lut)
    assert (crowd[2:9, 12:19] == 255).all()
    assert (crowd[2:9, 2:9] == 3).all()
    assert read_mask(dataset.records[3].mask_path).max() == 0
    assert dataset.label_matrix().sum() == 4
    assert len(dataset.select("val").limit(1)) == 1


def test_coco_goes_on_where_it_stopped_and_is_the_same_for_any_processes(coco: Path) -> None:
    one = prepare_coco(coco).folder
    masks = {path.name: path.stat().st_mtime_ns for path in one.rglob("*.png")}
    gone = next(iter(one.rglob("*000001.png")))
    data = gone.read_bytes()
    gone.unlink()
    prepare_coco(coco)
    assert gone.read_bytes() == data
    again = {path.name: path.stat().st_mtime_ns for path in one.rglob("*.png")}
    assert [name for name in masks if masks[name] != again[name]] == [gone.name]


def test_coco_other_instances_never_mix_with_old_masks(coco: Path) -> None:
    prepare_coco(coco)
    edit(coco, lambda c: c["annotations"].pop())
    with pytest.raises(DataError, match="holds masks rendered from other instances files; delete this folder"):
        prepare_coco(coco)


def test_coco_images_of_one_name_in_two_folders_keep_their_own_masks(coco: Path) -> None:
    def into_folders(content: dict) -> None:
        for number, entry in enumerate(content["images"][:2], start=1):
            old = coco / "train2014" / entry["file_name"]
            entry["file_name"] = f"day{number}/IMG_1.jpg"
            (coco / "train2014" / f"day{number}").mkdir()
            old.rename(coco / "train2014" / entry["file_name"])

    edit(coco, into_folders)
    prepare_coco(coco)
    first, second = (r for r in read_dataset(coco).records if r.split == "train")
    assert first.mask_path == coco / "tag2mask" / "masks" / "train2014" / "day1" / "IMG_1.png"
    assert set(np.unique(read_mask(first.mask_path)).tolist()) == {0, 1, 3}
    assert second.mask_path is not None
    assert set(np.unique(read_mask(second.mask_path)).tolist()) == {0, 2}


def test_coco_images_that_differ_in_their_suffix_keep_their_own_masks(coco: Path) -> None:
    def same_stem(content: dict) -> None:
        for entry, suffix in zip(content["images"], (".jpg", ".jpeg", ".jpe"), strict=True):
            old = coco / "train2014" / entry["file_name"]
            entry["file_name"] = "a" + suffix
            old.rename(coco / "train2014" / entry["file_name"])

    edit(coco, same_stem)
    prepare_coco(coco)
    masks = [r.mask_path for r in read_dataset(coco).records if r.split == "train"]
    assert [set(np.unique(read_mask(path)).tolist()) for path in masks if path] == [{0, 1, 3}, {0, 2}]


def test_one_instances_file_is_read_itself_unless_it_was_prepared_alone(coco: Path) -> None:
    file = coco / "annotations" / "instances_val2014.json"
    prepare_coco(coco)
    assert {r.split for r in read_dataset(file).records} == {"val"}
    for mask in coco.rglob("masks/*/*.png"):
        mask.unlink()
    (coco / "tag2mask" / "prepared.json").unlink()
    prepare_coco(file)
    assert [r.mask_path is not None for r in read_dataset(file).records] == [True, True]


def test_a_moved_data_set_takes_its_index_along(coco: Path, tmp_path: Path) -> None:
    prepare_coco(coco)
    coco.rename(tmp_path / "elsewhere")
    dataset = read_dataset(tmp_path / "elsewhere")
    assert all(r.path.is_file() and r.mask_path is not None and r.mask_path.is_file() for r in dataset.records)


def outside(content: dict) -> None:
    content["annotations"][0]["segmentation"] = [[0, 0, 400, 0, 400, 9]]


@pytest.mark.parametrize(
    ("change", "words", "left"),
    [
        (
            lambda c: c["annotations"][0].update(category_id=999),
            r"instances_train2014\.json: category id 999 of 1 annotation\(s\) is not among the file's categories",
            3,
        ),
        (
            outside,
            r"annotation 1 of COCO_train2014_000000000001\.jpg: a polygon reaches from \(0, 0\) to \(400, 9\), "
            r"outside the image of 24 x 16",
            4,
        ),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2]]), "annotation 1 of .*number of 6 or more", 4),
        (
            lambda c: c["images"][0].update(file_name="gone.jpg"),
            r"images\[0\]: image 'gone\.jpg' is not in train2014",
            3,
        ),
        (
            lambda c: c["images"][0].update(height=99),
            r"train2014/COCO_.*1\.jpg: is 16 x 24 pixels, instances.* 99 x 24",
            3,
        ),
    ],
)
def test_bad_annotations_are_named_or_left_out(coco: Path, change: object, words: str, left: int) -> None:
    edit(coco, change)
    with pytest.raises(DataError, match=words):
        prepare_coco(coco)
    with pytest.raises(DataError, match="not finished"):
        read_dataset(coco)
    prepare_coco(coco, allow_bad=True)
    assert len(read_dataset(coco)) == left + ("category" in words)


def test_coco_roots_at_the_wrong_height(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations: no annotations/.*give .*coco instead"):
        prepare_coco(coco / "annotations")
    with pytest.raises(DataError, match=r"give .*coco instead"):
        prepare_coco(coco / "train2014")
    with pytest.raises(DataError, match=r"give .*coco instead"):
        prepare_coco(tmp_path)


# --- before training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["colours", "size"])
def test_a_run_stops_on_masks_that_would_spoil_its_scores(
    voc: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture
) -> None:
    words = broken_voc(voc, what)
    assert main(["train-classifier", "photos", "--data", str(voc), "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "t1.png" in message
    assert (
        "as RGB instead of palette indices" if what == "colours" else "24 x 16 pixels, its image 16 x 24"
    ) in message
    assert words
    assert not (tmp_path / "run").exists()


def test_a_run_stops_on_unknown_categories(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    edit(coco, lambda c: c["annotations"][0].update(category_id=999))
    assert main(["train-classifier", "photos", "--data", str(coco), "--out", str(tmp_path / "run")]) == 2
    assert "category id 999 of 1 annotation(s)" in capsys.readouterr().err
