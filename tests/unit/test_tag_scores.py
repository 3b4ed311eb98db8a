"""Average precision by class, doubted tags, and warnings of what can't have been learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tag2mask.stages.learned_tags import at_chance, warnings_of
from tag2mask.stages.tag_scores import TagScores, mean_of

CLASSES = ("ant", "bee", "cow")


def scores(logits: list[list[float]], labels: list[list[int]]) -> TagScores:
    ids = tuple(f"photo{number}" for number in range(len(logits)))
    return TagScores(CLASSES, ids, torch.tensor(logits, dtype=torch.float32), torch.tensor(labels, dtype=torch.bool))


def test_average_precision_of_the_classes_that_occur() -> None:
    found = scores([[3, 0, 0], [2, 1, 0], [1, 2, 0], [0, 3, 0]], [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert found.average_precision() == pytest.approx({"ant": (1 + 2 / 3) / 2, "bee": 1 / 3})
    assert mean_of(found.average_precision()) == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert math.isnan(mean_of({}))


def test_the_surest_contradictions_come_first() -> None:
    found = scores([[4, -5, -5], [-3, -5, 6], [-5, -5, -5]], [[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    rows = found.most_wrong(10)
    assert [(row["id"], row["class"], row["tagged"]) for row in rows] == [
        ("photo1", "cow", False),
        ("photo1", "ant", True),
    ]
    assert rows[0]["score"] == pytest.approx(0.9975, abs=1e-4)
    assert len(found.most_wrong(1)) == 1
    assert scores([[4, -5, -5]], [[1, 0, 0]]).most_wrong(10) == []


def labels(*columns: tuple[int, int]) -> np.ndarray:
    """Of a hundred photos, each class has those from one number up to another."""
    matrix = np.zeros((100, len(columns)), dtype=bool)
    for c, (start, end) in enumerate(columns):
        matrix[start:end, c] = True
    return matrix


def test_a_set_that_can_be_learned_has_no_warning() -> None:
    assert warnings_of(CLASSES, labels((0, 40), (30, 70), (60, 90))) == []


def test_few_photos_and_photos_everywhere_are_told() -> None:
    found = warnings_of(CLASSES, labels((0, 7), (0, 100), (50, 80)))
    assert len(found) == 2
    assert found[0].startswith("class 'ant': 7 of 100 training photos have it")
    assert found[1].startswith("class 'bee': all 100 training photos have it")


def test_classes_that_come_together_are_told() -> None:
    (found,) = warnings_of(CLASSES, labels((0, 40), (1, 80), (60, 90)))
    assert found.startswith("class 'ant': 39 of its 40 training photos have 'bee' too")
    assert len(warnings_of(CLASSES, labels((0, 40), (0, 40), (60, 90)))) == 2  # each says so of the other


def test_a_class_at_chance_on_held_out_photos_is_told() -> None:
    truth = np.zeros((60, 3), dtype=int)
    truth[:20, 0] = truth[20:40, 1] = truth[40:, 2] = 1
    random = np.random.default_rng(0)
    logits = 4.0 * truth + random.normal(size=(60, 3))
    logits[:, 2] = random.normal(size=60)
    held_out = TagScores(CLASSES, tuple(map(str, range(60))), torch.tensor(logits), torch.tensor(truth > 0))
    (found,) = warnings_of(CLASSES, labels((0, 40), (30, 70), (60, 90)), held_out)
    assert found.startswith("class 'cow': average precision 0.")
    assert "20 of 60" in found


def test_chance_is_met_by_one_in_twenty_sets() -> None:
    random = np.random.default_rng(1)
    tagged = np.arange(50) < 12
    passing = sum(not at_chance(random.normal(size=50), tagged) for _ in range(1000))
    assert 25 <= passing <= 80
    assert at_chance(np.zeros(50), tagged)
    assert not at_chance(np.where(tagged, 1.0, 0.0), tagged)


@pytest.mark.parametrize(("with_it", "without"), [(1, 5), (1, 18), (2, 2)])
def test_too_few_photos_tell_nothing_of_chance(with_it: int, without: int) -> None:
    tagged = np.arange(with_it + without) < with_it
    assert not at_chance(np.where(tagged, 1.0, 0.0), tagged)  # each before every other
    assert not at_chance(np.where(tagged, 0.0, 1.0), tagged)


def test_a_class_that_its_backdrop_tells_is_told() -> None:
    (found,) = warnings_of(CLASSES, labels((0, 40), (30, 70), (60, 90)), border={"ant": 0.3, "bee": 2.06})
    assert found.startswith("class 'bee': maps are 2.1 times as strong along the photos' border")
