"""Pooling, loss and optimiser give the reference implementation's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tag2mask.rib import PolySGD, RIBConfig, StepRecord, gap, gndrp, rib_loss
from tag2mask.rib.step import present_loss

# float32 sums over at most 256 positions, values to about 10, in another order than the reference's
POOLING_TOLERANCE = 1e-6
SETS = ("s", "b", "coco")


@pytest.fixture(scope="module")
def pooling(golden_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden_dir / "a_pooling.npz"))


def present_of(pooling: dict[str, np.ndarray], name: str, style: str) -> list[int] | torch.Tensor:
    return pooling[f"valid_cat_{name}"].tolist() if style == "list" else torch.tensor(pooling[f"labels_{name}"])


@pytest.mark.parametrize("name", SETS)
def test_gap(pooling, name):
    np.testing.assert_allclose(
        gap(torch.tensor(pooling[f"x_{name}"])), pooling[f"gap_{name}"], atol=POOLING_TOLERANCE
    )


@pytest.mark.parametrize("tau", [0.3, 0.4, 0.5])
@pytest.mark.parametrize("style", ["list", "batch"])
@pytest.mark.parametrize("name", SETS)
def test_gndrp_and_its_gradient(pooling, name, style, tau):
    maps = torch.tensor(pooling[f"x_{name}"], requires_grad=True)
    logits = gndrp(maps, present_of(pooling, name, style), tau, slip_classes=20)
    weights = torch.arange(1, logits.numel() + 1, dtype=torch.float32).reshape(logits.shape)
    (weights * logits).sum().backward()
    key = f"gndp_{name}_{style}_{tau}"
    np.testing.assert_allclose(logits.detach(), pooling[key], atol=POOLING_TOLERANCE)
    np.testing.assert_allclose(maps.grad, pooling[f"{key}_grad"], rtol=1e-6, atol=0)


def test_default_differs_from_the_slip_only_in_present_classes_from_20_on(pooling):
    maps = torch.tensor(pooling["x_coco"])
    labels = torch.tensor(pooling["labels_coco"])
    mended, slipped = gndrp(maps, labels, 0.5), torch.tensor(pooling["gndp_coco_batch_0.5"])
    affected = labels.bool() & (torch.arange(80) >= 20)
    assert affected.any()
    assert torch.allclose(mended[~affected], slipped[~affected], atol=POOLING_TOLERANCE)
    assert (mended[affected] - slipped[affected]).abs().min() > 1e-3


@pytest.mark.parametrize("name", SETS)
def test_pooling_only_present_maps_equals_pooling_all(pooling, name):
    """`rib` pools present classes only; the numbers are those of the golden file."""
    maps, labels = torch.tensor(pooling[f"x_{name}"]), torch.tensor(pooling[f"labels_{name}"])
    row, cls = labels.nonzero(as_tuple=True)
    logits, _ = present_loss(maps[row, cls], cls, RIBConfig.reference(tau=0.4))
    np.testing.assert_allclose(logits, pooling[f"gndp_{name}_batch_0.4"][row, cls], atol=POOLING_TOLERANCE)


@pytest.mark.parametrize("case", range(4))
def test_loss_and_gradient(golden_dir, case):
    golden = np.load(golden_dir / "b_loss.npz")
    logits = torch.tensor(golden[f"logits{case}"], requires_grad=True)
    labels = torch.tensor(golden[f"labels{case}"])
    loss = rib_loss(logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"loss{case}"]), rel=1e-6)
    target = StepRecord(target_logits=[logits[:6][labels[:6] > 0]])  # the target's rows come first
    assert target.target_sum == pytest.approx(float(golden[f"target_loss{case}"]), rel=1e-6)
    np.testing.assert_array_equal(logits.grad, golden[f"grad{case}"])


@pytest.mark.parametrize("name", ["rib", "big", "irn"])
def test_learning_rates_and_parameter_values(golden_dir, name):
    golden = {key.removeprefix(f"{name}_"): value for key, value in np.load(golden_dir / "c_poly.npz").items()}
    steps, total_steps, learning_rate, weight_decay = golden["cfg"].tolist()
    weight, scale = nn.Parameter(torch.tensor(golden["w0"])), nn.Parameter(torch.tensor(golden["c0"]))
    frozen = nn.Parameter(torch.tensor(golden["fz"]), requires_grad=False)
    optimiser = PolySGD(
        [([weight, frozen], 1.0), ([scale], 10.0)],
        learning_rate=learning_rate,
        total_steps=int(total_steps),
        weight_decay=weight_decay,
        momentum=float(golden["sgd_momentum"]),
    )
    inputs, wanted = torch.tensor(golden["X"]), torch.tensor(golden["Y"])
    for step in range(int(steps)):
        optimiser.zero_grad()
        loss = (((inputs * scale) @ weight.T - wanted) ** 2).sum()
        loss.backward()
        rates = optimiser.step()
        assert loss.item() == pytest.approx(float(golden["loss"][step]), rel=1e-6)
        np.testing.assert_allclose(rates, golden["lr"][step], rtol=1e-7)  # cfg is stored as float32
        np.testing.assert_allclose(weight.detach(), golden["w"][step], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(scale.detach(), golden["c"][step], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(frozen, golden["fz"])
