"""The long step: its search, the line it goes along, and the partners' expected gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rib_tiny import CONFIG, LABELS, N_CLASSES, tiny_batches, tiny_classifier, tiny_views
from tag2mask.common.errors import ConfigError
from tag2mask.rib import PartnerGradients, RIBConfig, class_gradients, mean_gradient, rib
from tag2mask.rib.update import TOLERANCE, Line, add_gradient, search_rate

FAST = RIBConfig.fast(partner_chunk=3, partners="none")


def looked_at(function, first: float, aim: float, looks: int = 8) -> tuple[float, list[float]]:
    rates: list[float] = []

    def rise_at(rate: float) -> float:
        rates.append(rate)
        return function(rate)

    return search_rate(rise_at, first, aim, looks), rates


@pytest.mark.parametrize("first", [1e-6, 1e-3, 0.02, 0.1, 5.0])
@pytest.mark.parametrize("function", [lambda r: 4 * r, lambda r: 1 - math.exp(-3 * r), lambda r: r + 40 * r * r])
def test_search_finds_the_rise_from_near_and_far(function, first):
    rate, _ = looked_at(function, first, 0.2, looks=14)
    assert function(rate) == pytest.approx(0.2, rel=TOLERANCE)


def test_a_straight_line_takes_two_looks():
    _, rates = looked_at(lambda rate: 3 * rate, 0.03, 0.2)
    assert len(rates) == 2


def test_past_the_peak_is_too_far():
    rate, rates = looked_at(lambda r: 0.25 * math.sin(r) if r < 3 else -1.0, 6.0, 0.2, looks=12)
    assert rates[0] == 6.0
    assert 0 < rate < math.pi / 2


def test_never_more_looks_than_allowed_and_not_a_number_is_too_far():
    rate, rates = looked_at(lambda rate: math.nan, 1.0, 0.2, looks=3)
    assert (rate, len(rates)) == (0.0, 3)


def test_the_line_goes_down_the_gradient_with_each_groups_rate():
    first, second = (torch.nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0))
    first.grad, second.grad = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.0])
    line = Line([[first], [second]], (1.0, 10.0), weight_decay=0.1)
    line.move(0.5)
    assert torch.allclose(first.detach(), torch.tensor([1 - 0.5 * 1.1, 1 + 0.5 * 0.9]))
    assert torch.allclose(second.detach(), torch.tensor([2 - 0.5 * 10 * 0.7, 2 - 0.5 * 10 * 0.2]))
    line.move(0.0)
    assert torch.equal(first.detach(), torch.ones(2))


def rise_of(result) -> float:
    start, end = result.steps[0].maps, result.steps[1].maps
    return ((end.mean() - start.mean()) / start.amax(dim=(-2, -1)).mean()).item()


@pytest.mark.parametrize("rise", [0.05, 0.2])
@pytest.mark.parametrize("fold", [True, False])
def test_one_step_raises_the_maps_as_asked(rise, fold):
    config = FAST.replace(rise=rise, looks=12, fold_batch_norm=fold)
    result = rib(tiny_classifier(), tiny_views(config), LABELS, config=config, trace=True)
    assert rise_of(result) == pytest.approx(rise, rel=TOLERANCE)
    assert result.stopped == "finished"
    assert result.steps_run == 2


def test_the_rise_may_be_a_share_of_the_maps_mean():
    config = FAST.replace(rise=0.5, rise_of="mean", looks=12)
    result = rib(tiny_classifier(), tiny_views(config), LABELS, config=config, trace=True)
    start, end = (step.maps for step in result.steps)
    assert end.mean().item() == pytest.approx(1.5 * start.mean().item(), rel=0.5 * TOLERANCE)
    with pytest.raises(ConfigError, match="rise_of"):
        FAST.replace(rise=1.5)
    assert FAST.replace(rise=1.5, rise_of="mean").rise == 1.5


def test_the_step_size_does_not_depend_on_the_learning_rate():
    results = [
        rib(tiny_classifier(), tiny_views(), LABELS, config=FAST.replace(learning_rate=rate)) for rate in (1e-6, 1e-2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(results[0].rib_sums, results[1].rib_sums, strict=True))


def test_the_classifier_is_itself_again_after_a_search():
    classifier = tiny_classifier()
    before = [parameter.clone() for parameter in classifier.parameters()]
    rib(classifier, tiny_views(), LABELS, config=FAST)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))


def test_maps_that_are_nowhere_positive_stay_plain_cam():
    classifier = tiny_classifier()
    with torch.no_grad():
        classifier.classifier.weight.fill_(-1.0)
    result = rib(classifier, tiny_views(), LABELS, config=FAST)
    assert result.steps[0].learning_rate == 0.0
    assert not any(values.any() for values in result.rib_sums)


def test_without_the_first_map_only_later_ones_are_summed():
    both = rib(tiny_classifier(), tiny_views(), LABELS, config=FAST)
    later = rib(tiny_classifier(), tiny_views(), LABELS, config=FAST.replace(first_map=False))
    for total, cam, rest in zip(both.rib_sums, both.cam_sums, later.rib_sums, strict=True):
        torch.testing.assert_close(total, cam + rest)
    with pytest.raises(ConfigError, match="first_map"):
        RIBConfig(steps=1, first_map=False)


# --- partners, amortised -----------------------------------------------------------------------------------


def one_class_images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images of one class each, for classes 0, 2 and 4: with these the expectation is exact."""
    images = tiny_batches(4)
    rows = torch.cat([pixels for pixels, _ in images])
    classes = torch.tensor([0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 0, 0, 0])
    return list(zip(rows.split(1), torch.nn.functional.one_hot(classes, N_CLASSES).split(1), strict=True))


def test_expected_gradient_is_the_mean_over_all_disjoint_partners():
    classifier, images = tiny_classifier(), one_class_images()
    rows = class_gradients(classifier, lambda c: [x for x, labels in images if labels[0, c]], CONFIG)
    table = torch.cat([labels for _, labels in images]).numpy().astype(bool)
    expected = PartnerGradients(rows, table).expected([2, 3])
    wanted = mean_gradient(classifier, [(x, labels) for x, labels in images if not labels[0, 2]], CONFIG).float()
    assert mean_gradient(classifier, [], CONFIG) is None
    assert (expected - wanted).norm() < 0.01 * wanted.norm()  # bfloat16


def test_rates_are_those_of_the_images_without_a_shared_class():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=bool)
    gradients = PartnerGradients(torch.eye(3), labels)
    assert gradients.rates([0]).tolist() == [0.0, 0.5, 1.0]
    assert torch.allclose(gradients.expected([0]), torch.tensor([0.0, 0.5, 1.0]))
    assert gradients.expected([0, 1, 2]) is None  # every image shares a class


def test_sums_are_kept_within_a_bound():
    gradients = PartnerGradients(torch.eye(9), np.eye(9, dtype=bool))
    first = gradients.expected([0])
    assert gradients.expected([0]) is first
    for cls in range(1, 9):
        gradients.expected([cls])
    assert len(gradients._kept) <= 4


def test_amortised_partners_add_their_gradient_times_the_batch():
    plain = CONFIG.replace(steps=2, partners="none")
    size = sum(p.numel() for group in tiny_classifier().tuned_parameters() for p in group)
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(0))
    amortised = rib(
        tiny_classifier(),
        tiny_views(),
        LABELS,
        config=plain.replace(partners="amortised", batch_size=3),
        partner_gradient=gradient,
    )
    alone = rib(tiny_classifier(), tiny_views(), LABELS, config=plain)
    none = rib(tiny_classifier(), tiny_views(), LABELS, config=plain.replace(partners="amortised"))
    assert all(torch.equal(a, b) for a, b in zip(alone.rib_sums, none.rib_sums, strict=True))
    assert not torch.allclose(amortised.rib_sums[0], alone.rib_sums[0], rtol=1e-3)
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 3))]
    parameters[0].grad = torch.ones(2)
    add_gradient(parameters, torch.arange(5.0), 2.0)
    assert parameters[0].grad.tolist() == [1.0, 3.0]
    assert parameters[1].grad.tolist() == [[4.0, 6.0, 8.0]]


def test_a_sum_is_the_same_in_blocks(monkeypatch):
    rows = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = PartnerGradients(rows, np.eye(5, dtype=bool)).expected([0])
    monkeypatch.setattr("tag2mask.rib.amortise.SUMMED_TOGETHER", 7)
    assert torch.equal(PartnerGradients(rows, np.eye(5, dtype=bool)).expected([0]), whole)
    assert torch.allclose(whole, rows[1:].float().mean(dim=0), atol=1e-6)


def test_what_a_sum_costs_does_not_grow_with_the_images():
    gradients = PartnerGradients(torch.eye(4), np.tile(np.eye(4, dtype=bool), (1000, 1)))
    assert gradients.label_sets.shape == (4, 4)
    assert gradients.rates([0]).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


# --- number formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FAST, CONFIG.replace(partners="none")], ids=["searched", "scheduled"])
def test_bfloat16_follows_float32_step_by_step(config):
    """The later maps move as in float32: an update must reach the weights that the next pass is computed with."""
    exact, coarse = (
        rib(tiny_classifier().float(), tiny_views(config), LABELS, config=config.replace(precision=p), trace=True)
        for p in ("32", "bf16")
    )
    moved = [(run.steps[-1].maps - run.steps[0].maps).flatten() for run in (exact, coarse)]
    assert not torch.equal(moved[0], moved[1])
    assert torch.corrcoef(torch.stack(moved))[0, 1] > 0.95
    peak = exact.cam_sums[0].max().item()
    torch.testing.assert_close(coarse.cam_sums[0], exact.cam_sums[0], rtol=0.05, atol=0.02 * peak)


def test_tf32_is_float32_on_a_cpu_and_flags_are_put_back():
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    runs = [rib(tiny_classifier(), tiny_views(), LABELS, config=FAST.replace(precision=p)) for p in ("32", "tf32")]
    assert all(torch.equal(a, b) for a, b in zip(runs[0].rib_sums, runs[1].rib_sums, strict=True))
    assert [flag.allow_tf32 for flag in flags] == before
    with pytest.raises(ConfigError, match=r"rib.precision is 'fp16'; expected one of"):
        RIBConfig(precision="fp16")
