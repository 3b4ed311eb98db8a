"""What `check_dataset` finds in a folder with every kind of bad input at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data import check_dataset, read_dataset, write_mask


def photo(path: Path, seed: int, size: tuple[int, int] = (40, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """A set with one of everything; 'good*.png' are fine."""
    rows = []
    for number in range(6):
        photo(tmp_path / f"good{number}.png", number)
        rows.append(f"good{number}.png,{'horse' if number % 2 else 'cat'},train")
    photo(tmp_path / "slip.png", 20)
    photo(tmp_path / "tiny.png", 21, (8, 50))
    photo(tmp_path / "cut.jpg", 22)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"not a picture")
    shutil.copy(tmp_path / "good0.png", tmp_path / "copy.png")
    rows += ["slip.png,hrose,train", "tiny.png,cat,train", "cut.jpg,cat,train", "zero.jpg,cat,train"]
    rows += ["text.jpg,cat,train", "copy.png,horse,val", "gone.png,cat,train", "good1.png,cat,train"]
    rows += ["good1.png,horse,val", "nothing.png,,train"]
    photo(tmp_path / "nothing.png", 23)
    (tmp_path / "labels.csv").write_text("image,labels,split\n" + "\n".join(rows) + "\n")
    write_mask(tmp_path / "masks" / "good0.png", np.zeros((40, 50)))
    write_mask(tmp_path / "masks" / "good1.png", np.zeros((50, 40)))
    write_mask(tmp_path / "masks" / "good3.png", np.full((40, 50), 77))
    photo(tmp_path / "masks" / "good4.png", 5)
    return tmp_path


def test_everything_is_found_and_the_rest_goes_on(messy: Path) -> None:
    dataset = read_dataset(messy)
    report = check_dataset(dataset, progress=False)
    assert {kind: len(problems) for kind, problems in report.by_kind().items()} == {
        "unreadable-image": 3,
        "duplicate": 2,
        "mask-size": 1,
        "mask-values": 1,
        "missing-image": 1,
        "small-image": 1,
        "suspect-class": 1,
        "tags-masks": 1,
        "unreadable-mask": 1,
    }
    assert report.images == len(dataset) == 13
    assert report.negatives == {"train": 1, "val": 0}
    assert report.masks == 4
    assert report.split_sizes == {"train": 12, "val": 1}
    assert report.counts["train"] == {"cat": 8, "horse": 3, "hrose": 1}
    assert not report.ok
    assert all(problem.remedy and problem.file for problem in report.problems)


def test_summary_says_what_and_how_many(messy: Path) -> None:
    lines = check_dataset(read_dataset(messy), progress=False).summary()
    text = "\n".join(lines)
    assert "13 images (train 12, val 1), 3 classes, 4 masks" in lines[0]
    assert "12 problem(s):" in lines
    assert "3 x unreadable-image" in lines
    assert "zero.jpg: is empty (0 bytes); replace the file" in text
    assert "class 'hrose' (1 image(s)) is nearly 'horse' (4 image(s)); if it is a slip, write 'horse'" in text
    assert "copy.png: has the same content as 'good0.png' of the train split (this is val)" in text
    assert "good3.png: value(s) 77 name no class" in text
    assert "good1.png: the mask is 50 x 40 pixels, its image 40 x 50" in text
    assert not any("\n" in line for line in lines)


def test_long_lists_are_cut(messy: Path) -> None:
    with open(messy / "labels.csv", "a") as stream:
        stream.writelines(f"gone{number}.png,cat,train\n" for number in range(10))
    lines = check_dataset(read_dataset(messy), progress=False).summary()
    assert "11 x missing-image" in lines
    line = next(line for line in lines if "'gone.png' is not on disk" in line)
    assert line.count("is not on disk") == 3
    assert line.endswith("| and 8 more; add the file or delete the row")


def test_without_decoding(messy: Path) -> None:
    report = check_dataset(read_dataset(messy), decode=False, progress=False)
    assert "unreadable-image" not in report.by_kind()
    assert "missing-image" in report.by_kind()
    assert any("not opened" in line for line in report.summary())


def test_empty_classes(messy: Path) -> None:
    dataset = read_dataset(messy, classes=["cat", "horse", "yak"], split="val")
    found = [str(problem) for problem in check_dataset(dataset, progress=False).problems]
    assert sum("class 'yak' has no image;" in line for line in found) == 1
    dataset = read_dataset(messy)
    only_val = [record for record in dataset.records if record.id not in ("slip",)]
    shifted = type(dataset)(dataset.name, dataset.classes, tuple(only_val))
    found = [str(problem) for problem in check_dataset(shifted, progress=False).problems]
    assert any("class 'hrose' has no image;" in line for line in found)


def test_images_that_a_run_leaves_out_are_said(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / f"{number}.jpg", number)
    (tmp_path / "labels.csv").write_text("image,labels,split\n0.jpg,cat,train\n1.jpg,dog,train\n2.jpg,cat,\n")
    report = check_dataset(read_dataset(tmp_path), progress=False)
    assert any("1 of 3 images name no split where others name train" in p.message for p in report.problems)


def test_a_clean_set_is_ok(tmp_path: Path) -> None:
    photo(tmp_path / "cat" / "a.png", 1)
    photo(tmp_path / "dog" / "b.png", 2)
    report = check_dataset(read_dataset(tmp_path))
    assert report.ok
    assert "0 problem(s) found" in report.summary()


def test_vanished_files_do_not_stop_the_check(tmp_path: Path) -> None:
    photo(tmp_path / "cat" / "a.png", 1)
    photo(tmp_path / "dog" / "b.png", 2)
    dataset = read_dataset(tmp_path)
    (tmp_path / "dog" / "b.png").unlink()
    report = check_dataset(dataset, progress=False)
    assert [str(problem) for problem in report.problems] == ["b.png: does not exist; check the name and the folder"]
