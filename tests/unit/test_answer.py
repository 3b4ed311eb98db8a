"""Answers to single images: restriction to tags, confidence, tiles, the CRF."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from tag2mask.data.masks import resize_labels
from tag2mask.networks import build_segmentation_network
from tag2mask.refine.crf import crf_available
from tag2mask.stages.answer import Answer, Place, _spans, answer_of_logits, by_tiles, combined_logits, joined
from tag2mask.stages.predict import PredictConfig, predict_answer

NOISE = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)


def test_tags_leave_background_and_their_own_labels() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0]).view(4, 1, 1).expand(4, 5, 6).clone()
    logits[0, 0] = 9.0  # one row of background
    free, tagged, two = (answer_of_logits(logits, classes) for classes in (None, [1], [1, 2]))
    assert set(np.unique(free.labels)) == {0, 1}
    assert set(np.unique(tagged.labels)) == {0, 2}
    assert set(np.unique(two.labels)) == {0, 3}
    assert (tagged.labels[0] == 0).all()
    share = torch.tensor([0.0, 1.0]).softmax(0)[1]
    assert tagged.confidence[1, 0] == round(255 * float(share))
    assert not answer_of_logits(logits, []).labels.any()  # no tag: background


def test_the_mean_over_scales_and_mirrors_is_that_of_each_view() -> None:
    network = build_segmentation_network("fpn", "resnet10t", 3, "none")
    both = combined_logits(network, NOISE, (1.0, 0.5), mirror=False)
    single = [combined_logits(network, NOISE, (scale,), mirror=False) for scale in (1.0, 0.5)]
    assert both.shape == (3, 90, 70)
    assert torch.allclose(both, (single[0] + single[1]) / 2, atol=1e-6)
    mirrored = combined_logits(network, NOISE, (1.0,), mirror=True)
    other = combined_logits(network, np.ascontiguousarray(NOISE[:, ::-1]), (1.0,), mirror=True)
    assert torch.allclose(mirrored, other.flip(2), atol=1e-5)
    highest = combined_logits(network, NOISE, (1.0, 0.5), mirror=False, combine="max")
    assert torch.equal(highest, torch.maximum(*single))


@pytest.mark.parametrize(("side", "tile"), [(100, 100), (101, 100), (640, 128), (1000, 128), (257, 256)])
def test_spans_cover_a_side_once_and_keep_off_the_borders_of_tiles(side: int, tile: int) -> None:
    spans = _spans(side, tile)
    assert next(own for *_, own in spans)[0] == 0
    assert spans[-1][2][1] == side
    assert all(before[2][1] == after[2][0] for before, after in itertools.pairwise(spans))
    for start, length, (first, last) in spans:
        assert 0 <= start <= first < last <= start + length <= side
        assert first == 0 or first - start >= tile // 8
        assert last == side or start + length - last >= tile // 8


def test_tiles_of_a_local_answer_are_the_answer_of_the_whole() -> None:
    """Each pixel's label from itself and its neighbours: tiles, wherever they are cut, change nothing."""

    def of_part(place: Place) -> Answer:
        grey = image[place].astype(int).sum(axis=2)
        around = np.pad(grey, 3, mode="edge")
        mean = sum(around[y : y + grey.shape[0], x : x + grey.shape[1]] for y in range(7) for x in range(7))
        return Answer((mean > 49 * 380).astype(np.uint8), (mean % 251).astype(np.uint8))

    image = np.random.default_rng(1).integers(0, 255, (300, 170, 3), dtype=np.uint8)
    whole, tiled = of_part((slice(None), slice(None))), by_tiles(of_part, (300, 170), 64)
    assert np.array_equal(tiled.labels, whole.labels)
    assert np.array_equal(tiled.confidence, whole.confidence)
    assert len(np.unique(whole.labels)) == 2


def test_settings_of_prediction_reach_the_answer() -> None:
    network = build_segmentation_network("fpn", "resnet10t", 4, "none")
    config = PredictConfig(scales=(1.0,), mirror=False)
    answer = predict_answer(network, NOISE, config)
    assert answer.labels.shape == answer.confidence.shape == NOISE.shape[:2]
    expected = combined_logits(network, NOISE, (1.0,), mirror=False).argmax(0)
    assert np.array_equal(answer.labels, expected.numpy())
    assert set(np.unique(predict_answer(network, NOISE, config, [2]).labels)) <= {0, 3}
    large = np.tile(NOISE, (3, 3, 1))
    tiled = predict_answer(network, large, PredictConfig(scales=(1.0,), mirror=False, tile=128))
    assert tiled.labels.shape == large.shape[:2]


def test_tags_that_are_given_count_as_being_there() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0], [0.2, 0.5, -1.0], [0.4, 0.0, 5.0]])[:, None]  # (3, 1, 3)
    assert answer_of_logits(logits, (0,)).labels.tolist() == [[0, 0, 0]]
    assert answer_of_logits(logits, (0,), tagged=0.6).labels.tolist() == [[0, 1, 0]]
    assert answer_of_logits(logits, (0, 1), tagged=0.7).labels.tolist() == [[2, 1, 2]]
    assert answer_of_logits(logits, tagged=0.6).labels.tolist() == [[0, 0, 2]]  # no tags: nothing is known
    assert answer_of_logits(logits, (), tagged=9.0).labels.tolist() == [[0, 0, 0]]  # without any class
    alone = answer_of_logits(logits, (0, 1), background=False)  # every pixel has a class anyway
    assert np.array_equal(answer_of_logits(logits, (0, 1), background=False, tagged=0.7).labels, alone.labels)
    sure = answer_of_logits(logits, (0,), tagged=0.6).confidence[0, 1] / 255
    assert sure == pytest.approx(1 / (1 + math.exp(1.0 - 1.1)), abs=0.003)


def test_a_mask_is_joined_where_it_is_sure() -> None:
    logits = torch.zeros(3, 1, 4)
    logits[1] = 0.5
    mask = np.array([[0, 2, 255, 1]], np.uint8)
    assert joined(logits, mask, 1.0)[:, 0].T.tolist() == [[1, 0.5, 0], [0, 0.5, 1], [0, 0.5, 0], [0, 1.5, 0]]
    assert torch.equal(joined(logits, mask, 0.0), logits)


@pytest.mark.parametrize("tile", [None, 128])
def test_a_pseudo_mask_reaches_the_answer_at_its_own_place(tile: int | None) -> None:
    """So much weight that the answer is the mask, whatever its size and however the image is cut."""
    network = build_segmentation_network("fpn", "resnet10t", 4, "none")
    image = np.tile(NOISE, (3, 3, 1))
    mask = np.zeros((image.shape[0] * 2, image.shape[1] * 2), np.uint8)
    mask[20:90, 30:160], mask[100:, :40] = 1, 3
    config = PredictConfig(scales=(1.0,), mirror=False, tile=tile, joined=20.0)
    answer = predict_answer(network, image, config, [0, 2], pseudo_mask=mask)
    assert np.array_equal(answer.labels, resize_labels(mask, image.shape[:2]))
    plain = dataclasses.replace(config, joined=0.0)
    found = [predict_answer(network, image, plain, [0, 2], pseudo_mask=m).labels for m in (mask, None)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], answer.labels)


@pytest.mark.skipif(not crf_available(), reason="extra crf")
def test_the_crf_stays_among_the_tags() -> None:
    network = build_segmentation_network("fpn", "resnet10t", 4, "none")
    config = PredictConfig(scales=(1.0,), mirror=False, crf=True)
    assert set(np.unique(predict_answer(network, NOISE, config, [1]).labels)) <= {0, 2}
