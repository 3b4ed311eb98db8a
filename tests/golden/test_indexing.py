"""Pixel pairs, affinities and the random walk against the reference's own numbers.

The reference squares a float32 matrix eight times. Against the same in float64 its recorded walks are off by up to
5.2e-5 (radius 10) and its matrix's diagonal by up to 8e-5; ours, worked out in float64, by less than 1e-7.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dense_walk import cropped_affinities, dense_affinities, dense_random_walk, sparse_affinities, transition
from tag2mask.networks.paths import destinations, flat_offsets, search_paths, source_indices
from tag2mask.refine.affinity import affinities
from tag2mask.refine.random_walk import random_walk

MAPS = [(5, 25, 34), (10, 30, 44), (10, 24, 24), (10, 128, 128)]  # radius, height, width
WALKS = [(10, 8, 5), (10, 3, 5), (8, 0, 5), (10, 8, 10)]  # beta, times, radius
TRANSITIONS = [(10, 8), (10, 3), (8, 0)]  # beta, times; radius 5
WALK = 7e-5  # the reference's own round-off, and a little
DIAGONAL = 1e-4
SHORT = 4e-6  # the same after 8 steps or one


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden_dir / "e_indexing.npz"))


@pytest.fixture(scope="module")
def edge(golden) -> torch.Tensor:
    return torch.tensor(golden["edge"][0])


@pytest.fixture(scope="module")
def padded(edge) -> torch.Tensor:
    return torch.nn.functional.pad(edge, (5, 5, 0, 5), value=1.0)


@pytest.mark.parametrize(("radius", "height", "width"), MAPS)
def test_paths_and_indices(golden, radius: int, height: int, width: int) -> None:
    tag = f"r{radius}_{height}x{width}"
    np.testing.assert_array_equal(destinations(radius), golden[f"{tag}_dst"])
    sources = source_indices(radius, (height, width))
    np.testing.assert_array_equal(sources, golden[f"{tag}_src_indices"])
    paths = search_paths(radius)
    np.testing.assert_array_equal([(*p.shape[:2], sources.size) for p in paths], golden[f"{tag}_n"])
    indices = [sources + flat_offsets(p, width)[..., None] for p in paths]
    targets = sources + flat_offsets(destinations(radius), width)[:, None]
    for number, path in enumerate(paths):
        np.testing.assert_array_equal(path, golden[f"{tag}_path{number}"])
    if (height, width) == (128, 128):
        assert targets.sum() == golden[f"{tag}_dst_indices_sum"]
        np.testing.assert_array_equal([i.sum() for i in indices], golden[f"{tag}_pidx_sums"])
        return
    np.testing.assert_array_equal(targets, golden[f"{tag}_dst_indices"])
    for number, index in enumerate(indices):
        np.testing.assert_array_equal(index, golden[f"{tag}_pidx{number}"])


def test_affinities_of_the_padded_edge(golden, padded) -> None:
    expected = golden["edge_to_affinity"][0]  # (34, 21 * 26)
    np.testing.assert_array_equal(affinities(padded, 5)[:, :21, 4:30].flatten(1), expected)
    np.testing.assert_array_equal(sparse_affinities(padded, 5), expected)


def test_dense_matrix(golden, edge, padded) -> None:
    full = dense_affinities(padded, 5)
    assert float(full.sum(dtype=torch.float64)) == pytest.approx(float(golden["dense_full_sum"]), rel=1e-7)
    np.testing.assert_array_equal(full.sum(dim=1), golden["dense_full_rowsum"])
    np.testing.assert_array_equal(cropped_affinities(edge, 5), golden["dense_cropped"])


@pytest.mark.parametrize(("beta", "times"), TRANSITIONS)
def test_transition_matrix_of_the_dense_model(golden, edge, beta: int, times: int) -> None:
    matrix = transition(cropped_affinities(edge, 5), beta, times)
    tag = f"trans_b{beta}_t{times}"
    np.testing.assert_allclose(matrix.sum(dim=0), golden[f"{tag}_sum0"], rtol=0, atol=2.5e-5)
    np.testing.assert_allclose(matrix.diagonal(), golden[f"{tag}_diag"], rtol=3e-5)
    if times == 0:
        np.testing.assert_allclose(matrix, golden[tag], rtol=1e-6)


@pytest.mark.parametrize(("beta", "times"), TRANSITIONS)
@pytest.mark.parametrize("method", ["chebyshev", "power"])
def test_the_walk_has_the_diagonal_of_the_matrix(golden, edge, beta: int, times: int, method: str) -> None:
    """Walks from single pixels are rows of the matrix, so T itself is compared, though it is never formed."""
    pixels = torch.arange(0, edge.numel(), 37)
    single = torch.zeros(len(pixels), edge.numel())
    single[torch.arange(len(pixels)), pixels] = 1 / (1 - edge.flatten()[pixels])
    walked = random_walk(single.view(-1, *edge.shape), edge, beta=beta, times=times, method=method)
    rows = walked.flatten(1).numpy()  # (m, h w)
    tag = f"trans_b{beta}_t{times}"
    found = rows[np.arange(len(pixels)), pixels]
    np.testing.assert_allclose(found, golden[f"{tag}_diag"][pixels], rtol=0, atol=DIAGONAL if times == 8 else SHORT)
    exact = transition(cropped_affinities(edge.double(), 5), beta, times)[pixels]
    np.testing.assert_allclose(rows, exact, rtol=0, atol=1e-7)
    if times == 0:
        np.testing.assert_allclose(rows, golden[tag][pixels], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["chebyshev", "power"])
@pytest.mark.parametrize(("beta", "times", "radius"), WALKS)
def test_walk(golden, edge, beta: int, times: int, radius: int, method: str) -> None:
    cams = torch.tensor(golden["cams"])
    walked = random_walk(cams, edge, radius=radius, beta=beta, times=times, method=method)
    expected = golden[f"prop_b{beta}_t{times}_r{radius}"][:, 0]
    tolerance = WALK if times == 8 else SHORT
    np.testing.assert_allclose(walked, expected, rtol=0, atol=tolerance)
    exact = dense_random_walk(cams.double(), edge.double(), radius, beta, times)
    np.testing.assert_allclose(walked, exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("beta", "times", "radius"), WALKS)
def test_walk_of_the_dense_model(golden, edge, beta: int, times: int, radius: int) -> None:
    walked = dense_random_walk(torch.tensor(golden["cams"]), edge, radius, beta, times)
    np.testing.assert_allclose(walked, golden[f"prop_b{beta}_t{times}_r{radius}"][:, 0], rtol=0, atol=2e-5)
