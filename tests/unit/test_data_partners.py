"""Class-disjoint partners: correct, even, reproducible, and cheap on a large set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tag2mask.common.errors import DataError
from tag2mask.data import PartnerIndex


def random_labels(rows: int, classes: int, seed: int = 0, most: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros((rows, classes), bool)
    for row in labels:
        row[rng.choice(classes, rng.integers(1, most + 1), replace=False)] = True
    return labels


def names(rows: int) -> list[str]:
    return [f"im{row:06d}" for row in range(rows)]


def test_partners_share_no_class_and_are_different() -> None:
    labels = random_labels(200, 20)
    index = PartnerIndex(labels, names(200))
    for row in range(200):
        partners = index.sample(f"im{row:06d}", 20, seed=1)
        assert len(set(partners)) == 20
        assert row not in partners
        assert not (labels[partners] & labels[row]).any()


def test_classes_beyond_a_byte_and_a_word_count() -> None:
    labels = np.zeros((3, 100), bool)
    labels[0, [0, 99]] = labels[1, 99] = labels[2, 64] = True
    assert PartnerIndex(labels, names(3)).sample("im000000", 1, 0) == [2]


def test_drawn_evenly() -> None:
    labels = np.zeros((30, 3), bool)
    labels[:10, 0] = labels[10:20, 1] = labels[20:, 2] = True
    index = PartnerIndex(labels, names(30))
    counts = Counter(row for seed in range(3000) for row in index.sample("im000003", 4, seed))
    assert set(counts) == set(range(10, 30))
    expected = 3000 * 4 / 20
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 43.8  # 99.9 % of even draws are below, 19 degrees of freedom


def test_drawn_evenly_when_the_scan_is_needed() -> None:
    labels = np.zeros((400, 2), bool)
    labels[:390, 0] = labels[390:, 1] = True
    index = PartnerIndex(labels, names(400))
    counts = Counter(row for seed in range(1500) for row in index.sample("im000003", 5, seed))
    assert set(counts) == set(range(390, 400))
    chi_square = sum((count - 750) ** 2 / 750 for count in counts.values())
    assert chi_square < 27.9  # 9 degrees of freedom


def test_seed_and_id_alone_decide() -> None:
    labels, ids = random_labels(300, 20), names(300)
    first = PartnerIndex(labels, ids)
    wanted = [ids[row] for row in first.sample("im000007", 20, seed=5)]
    first.sample("im000008", 20, seed=5)
    assert [ids[row] for row in first.sample("im000007", 20, seed=5)] == wanted
    order = np.random.default_rng(3).permutation(300)
    shuffled = PartnerIndex(labels[order], [ids[row] for row in order])
    assert [ids[order[row]] for row in shuffled.sample("im000007", 20, seed=5)] == wanted
    assert [ids[row] for row in first.sample("im000007", 20, seed=6)] != wanted
    assert [ids[row] for row in first.sample("im000009", 20, seed=5)] != wanted


def test_too_few_partners_come_again_in_rounds() -> None:
    labels = np.zeros((10, 2), bool)
    labels[:7, 0] = labels[7:, 1] = True
    partners = PartnerIndex(labels, names(10)).sample("im000000", 8, seed=0)
    assert len(partners) == 8
    assert set(partners[:3]) == set(partners[3:6]) == {7, 8, 9}
    assert len(set(partners[6:])) == 2


def test_no_partner_at_all() -> None:
    index = PartnerIndex(np.ones((5, 1), bool), names(5))
    assert index.sample("im000000", 4, seed=0) == []
    assert sorted(index.sample("im000000", 4, seed=0, disjoint=False)) == [1, 2, 3, 4]
    assert PartnerIndex(np.ones((1, 1), bool), ["a"]).sample("a", 3, 0, disjoint=False) == []


def test_any_partners() -> None:
    index = PartnerIndex(random_labels(50, 3), names(50))
    partners = index.sample("im000000", 49, seed=2, disjoint=False)
    assert sorted(partners) == list(range(1, 50))


def test_wrong_use_is_named() -> None:
    index = PartnerIndex(np.ones((2, 1), bool), ["cat1", "cat2"])
    with pytest.raises(DataError, match="'cta1' is not in the index; did you mean"):
        index.sample("cta1", 1, 0)
    with pytest.raises(DataError, match="1 different"):
        PartnerIndex(np.ones((2, 1), bool), ["a", "a"])
    with pytest.raises(DataError, match="needs"):
        PartnerIndex(np.ones((2, 1), bool), ["a"])


def test_a_coco_sized_set_is_not_scanned_for_each_image() -> None:
    rows = 82_783
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 81)
    labels = rng.random((rows, 80)) < 2.9 * weights / weights.sum()  # a few classes an image, some common
    labels[np.flatnonzero(~labels.any(axis=1)), 0] = True
    index = PartnerIndex(labels, names(rows))
    targets = range(0, rows, 4000)
    for target in targets:
        partners = index.sample(f"im{target:06d}", 150, seed=0)
        assert len(set(partners)) == 150
        assert not (labels[partners] & labels[target]).any()
    assert index.rows_touched < len(targets) * 150 * 8


def test_only_the_pool_is_drawn_from() -> None:
    labels = np.eye(4, dtype=bool)[np.arange(40) % 4]
    ids = [f"i{number:02d}" for number in range(40)]
    pool = [1, 2, 3, 4, 7, 10, 20, 30]
    index = PartnerIndex(labels, ids, pool)
    drawn = index.sample("i00", 5, seed=0)  # class 0; of the pool 4 and 20 hold it too
    assert set(drawn) <= {1, 2, 3, 7, 10, 30}
    assert len(set(drawn)) == 5
    assert sorted(set(index.sample("i05", 40, seed=0))) == [2, 3, 4, 7, 10, 20, 30]  # itself isn't in the pool
    whole = PartnerIndex(labels, ids, range(40))
    assert whole.sample("i00", 5, seed=0) == PartnerIndex(labels, ids).sample("i00", 5, seed=0)
