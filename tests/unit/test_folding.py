"""Folded batch norm: the same function, the same gradients, and modules that are as they were afterwards."""

from __future__ import annotations

import copy

import pytest
import torch

from rib_tiny import tiny_classifier
from tag2mask.networks import build_classifier
from tag2mask.networks.folding import FoldedHead, fold_trunk, pairs_of


def randomised(name: str):
    """A double-precision classifier whose batch norms do something."""
    classifier = build_classifier(name, 3, "none").double()
    generator = torch.Generator().manual_seed(0)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return classifier


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_folded_trunk_and_head_compute_the_same(name):
    classifier = randomised(name)
    images = torch.randn(1, 3, 64, 72, dtype=torch.float64)
    expected = classifier.class_maps(classifier.trunk_features(images))
    trunk = classifier.trunk_features(images)
    fold_trunk(classifier.backbone)
    assert torch.allclose(classifier.trunk_features(images), trunk, rtol=1e-9, atol=1e-9)
    with FoldedHead(classifier.backbone.head):
        folded = classifier.class_maps(classifier.trunk_features(images))
    assert torch.allclose(folded, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_every_batch_norm_is_folded(name):
    backbone = build_classifier(name, 3, "none").backbone
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(list(pairs_of(backbone))) == len(norms) > 10


def gradients(classifier, features, *, folded: bool) -> list[torch.Tensor]:
    parameters = [*classifier.tuned_parameters()[0], *classifier.tuned_parameters()[1]]
    if folded:
        with FoldedHead(classifier.backbone.head) as head:
            for part in features.split(1):  # gradients of several passes add up
                classifier.class_maps(part).square().sum().backward()
            head.push_gradients()
    else:
        classifier.class_maps(features).square().sum().backward()
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_gradients_of_the_parameters_themselves(name):
    classifier = randomised(name)
    other = copy.deepcopy(classifier)
    features = classifier.trunk_features(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    for mine, theirs in zip(
        gradients(classifier, features, folded=True), gradients(other, features, folded=False), strict=True
    ):
        assert mine is not None
        assert torch.allclose(mine, theirs, rtol=1e-7, atol=1e-9)


def test_refresh_follows_an_update():
    classifier = tiny_classifier()
    features = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    with FoldedHead(classifier.backbone.head) as head:
        with torch.no_grad():
            for parameter in classifier.tuned_parameters()[0]:
                parameter.mul_(1.3).add_(0.1)
        stale = classifier.class_maps(features)
        head.refresh()
        fresh = classifier.class_maps(features)
    plain = classifier.class_maps(features)
    assert torch.allclose(fresh, plain, rtol=1e-10)
    assert not torch.allclose(stale, plain, rtol=1e-3)


def test_everything_is_put_back_also_after_an_exception():
    classifier = tiny_classifier()
    before = {key: (id(value), value.clone()) for key, value in classifier.named_parameters()}
    with pytest.raises(ZeroDivisionError), FoldedHead(classifier.backbone.head):
        1 // (len(dict(classifier.named_parameters())) - len(before) - 1)  # one more: the folded bias
    after = dict(classifier.named_parameters())
    assert {k: id(v) for k, v in after.items()} == {k: identity for k, (identity, _) in before.items()}
    assert all(torch.equal(after[k], value) for k, (_, value) in before.items())
    assert not any("forward" in module.__dict__ for module in classifier.modules())
