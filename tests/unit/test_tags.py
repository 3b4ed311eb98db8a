"""Tags of photos that a network is to segment."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data.class_files import write_class_files
from tag2mask.data.photos import photos_dataset

CLASSES = ("cat", "traffic light", "dog")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/one.jpg", "a/two.jpg", "b/two.jpg", "three.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "photos"


def tags(folder: Path, text: str) -> Path:
    path = folder / "tags.csv"
    path.write_text("image,labels\n" + text, encoding="utf-8")
    return path


def test_photos_are_found_by_path_name_or_stem(photos: Path, tmp_path: Path) -> None:
    file = tags(tmp_path, "a/two.jpg,dog\none,traffic light;cat\nthree.jpg,cat\nelsewhere.jpg,dog\n")
    dataset = photos_dataset(photos, CLASSES, file)
    labels = {record.path.relative_to(photos).as_posix(): record.labels for record in dataset.records}
    assert labels == {"a/one.jpg": (0, 1), "a/two.jpg": (2,), "b/two.jpg": (), "three.jpg": (0,)}
    assert all(record.split == "" for record in dataset.records)
    assert all(not record.labels for record in photos_dataset(photos, CLASSES).records)


def test_a_photo_listed_without_a_tag_is_told_and_one_that_is_not_listed_is_not(photos: Path, tmp_path: Path) -> None:
    dataset = photos_dataset(photos, CLASSES, tags(tmp_path, "a/one.jpg,\nthree.jpg,background\n"))
    told = {record.path.relative_to(photos).as_posix(): (record.labels, record.told) for record in dataset.records}
    assert told == {
        "a/one.jpg": ((), True),
        "a/two.jpg": ((), False),
        "b/two.jpg": ((), False),
        "three.jpg": ((), True),
    }


def test_a_name_counts_for_its_path_first_and_else_where_only_one_photo_has_it(tmp_path: Path) -> None:
    for name in ("img1.png", "day1/img1.png", "day2/img1.png", "day2/one.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)

    def told(text: str) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        dataset = photos_dataset(tmp_path / "photos", CLASSES, tags(tmp_path, text))
        return {r.id: r.labels for r in dataset.records if r.told}, list(map(str, dataset.problems))

    labels, said = told("img1.png,dog\nday1/typo.png,cat\none,cat\n")
    assert labels == {"img1": (2,), "day2__one": (0,)}
    assert len(said) == 1
    assert "tags.csv: 1 row(s) are of no photo there: day1/typo.png; give paths below photos" in said[0]
    (tmp_path / "photos" / "img1.png").unlink()
    labels, said = told("img1.png,dog\nday1/img1,cat\n")
    assert labels == {"day1__img1": (0,)}
    assert "img1.png (a name of 2 photos)" in said[0]
    assert told("day1/img1,cat\n")[1] == []


def test_rows_of_one_photo_are_joined(photos: Path, tmp_path: Path) -> None:
    dataset = photos_dataset(photos, CLASSES, tags(tmp_path, "three.jpg,cat\nthree.jpg,dog\n"))
    assert [record.labels for record in dataset.records if record.told] == [(0, 2)]


def test_a_column_for_each_class(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("image,cat,dog\nthree.jpg,1,0\na/one.jpg,1,1\n", encoding="utf-8")
    dataset = photos_dataset(photos, CLASSES, tmp_path / "tags.csv")
    assert {record.path.name: record.labels for record in dataset.records if record.labels} == {
        "three.jpg": (0,),
        "one.jpg": (0, 2),
    }


def test_a_column_of_yes_and_no_that_is_no_class(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("image,cat,set\nthree.jpg,1,1\na/one.jpg,0,1\n", encoding="utf-8")
    dataset = photos_dataset(photos, CLASSES, tmp_path / "tags.csv")
    assert [record.labels for record in dataset.records if record.told] == [(), (0,)]


def test_one_photo(photos: Path, tmp_path: Path) -> None:
    dataset = photos_dataset(photos / "three.jpg", CLASSES, tags(tmp_path, "three,dog\n"))
    assert [record.labels for record in dataset.records] == [(2,)]


def test_unknown_classes_and_photos_are_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tags\.csv line 3: the network knows no class 'dgo'; did you mean 'dog'"):
        photos_dataset(photos, CLASSES, tags(tmp_path, "one,cat\ntwo,dgo\n"))
    with pytest.raises(DataError, match=r"lists none of the 4 photos"):
        photos_dataset(photos, CLASSES, tags(tmp_path, "other.jpg,cat\n"))
    with pytest.raises(DataError, match="does not exist"):
        photos_dataset(photos, CLASSES, tmp_path / "missing.csv")


def test_class_files(tmp_path: Path) -> None:
    write_class_files(tmp_path, ("cat", "a: b"))
    assert (tmp_path / "classes.txt").read_text("utf-8") == "cat\na: b\n"
    lines = (tmp_path / "labelmap.txt").read_text("utf-8").splitlines()
    assert lines == ["# label:color_rgb:parts:actions", "background:0,0,0::", "cat:128,0,0::", "a_ b:0,128,0::"]
    assert all(line.count(":") == 3 for line in lines)
