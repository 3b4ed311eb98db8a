"""Thresholding, the dense CRF's edges of use, and the pixel-adaptive refinement."""

from __future__ import annotations

import builtins
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError
from tag2mask.refine import crf
from tag2mask.refine.methods import sharpened
from tag2mask.refine.pamr import DEFAULTS, PAMRParameters, pamr
from tag2mask.refine.pamr_numpy import pamr_numpy
from tag2mask.refine.threshold import COVER_STEPS, cover_by_score, labels_from_maps, score_of_equal_cover

needs_crf = pytest.mark.skipif(not crf.crf_available(), reason="the extra 'crf' is not installed")


def two_halves(height: int = 30, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A picture of two noisy colours and the true mask (right half = 1)."""
    truth = np.zeros((height, width), np.int64)
    truth[:, width // 2 :] = 1
    noise = np.random.default_rng(0).integers(0, 12, (height, width, 3))
    image = (np.where(truth[..., None] == 1, [200, 40, 40], [40, 60, 180]) + noise).astype(np.uint8)
    return image, truth


# --- threshold ---------------------------------------------------------------------------------------


def test_strongest_class_above_the_threshold_wins() -> None:
    maps = np.array([[[0.1, 0.5, 0.9]], [[0.2, 0.6, 0.3]]], np.float32)
    labels = labels_from_maps(maps, np.array([2, 5]), 0.25)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 6, 3]]


def test_equals_the_argmax_with_a_background_row() -> None:
    maps = np.random.default_rng(1).random((3, 17, 23)).astype(np.float32)
    classes = np.array([0, 4, 9])
    for threshold in (0.0, 0.3, 0.77, 1.0):
        rows = np.concatenate([np.full((1, 17, 23), threshold, np.float32), maps])
        expected = np.array([0, 1, 5, 10])[rows.argmax(axis=0)]
        np.testing.assert_array_equal(labels_from_maps(maps, classes, threshold), expected)


def test_ties_no_classes_and_nan() -> None:
    tie = np.full((2, 1, 1), 0.5, np.float32)
    assert labels_from_maps(tie, np.array([0, 1]), 0.5).item() == 0
    assert labels_from_maps(tie, np.array([3, 1]), 0.4).item() == 4
    assert labels_from_maps(np.zeros((0, 4, 5)), np.zeros(0, int), 0.3).tolist() == [[0] * 5] * 4
    nan = np.full((1, 2, 2), np.nan, np.float32)
    assert labels_from_maps(nan, np.array([7]), 0.3).max() == 0
    assert labels_from_maps(np.stack([nan[0], np.ones((2, 2))]), np.array([7, 8]), 0.3).min() == 9


def test_cover_counts_what_a_threshold_takes() -> None:
    maps = np.random.default_rng(2).random((3, 17, 23)).astype(np.float32)
    maps[:, 0, :5] = [[0.0], [0.5], [1.0]]
    cover = cover_by_score(maps)
    for step in (0, 1, 137, 500, 999, COVER_STEPS):
        labels = labels_from_maps(maps.astype(np.float64), np.arange(3), step / COVER_STEPS)
        assert cover[step] == pytest.approx((labels > 0).mean(), abs=1e-12)
    assert not cover_by_score(np.zeros((0, 4, 5))).any()


@pytest.mark.parametrize("score", [0.1, 0.17, 0.35, 0.8])
def test_a_score_is_carried_over_by_what_it_covers(score: float) -> None:
    """Maps raised to a power keep their order, so the score of equal cover is the power of the score."""
    maps = np.random.default_rng(3).random((2, 60, 80))
    reference, own = cover_by_score(maps), cover_by_score(maps**0.5)
    assert score_of_equal_cover(score, reference, own) == pytest.approx(score**0.5, abs=0.005)
    assert score_of_equal_cover(score, reference, reference) == pytest.approx(score, abs=0.005)
    assert score_of_equal_cover(score, reference, np.zeros_like(own)) == score


def test_maps_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match="2 classes"):
        labels_from_maps(np.zeros((1, 4, 5)), np.array([0, 1]), 0.3)
    with pytest.raises(DataError, match="300"):
        labels_from_maps(np.zeros((1, 4, 5)), np.array([300]), 0.3)


# --- dense CRF ---------------------------------------------------------------------------------------


@needs_crf
def test_crf_pulls_labels_to_the_edge() -> None:
    image, truth = two_halves()
    rough = np.roll(truth, 3, axis=1)
    rough[:, :3] = 0
    assert (crf.crf_labels(image, rough, 2) != truth).mean() < 0.2 * (rough != truth).mean()


@needs_crf
def test_crf_on_probabilities_is_a_distribution_and_helps() -> None:
    image, truth = two_halves()
    maps = np.where(np.roll(truth, 3, axis=1) == 1, 0.8, 0.1)[None].astype(np.float32)
    maps[:, :, :3] = 0.1
    unary = crf.map_probabilities(maps, 0.4)
    posterior = crf.crf_probabilities(image, unary)
    np.testing.assert_allclose(posterior.sum(axis=0), 1, atol=1e-4)
    assert (posterior.argmax(0) != truth).mean() < (unary.argmax(0) != truth).mean()


@needs_crf
def test_crf_takes_read_only_and_strided_arrays() -> None:
    image, truth = two_halves()
    expected = crf.crf_labels(image, truth, 2)
    image.setflags(write=False)
    truth.setflags(write=False)
    np.testing.assert_array_equal(crf.crf_labels(image, truth, 2), expected)
    mirrored = crf.crf_labels(image[:, ::-1], truth[:, ::-1], 2)
    assert (mirrored[:, ::-1] != expected).mean() < 0.01
    probabilities = np.stack([1.0 - truth, truth])
    probabilities.setflags(write=False)
    assert crf.crf_probabilities(image, probabilities).shape == probabilities.shape


@needs_crf
def test_crf_with_one_label_and_with_zero_probability() -> None:
    image, truth = two_halves()
    assert crf.crf_labels(image, np.zeros_like(truth), 1).max() == 0
    hard = np.stack([truth == 0, truth == 1, np.zeros_like(truth)]).astype(np.float64)
    posterior = crf.crf_probabilities(image, hard)
    assert np.isfinite(posterior).all()
    np.testing.assert_array_equal(posterior.argmax(axis=0), truth)


def test_map_probabilities_keep_the_argmax() -> None:
    maps = np.random.default_rng(2).random((2, 9, 11)).astype(np.float32)
    probabilities = crf.map_probabilities(maps, 0.45)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), labels_from_maps(maps, np.array([0, 1]), 0.45))
    assert crf.map_probabilities(np.zeros((1, 2, 2)), 0.0).argmax(axis=0).max() == 0


def test_crf_refuses_what_does_not_fit() -> None:
    image, truth = two_halves()
    with pytest.raises(DataError, match=r"30x40.*29x40"):
        crf.crf_labels(image, truth[1:], 2)
    with pytest.raises(DataError, match="255"):
        crf.crf_labels(image, np.where(truth == 1, 255, 0), 2)
    with pytest.raises(DataError, match="uint8"):
        crf.crf_labels(image.astype(np.float32), truth, 2)


def test_missing_crf_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("pydensecrf"):
            raise ImportError(name)
        return real_import(name, *rest, **named)

    for name in [name for name in sys.modules if name.startswith("pydensecrf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    image, truth = two_halves()
    with pytest.raises(MissingExtraError, match=r"tag2mask\[crf\]"):
        crf.crf_labels(image, truth, 2)


# --- pixel-adaptive refinement -----------------------------------------------------------------------


def pamr_by_loops(image: np.ndarray, probabilities: np.ndarray, parameters: PAMRParameters) -> np.ndarray:
    """The same refinement pixel by pixel, written from the definition."""
    height, width = image.shape[:2]
    x = image.astype(np.float64) / 255
    current = probabilities.astype(np.float64)
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for _ in range(parameters.iterations):
        after = np.zeros_like(current)
        for row in range(height):
            for column in range(width):
                places = [
                    (min(max(row + d * dy, 0), height - 1), min(max(column + d * dx, 0), width - 1), (dy, dx))
                    for d in parameters.dilations
                    for dy, dx in around
                ]
                sigma = np.array([x[r, c] for r, c, _ in places]).std(axis=0)
                near = [(r, c) for r, c, offset in places if offset != (0, 0)]
                exponents = np.array(
                    [-(abs(x[r, c] - x[row, column]) / (parameters.sharpness * sigma + 1e-6)).mean() for r, c in near]
                )
                weights = np.exp(exponents - exponents.max())
                weights /= weights.sum()
                after[:, row, column] = sum(w * current[:, r, c] for w, (r, c) in zip(weights, near, strict=True))
        current = after
    return current


def test_pamr_equals_its_definition() -> None:
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image[:3, :3] = 128  # a flat corner
    probabilities = random.dirichlet([1, 1, 1], (7, 9)).transpose(2, 0, 1)
    parameters = PAMRParameters(dilations=(1, 2), iterations=2)
    np.testing.assert_allclose(
        pamr(image, probabilities, parameters=parameters),
        pamr_by_loops(image, probabilities, parameters),
        atol=2e-5,
    )


@pytest.mark.parametrize("kept_pixels", [0, 1_500_000])
def test_pamr_by_numpy_alone_is_the_same(kept_pixels: int) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (30, 41, 3), np.uint8)
    probabilities = rng.dirichlet(np.ones(3), (30, 41)).transpose(2, 0, 1).astype(np.float32)
    parameters = PAMRParameters(dilations=(1, 2, 4), iterations=4, kept_pixels=kept_pixels)
    expected = pamr(image, probabilities, parameters=parameters)
    np.testing.assert_allclose(pamr_numpy(image, probabilities, parameters=parameters), expected, atol=2e-6)
    with pytest.raises(DataError, match="give them as"):
        pamr_numpy(image, probabilities[:, 1:])


@pytest.mark.parametrize("method", ["pamr", pytest.param("crf", marks=needs_crf)])
def test_probabilities_of_a_network_follow_edges(method: str) -> None:
    """A square that lies two pixels beside the thing is put right; labels that are nowhere likely stay."""
    image = np.full((40, 48, 3), 40, np.uint8)
    image[10:30, 12:36] = (220, 180, 60)
    truth = (image[..., 0] > 100).astype(int)
    inside = 0.1 + 0.8 * np.roll(truth, (2, -2), (0, 1)).astype(np.float32)
    rare = np.full_like(inside, 0.001)
    probabilities = np.stack([1 - inside - 2 * rare, inside, rare, rare]).astype(np.float32)
    refined = sharpened(image, probabilities, method)
    assert np.mean(probabilities.argmax(axis=0) == truth) < 0.92
    assert np.mean(refined.argmax(axis=0) == truth) > 0.97
    assert np.array_equal(refined[2:], probabilities[2:])
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(sharpened(image, probabilities, "none"), probabilities)
    few = np.stack([1 - rare, rare])
    assert np.array_equal(sharpened(image, few, method), few)  # nothing to decide


def test_pamr_pulls_labels_to_the_edge_and_stays_a_distribution() -> None:
    image, truth = two_halves(60, 80)
    rough = np.roll(truth, 4, axis=1)
    rough[:, :4] = 0
    probabilities = np.stack([1 - 0.6 * rough - 0.2, 0.6 * rough + 0.2]).astype(np.float32)
    refined = pamr(image, probabilities)
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-4)
    assert (refined.argmax(axis=0) != truth).mean() < 0.5 * (rough != truth).mean()


def test_pamr_without_kept_affinities_is_the_same() -> None:
    image, truth = two_halves(33, 21)
    probabilities = np.stack([1 - truth, truth]).astype(np.float32)
    lean = pamr(image, probabilities, parameters=replace(DEFAULTS, kept_pixels=0))
    np.testing.assert_array_equal(lean, pamr(image, probabilities))


def test_pamr_survives_flat_tiny_and_nan_input() -> None:
    flat = np.full((1, 3, 3), 77, np.uint8)  # far smaller than the largest dilation
    np.testing.assert_allclose(pamr(flat, np.full((2, 1, 3), 0.5)), 0.5, atol=1e-6)
    assert np.isfinite(pamr(flat, np.full((2, 1, 3), np.nan))).all()
    checker = (np.indices((40, 40)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.isfinite(pamr(checker, np.full((2, 40, 40), 0.5))).all()


def test_pamr_leaves_its_input_alone() -> None:
    image, truth = two_halves()
    probabilities = np.stack([1 - truth, truth]).astype(np.float32)
    before = probabilities.copy()
    pamr(image, probabilities)
    np.testing.assert_array_equal(probabilities, before)
    assert torch.is_grad_enabled()


def test_pamr_refuses_what_does_not_fit() -> None:
    image, _ = two_halves()
    with pytest.raises(DataError, match=r"30x40.*2, 30, 41"):
        pamr(image, np.zeros((2, 30, 41)))
    with pytest.raises(ConfigError, match="dilations"):
        PAMRParameters(dilations=())
