"""The boundary network on any backbone, and its losses against their definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dense_walk import sparse_affinities
from tag2mask.common.errors import ConfigError
from tag2mask.networks import BoundaryNetwork, boundary_loss, build_boundary_network, load_module, save_module
from tag2mask.networks.paths import destinations, flat_offsets, source_indices


@pytest.fixture(scope="module")
def network() -> BoundaryNetwork:
    return build_boundary_network("efficientnet_lite0", "none", seed=3)


def test_stages_of_both_families(network: BoundaryNetwork) -> None:
    assert network.backbone.channels == [16, 24, 40, 112, 1280]
    assert network.backbone.strides == [2, 4, 8, 16, 16]
    resnet = build_boundary_network("resnet18", "none")
    assert resnet.backbone.channels == [64, 64, 128, 256, 512]
    assert resnet.backbone.strides == [4, 4, 8, 16, 16]


@pytest.mark.parametrize("size", [(64, 64), (65, 50), (37, 41), (17, 90), (33, 16)])
def test_outputs_have_a_quarter_of_the_size_rounded_up(network: BoundaryNetwork, size: tuple[int, int]) -> None:
    quarter = tuple(-(-side // 4) for side in size)
    with torch.no_grad():
        edge, displacement = network(torch.randn(2, 3, *size))
    assert edge.shape == (2, 1, *quarter)
    assert displacement.shape == (2, 2, *quarter)
    images = torch.randn(1, 3, *size)
    inferred, field = network.infer(torch.cat([images, images.flip(-1)]), pad_to=48)
    assert inferred.shape == quarter
    assert field.shape == (2, *quarter)
    assert 0 < inferred.min() < inferred.max() < 1


def test_inference_averages_image_and_mirror(network: BoundaryNetwork) -> None:
    """The mirror of a pair gives the mirror of its edges: which of the two is called the image doesn't matter."""
    images = torch.randn(1, 3, 48, 64)
    pair = torch.cat([images, images.flip(-1)])
    edge, displacement = network.infer(pair)
    np.testing.assert_allclose(network.infer(pair.flip(0))[0], edge.flip(-1), atol=1e-6)
    with torch.no_grad():
        alone = network(images)
    np.testing.assert_allclose(displacement, alone[1][0], atol=1e-5)
    assert (edge - alone[0][0, 0].sigmoid()).abs().max() > 1e-3


def test_mean_shift_is_subtracted_in_evaluation_only(network: BoundaryNetwork) -> None:
    images = torch.randn(1, 3, 32, 32)
    shift = torch.tensor([0.5, -2.0])
    with torch.no_grad():
        plain = network.eval()(images)[1]
        network.mean_shift.copy_(shift)
        shifted, training = network(images)[1], network.train()(images)[1]
        network.mean_shift.zero_()
    network.eval()
    assert torch.equal(training, plain)
    np.testing.assert_allclose(plain - shifted, shift.view(1, 2, 1, 1).expand_as(plain), atol=1e-6)


def test_only_the_branches_are_trained(network: BoundaryNetwork) -> None:
    network.train()
    assert not any(module.training for module in network.backbone.modules())
    edge, displacement = network.parameter_groups()
    trained = {id(p) for p in [*edge, *displacement]}
    assert len(trained) == len(edge) + len(displacement) == 39
    assert trained == {id(p) for p in network.parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    labels = torch.randint(0, 3, (1, 16, 16))
    losses = boundary_loss(*network(torch.randn(1, 3, 64, 64)), labels, radius=5)
    losses.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*edge, *displacement])
    assert all(p.grad is None for p in network.backbone.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.backbone.state_dict().items())
    network.zero_grad(set_to_none=True)
    network.eval()


def test_branches_come_from_the_seed_and_are_stored(network: BoundaryNetwork, tmp_path: Path) -> None:
    again, other = (build_boundary_network("efficientnet_lite0", "none", seed=seed) for seed in (3, 4))
    assert torch.equal(again.fc_edge6.weight, network.fc_edge6.weight)
    assert not torch.equal(other.fc_edge6.weight, network.fc_edge6.weight)
    again.mean_shift.fill_(0.5)
    save_module(again, tmp_path / "weights.safetensors")
    load_module(other, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in other.state_dict().items())


def test_inference_takes_a_pair(network: BoundaryNetwork) -> None:
    with pytest.raises(ConfigError, match=r"an image and its mirror, \(2, 3, H, W\), not \(1, 3, 32, 32\)"):
        network.infer(torch.zeros(1, 3, 32, 32))


def plain_losses(edge_logits, displacement, labels, radius: int) -> list[torch.Tensor]:
    """The losses by their definition: every pair at once, gradients left to torch."""
    size = tuple(labels.shape[1:])
    sources = torch.from_numpy(source_indices(radius, size))
    offsets = torch.from_numpy(destinations(radius))
    targets = sources + torch.from_numpy(flat_offsets(destinations(radius), size[1]))[:, None]  # (K, S)
    flat = labels.flatten(1)
    one, two = flat[:, sources][:, None], flat[:, targets]  # (B, 1, S), (B, K, S)
    valid = (one != 255) & (two != 255)
    same = (valid & (one == two)).float()
    background, foreground, different = same * (one == 0), same * (one > 0), (valid & (one != two)).float()
    affinity = torch.stack([sparse_affinities(e, radius) for e in edge_logits[:, 0].sigmoid()])

    def mean(values, weights, channels=1):
        return (values * weights).sum() / (channels * weights.sum() + 1e-5)

    alike, apart = -torch.log(affinity + 1e-5), -torch.log(1 + 1e-5 - affinity)
    field = displacement.flatten(2)
    moved = field[:, :, sources][:, :, None] - field[:, :, targets]  # (B, 2, K, S)
    target = offsets.T[None, :, :, None]
    positive = mean(alike, background) / 2 + mean(alike, foreground) / 2
    fg = ((moved - target).abs() * foreground[:, None]).sum() / (2 * foreground.sum() + 1e-5)
    bg = (moved.abs() * background[:, None]).sum() / (2 * background.sum() + 1e-5)
    negative = mean(apart, different)
    return [positive, negative, fg, bg, (positive + negative + fg + bg) / 2]


@pytest.mark.parametrize(("radius", "size"), [(3, (9, 11)), (5, (16, 13)), (10, (14, 20))])
def test_losses_and_gradients_equal_their_definition(radius: int, size: tuple[int, int]) -> None:
    torch.manual_seed(radius)
    labels = torch.tensor([0, 0, 1, 2, 255])[torch.randint(0, 5, (3, *size))]
    inputs = [(3 * torch.randn(3, c, *size)).requires_grad_() for c in (1, 2)]
    expected = plain_losses(*inputs, labels, radius)
    found = boundary_loss(*inputs, labels, radius)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=2e-5)
        gradients = [
            torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) for loss in (ours, theirs)
        ]
        for our, their in zip(*gradients, strict=True):
            assert (our is None) == (their is None)
            if our is not None:
                np.testing.assert_allclose(our, their, rtol=1e-3, atol=1e-6)


def test_losses_of_nothing_are_zero() -> None:
    inputs = [torch.randn(1, c, 12, 20, requires_grad=True) for c in (1, 2)]
    losses = boundary_loss(*inputs, torch.full((1, 12, 20), 255))
    assert [float(value.detach()) for value in losses] == [0.0] * 5
    losses.total.backward()
    assert all(i.grad is not None and i.grad.abs().sum() == 0 for i in inputs)


def test_saturated_edges_stay_finite() -> None:
    inputs = [torch.full((1, c, 12, 20), 200.0, requires_grad=True) for c in (1, 2)]
    losses = boundary_loss(*inputs, torch.randint(0, 2, (1, 12, 20)))
    losses.total.backward()
    assert all(torch.isfinite(value) for value in losses)
    assert all(torch.isfinite(i.grad).all() for i in inputs)


def test_descending_puts_the_edge_between_the_labels() -> None:
    """Edges and displacements themselves are tuned: an edge comes out where labels meet, none elsewhere."""
    labels = torch.zeros(1, 16, 24, dtype=torch.int64)
    labels[:, :, 12:] = 1
    edge = torch.zeros(1, 1, 16, 24, requires_grad=True)
    field = torch.zeros(1, 2, 16, 24, requires_grad=True)
    optimiser = torch.optim.Adam([edge, field], lr=0.3)
    first = last = boundary_loss(edge, field, labels, radius=5).total
    for _ in range(60):
        optimiser.zero_grad()
        last = boundary_loss(edge, field, labels, radius=5).total
        last.backward()
        optimiser.step()
    assert float(last.detach()) < 0.3 * float(first.detach())
    strength = edge.detach().sigmoid()[0, 0, 2:10].mean(dim=0)
    assert strength[11:13].max() > 0.9
    assert strength[2:9].max() < 0.1
    assert strength[15:22].max() < 0.1


def test_shapes_that_do_not_fit() -> None:
    edge, field, labels = torch.zeros(2, 1, 12, 20), torch.zeros(2, 2, 12, 20), torch.zeros(2, 12, 20).long()
    for wrong in ((edge[:1], field, labels), (edge, field, labels[:, :5]), (edge, field[:, :1], labels)):
        with pytest.raises(ConfigError, match="fit labels"):
            boundary_loss(*wrong)
    with pytest.raises(ConfigError, match="must be at least 10x19"):
        boundary_loss(edge[..., :18], field[..., :18], labels[..., :18])
