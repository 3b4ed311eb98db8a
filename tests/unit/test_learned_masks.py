"""A network that learned nothing is noticed, and the line says what to change."""

from __future__ import annotations

import numpy as np
import pytest

from tag2mask.data import Dataset, ImageRecord
from tag2mask.stages.learned_masks import PER_CLASS, Seen, complaint, handful, look

CLASSES = ("cat", "dog")
FINE = [1.0, 0.6, 0.4]


def seen(**changes: object) -> Seen:
    values = {"photos": 8, "in_masks": np.array([8, 5, 4]), "answered": np.array([8, 5, 3])}
    return Seen(**{**values, "mask_cover": 0.3, "answer_cover": 0.28, **changes})  # type: ignore[arg-type]


def test_nothing_is_said_of_a_network_that_learned() -> None:
    assert complaint(FINE, seen(), CLASSES, balanced=False) == ""
    assert complaint([1.0], seen(), CLASSES, balanced=False) == ""  # one epoch says nothing of how the loss went
    once = seen(in_masks=np.array([8, 1, 0]), answered=np.array([8, 0, 0]))
    assert complaint([], once, CLASSES, balanced=False) == ""


@pytest.mark.parametrize(
    ("losses", "changes", "said"),
    [
        ([1.0, 0.99, 0.97], {}, r"stayed at 0\.97 \(first epoch 1\).*three times segmenter\.learning_rate"),
        ([1.0, 0.4, 0.9], {}, r"rose from 0\.4 to 0\.9.*a third of segmenter\.learning_rate"),
        (FINE, {"answered": np.array([8, 5, 0])}, r"never answered.*dog \(0 of 4\).*segmenter\.balanced: true"),
        (FINE, {"answer_cover": 0.02}, r"cover 2 % of 8 photos.*masks 30 %; try segmenter\.balanced: true"),
        (FINE, {"answer_cover": 0.95}, r"cover 95 %.*; try more segmenter\.epochs$"),
    ],
)
def test_what_went_wrong_is_said_in_one_line(losses: list[float], changes: dict, said: str) -> None:
    import re

    text = complaint(losses, seen(**changes), CLASSES, balanced=False)
    assert re.search(said, text), text
    assert "\n" not in text


def test_a_setting_that_is_in_force_is_no_remedy() -> None:
    assert complaint(FINE, seen(answer_cover=0.95), CLASSES, balanced=True).endswith(
        "try segmenter.balanced: false, or more segmenter.epochs"
    )
    for changes in ({"answer_cover": 0.02}, {"answered": np.array([8, 5, 0])}):
        assert "balanced" not in complaint(FINE, seen(**changes), CLASSES, balanced=True)


def test_many_absent_classes_are_counted() -> None:
    names = ("a", "b", "c", "d", "e")
    none = seen(in_masks=np.full(6, 4), answered=np.array([4, 0, 0, 0, 0, 0]))
    text = complaint(FINE, none, names, balanced=False)
    assert "a (0 of 4), b (0 of 4), c (0 of 4) and 2 more" in text


def test_looking_counts_photos_and_cover() -> None:
    mask = np.array([[0, 1, 1, 255]], np.uint8)
    found = look([(np.array([[0, 1, 0, 2]], np.uint8), mask), (np.array([[2, 0, 0, 1]], np.uint8), mask)], 3)
    assert found.photos == 2
    assert found.in_masks.tolist() == [2, 2, 0]
    assert found.answered.tolist() == [2, 1, 0]  # a 1 where the mask is unsure doesn't count
    assert found.mask_cover == pytest.approx(4 / 6)
    assert found.answer_cover == pytest.approx(2 / 6)
    assert look([], 3).photos == 0


def test_a_handful_holds_each_class(tmp_path: object) -> None:
    from pathlib import Path

    labels = [(0,)] * 20 + [(1,)] * 3 + [(0, 1)] * 2
    records = tuple(ImageRecord(str(number), Path("x"), one) for number, one in enumerate(labels))
    chosen = handful(Dataset("set", CLASSES, records), {str(number) for number in range(1, 25)})
    assert [record.id for record in chosen] == ["1", "2", "3", "4", "20", "21", "22", "23"]
    assert sum(0 in record.labels for record in chosen) == PER_CLASS + 1
