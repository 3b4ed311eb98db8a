"""RIB of several images at once is RIB of each alone, to round-off."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from torch import Tensor

import tiny_families  # noqa: F401  registers its networks
from rib_tiny import CONFIG, tiny_classifier, tiny_views
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.networks import CAMClassifier, build_classifier
from tag2mask.networks.folding import FoldedHead
from tag2mask.rib import RIBConfig, RIBResult, TrunkFeatures, rib, stack_with_mirror
from tag2mask.rib.batch import WEIGHT_COPIES, Photo, PhotoBytes, rib_batch

FAST = RIBConfig.fast(batch_size=3)
SCHEDULED = CONFIG.replace(partners="amortised", batch_size=3, momentum=0.3)
TAGS = ([1, 3], [0], [2, 3, 4], [4])
ROUND_OFF = 1e-6  # of the largest value: maps are float32


def photos_of(config: RIBConfig, count: int = 4) -> list[Photo]:
    """Images of different tags, each with a partners' gradient of its own but the third, which has none."""
    size = sum(p.numel() for group in tiny_classifier().tuned_parameters() for p in group)
    random = torch.Generator().manual_seed(0)
    gradients: list[Tensor | None] = [torch.randn(size, generator=random) * 0.1 for _ in range(count)]
    gradients[2] = None
    return [Photo(tiny_views(config, seed=place), TAGS[place], gradient) for place, gradient in enumerate(gradients)]


def alone(classifier: CAMClassifier, photo: Photo, config: RIBConfig) -> RIBResult:
    views, gradient = photo.scaled_images, photo.partner_gradient
    return rib(classifier, views, photo.labels, config=config, partner_gradient=gradient, trace=photo.trace)


def assert_same(one: RIBResult, other: RIBResult, tolerance: float = ROUND_OFF) -> None:
    assert one.classes == other.classes
    assert one.stopped == other.stopped
    assert one.steps_run == other.steps_run
    sums = [*zip(one.cam_sums, other.cam_sums, strict=True), *zip(one.rib_sums, other.rib_sums, strict=True)]
    for own, found in sums:
        assert own.shape == found.shape
        assert (own - found).abs().max() <= tolerance * own.abs().max()
    for before, after in zip(one.steps, other.steps, strict=True):
        assert after.covered == pytest.approx(before.covered, abs=1e-6)
        assert after.loss == pytest.approx(before.loss, rel=1e-5, nan_ok=True)
        assert after.learning_rate == pytest.approx(before.learning_rate, rel=1e-5, nan_ok=True)
        assert len(before.target_logits) == len(after.target_logits)
        for own, found in zip(before.target_logits, after.target_logits, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
        assert (before.maps is None) == (after.maps is None)


@pytest.mark.parametrize(
    "config",
    [
        FAST,
        FAST.replace(fold_batch_norm=False, channels_last=True),
        FAST.replace(steps=3, rise_of="mean", first_map=False),
        FAST.replace(limit="clamp", m=0.4, average="kept", gndrp_classes=3),
        FAST.replace(pooling="gap", partners="none", update_after_last=True),
        FAST.replace(steps=1, partners="none"),
        SCHEDULED,
        SCHEDULED.replace(learning_rate=0.1, guard_share=0.7),
        SCHEDULED.replace(limit="early_stop", m=0.65, partners="none"),
        FAST.replace(mirror=False),
        SCHEDULED.replace(mirror=False),
    ],
    ids=[
        "searched",
        "unfolded",
        "two-searches",
        "clamped",
        "gap",
        "cam",
        "scheduled",
        "run-away",
        "early-stop",
        "no-mirror-searched",
        "no-mirror",
    ],
)
def test_batched_is_single(config: RIBConfig) -> None:
    photos = photos_of(config)
    results = rib_batch(tiny_classifier(), photos, config)
    singles = [alone(tiny_classifier(), photo, config) for photo in photos]
    for one, other in zip(singles, results, strict=True):
        assert_same(one, other)
    if config.updates:
        assert any((one.rib_sums[0] != one.cam_sums[0]).any() for one in singles)


def test_some_end_earlier_than_others() -> None:
    config = SCHEDULED.replace(limit="early_stop", m=0.9, partners="none")
    photos = photos_of(config)
    singles = [alone(tiny_classifier(), photo, config) for photo in photos]
    assert len({one.steps_run for one in singles}) > 1
    for one, other in zip(singles, rib_batch(tiny_classifier(), photos, config), strict=True):
        assert_same(one, other)


def test_each_image_takes_its_own_number_of_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is one pass of those that are still searching, and no more than each would take alone."""
    from tag2mask.rib.batch import _BatchSteps
    from tag2mask.rib.step import Steps

    together: list[int] = []
    single: list[int] = []
    batch_look, look = _BatchSteps._look, Steps._look
    monkeypatch.setattr(_BatchSteps, "_look", lambda s, w, p: together.append(len(p)) or batch_look(s, w, p))
    monkeypatch.setattr(Steps, "_look", lambda s: single.append(1) or look(s))
    config = FAST.replace(rise=0.4)
    photos = photos_of(config)
    rib_batch(tiny_classifier(), photos, config)
    counts = []
    for photo in photos:
        single.clear()
        alone(tiny_classifier(), photo, config)
        counts.append(len(single))
    assert len(set(counts)) > 1
    assert together == [sum(count > round_ for count in counts) for round_ in range(max(counts))]


def test_a_batch_does_not_depend_on_who_is_in_it() -> None:
    photos = photos_of(FAST)
    whole = rib_batch(tiny_classifier(), photos, FAST)
    pair = rib_batch(tiny_classifier(), [photos[3], photos[1]], FAST)
    assert_same(whole[3], pair[0])
    assert_same(whole[1], pair[1])
    assert_same(whole[2], rib_batch(tiny_classifier(), photos[2:3], FAST)[0])


def test_an_image_without_any_evidence_stays_cam_beside_others() -> None:
    classifier = tiny_classifier()
    with torch.no_grad():
        classifier.classifier.weight[0].fill_(-1.0)
    photos = photos_of(FAST)
    result = rib_batch(classifier, photos, FAST)[1]  # of class 0 alone
    assert result.steps[0].learning_rate == 0.0
    assert not any(values.any() for values in result.rib_sums)
    assert_same(alone(classifier, photos[0], FAST), rib_batch(classifier, photos, FAST)[0])


def test_traces_and_given_features() -> None:
    classifier = tiny_classifier()
    photos = [dataclasses.replace(photo, trace=place == 1) for place, photo in enumerate(photos_of(FAST))]
    given = [
        dataclasses.replace(p, scaled_images=[TrunkFeatures(classifier.trunk_features(v)) for v in p.scaled_images])
        for p in photos
    ]
    for one, other in zip(photos, rib_batch(classifier, given, FAST), strict=True):
        single = alone(classifier, one, FAST)
        assert_same(single, other)
        for before, after in zip(single.steps, other.steps, strict=True):
            if one.trace:
                torch.testing.assert_close(after.maps, before.maps)
                torch.testing.assert_close(after.accumulated, before.accumulated)


def test_the_classifier_leaves_as_it_came() -> None:
    classifier = tiny_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    flags = [parameter.requires_grad for parameter in classifier.parameters()]
    for config in (FAST, SCHEDULED):
        rib_batch(classifier, photos_of(config), config)
        assert classifier.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
        assert [parameter.requires_grad for parameter in classifier.parameters()] == flags


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "tiny_swin", "tiny_dinov3"])
@pytest.mark.parametrize("stages", [(5,), (4, 5)])
def test_every_kind_of_layer(name: str, stages: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(name, 5, "none", stages=stages).double()
    torch.nn.init.normal_(classifier.classifier.weight, std=0.3)
    config = FAST.replace(partners="none", scales=(1.0, 0.5), loss_scales=(1.0,))
    random = torch.Generator().manual_seed(1)
    images = [
        [torch.randn(3, round(48 * s), round(64 * s), generator=random, dtype=torch.float64) for s in config.scales]
        for _ in range(2)
    ]
    photos = [Photo(stack_with_mirror(views), tags) for views, tags in zip(images, TAGS, strict=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = rib_batch(classifier, photos, config)
    for photo, other in zip(photos, results, strict=True):
        assert_same(alone(classifier, photo, config), other)


@pytest.mark.parametrize("fold", [True, False])
def test_bfloat16_reaches_every_pass(fold: bool) -> None:
    """Also the looks and maps without gradient, whose weights are each image's own."""
    config = FAST.replace(precision="bf16", fold_batch_norm=fold)
    classifier, photos = tiny_classifier().float(), photos_of(config)
    exact = rib_batch(classifier, photos, config.replace(precision="32"))
    coarse = rib_batch(classifier, photos, config)
    for one, photo, other in zip(exact, photos, coarse, strict=True):
        assert not torch.equal(one.rib_sums[0], other.rib_sums[0])
        assert_close_maps(one, other)
        assert_close_maps(alone(classifier, photo, config), other)


def assert_close_maps(one: RIBResult, other: RIBResult) -> None:
    """To bfloat16's eight bits, some operations deep."""
    for own, found in zip(one.rib_sums, other.rib_sums, strict=True):
        assert (own - found).abs().max() <= 0.03 * own.abs().max()


def test_what_cannot_be_batched() -> None:
    photos = photos_of(FAST)
    with pytest.raises(ConfigError, match="partners disjoint can't be batched"):
        rib_batch(tiny_classifier(), photos, FAST.replace(partners="disjoint"))
    larger = Photo([view.repeat(1, 1, 2, 1) for view in photos[0].scaled_images], [1])
    with pytest.raises(DataError, match="different shapes"):
        rib_batch(tiny_classifier(), [photos[0], larger], FAST)
    with pytest.raises(DataError, match="without labels"):
        rib_batch(tiny_classifier(), [photos[0], dataclasses.replace(photos[1], labels=[])], FAST)


def test_the_memory_of_a_photo_is_what_autograd_keeps_and_its_weights() -> None:
    """Counted without computing what a real pass keeps, at the largest scale."""
    classifier = tiny_classifier()
    need = PhotoBytes(classifier, FAST.replace(scales=(1.0, 0.5), loss_scales=(1.0,)))
    kept: list[int] = []
    features = classifier.trunk_features(torch.randn(2, 3, 96, 128, dtype=torch.float64))
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t)
    with FoldedHead(classifier.backbone.head), hooks:
        classifier.class_maps(features)
    weights = sum(p.nbytes for group in classifier.tuned_parameters() for p in group)
    assert need((96, 128)) == sum(kept) + WEIGHT_COPIES * weights
    assert need((192, 256)) > need((96, 128))
    assert PhotoBytes(classifier, FAST)((96, 128)) == need((192, 256))  # whose largest scale is 2
    assert not classifier.classifier.weight.is_meta
