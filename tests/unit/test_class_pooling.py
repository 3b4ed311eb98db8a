"""The poolings of class maps: their limits, and what each is by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tag2mask.networks import Backbone, CAMClassifier
from tag2mask.networks.pooling import DEFAULTS, Pooling


def maps(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_sum_exp_lies_between_average_and_maximum() -> None:
    values = maps()
    average, maximum = Pooling("average")(values), Pooling("maximum")(values)
    previous = average
    for sharpness in (0.5, 2.0, 8.0, 32.0):
        pooled = Pooling.of("log-sum-exp", sharpness)(values)
        assert (pooled > previous).all()
        assert (pooled < maximum).all()
        previous = pooled
    torch.testing.assert_close(Pooling.of("log-sum-exp", 1e-6)(values), average, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Pooling.of("log-sum-exp", 1e4)(values), maximum, rtol=1e-3, atol=1e-3)


def test_top_share_by_hand() -> None:
    values = torch.tensor([1.0, 5.0, 3.0, 4.0, 2.0]).view(1, 1, 1, 5)
    assert Pooling.of("top-share", 0.4)(values).item() == pytest.approx(4.5)
    assert Pooling.of("top-share", 0.01)(values).item() == 5.0
    assert Pooling.of("top-share", 1.0)(values).item() == pytest.approx(3.0)


def test_half_of_the_rankings_weight_is_on_its_share() -> None:
    """Ones at the top share of positions and zeros below pool to about a half, whatever the map's size."""
    for count in (100, 4000):
        values = torch.zeros(1, 1, 1, count, dtype=torch.float64)
        values[..., : count // 10] = 1.0
        halves = 1 - 0.5**10  # of the weights that an endless map would have
        pooled = Pooling.of("ranking", 0.1)(values[..., torch.randperm(count)])
        assert pooled.item() == pytest.approx(0.5 / halves, rel=1e-9)


def test_class_attention_by_hand() -> None:
    values = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    weight = torch.tensor(2.0).exp() / (1 + torch.tensor(2.0).exp())
    torch.testing.assert_close(Pooling.of("class-attention")(values), (2 * weight).view(1, 1))
    torch.testing.assert_close(
        Pooling.of("class-attention", 1e-6)(maps()), Pooling("average")(maps()), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(Pooling.of("class-attention", 1e4)(maps()), Pooling("maximum")(maps()))


def test_generalised_mean_of_power_one_is_the_average() -> None:
    values = maps().abs()
    torch.testing.assert_close(Pooling.of("generalised-mean", 1.0)(values), values.mean(dim=(2, 3)))
    higher = Pooling.of("generalised-mean", 3.0)(values)
    torch.testing.assert_close(higher, (values**3).mean(dim=(2, 3)) ** (1 / 3))


@pytest.mark.parametrize("kind", ["average", "maximum", *DEFAULTS])
def test_gradients_are_numbers_everywhere(kind: str) -> None:
    for values in (torch.zeros(1, 2, 4, 4), 50 * maps().float()):
        values = values.requires_grad_()
        Pooling.of(kind)(values).sum().backward()  # type: ignore[arg-type]
        assert torch.isfinite(values.grad).all()


def test_defaults_fill_in_where_none_is_given() -> None:
    assert Pooling.of("log-sum-exp").parameter == DEFAULTS["log-sum-exp"]
    assert Pooling.of("log-sum-exp", 2.0).parameter == 2.0
    assert Pooling.of("average") == Pooling()


def small(pooling: Pooling | None = None) -> CAMClassifier:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    head = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return CAMClassifier(Backbone(trunk, head, 6, "small"), 5, pooling)


def test_the_average_is_the_references_path_bit_for_bit() -> None:
    classifier, images = small(), torch.randn(3, 3, 64, 48)
    features = classifier.backbone.head(classifier.trunk_features(images))
    reference = classifier.classifier(features.mean(dim=(2, 3), keepdim=True)).flatten(1)
    assert torch.equal(classifier(images), reference)


@pytest.mark.parametrize("kind", ["maximum", "log-sum-exp", "top-share", "ranking"])
def test_logits_are_the_pooled_class_maps(kind: str) -> None:
    pooling = Pooling.of(kind)  # type: ignore[arg-type]
    classifier, images = small(pooling), torch.randn(2, 3, 64, 48)
    class_maps = classifier.class_maps(classifier.trunk_features(images))
    assert torch.equal(classifier(images), pooling(class_maps))


def test_what_learns() -> None:
    classifier = small().train()
    images = torch.randn(2, 3, 32, 32)
    classifier(images).sum().backward()
    assert all(p.grad is None for p in classifier.backbone.trunk.parameters())
    classifier.learn("all", "trained")
    trunk, statistics = classifier.backbone.trunk, classifier.backbone.trunk[1].running_mean.clone()
    classifier(images).sum().backward()
    assert all(p.grad is not None for p in trunk.parameters())
    assert {id(p) for group in classifier.learned_parameters() for p in group} == {
        id(p) for p in classifier.parameters()
    }
    assert not torch.equal(trunk[1].running_mean, statistics)
    assert not classifier.trunk_features(images).requires_grad  # RIB sees frozen features all the same
    classifier.learn()
    assert not any(module.training for module in classifier.modules() if isinstance(module, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in trunk.parameters())
    assert classifier.learned_parameters() == classifier.tuned_parameters()


@pytest.mark.parametrize("batch_norm", ["fixed", "trained"])
def test_late_stages_learn(batch_norm: str) -> None:
    classifier = small().train()
    classifier.backbone.early = 1
    classifier.learn("late", batch_norm)  # type: ignore[arg-type]
    early, late = classifier.backbone.trunk[:1], classifier.backbone.trunk[1:]
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    classifier(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is None for p in early.parameters())
    assert all(p.grad is not None for p in late.parameters())
    changed = {key for key, value in classifier.state_dict().items() if not torch.equal(value, before[key])}
    assert any("running_mean" in key for key in changed) == (batch_norm == "trained")
    assert not any(key.startswith("backbone.trunk.0.") for key in changed)
    learned = {id(p) for group in classifier.learned_parameters() for p in group}
    assert learned == {id(p) for p in classifier.parameters()} - {id(p) for p in early.parameters()}


def test_trained_batch_norm_of_a_frozen_trunk_stays_fixed() -> None:
    classifier = small().train().learn("head", "trained")
    assert not classifier.backbone.trunk[1].training
    assert classifier.backbone.head[1].training
