"""The predicted growth of the logits is what a small step does, and the learning rate follows from it."""

from __future__ import annotations

import pytest

from rib_tiny import CONFIG, LABELS, tiny_batches, tiny_classifier, tiny_views
from tag2mask.common.errors import ConfigError
from tag2mask.rib import calibrated_learning_rate, first_step_growth, gap, initial_logit, rib


@pytest.mark.parametrize("with_partners", [True, False])
@pytest.mark.parametrize("pooling", ["gap", "gndrp"])
def test_growth_is_what_a_small_step_does(pooling, with_partners):
    rate = 1e-4
    config = CONFIG.replace(steps=2, pooling=pooling, learning_rate=rate, weight_decay=0.0)
    batch = tiny_batches(1)[0] if with_partners else None
    growth = first_step_growth(tiny_classifier(), tiny_views(), LABELS, batch, config)
    result = rib(tiny_classifier(), tiny_views(), LABELS, [batch] if batch else [], config)
    measured = (result.steps[1].target_logit - result.steps[0].target_logit) / rate
    assert growth == pytest.approx(measured, rel=0.02)


def test_partners_change_the_growth():
    with_batch = first_step_growth(tiny_classifier(), tiny_views(), LABELS, tiny_batches(1)[0], CONFIG)
    without = first_step_growth(tiny_classifier(), tiny_views(), LABELS, None, CONFIG)
    assert with_batch != pytest.approx(without, rel=0.01)


def test_the_classifier_is_left_alone():
    classifier = tiny_classifier()
    before = [p.detach().clone() for p in classifier.parameters()]
    first_step_growth(classifier, tiny_views(), LABELS, tiny_batches(1)[0], CONFIG)
    assert all((p == old).all() and p.grad is None for p, old in zip(classifier.parameters(), before, strict=True))


def test_initial_logit_is_the_mean_gap_logit_of_scale_1():
    classifier, views = tiny_classifier(), tiny_views()
    logits = gap(classifier.class_maps(classifier.trunk_features(views[0])))[:, LABELS]
    assert initial_logit(classifier, views, LABELS, CONFIG) == pytest.approx(logits.abs().mean().item())


def test_rate_gives_the_median_image_the_asked_growth():
    growths, logits = [10.0, 40.0, 1000.0], [1.0, -2.0, 10.0]  # relative growth per rate: 10, 20, 100
    rate = calibrated_learning_rate(growths, logits, relative_growth=0.5)
    assert rate == pytest.approx(0.025)
    assert rate * growths[1] / abs(logits[1]) == pytest.approx(0.5)


@pytest.mark.parametrize(("growths", "logits"), [([], []), ([1.0], []), ([-1.0, -2.0, 3.0], [1.0, 1.0, 1.0])])
def test_no_rate_without_growth(growths, logits):
    with pytest.raises(ConfigError, match=r"calibration needs|would not raise"):
        calibrated_learning_rate(growths, logits, 0.5)
