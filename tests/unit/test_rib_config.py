"""RIB's settings: presets and messages."""

from __future__ import annotations

import pytest

from tag2mask.common.errors import ConfigError
from tag2mask.rib import RIBConfig


def test_default_is_voc_without_slips():
    config = RIBConfig()
    assert config == RIBConfig.voc() == RIBConfig.presets()["voc"]
    assert (config.steps, config.learning_rate, config.batch_size, config.tau, config.m) == (10, 8e-6, 20, 0.4, 600)
    assert (config.gndrp_classes, config.update_after_last, config.absolute_limit) == (None, False, False)
    assert config.updates == 9


def test_coco_values():
    config = RIBConfig.presets()["coco"]
    assert (config.learning_rate, config.batch_size, config.tau, config.m) == (5e-6, 15, 0.5, 1000)
    assert (config.guard_threshold, config.guard_share, config.gndrp_classes) == (0.3, 0.8, None)


@pytest.mark.parametrize(("preset", "rate"), [("reference", 8e-6), ("reference-coco", 5e-6)])
def test_reference_has_every_slip(preset, rate):
    config = RIBConfig.presets()[preset]
    assert config.learning_rate == rate
    assert (config.gndrp_classes, config.update_after_last) == (20, True)
    assert (config.absolute_limit, config.exhausted) == (True, "stop")
    assert config.updates == config.steps == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "gndp"}, "pooling: 'gndp' is not allowed; did you mean 'gndrp'"),
        ({"average": "some"}, "average: 'some'"),
        ({"limit": "stop"}, "limit: 'stop'"),
        ({"partners": "disjointed"}, "did you mean 'disjoint'"),
        ({"steps": 0}, "steps: 0 is not allowed; it must be 1 or more"),
        ({"tau": 0.0}, "tau: 0.0"),
        ({"m": -1.0}, "m: -1.0"),
        ({"guard_share": 1.2}, "guard_share: 1.2"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0"),
        ({"scales": (0.5, 1.0)}, r"scales: \(0.5, 1.0\) must begin with 1.0"),
        ({"scales": ()}, r"scales: \(\) must begin with 1.0"),
        ({"scales": (1.0, 1.0)}, "each given once"),
        ({"loss_scales": (3.0,)}, "loss_scales"),
        ({"gndrp_classes": -1}, "gndrp_classes: -1"),
    ],
)
def test_impossible_values_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        RIBConfig(**changes)


def test_reference_knows_its_data_sets():
    with pytest.raises(ConfigError, match="imagenet"):
        RIBConfig.reference("imagenet")
