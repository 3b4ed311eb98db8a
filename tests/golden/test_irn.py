"""The boundary network, its inference, losses and training against the reference's own numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask.networks import BoundaryNetwork, boundary_loss, build_boundary_network
from tag2mask.networks.boundary import _Pairs
from tag2mask.networks.paths import destinations
from tag2mask.refine.affinity import affinities
from tag2mask.rib import PolySGD

OUTPUTS = 5e-5  # of logits and displacements of about 1 to 3; processors differ by up to 2e-5
EDGES = 2e-6
LOSSES = 1e-5
GRADIENTS = 1e-4  # of a tensor's norm
WEIGHTS = 2e-6  # after two steps
CASES = {"adl_r5": 5, "adl_r10": 10}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as the numbers were recorded: the L1 loss turns round-off near zero into whole steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden_dir / "f_irn.npz"))


@pytest.fixture(scope="module")
def make(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], BoundaryNetwork]:
    """Give the golden network, each time with its first weights."""
    spec = importlib.util.spec_from_file_location("make_state", golden_dir / "make_state.py")
    make_state = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_state)
    weights = tmp_path_factory.mktemp("state") / "resnet50.pth"
    torch.save(make_state.resnet50_state(), weights)
    network = build_boundary_network("resnet50", str(weights))

    def again() -> BoundaryNetwork:
        make_state.fill_named([(n, p) for n, p in network.named_parameters() if n.startswith("fc_")], 31)
        network.mean_shift.zero_()
        network.zero_grad(set_to_none=True)
        return network.train(False)

    return again


@pytest.mark.parametrize(
    ("case", "pad_to"), [("64", 64), ("53x61", 64), ("72x80coco", None), ("50x70coco", None), ("70x90crop", 64)]
)
def test_inference(golden, make, case: str, pad_to: int | None) -> None:
    network = make()
    network.mean_shift.copy_(torch.tensor(golden["ed_mean_shift"]))
    images = torch.tensor(golden[f"ed_{case}_x"])
    if case == "70x90crop":  # the reference cuts it to its crop size of 64 without a word; here that is said
        assert network.infer(images, pad_to=pad_to)[0].shape == (18, 23)
        images = images[..., :64, :64]
    edge, displacement = network.infer(images, pad_to=pad_to)
    np.testing.assert_allclose(edge, golden[f"ed_{case}_edge"][0], rtol=0, atol=EDGES)
    np.testing.assert_allclose(displacement, golden[f"ed_{case}_dp"], rtol=0, atol=OUTPUTS)


@pytest.mark.parametrize("case", CASES)
def test_outputs_in_training(golden, make, case: str) -> None:
    network = make().train()
    network.mean_shift.fill_(5.0)  # not subtracted in training
    edge, displacement = network(torch.tensor(golden[f"{case}_x"]))
    np.testing.assert_allclose(edge.detach(), golden[f"{case}_edge_logit"], rtol=0, atol=OUTPUTS)
    np.testing.assert_allclose(displacement.detach(), golden[f"{case}_dp"], rtol=0, atol=OUTPUTS)


@pytest.mark.parametrize("case", CASES)
def test_kinds_of_pairs(golden, case: str) -> None:
    pairs = _Pairs(torch.tensor(golden[f"{case}_seg"]), CASES[case])
    kinds = [kinds for _, kinds in pairs]
    for index, name in enumerate(("bg", "fg", "neg")):
        ours = torch.stack([kind[index].flatten(1) for kind in kinds], dim=1)  # (B, K, S)
        np.testing.assert_array_equal(ours, golden[f"{case}_{name}"])
    counts = [pairs.n_background, pairs.n_foreground, pairs.n_different]
    assert [int(count) for count in counts] == [int(golden[f"{case}_{n}"].sum()) for n in ("bg", "fg", "neg")]


@pytest.mark.parametrize("case", CASES)
def test_maps_of_single_pairs(golden, case: str) -> None:
    """Before they are averaged: of the recorded outputs, for every pair."""
    radius = CASES[case]
    edge, field = (torch.tensor(golden[f"{case}_{name}"]) for name in ("edge_logit", "dp"))
    pairs = _Pairs(torch.tensor(golden[f"{case}_seg"]), radius)
    affinity = torch.stack([pairs.seen(affinities(e[0].sigmoid(), radius), 0, 0).flatten(1) for e in edge])
    positive, negative = -torch.log(affinity + 1e-5), -torch.log(1 + 1e-5 - affinity)
    offsets = destinations(radius)
    differences = [pairs.seen(field, 0, 0) - pairs.seen(field, dy, dx) for dy, dx in offsets]
    background = torch.stack(differences, dim=2).flatten(3)  # (B, 2, K, S)
    target = torch.tensor(offsets.T.copy()).view(1, 2, -1, 1).float()
    np.testing.assert_array_equal(target, golden[f"{case}_disp_target"])
    found = {"pos": positive, "neg_": negative, "dpfg": (background - target).abs(), "dpbg": background.abs()}
    for name, values in found.items():
        assert list(values.shape) == golden[f"{case}_{name}_shape"].tolist()
        total = float(values.sum(dtype=torch.float64))
        assert total == pytest.approx(float(golden[f"{case}_{name}_sum"]), rel=1e-6)
        recorded = golden[f"{case}_{name}_map0"]
        # recorded of its own outputs, one step apart in the last digits; dp maps only where both kinds agree
        np.testing.assert_allclose(values[0], recorded, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=CASES)
def trained(request, golden, make) -> Iterator[tuple[str, BoundaryNetwork, list, dict]]:
    """Two steps of training: the losses before each, and the gradients' norms of the first."""
    case, network = request.param, make().train()
    optimiser = PolySGD(
        [(group, by) for group, by in zip(network.parameter_groups(), (1, 10), strict=True)],
        learning_rate=0.1,
        total_steps=10,
        weight_decay=1e-4,
        momentum=1e-4,
    )
    losses, norms = [], {}
    images, labels = torch.tensor(golden[f"{case}_x"]), torch.tensor(golden[f"{case}_seg"]).long()
    for _ in range(2):
        current = boundary_loss(*network(images), labels, radius=CASES[case])
        losses.append([value.item() for value in current])
        optimiser.zero_grad()
        current.total.backward()
        norms = norms or {n: p.grad.norm().item() for n, p in network.named_parameters() if p.grad is not None}
        optimiser.step()
    return case, network, losses, norms


def test_losses_before_and_after_a_step(golden, trained) -> None:
    case, _, losses, _ = trained
    np.testing.assert_allclose(losses[0], golden[f"{case}_losses0"], rtol=LOSSES)
    np.testing.assert_allclose(losses[1], golden[f"{case}_losses1"], rtol=LOSSES)


def test_gradients(golden, trained) -> None:
    case, _, _, norms = trained
    recorded = dict(zip(golden[f"{case}_grad_names"].tolist(), golden[f"{case}_grad_norms"].tolist(), strict=True))
    assert norms == pytest.approx(recorded, rel=GRADIENTS)


def test_weights_after_two_steps(golden, trained) -> None:
    case, network, _, _ = trained
    edge, displacement = network.fc_edge6.weight.detach(), network.fc_dp7[3].weight.detach()
    np.testing.assert_allclose(edge, golden[f"{case}_w_after2"], rtol=0, atol=WEIGHTS)
    np.testing.assert_allclose(displacement, golden[f"{case}_dp7_after2"], rtol=0, atol=WEIGHTS)
    network.eval()
    with torch.no_grad():
        mean = network(torch.tensor(golden[f"{case}_x"]))[1].mean(dim=(0, 2, 3))
    np.testing.assert_allclose(mean, golden[f"{case}_eval_dp_mean"], rtol=0, atol=OUTPUTS)
