"""The sparse random walk against the dense one, and the proven bound of its Chebyshev series."""

from __future__ import annotations

import math
import resource

import numpy as np
import pytest
import torch

from dense_walk import cropped_affinities, dense_random_walk
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.networks.paths import destinations, each_path, search_paths
from tag2mask.refine.affinity import affinities
from tag2mask.refine.random_walk import (
    NEGLIGIBLE,
    TOLERANCE,
    Stencil,
    chebyshev,
    chebyshev_coefficients,
    chebyshev_degree,
    random_walk,
)

ROUND_OFF = 1e-7  # of float32 results of 1


def random_maps(n: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (n, h, w) and an edge map (h, w) with strong edges, weak ones, and flat areas."""
    generator = torch.Generator().manual_seed(seed)
    edge = torch.rand(height, width, generator=generator) ** 4
    edge[torch.rand(height, width, generator=generator) < 0.05] = 1.0
    edge[: height // 3, : width // 2] = 0.0
    return torch.rand(n, height, width, generator=generator), edge


@pytest.mark.parametrize("method", ["chebyshev", "power"])
@pytest.mark.parametrize(
    ("size", "n", "radius", "beta", "times"),
    [
        ((9, 11), 1, 5, 10.0, 8),
        ((16, 7), 3, 5, 10.0, 8),
        ((12, 13), 2, 3, 4.0, 6),
        ((11, 17), 2, 7, 8.0, 5),
        ((10, 10), 1, 2, 10.0, 10),
        ((8, 9), 4, 5, 0.5, 0),
        ((8, 9), 2, 5, 10.0, 1),
        ((1, 12), 2, 5, 10.0, 8),
        ((12, 1), 2, 5, 10.0, 8),
        ((1, 1), 1, 5, 10.0, 8),
        ((3, 2), 1, 10, 10.0, 8),
    ],
)
def test_equals_the_dense_walk(size, n: int, radius: int, beta: float, times: int, method: str) -> None:
    maps, edge = random_maps(n, *size)
    dense = dense_random_walk(maps.double(), edge.double(), radius, beta, times)
    walked = random_walk(maps, edge, radius=radius, beta=beta, times=times, method=method)
    assert walked.dtype == torch.float32
    assert walked.shape == maps.shape
    bound = TOLERANCE if method == "chebyshev" else 0.0
    np.testing.assert_allclose(walked, dense, rtol=0, atol=float(maps.max()) * (bound + ROUND_OFF))


def test_signs_and_sizes_of_values_do_not_matter() -> None:
    maps, edge = random_maps(2, 10, 12)
    for factor in (-1.0, 1e-20, 1e20):
        np.testing.assert_allclose(
            random_walk(maps * factor, edge) / factor, random_walk(maps, edge), rtol=0, atol=3 * TOLERANCE
        )


def test_constants_and_walls() -> None:
    """Every step is a mean, so 1 stays 1; and nothing passes a wall that is one pixel thick."""
    flat = torch.zeros(10, 20)
    np.testing.assert_allclose(random_walk(torch.ones(1, 10, 20), flat), np.ones((1, 10, 20)), atol=TOLERANCE)
    wall = flat.clone()
    wall[:, 9] = 1.0
    left = torch.zeros(1, 10, 20)
    left[..., :9] = torch.rand(10, 9)
    walked = random_walk(left, wall)
    assert walked[..., 9:].abs().max() < TOLERANCE
    np.testing.assert_allclose(walked[..., :9].std(), 0, atol=0.05)  # spread out on its own side
    assert walked[..., :9].mean() > 0.4


@pytest.mark.parametrize("power", [1, 2, 7, 64, 256, 1024])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_series_keeps_its_bound_and_no_lower_degree_would(power: int, tolerance: float) -> None:
    degree = chebyshev_degree(power, tolerance)
    coefficients = np.array(chebyshev_coefficients(power))
    assert coefficients.sum() == pytest.approx(1)
    x = np.cos(np.linspace(0, np.pi, 2001))
    error = np.abs(np.polynomial.chebyshev.chebval(x, coefficients[: degree + 1]) - x**power).max()
    tail = coefficients[degree + 1 :].sum()
    assert error <= tail + 1e-13
    assert tail <= tolerance
    assert error == pytest.approx(tail, rel=1e-3, abs=1e-13)  # the bound is attained, at x = 1
    assert tail <= 2 * math.exp(-(degree**2) / (2 * power)) + 1e-15  # Sachdeva & Vishnoi's
    assert coefficients[degree:].sum() > tolerance


@pytest.mark.parametrize("error", [1e-1, 1e-3, 1e-6])
def test_walk_keeps_the_bound_of_its_series(error: float) -> None:
    """In the 2-norm, for any start: the difference to S^256, whose spectrum is in [-1, 1]."""
    maps, edge = random_maps(3, 9, 10, seed=1)
    walk = Stencil.from_edge(edge.double(), 5, 10.0)
    start = walk.flat(maps.double())
    affinity = cropped_affinities(edge.double(), 5).pow(10)
    root = affinity.sum(dim=0).sqrt()
    symmetric = affinity / root / root[:, None]
    expected = maps.double().flatten(1) @ torch.linalg.matrix_power(symmetric, 256)
    found = walk.maps(chebyshev(walk.add_product, start, 256, error)).flatten(1)
    actual = (found - expected).norm(dim=1) / maps.double().flatten(1).norm(dim=1)
    assert 0 < actual.max() <= error


def test_about_a_third_of_the_products() -> None:
    _maps, edge = random_maps(1, 94, 125)
    walk = Stencil.from_edge(edge.double(), 5, 10.0)
    assert chebyshev_degree(256, TOLERANCE / math.sqrt(float(walk.root.square().sum()))) <= 96
    assert chebyshev_degree(256, 1e-9) == 96


def test_no_denormal_numbers() -> None:
    _maps, edge = random_maps(1, 20, 20)
    weights = Stencil.from_edge(edge.mul(0.001).add(0.999).double().clamp_max(1), 5, 40.0).weights
    assert ((weights == 0) | (weights > NEGLIGIBLE / 100)).all()


def test_memory_is_linear() -> None:
    """120,000 pixels: the dense matrix would be 58 GB."""
    maps, edge = random_maps(2, 300, 400)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walked = random_walk(maps, edge, times=2)
    assert torch.isfinite(walked).all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 250e6


def test_affinities_by_hand() -> None:
    edge = torch.tensor([[0.1, 0.2, 0.9, 0.3]])
    found = {tuple(d): row for d, row in zip(destinations(3).tolist(), affinities(edge, 3), strict=True)}
    np.testing.assert_allclose(found[0, 1][0], [0.8, 0.1, 0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(found[0, 2][0], [0.1, 0.1, 0.0, 0.0], atol=1e-6)
    assert all(row.abs().sum() == 0 for (dy, _), row in found.items() if dy)


def test_paths_are_symmetric_lines() -> None:
    assert len(destinations(5)) == 34
    assert len(destinations(10)) == 152
    for path in each_path(5):
        (dy, dx), points = path[0], {tuple(p) for p in path.tolist()}
        assert tuple(path[-1]) == (0, 0)
        assert points == {(int(dy - y), int(dx - x)) for y, x in points}  # the same seen from its other end
    assert [p.shape[1] for p in search_paths(5)] == sorted({p.shape[1] for p in search_paths(5)})


def test_maps_without_anything() -> None:
    edge = torch.rand(5, 6)
    assert random_walk(torch.zeros(2, 5, 6), edge).abs().max() == 0
    assert random_walk(torch.zeros(0, 5, 6), edge).shape == (0, 5, 6)
    assert random_walk(torch.rand(2, 5, 6), torch.ones(5, 6)).abs().max() == 0


@pytest.mark.parametrize(
    ("maps", "edge", "message"),
    [
        (torch.zeros(1, 4, 5), torch.zeros(5, 4), r"\(1, 4, 5\) don't fit .* \(5, 4\)"),
        (torch.zeros(4, 5), torch.zeros(4, 5), "don't fit"),
        (torch.full((1, 4, 5), math.nan), torch.zeros(4, 5), "not finite"),
        (torch.ones(1, 4, 5), torch.full((4, 5), math.nan), "must be in 0..1"),
        (torch.ones(1, 4, 5), 1 + 0.5 * torch.eye(4, 5), r"1\.\.1.5; they must be in 0..1"),
        (torch.ones(1, 0, 5), torch.ones(0, 5), "at least one pixel"),
    ],
)
def test_inputs_that_do_not_fit(maps, edge, message: str) -> None:
    with pytest.raises(DataError, match=message):
        random_walk(maps, edge)


@pytest.mark.parametrize(
    "settings", [{"beta": 0.0}, {"times": -1}, {"times": 17}, {"method": "dense"}, {"radius": 1}]
)
def test_settings_that_can_not_work(settings) -> None:
    with pytest.raises(ConfigError):
        random_walk(torch.ones(1, 4, 5), torch.zeros(4, 5), **settings)
    with pytest.raises(ConfigError):
        chebyshev_degree(0, 1e-3)
