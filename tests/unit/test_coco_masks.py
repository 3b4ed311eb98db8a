"""Outlines and run-length codes as pixels: cases by hand, recorded strings, and the rule for overlaps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tag2mask.common.errors import DataError
from tag2mask.data.coco_masks import (
    AnnotationError,
    annotation_mask,
    check_segmentation,
    decode_counts,
    polygon_mask,
    rle_mask,
    semantic_mask,
)
from tag2mask.data.json_stream import read_elements, stream_json


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def test_a_box_covers_the_pixels_whose_centres_it_holds() -> None:
    mask = annotation_mask([box(1, 2, 4, 5)], 6, 7)
    expected = np.zeros((6, 7), bool)
    expected[2:5, 1:4] = True
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(annotation_mask([box(0.6, 2, 4, 5)], 6, 7), expected)  # 0.5 lies left of 0.6
    expected[2:5, 0] = True
    np.testing.assert_array_equal(annotation_mask([box(0.4, 2, 4, 5)], 6, 7), expected)


def test_neighbours_share_no_pixel_and_leave_none() -> None:
    left, right = [0, 0, 5.5, 0, 2.5, 8, 0, 8], [5.5, 0, 10, 0, 10, 8, 2.5, 8]
    one, two = annotation_mask([left], 8, 10), annotation_mask([right], 8, 10)
    assert not (one & two).any()
    assert (one | two).all()


def test_holes_by_the_even_odd_rule_and_union_of_polygons() -> None:
    star = np.array([[5, 0], [8, 10], [0, 4], [10, 4], [2, 10]], float)
    assert not polygon_mask(star, 10, 10)[5, 5]  # the middle of a pentagram is outside
    both = annotation_mask([box(0, 0, 4, 4), box(2, 2, 6, 6)], 6, 6)
    assert both[3, 3]  # two polygons of one annotation are joined, not cut out of each other
    assert both.sum() == 28


def test_against_testing_every_centre() -> None:
    rng = np.random.default_rng(3)
    for _ in range(25):
        points = rng.uniform(-4, 24, (rng.integers(3, 12), 2))
        mask = polygon_mask(points, 17, 21)
        for row, column in rng.integers([0, 0], [17, 21], (40, 2)):
            x, y = points.T - np.array([[column + 0.5], [row + 0.5]])
            next_x, next_y = np.roll(x, -1), np.roll(y, -1)
            crosses = (y > 0) != (next_y > 0)
            at = x[crosses] - y[crosses] * (next_x[crosses] - x[crosses]) / (next_y[crosses] - y[crosses])
            assert mask[row, column] == ((at > 0).sum() % 2 == 1)


def test_recorded_compressed_codes() -> None:
    """Strings that the official implementation made of these masks."""
    small = np.zeros((5, 7), bool)
    small[1:4, 2:5] = True
    small[0, 6] = True
    assert decode_counts(";320004NN") == [11, 3, 2, 3, 2, 3, 6, 1, 4]
    np.testing.assert_array_equal(rle_mask({"size": [5, 7], "counts": ";320004NN"}, 5, 7), small)
    text = "[6k0=00000000\\OE;" + ";EE;" * 39 + ";9" + "0" * 18 + "]<"
    ring = np.zeros((40, 70), bool)
    ring[3:30, 5:60] = True
    ring[10:12, 10:50] = False
    np.testing.assert_array_equal(rle_mask({"size": [40, 70], "counts": text}, 40, 70), ring)


def test_uncompressed_codes_run_down_the_columns() -> None:
    mask = rle_mask({"size": [2, 3], "counts": [1, 3, 2]}, 2, 3)
    np.testing.assert_array_equal(mask, [[False, True, False], [True, True, False]])


def test_smaller_instances_lie_on_top_and_crowds_below() -> None:
    crowd = {"size": [4, 4], "counts": [0, 16]}
    regions = [(7, False, [box(0, 0, 1, 1)]), (3, False, [box(0, 0, 2, 2)]), (1, True, crowd)]
    expected = np.full((4, 4), 255)
    expected[:2, :2] = 3
    expected[0, 0] = 7
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        np.testing.assert_array_equal(semantic_mask([regions[i] for i in order], 4, 4), expected)
    same = [(1, False, [box(0, 0, 2, 2)]), (2, False, [box(0, 0, 2, 2)])]
    assert semantic_mask(same, 4, 4)[0, 0] == 2  # among equals the later in the file
    assert semantic_mask([], 4, 4).sum() == 0


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[0, 0, 1, 1]], "even number of 6 or more coordinates, it has 4"),
        ([[0, 0, 1, 1, 2]], "it has 5"),
        ([], "neither polygons nor a run-length code"),
        (None, "neither polygons"),
        ([[0, 0, float("nan"), 1, 2, 2]], "not finite"),
        ([["a", 0, 1, 1, 2, 2]], "not numbers"),
        ([[5, 5, 300, 5, 300, 80]], r"\(5, 5\) to \(300, 80\), outside the image of 20 x 10"),
        ([[-9, 0, 5, 0, 5, 5]], "outside the image"),
        ({"size": [20, 10], "counts": [200]}, "size .*20, 10.*the image 10 x 20"),
        ({"size": [10, 20], "counts": [100]}, "add up to 100, not 10 x 20"),
        ({"size": [10, 20], "counts": [-100, 300]}, "whole numbers"),
        ({"size": [10, 20], "counts": "!!"}, "character '!'"),
        ({"size": [10, 20], "counts": "o"}, "middle of a number"),
    ],
)
def test_what_cannot_be_rendered_is_named(segmentation: object, words: str) -> None:
    with pytest.raises(AnnotationError, match=words):
        check_segmentation(segmentation, 10, 20)


def test_touching_the_border_is_fine() -> None:
    check_segmentation([[0, 0, 20.4, 0, 20, 11.3, -0.5, 10]], 10, 20)


# --- the JSON stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_stream_equals_json_for_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("tag2mask.data.json_stream.CHUNK", chunk)
    content = {
        "info": {"ü": "犬 é"},
        "images": [{"id": i, "n": f"ä{i}"} for i in range(5)],
        "annotations": [],
        "n": 12,
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8-sig")
    read: dict = {"images": [], "annotations": []}
    for key, number, value, start, length in stream_json(path, ("images", "annotations")):
        if number >= 0:
            read[key].append(value)
            assert read_elements(path, [(start, length)]) == [value]
        elif key not in ("images", "annotations"):
            read[key] = value
    assert read == content


@pytest.mark.parametrize(
    "text", ['{"images": [1, 2', '{"images": [1 2]}', '{"images" 1}', '{"a": tru}', '{"a": 1', ""]
)
def test_broken_json_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json: is not"):
        list(stream_json(path, ("images",)))
