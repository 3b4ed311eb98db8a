"""The optimiser's schedule, and that a borrowed classifier comes back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rib_tiny import tiny_classifier
from tag2mask.rib import PolySGD, RIBConfig, restored, tuned


def test_learning_rates_fall_and_then_stay():
    weight = nn.Parameter(torch.zeros(1))
    optimiser = PolySGD([([weight], 1.0)], learning_rate=1.0, total_steps=2, power=1.0)
    weight.grad = torch.ones(1)
    assert [optimiser.step()[0] for _ in range(4)] == [1.0, 0.5, 0.5, 0.5]
    assert weight.item() == -2.5


def test_groups_of_rib():
    classifier = tiny_classifier()
    optimiser = PolySGD.for_rib(classifier.tuned_parameters(), RIBConfig(learning_rate=1e-3))
    assert optimiser.learning_rates == pytest.approx([1e-3, 1e-2])


def test_restored_puts_values_back_after_an_exception():
    weight = nn.Parameter(torch.ones(3))

    def change_and_fail() -> None:
        with restored([weight]):
            weight.data += 1
            raise KeyError

    with pytest.raises(KeyError):
        change_and_fail()
    assert weight.tolist() == [1, 1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_tuned_puts_everything_back(fails):
    classifier = tiny_classifier()
    classifier.train()
    classifier.backbone.head.requires_grad_(False)
    kept_gradient = torch.ones_like(classifier.classifier.weight)
    classifier.classifier.weight.grad = kept_gradient
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in classifier.named_parameters()}
    modes = [module.training for module in classifier.modules()]

    def borrow() -> None:
        with tuned(classifier) as (head, last):
            assert all(p.requires_grad and p.grad is None for p in (*head, *last))
            assert not any(p.requires_grad for p in classifier.backbone.trunk.parameters())
            assert not any(module.training for module in classifier.modules())
            for parameter in (*head, *last):
                parameter.grad = torch.zeros_like(parameter)
                parameter.data += 1
            if fails:
                raise RuntimeError("midway")

    if fails:
        with pytest.raises(RuntimeError, match="midway"):
            borrow()
    else:
        borrow()
    for name, parameter in classifier.named_parameters():
        value, requires_grad = before[name]
        assert torch.equal(parameter, value), name
        assert parameter.requires_grad == requires_grad, name
    assert [module.training for module in classifier.modules()] == modes
    assert classifier.classifier.weight.grad is kept_gradient
    assert all(p.grad is None for p in classifier.backbone.parameters())
