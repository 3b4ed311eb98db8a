"""GAP, GNDRP, the loss and the guard on maps small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch

from tag2mask.rib import RIBConfig, gap, gndrp, merge_mirror, rib_loss, stack_with_mirror
from tag2mask.rib.step import covered_share, passes_limit, present_loss, runs_away

# one row; class 0: maximum 10; class 1: all negative; class 2: all zero
MAPS = torch.tensor([[[[10.0, 4.0], [3.0, -1.0]], [[-1.0, -2.0], [-3.0, -4.0]], [[0.0, 0.0], [0.0, 0.0]]]])


def test_gap():
    assert gap(MAPS).tolist() == [[4.0, -2.5, 0.0]]


def test_gndrp_leaves_out_the_discriminative_positions():
    # 10 and 4 are at or above 0.4 * 10; a negative maximum and an all-zero map keep nothing
    assert gndrp(MAPS, [0, 1, 2], 0.4)[0].tolist() == [0.5, 0.0, 0.0]


def test_gndrp_averages_absent_classes():
    assert gndrp(MAPS, [], 0.4)[0].tolist() == [4.0, -2.5, 0.0]
    assert gndrp(MAPS, torch.tensor([[1, 0, 1]]), 0.4)[0].tolist() == [0.5, -2.5, 0.0]


def test_mean_over_kept_positions():
    # class 0 keeps 3 and -1
    assert gndrp(MAPS, [0, 1], 0.4, average="kept")[0].tolist() == [1.0, 0.0, 0.0]


def test_slip_averages_later_classes():
    assert gndrp(MAPS, [0, 1], 0.4, slip_classes=1)[0].tolist() == [0.5, -2.5, 0.0]


def test_gradient_reaches_kept_positions_only():
    maps = MAPS.clone().requires_grad_(True)
    gndrp(maps, [0, 1, 2], 0.4).sum().backward()
    assert maps.grad[0].flatten(1).tolist() == [[0, 0, 0.25, 0.25], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("average", ["all", "kept"])
@pytest.mark.parametrize("slip", [None, 2])
@pytest.mark.parametrize("pooling", ["gndrp", "gap"])
def test_pooling_present_maps_equals_pooling_all(pooling, slip, average):
    config = RIBConfig(pooling=pooling, gndrp_classes=slip, average=average, tau=0.6)
    maps = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1]])
    row, cls = labels.nonzero(as_tuple=True)
    everything = gap(maps) if pooling == "gap" else gndrp(maps, labels, 0.6, average=average, slip_classes=slip)
    logits, loss = present_loss(maps[row, cls], cls, config)
    assert torch.equal(logits, everything[row, cls])
    assert torch.equal(loss, rib_loss(everything, labels))


def test_loss_is_minus_the_sum_of_present_logits():
    logits = torch.tensor([[1.0, 2.0], [30.0, -4.0]])
    labels = torch.tensor([[0, 1], [1, 1]])
    assert rib_loss(logits, labels).item() == -28.0
    assert rib_loss(logits, labels, ceiling=10.0).item() == -8.0


def test_clamped_logits_get_no_gradient():
    logits = torch.tensor([[1.0, 20.0]], requires_grad=True)
    rib_loss(logits, torch.ones(1, 2), ceiling=10.0).backward()
    assert logits.grad.tolist() == [[-1.0, 0.0]]


def test_limit():
    assert passes_limit(601.0, RIBConfig())
    assert not passes_limit(600.0, RIBConfig())
    assert not passes_limit(-601.0, RIBConfig())
    assert passes_limit(-601.0, RIBConfig.reference())
    assert not passes_limit(601.0, RIBConfig(limit="clamp"))
    assert not passes_limit(601.0, RIBConfig(limit="none"))


def test_covered_share_is_the_union_over_classes():
    maps = torch.tensor([[[10.0, 3.1], [3.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert covered_share(maps, 0.3) == 0.75  # 10, 3.1 and the other class's 1; 3.0 is not above 0.3 * 10
    assert covered_share(torch.zeros(2, 3, 3), 0.3) == 0.0


def test_the_first_step_never_runs_away():
    assert not runs_away(1.0, 0, RIBConfig())
    assert runs_away(0.71, 1, RIBConfig())
    assert not runs_away(0.7, 1, RIBConfig())
    assert not runs_away(1.0, 1, RIBConfig(guard_share=1.0))


def test_mirror_is_stacked_and_turned_back():
    image = torch.arange(18.0).reshape(3, 2, 3)
    (pair,) = stack_with_mirror([image])
    assert torch.equal(pair[0], image)
    assert torch.equal(pair[1], image[..., [2, 1, 0]])
    assert torch.equal(merge_mirror(pair - 5), 2 * (image - 5).relu())
    with pytest.raises(ValueError, match="not \\(3, h, w\\)"):
        stack_with_mirror([image.permute(1, 2, 0)])
