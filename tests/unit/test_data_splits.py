"""A held-out part by tags, groups and seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.data import Dataset, ImageRecord
from tag2mask.data.findings import of_set
from tag2mask.data.settings import DataConfig
from tag2mask.data.splits import with_held_out
from tag2mask.recipe import Recipe, read_splits


def make(labels: list[tuple[int, ...]], group: int = 0, split: str = "") -> Dataset:
    records = tuple(
        ImageRecord(f"im{i}", Path(f"/x/{i}.jpg"), own, split, group=f"g{i // group}" if group else "")
        for i, own in enumerate(labels)
    )
    return Dataset("set", ("cat", "cow", "dog"), records)


MANY = [(0,)] * 60 + [(1,)] * 10 + [(2,)] * 5 + [(0, 2)] * 5 + [()] * 20


def test_every_class_and_the_negatives_keep_their_share() -> None:
    dataset = with_held_out(make(MANY), 0.2, 0)
    val = dataset.select("val")
    assert len(val) == 20
    assert val.negatives() == 4
    assert val.label_matrix().sum(0).tolist() == [13, 2, 3]
    assert len(dataset.select("train")) == 80


def test_it_depends_on_ids_and_seed_alone() -> None:
    dataset = make(MANY)
    chosen = {r.id for r in with_held_out(dataset, 0.2, 0).select("val").records}
    backwards = dataclasses.replace(dataset, records=dataset.records[::-1])
    assert {r.id for r in with_held_out(backwards, 0.2, 0).select("val").records} == chosen
    assert {r.id for r in with_held_out(dataset, 0.2, 1).select("val").records} != chosen


@pytest.mark.parametrize("group", [2, 5, 7])
def test_groups_stay_together(group: int) -> None:
    dataset = with_held_out(make(MANY, group), 0.2, 0)
    splits: dict[str, set[str]] = {}
    for record in dataset.records:
        splits.setdefault(record.group, set()).add(record.split)
    assert all(len(names) == 1 for names in splits.values())
    assert 10 <= len(dataset.select("val")) <= 30
    assert (dataset.select("train").label_matrix().sum(0) > 0).all()
    assert list(of_set(dataset)) == []


def test_what_is_split_stays() -> None:
    split = make(MANY, split="val")
    assert with_held_out(split, 0.2, 0) is split
    assert with_held_out(make(MANY), 0.0, 0).select("").digest() == make(MANY).digest()
    train = with_held_out(make(MANY, split="train"), 0.2, 0)
    assert {record.split for record in train.records} == {"train", "val"}
    test = make(MANY, split="test")
    both = dataclasses.replace(test, records=(*test.records, *make([(0,)] * 9).records[:0]))
    same = with_held_out(both, 0.2, 0)
    assert same.records == both.records
    assert "no image can be held out of 0" in str(same.problems[-1])


def test_every_class_keeps_one_to_learn_from() -> None:
    dataset = with_held_out(make([(0,), (1,), (1,), (2,)]), 0.5, 0)
    assert [r.labels for r in dataset.select("val").records] == [(1,)]
    two = with_held_out(make([(0,), (1,)]), 0.5, 0)
    assert not any(record.split == "val" for record in two.records)
    assert two.problems[-1].note
    assert "since every class must keep one" in str(two.problems[-1])
    with pytest.raises(ConfigError, match=r"data\.val_fraction is 1\.5; expected 0 or more, below 1"):
        DataConfig(val_fraction=1.5)


def test_a_group_on_both_sides_is_said() -> None:
    dataset = make([(0,)] * 4 + [(1,)] * 4, group=4)
    records = tuple(
        dataclasses.replace(r, split="val" if i % 3 == 0 else "train") for i, r in enumerate(dataset.records)
    )
    said = [str(problem) for problem in of_set(dataclasses.replace(dataset, records=records))]
    assert len(said) == 2
    assert "group 'g0' has images in train and val" in said[0]


@pytest.mark.parametrize(
    ("data", "there"),
    [
        ({"val_split": "vla"}, r"split 'vla'; splits there are: train, val"),
        ({"val_split": "test"}, r"split 'test'; splits there are: train, val"),
        ({"train_split": "trian"}, r"split 'trian'; splits there are: train, val"),
    ],
)
def test_a_split_that_no_image_has_is_an_error(
    data: dict[str, str], there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [make(MANY, split=split).records for split in ("train", "val")]
    records = tuple(dataclasses.replace(r, id=f"{r.split}{r.id}") for part in parts for r in part)
    dataset = dataclasses.replace(make(MANY), records=records)
    monkeypatch.setattr("tag2mask.recipe.read_dataset", lambda *_, **__: dataset)
    with pytest.raises(DataError, match=there):
        read_splits(Recipe("r", data=DataConfig(**data)), Path("x"))
    splits = read_splits(Recipe("r"), Path("x"))
    assert splits.val is not None
    assert (len(splits.train), len(splits.val)) == (100, 100)


def test_a_set_may_do_without_val_and_without_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.recipe.read_dataset", lambda *_, **__: make(MANY))
    splits = read_splits(Recipe("r"), Path("x"))
    assert (len(splits.train), splits.val) == (100, None)
    with pytest.raises(DataError, match=r"split 'trian'; splits there are: \(unspecified\)"):
        read_splits(Recipe("r", data=DataConfig(train_split="trian")), Path("x"))
