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
        ({"pooling": "gndp"}, "rib.pooling is 'gndp'; expected one of 'gndrp', 'gap'"),
        ({"average": "some"}, "average is 'some'; expected one of 'all', 'kept'"),
        ({"limit": "stop"}, "limit is 'stop'"),
        (
            {"partners": "disjointed"},
            "partners is 'disjointed'; expected one of 'disjoint', 'any', 'none', 'amortised'",
        ),
        ({"steps": 0}, "rib.steps is 0; expected 1 or more"),
        ({"tau": 0.0}, "tau is 0.0; expected above 0, at most 1"),
        ({"m": -1.0}, "m is -1.0; expected above 0"),
        ({"guard_share": 1.2}, r"guard_share is 1.2; expected above 0, at most 1 \(1 switches the guard off\)"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"scales": (0.5, 1.0)}, r"scales is \[0.5, 1.0\]; expected 1.0 first"),
        ({"scales": ()}, r"scales is \[\]; expected a list of 1 to 20 numbers"),
        ({"scales": (1.0, 1.0)}, "each scale once"),
        ({"loss_scales": (3.0,)}, r"loss_scales is \[3.0\]; expected some of scales, \[1.0, 0.5, 1.5, 2.0\]"),
        ({"gndrp_classes": -1}, "gndrp_classes is -1; expected 0 or more, at most 1000000, or null"),
    ],
)
def test_impossible_values_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        RIBConfig(**changes)


def test_reference_knows_its_data_sets():
    with pytest.raises(ConfigError, match="imagenet"):
        RIBConfig.reference("imagenet")
