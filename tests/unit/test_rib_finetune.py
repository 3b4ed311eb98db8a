"""Runs of one image on a tiny network: the same numbers as the plain transcription, and every way to end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference_model import plain_rib
from rib_tiny import CONFIG, LABELS, N_CLASSES, tiny_batches, tiny_classifier, tiny_views
from tag2mask.common.errors import DataError
from tag2mask.networks import CAMClassifier
from tag2mask.rib import RIBConfig, RIBResult, TrunkFeatures, rib, trace_arrays

REFERENCE = RIBConfig.reference(**{name: getattr(CONFIG, name) for name in ("steps", "learning_rate", "m")})
REFERENCE = REFERENCE.replace(guard_share=1.0, partner_chunk=3)
# pooled and summed in float32 inside, from float64 weights
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def run(config: RIBConfig = CONFIG, **options) -> RIBResult:
    options = {"labels": LABELS, "partners": tiny_batches(config.updates), "classifier": tiny_classifier(), **options}
    views = options.pop("views", None) or tiny_views(config)
    return rib(options.pop("classifier"), views, options.pop("labels"), options.pop("partners"), config, **options)


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "gap"},
        {"tau": 0.8, "average": "kept"},
        {"gndrp_classes": 2},  # class 3 is average-pooled by the slip
        {"scales": (1.0, 2.0), "loss_scales": (2.0,)},
        {"momentum": 0.5, "weight_decay": 0.1, "power": 2.0, "classifier_multiplier": 3.0},
        {"m": 0.7},  # ends early, after two steps
        {"guard_share": 0.87},  # runs away at the third step
        {"partner_chunk": 1},
        {"partner_chunk": 50},
    ],
)
def test_same_numbers_as_the_plain_transcription(changes):
    config = REFERENCE.replace(**changes)
    plain = plain_rib(tiny_classifier(), tiny_views(config), LABELS, tiny_batches(config.steps), config)
    result = run(config)
    assert (result.steps_run, result.stopped) == (plain.steps_run, plain.stopped)
    for ours, theirs in ((result.cam_sums, plain.cam_sums), (result.rib_sums, plain.rib_sums)):
        for mine, full in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.double(), full[LABELS], **TOLERANCE)
    updates = [step for step in result.steps if not math.isnan(step.loss)]
    np.testing.assert_allclose([step.loss for step in updates], plain.losses, rtol=1e-5)
    np.testing.assert_allclose([step.target_sum for step in updates], plain.target_sums, rtol=1e-5)
    np.testing.assert_allclose([step.learning_rate for step in updates], plain.learning_rates, rtol=1e-12)


def test_the_cases_above_reach_each_ending():
    early, away, whole = run(REFERENCE.replace(m=0.7)), run(REFERENCE.replace(guard_share=0.87)), run(REFERENCE)
    assert (early.steps_run, early.stopped) == (2, "early-stop")
    assert (away.steps_run, away.stopped) == (3, "run-away")
    assert (whole.steps_run, whole.stopped) == (4, "finished")


def test_default_saves_the_last_update_and_changes_no_map():
    batches = tiny_batches(CONFIG.steps)
    mended, slipped = run(CONFIG, partners=iter(batches)), run(REFERENCE, partners=iter(batches))
    assert same(mended.rib_sums, slipped.rib_sums)
    assert math.isnan(mended.steps[-1].loss)
    assert not math.isnan(slipped.steps[-1].loss)
    assert mended.stopped == slipped.stopped == "finished"
    taken = iter(batches)
    run(CONFIG, partners=taken)
    assert len(list(taken)) == 1  # the last batch wasn't asked for


def test_first_step_is_plain_cam_of_present_classes():
    classifier, views = tiny_classifier(), tiny_views()
    result = run(CONFIG.replace(steps=1), classifier=classifier, views=views, partners=())
    for ours, images in zip(result.rib_sums, views, strict=True):
        with torch.no_grad():
            maps = classifier.class_maps(classifier.trunk_features(images)).relu()
        torch.testing.assert_close(ours.double(), (maps[0] + maps[1].flip(-1))[LABELS], **TOLERANCE)
    assert same(result.rib_sums, result.cam_sums)


def test_fine_tuning_raises_the_targets_logits():
    logits = [step.target_logit for step in run().steps]
    assert logits == sorted(logits)
    assert logits[-1] > logits[0] + 0.03


def test_run_away_keeps_only_the_bad_map_of_scale_1():
    config = CONFIG.replace(power=0.0)  # so that the number of steps doesn't change the learning rate
    batches = tiny_batches(3)
    away = run(config.replace(guard_share=0.87), partners=iter(batches))
    before = run(config.replace(steps=away.steps_run - 1), partners=iter(batches))
    assert away.stopped == "run-away"
    assert away.steps[-1].covered > 0.87 >= before.steps[-1].covered
    assert math.isnan(away.steps[-1].loss)
    assert not torch.equal(away.rib_sums[0], before.rib_sums[0])  # the bad map is in
    assert same(away.rib_sums[1:], before.rib_sums[1:])  # and nothing else


def test_early_stop_and_the_absolute_value():
    negative = tiny_classifier()
    negative.classifier.weight.data.abs_().neg_()  # all logits negative
    config = CONFIG.replace(pooling="gap", m=0.5)
    assert run(config, classifier=negative).steps_run == config.steps
    slipped = run(config.replace(absolute_limit=True), classifier=negative)
    assert (slipped.steps_run, slipped.stopped) == (1, "early-stop")


def test_clamped_logits_stop_growing():
    free = run(CONFIG.replace(limit="none"))
    clamped = run(CONFIG.replace(limit="clamp", m=1e-6))
    assert clamped.steps[-1].target_logit < free.steps[-1].target_logit
    assert same(run(CONFIG.replace(limit="clamp")).rib_sums, free.rib_sums)  # m out of reach


def test_without_partners_none_is_asked_for():
    def refuse():
        raise AssertionError("asked for partners")
        yield

    result = run(CONFIG.replace(partners="none"), partners=refuse())
    assert result.stopped == "finished"
    assert same(result.rib_sums, run(partners=()).rib_sums)


def test_partners_run_out():
    batches = tiny_batches(2)
    alone = run(partners=iter(batches))
    assert (alone.steps_run, alone.stopped) == (4, "finished")
    stopped = run(CONFIG.replace(exhausted="stop"), partners=iter(batches))
    assert (stopped.steps_run, stopped.stopped) == (2, "partners-exhausted")
    with pytest.raises(DataError, match="not one partner batch"):
        run(CONFIG.replace(exhausted="stop"), partners=())


def test_one_class_and_a_batch_without_labels():
    images, labels = tiny_batches(1)[0]
    result = run(labels=[4], partners=[(images, torch.zeros_like(labels))] * 3)
    assert result.classes == (4,)
    assert [tuple(s.shape[:1]) for s in result.rib_sums] == [(1,)] * 4
    assert same(result.rib_sums, run(labels=[4], partners=()).rib_sums)


def test_features_give_what_their_images_give():
    classifier, views, batches = tiny_classifier(), tiny_views(), tiny_batches(3)
    from_images = run(classifier=classifier, views=views, partners=batches)
    features = [TrunkFeatures(classifier.trunk_features(images)) for images in views]
    banked = [(TrunkFeatures(classifier.trunk_features(images)), labels) for images, labels in batches]
    seen: list[Tensor] = []
    classifier.backbone.trunk.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    from_features = run(classifier=classifier, views=features, partners=banked)
    assert not seen  # the frozen trunk doesn't run again
    for ours, theirs in zip(from_features.rib_sums, from_images.rib_sums, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_the_targets_trunk_runs_once():
    classifier = tiny_classifier()
    shapes: list[tuple[int, ...]] = []
    classifier.backbone.trunk.register_forward_hook(lambda _m, args, _o: shapes.append(tuple(args[0].shape)))
    run(classifier=classifier, partners=())
    assert shapes == [tuple(images.shape) for images in tiny_views()]


def test_channels_last_changes_nothing_but_layout():
    plain, other = run(), run(CONFIG.replace(channels_last=True))
    for ours, theirs in zip(plain.rib_sums, other.rib_sums, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_deterministic_and_leaves_the_classifier_alone():
    classifier = tiny_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    first, second = run(classifier=classifier), run(classifier=classifier)
    assert same(first.rib_sums, second.rib_sums)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_classifier_is_restored_when_partners_fail():
    classifier = tiny_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}

    def failing():
        yield from tiny_batches(1)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        run(classifier=classifier, partners=failing())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is None for p in classifier.parameters())


def test_trace():
    result = run(trace=True)
    maps = torch.stack([step.maps for step in result.steps])  # (S, n, h, w)
    torch.testing.assert_close(maps.cumsum(0), torch.stack([step.accumulated for step in result.steps]))
    assert torch.equal(maps[0], result.cam_sums[0])
    assert torch.equal(result.steps[-1].accumulated, result.rib_sums[0])
    arrays = trace_arrays(result)
    assert arrays["maps"].shape == arrays["accumulated"].shape == tuple(maps.shape)
    assert arrays["maps"].dtype == np.float16
    np.testing.assert_array_equal(arrays["maps"].max(axis=(2, 3)), 1)
    assert arrays["classes"].tolist() == LABELS
    assert np.isfinite(arrays["loss"][:-1]).all()
    assert np.isfinite(arrays["target_logit"]).all()
    assert ((arrays["covered"] > 0) & (arrays["covered"] <= 1)).all()


def test_without_trace_no_map_is_kept():
    result = run()
    assert all(step.maps is None and step.accumulated is None for step in result.steps)
    with pytest.raises(ValueError, match="trace=True"):
        trace_arrays(result)


def test_wrong_input_is_named():
    with pytest.raises(DataError, match="without labels"):
        run(labels=[])
    with pytest.raises(DataError, match=rf"label {N_CLASSES} is outside"):
        run(labels=[1, N_CLASSES])
    with pytest.raises(DataError, match="1 scaled images for 4 scales"):
        run(views=tiny_views()[:1])
    with pytest.raises(DataError, match=r"2 view\(s\) at scale 1; mirror: False takes 1"):
        run(CONFIG.replace(mirror=False), views=tiny_views())
    with pytest.raises(DataError, match=r"1 view\(s\) at scale 1; mirror: True takes 2"):
        run(views=tiny_views(CONFIG.replace(mirror=False)))


def without_handedness() -> CAMClassifier:
    """A classifier to which a mirrored image is the mirror of what the image is, before and after every update."""
    classifier = tiny_classifier()
    trunk, head = nn.Conv2d(3, 6, 8, stride=8, bias=False), nn.Conv2d(6, 8, 1, bias=False)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for conv in (trunk, head):
            weight = torch.randn(conv.weight.shape, generator=random) / conv.weight[0].numel() ** 0.5
            conv.weight.copy_(weight + weight.flip(-1))
    classifier.backbone.trunk[0], classifier.backbone.head[0] = trunk.double(), head.double()
    return classifier


@pytest.mark.parametrize("config", [CONFIG, RIBConfig.fast(partners="none")], ids=["scheduled", "searched"])
def test_an_image_without_its_mirror_counts_for_both(config: RIBConfig) -> None:
    """Where a mirror tells nothing new, leaving it out changes nothing: maps, losses, logits, the step's length."""
    whole = run(config, classifier=without_handedness())
    alone = run(config.replace(mirror=False), classifier=without_handedness())
    assert (whole.rib_sums[0] - whole.steps_run * whole.cam_sums[0]).abs().max() > 0.01
    for ours, theirs in ((alone.cam_sums, whole.cam_sums), (alone.rib_sums, whole.rib_sums)):
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, **TOLERANCE)
    for mine, other in zip(alone.steps, whole.steps, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-5, nan_ok=True)
        assert mine.learning_rate == pytest.approx(other.learning_rate, rel=1e-5, nan_ok=True)
        for own, full in zip(mine.target_logits, other.target_logits, strict=True):
            torch.testing.assert_close(own, full, **TOLERANCE)
