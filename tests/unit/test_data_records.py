"""Selecting, restricting and limiting datasets."""

from __future__ import annotations

import pickle
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tag2mask.common.errors import DataError
from tag2mask.data import Dataset, ImageRecord, Problem, read_dataset
from tag2mask.data.records import changed, text_of

ANIMALS = ["cat", "cow", "dog", "horse", "person", "sheep"]


def make(labels: list[tuple[int, ...]], classes: tuple[str, ...] = ("cat", "cow", "dog")) -> Dataset:
    records = [
        ImageRecord(f"im{i}", Path(f"/x/im{i}.jpg"), label, "val" if i % 5 == 4 else "train")
        for i, label in enumerate(labels)
    ]
    return Dataset("set", classes, tuple(records))


def test_problem_is_one_line() -> None:
    problem = Problem("unknown-class", "labels.csv", "line 14", "class 'hose'\nis unknown", "correct it")
    assert str(problem) == "labels.csv line 14: class 'hose' is unknown; correct it"
    assert str(Problem("x", "a.jpg", "", "is empty", "delete it")) == "a.jpg: is empty; delete it"


def test_own_mask_values_by_default() -> None:
    lut = make([(0,)]).mask_lut
    assert lut[:5].tolist() == [0, 1, 2, 3, 255]
    assert lut[255] == 255


def test_select() -> None:
    dataset = make([(0,)] * 10)
    assert [record.id for record in dataset.select("val").records] == ["im4", "im9"]
    with pytest.raises(DataError, match="split 'test'; splits there are: train, val"):
        dataset.select("test")


def test_restrict_drops_labels_images_and_pixels() -> None:
    dataset = make([(0,), (0, 1), (1,), (0, 1, 2)]).restrict(["dog", "cat"])
    assert dataset.classes == ("dog", "cat")
    assert [(r.id, r.labels) for r in dataset.records] == [("im0", (1,)), ("im1", (1,)), ("im3", (0, 1))]
    assert dataset.mask_lut[:5].tolist() == [0, 2, 0, 1, 255]
    assert dataset.restrict(["cat"]).mask_lut[:5].tolist() == [0, 1, 0, 0, 255]


@pytest.mark.parametrize(
    ("classes", "words"), [(["dgo"], "did you mean 'dog'"), ([], "empty"), (["cat", "cat"], "repeats")]
)
def test_restrict_refuses(classes: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        make([(0,)]).restrict(classes)


def test_limit_is_balanced_and_reproducible() -> None:
    dataset = make([(0,)] * 80 + [(1,)] * 15 + [(2,)] * 5 + [(0, 1)] * 10)
    small = dataset.limit(15)
    assert len(small) == 15
    assert small.label_matrix().sum(0).min() >= 4
    assert small.records == dataset.limit(15).records
    assert small.records != dataset.limit(15, seed=1).records
    assert [r.id for r in small.records] == [r.id for r in dataset.records if r in small.records]
    backwards = Dataset("other name", dataset.classes, dataset.records[::-1])
    assert set(backwards.limit(15).records) == set(small.records)


def test_limit_edges() -> None:
    dataset = make([(0,)] * 3)
    assert len(dataset.limit(1)) == 1
    assert dataset.limit(3) is dataset
    assert dataset.limit(99) is dataset
    with pytest.raises(DataError, match="limit of 0"):
        dataset.limit(0)


def test_limit_reaches_n_when_classes_run_out() -> None:
    assert len(make([(0,)] * 50 + [(1,)]).limit(40)) == 40


def test_label_matrix_and_digest() -> None:
    dataset = make([(0, 2), (1,)])
    assert dataset.label_matrix().tolist() == [[True, False, True], [False, True, False]]
    assert dataset.digest() == make([(0, 2), (1,)]).digest()
    assert dataset.digest() != make([(0,), (1,)]).digest()
    assert len({dataset.digest(), make([(0, 2), (1,)], ("cat", "cow", "god")).digest()}) == 2


@pytest.mark.parametrize("reader", ["auto", "csv", "voc"])
def test_real_photos(animals_dir: Path, reader: str) -> None:
    dataset = read_dataset(animals_dir, reader=reader, classes=ANIMALS)
    assert dataset.classes == tuple(ANIMALS)
    assert (len(dataset.select("train")), len(dataset.select("val"))) == (941, 445)
    assert all(problem.note for problem in dataset.problems)
    expected = np.zeros(256, np.uint8)
    expected[[8, 10, 12, 13, 15, 17]] = [1, 2, 3, 4, 5, 6]
    expected[21:] = 255
    assert np.array_equal(dataset.mask_lut, expected)
    assert all(record.mask_path is not None and record.labels for record in dataset.records)


def test_readers_agree_and_restricting_later_is_the_same(animals_dir: Path) -> None:
    by_csv = read_dataset(animals_dir, classes=ANIMALS)
    by_masks = read_dataset(animals_dir, reader="voc", classes=ANIMALS)
    listed = {r.id: set(r.labels) for r in by_csv.records}
    seen = {r.id: set(r.labels) for r in by_masks.records}
    assert all(seen[key] <= listed[key] for key in listed)  # some listed objects have no pixel in the mask
    assert sum(seen[key] == listed[key] for key in listed) > 1350
    later = read_dataset(animals_dir).restrict(ANIMALS)
    assert later.digest() == by_csv.digest()
    assert np.array_equal(later.mask_lut, by_csv.mask_lut)


def test_a_record_keeps_paths_as_text_and_gives_paths() -> None:
    record = ImageRecord("a", Path("/set/photos/a.jpg"), (0,), "train", Path("/set/masks/a.png"))
    assert (record.path, record.mask_path) == (Path("/set/photos/a.jpg"), Path("/set/masks/a.png"))
    assert ImageRecord("a", Path("a.jpg"), ()).path == Path("a.jpg")
    assert ImageRecord("a", Path("a.jpg"), ()).mask_path is None
    again = pickle.loads(pickle.dumps(record))
    assert again == record
    assert hash(again) == hash(record)
    assert replace(record, path=Path("/b.jpg"), mask_path=None) == ImageRecord("a", Path("/b.jpg"), (0,), "train")
    assert "photos/a.jpg" in repr(record)


def test_changed_is_replace() -> None:
    record = ImageRecord("a", Path("/set/a.jpg"), (0,), "train", Path("/set/masks/a.png"), (32, 64), "slide 3")
    for changes in ({"labels": (1, 2)}, {"split": "val", "told": False}, {"long_side": None}):
        assert changed(record, **changes) == replace(record, **changes)
    assert text_of(changed(record, labels=()), "mask_path") == ("/set/masks", "a.png")
    assert text_of(ImageRecord("a", Path("/a.jpg"), ()), "mask_path") == ("", "")


def test_a_set_that_is_as_asked_for_is_not_copied() -> None:
    dataset = make([(0,), (1,)]).worked_on_at((32, 64))
    assert [record.long_side for record in dataset.records] == [(32, 64), (32, 64)]
    assert dataset.worked_on_at((32, 64)) is dataset
    assert dataset.read_as(dataset.reading) is dataset


@pytest.mark.parametrize("masks", ["a column", "by name"])
def test_a_photo_takes_a_kilobyte_at_most(tmp_path: Path, masks: str) -> None:
    count = 3000
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number:012d}.{'jpg' if folder == 'photos' else 'png'}").touch()
    rows = (f"photos/{n:012d}.jpg,{'cat;dog' if n % 3 else 'dog'},train" for n in range(count))
    more = [f",masks/{n:012d}.png" if masks == "a column" else "" for n in range(count)]
    lines = ["image,labels,split" + (",mask" if masks == "a column" else "")]
    lines += [row + mask for row, mask in zip(rows, more, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    read_dataset(tmp_path)  # what is looked up once is there
    tracemalloc.start()
    try:
        dataset = read_dataset(tmp_path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset) == count
    assert all(r.mask_path == tmp_path / "masks" / f"{r.id}.png" for r in dataset.records)
    more = 1.0 if sys.version_info >= (3, 11) else 1.5  # whose objects have a dictionary each
    assert kept / count < 600 * more  # bytes
    assert peak / count < 1100 * more
