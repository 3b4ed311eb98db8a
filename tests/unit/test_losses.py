"""Losses of single pixels: what they are for certain answers, and what noise does to them."""

from __future__ import annotations

import math

import pytest
import torch

from tag2mask.networks import LOSSES, segmentation_loss
from tag2mask.networks.losses import GENERALISED_POWER, SOFT_RADIUS, collision


def logits_of(probabilities: list[float], size: int = 24) -> torch.Tensor:
    """Logits (1, L, size, size) with the same probabilities everywhere."""
    values = torch.tensor(probabilities).clamp(min=1e-9).log()
    return values[None, :, None, None].expand(1, len(probabilities), size, size).clone()


def test_coarse_logits_learn_what_lies_in_the_middle_of_their_cells() -> None:
    """Enlarged, as answers are, a network that learned labels perfectly puts an edge where it was."""
    labels = torch.zeros((1, 64, 64), dtype=torch.uint8)
    labels[:, 25:, 41:] = 1  # not on the border of a cell of 8 pixels
    logits = torch.zeros((1, 2, 8, 8), requires_grad=True)
    segmentation_loss(logits, labels).backward()
    assert logits.grad is not None
    enlarged = torch.nn.functional.interpolate(-logits.grad, size=(64, 64), mode="bilinear", align_corners=False)
    answer = enlarged[0].argmax(dim=0)
    rows, columns = (torch.nonzero(answer.amax(dim=axis)).flatten() for axis in (1, 0))
    assert abs(int(rows[0]) - 25) <= 4
    assert abs(int(columns[0]) - 41) <= 4
    areas = [float((values == 1).float().mean()) for values in (answer, labels[0])]
    assert areas[0] == pytest.approx(areas[1], abs=0.05)


@pytest.mark.parametrize("name", LOSSES)
def test_a_right_and_sure_answer_costs_nothing_and_a_wrong_one_more(name: str) -> None:
    labels = torch.ones(1, 24, 24, dtype=torch.long)
    costs = [
        float(segmentation_loss(logits_of(p), labels, loss=name))
        for p in ([0.0, 1.0, 0.0], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1])
    ]
    assert costs[0] == pytest.approx(0, abs=1e-4)
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_pixels_have_no_say(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 24, 24, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (2, 24, 24), generator=generator)
    labels[:, :, 12:] = 255
    segmentation_loss(logits, labels, loss=name).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[..., 12:] == 0).all()
    assert (logits.grad[..., :12] != 0).any()


def test_values() -> None:
    labels = torch.zeros(1, 24, 24, dtype=torch.long)
    logits = logits_of([0.5, 0.3, 0.2])
    expected = {
        "cross_entropy": math.log(2),
        "symmetric": 0.1 * math.log(2) + 4 * 0.5,
        "generalised": (1 - 0.5**GENERALISED_POWER) / GENERALISED_POWER,
        "bootstrapped": math.log(2),  # the network's own label is the same
        "collision": math.log(2),  # far from edges the target is the label
    }
    assert set(expected) == set(LOSSES)
    for name, value in expected.items():
        assert float(segmentation_loss(logits, labels, loss=name)) == pytest.approx(value, rel=1e-4)


def test_collision_leaves_open_which_side_a_pixel_on_an_edge_is_on() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, :, 16:] = 1
    left, right = (collision(logits_of(p, 32), labels)[0, 16] for p in ([0.999, 0.001], [0.001, 0.999]))
    inside, edge = 16 - 2 * SOFT_RADIUS, 15
    assert left[inside] < 0.01 < right[inside]
    assert abs(float(left[edge] - right[edge])) < 0.4  # 5 of 9 columns against 4
    assert abs(float(left[edge])) < 1


def test_noise_robust_losses_are_bounded_where_cross_entropy_is_not() -> None:
    labels = torch.zeros(1, 24, 24, dtype=torch.long)
    sure_of_another = logits_of([1e-9, 1.0])
    costs = {name: float(segmentation_loss(sure_of_another, labels, loss=name)) for name in LOSSES}
    assert costs["cross_entropy"] > 15
    assert costs["generalised"] <= 1 / GENERALISED_POWER
    assert costs["bootstrapped"] == pytest.approx(0.8 * costs["cross_entropy"], rel=1e-3)
