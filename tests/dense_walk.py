"""The random walk as IRN's reference computes it: a dense matrix, squared again and again. A model for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.networks.paths import destinations, flat_offsets, search_paths, source_indices


def sparse_affinities(edge: Tensor, radius: int) -> Tensor:
    """1 - the largest edge on every path, (K, S), of an edge map (h, w)."""
    sources = torch.from_numpy(source_indices(radius, tuple(edge.shape)))
    rows = []
    for paths in search_paths(radius):
        offsets = torch.from_numpy(flat_offsets(paths, edge.shape[1]))
        on_path = edge.flatten()[sources + offsets[..., None]]  # (m, L, S)
        rows.append(1 - on_path.amax(dim=1))
    return torch.cat(rows)


def dense_affinities(edge: Tensor, radius: int) -> Tensor:
    """The matrix (h w, h w) of an edge map (h, w), symmetric, ones on the diagonal, all pairs but the border's."""
    sources = torch.from_numpy(source_indices(radius, tuple(edge.shape)))
    targets = sources + torch.from_numpy(flat_offsets(destinations(radius), edge.shape[1]))[:, None]
    values = sparse_affinities(edge, radius)
    matrix = torch.eye(edge.numel(), dtype=edge.dtype)
    matrix[sources.expand_as(targets), targets] = values
    matrix[targets, sources.expand_as(targets)] = values
    return matrix


def cropped_affinities(edge: Tensor, radius: int) -> Tensor:
    """The matrix (h w, h w) of all pairs: the map is padded with edges of 1, and its own pixels taken out."""
    height, width = edge.shape
    padded = F.pad(edge, (radius, radius, 0, radius), value=1.0)
    matrix = dense_affinities(padded, radius)
    shape = (height + radius, width + 2 * radius) * 2
    inner = matrix.view(shape)[:height, radius : radius + width, :height, radius : radius + width]
    return inner.reshape(height * width, height * width)


def transition(affinity: Tensor, beta: float, times: int) -> Tensor:
    """affinity^beta with its columns summing to 1, to the power of 2^times."""
    matrix = affinity.pow(beta)
    matrix = matrix / matrix.sum(dim=0, keepdim=True)
    for _ in range(times):
        matrix = matrix @ matrix
    return matrix


def dense_random_walk(maps: Tensor, edge: Tensor, radius: int = 5, beta: float = 10.0, times: int = 8) -> Tensor:
    """The walk over maps (n, h, w) by the matrix."""
    matrix = transition(cropped_affinities(edge, radius), beta, times)
    return ((maps * (1 - edge)).flatten(1) @ matrix).view(maps.shape)
