"""The toy experiment: its pictures, its arithmetic, and the whole of it with few seeds."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError, DataError, MissingExtraError
from tag2mask.common.files import read_json, write_json
from tag2mask.experiments.hgr import high_gradient_ratio, share_of_maximum
from tag2mask.experiments.toy.config import QUICK, ToyConfig
from tag2mask.experiments.toy.data import DIGIT, IRRELEVANT, MARK, mark_shape, mnist_shapes, toy_data
from tag2mask.experiments.toy.endings import ENDINGS, ending_of, of_class
from tag2mask.experiments.toy.experiment import WEIGHTS, measure_one
from tag2mask.experiments.toy.measure import WITHOUT, Reading, gradients
from tag2mask.experiments.toy.network import STAGES, SixStages
from tag2mask.experiments.toy.summary import refuse_other
from tag2mask.experiments.toy.train import (
    Tuning,
    accuracy,
    as_batch,
    gndrp_loss,
    margin,
    mean_margin,
    opposed_loss,
    rib_loss,
    shared_batches,
    single_batches,
    train,
    tuning_for,
)

TINY = dataclasses.replace(QUICK, images=40, test_images=10, widths=(4, 4, 8, 8, 8), tuning_batch=10)


@pytest.fixture(scope="module")
def pictures():
    pytest.importorskip("sklearn")
    return toy_data(TINY, seed=0)


# --- the ratio -----------------------------------------------------------------------------------------


def test_ratio_counts_a_regions_pixels_above_the_threshold() -> None:
    magnitudes = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    shares = share_of_maximum(magnitudes)
    assert shares[0].tolist() == [[0.0, 0.5], [1.0, 0.25]]
    assert shares[1].eq(0).all()  # nothing there: not NaN
    region = torch.tensor([[[False, True], [True, True]], [[False, False], [False, False]]])
    assert high_gradient_ratio(shares, region, 0.3)[0].item() == pytest.approx(2 / 3)
    assert high_gradient_ratio(shares, region, 0.5)[0].item() == pytest.approx(1 / 3)  # above, not at
    assert high_gradient_ratio(shares, region, 0.3)[1].isnan()


# --- pictures ------------------------------------------------------------------------------------------


def test_pictures_hold_digit_and_mark_apart(pictures) -> None:
    train_set = pictures.train
    has_mark = (train_set.regions == MARK).any(axis=(1, 2))
    assert has_mark.sum() == 4  # a tenth of 40, the same for both classes
    assert (train_set.labels[has_mark] == 0).sum() == 2
    assert (train_set.labels == 0).sum() == 20
    assert (train_set.regions == DIGIT).any(axis=(1, 2)).all()
    assert (pictures.marked.regions == MARK).any(axis=(1, 2)).all()
    assert not (pictures.mark_only.regions == DIGIT).any()
    for image, region in zip(pictures.marked.images, pictures.marked.regions, strict=True):
        assert (image[region == IRRELEVANT] == 0).all()
        assert (image[region == MARK] == 1).all()
        assert (image[region == DIGIT] > 0).all()
        rows, columns = np.nonzero(region == MARK)
        around = region[max(rows.min() - 1, 0) : rows.max() + 2, max(columns.min() - 1, 0) : columns.max() + 2]
        assert not (around == DIGIT).any()


def test_marks_belong_to_their_class(pictures) -> None:
    for label, name in enumerate(("diamond", "square")):
        sizes = {(region == MARK).sum() for region in pictures.marked.regions[pictures.marked.labels == label]}
        assert sizes == {int(mark_shape(name, TINY.mark).sum())} == {(41, 49)[label]}


def test_pictures_depend_on_the_seed_alone(pictures) -> None:
    again, other = toy_data(TINY, seed=0), toy_data(TINY, seed=1)
    assert np.array_equal(again.train.images, pictures.train.images)
    assert not np.array_equal(other.train.images, pictures.train.images)
    erased = pictures.marked.without_marks()
    assert not (erased.regions == MARK).any()
    assert (erased.images[pictures.marked.regions == DIGIT] > 0).all()


def test_digits_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"tag2mask\[demo\]"):
        toy_data(TINY, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvas": 39}, "toy.canvas is 39; expected digit"),
        ({"mark": 8}, "mark is 8; expected an odd number"),
        ({"widths": (1,)}, "widths is .* a list of 5 numbers"),
        ({"images": 5}, "images is 5"),
        ({"marked_share": 1.0}, "marked_share"),
    ],
)
def test_impossible_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(ToyConfig(), **changes)


# --- MNIST ---------------------------------------------------------------------------------------------


def write_mnist(folder: Path, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, dash in (("train", "-"), ("t10k", ".")):  # both spellings are about
        labels = np.array([2, 8, 5, 8, 2], np.uint8)
        images = rng.integers(1, 255, (5, 28, 28), dtype=np.uint8)
        images[:, :4] = 0
        for name, magic, values in (
            (f"{part}-images{dash}idx3-ubyte", 0x803, images),
            (f"{part}-labels{dash}idx1-ubyte", 0x801, labels),
        ):
            data = struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()
            path = folder / (name + ".gz" if packed else name)
            path.write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_from_its_own_files(tmp_path: Path, packed: bool) -> None:
    shapes, held_out = mnist_shapes(write_mnist(tmp_path / "mnist", packed))
    assert [len(of_class) for of_class in shapes] == [2, 2]
    assert shapes[0][0].shape == (24, 28)  # cut to its ink
    assert shapes[0][0].max() <= 1
    assert len(held_out[1]) == 2
    data = toy_data(TINY, 0, tmp_path / "mnist")
    assert (data.train.regions == DIGIT).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within its header"),
        (struct.pack(">4I", 0x802, 1, 2, 2) + bytes(4), "begins with 0x802"),
        (struct.pack(">4I", 0x803, 2**20, 2**10, 2**10), "announces"),
        (struct.pack(">4I", 0x803, 1, 2, 2) + bytes(3), "3 of the 4 bytes"),
        (struct.pack(">4I", 0x803, 1, 2, 2) + bytes(9), "more than the 4 bytes"),
    ],
)
def test_bad_mnist_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_mnist(tmp_path / "mnist")
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte.*{message}"):
        mnist_shapes(folder)


def test_a_damaged_or_missing_mnist_file_is_named(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "mnist", packed=True)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(DataError, match="can't be unpacked"):
        mnist_shapes(folder)
    with pytest.raises(DataError, match="has no file train-images-idx3-ubyte"):
        mnist_shapes(tmp_path)


# --- network, endings, gradients -------------------------------------------------------------------------


def test_logits_are_the_mean_of_the_class_maps(pictures) -> None:
    network = SixStages(TINY, seed=1)
    images, _ = as_batch(pictures.marked)
    assert torch.allclose(network.class_maps(images).mean(dim=(2, 3)), network(images), atol=1e-5)
    assert len(network.stages(images)) == STAGES


@pytest.mark.parametrize("name", list(ENDINGS))
def test_slope_is_the_activations_derivative_over_its_steepest(name: str) -> None:
    ending = ENDINGS[name]
    logits = torch.tensor([[0.0, 0.0], [1.5, -0.5], [-3.0, 2.0], [0.7, 4.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 0])
    (derivative,) = torch.autograd.grad(of_class(ending.activation(logits), labels).sum(), logits)
    steepest = {"sigmoid": 0.25, "softmax": 0.25}.get(name, 1.0)
    expected = of_class(derivative, labels) / steepest
    assert ending.slope(logits.detach(), labels)[1:].tolist() == pytest.approx(expected[1:].tolist())


def test_unknown_ending_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sigmoid'"):
        ending_of("sigmoyd")


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_normalised_gradients_are_the_same_through_a_confident_activation_and_without_it(pictures, name: str) -> None:
    """The instrument can't see the activation itself, only what training through it has done to the weights."""
    network = SixStages(TINY, seed=1)
    with torch.no_grad():
        network.last.bias += 8
    found = gradients(network, pictures.marked, ENDINGS[name])
    with_it = found.shares[Reading(STAGES, "class", name)]
    assert with_it.amax() == 1
    assert torch.allclose(with_it, found.shares[Reading(STAGES, "class", WITHOUT)], atol=1e-5)
    assert found.slope.max() < 0.01  # and yet it is nearly flat


def test_gradient_of_a_stage_is_that_of_its_sum(pictures) -> None:
    network = SixStages(TINY, seed=1).double().requires_grad_(False)
    network.convolutions[0].bias += 0.05  # black lies in a ReLU's kink otherwise, where a difference is no gradient
    images = as_batch(pictures.marked)[0].double()
    shares = gradients(network, pictures.marked, None).shares[Reading(2, "sum", "")]
    step, place = 1e-6, tuple(int(i) for i in np.argwhere(pictures.marked.regions[0] == MARK)[0])
    changes = []
    for row, column in (place, (place[0], place[1] + 1)):
        moved = images[:1].clone()
        moved[0, 0, row, column] += step
        difference = network.stages(moved)[1].sum() - network.stages(images[:1])[1].sum()
        changes.append(abs(float(difference)) / step)
    expected = changes[0] / changes[1]
    assert float(shares[0][place] / shares[0][place[0], place[1] + 1]) == pytest.approx(expected, rel=1e-3)


# --- training and tuning ---------------------------------------------------------------------------------


def test_training_learns_its_pictures_and_repeats(pictures) -> None:
    config = dataclasses.replace(TINY, epochs=30, batch_size=10, learning_rate=5e-3)
    network = train(pictures.train, ENDINGS["sigmoid"], config, seed=0)
    assert accuracy(network, pictures.train) > 0.85
    again = train(pictures.train, ENDINGS["sigmoid"], config, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_rate_makes_the_targets_output_grow_as_asked(pictures) -> None:
    network = SixStages(TINY, seed=1).double()
    config = dataclasses.replace(TINY, growth=1e-7, steps=1)  # to first order: so small that no ReLU switches
    images, labels = shared_batches(pictures.train, config, seed=0)[0]
    images = images.double()
    with torch.no_grad():
        network.last.bias += 5  # outputs of one sign, or their mean size is not the size of their mean
        for layer in network.convolutions:
            layer.bias += 0.05  # black pixels begin at the kink
    tuning = tuning_for(network, [((images, labels), len(labels))], config)
    before = of_class(network(images), labels).mean().item()
    after = of_class(tuning.tuned(network, [(images, labels)], rib_loss)(images), labels).mean().item()
    assert (after - before) / before == pytest.approx(1e-7, rel=1e-4)


def test_partners_of_a_single_picture_are_of_the_other_class(pictures) -> None:
    images, labels = as_batch(pictures.marked)
    steps = single_batches((images[1:2], labels[1:2]), pictures.train, TINY, seed=0, name=1)
    assert len(steps) == TINY.steps
    assert all(batch[1].tolist() == [1, 0] for batch in steps)
    assert all(torch.equal(batch[0][0], images[1]) for batch in steps)


def test_losses_raise_the_own_class_and_leave_the_network_alone(pictures) -> None:
    network = train(pictures.train, ENDINGS["sigmoid"], TINY, seed=0)
    kept = [parameter.clone() for parameter in network.parameters()]
    images, labels = as_batch(pictures.train)
    own = of_class(network(images), labels).mean()
    raised = Tuning(1e-4, TINY).tuned(network, [(images, labels)], rib_loss)
    assert of_class(raised(images), labels).mean() > own
    apart = Tuning(1e-4, TINY).tuned(network, [(images, labels)], opposed_loss)
    assert mean_margin(apart, pictures.train) > margin(network, images, labels).mean().item()
    masked, plain = gndrp_loss(network, images, labels), rib_loss(network, images, labels)
    assert masked.item() != pytest.approx(plain.item())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), kept, strict=True))


# --- all of it -------------------------------------------------------------------------------------------


def test_one_command_writes_figure_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("sklearn")
    arguments = ["toy", "--quick", "--seeds", "2", "--last", "sigmoid", "--processes", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for text in ("G5", "non-discriminative", "mark effect", "toy.svg"):
        assert text in printed
    rows = list(csv.DictReader((tmp_path / "toy.csv").open(encoding="utf-8")))
    assert {row["weights"] for row in rows} == set(WEIGHTS)
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert {row["images"] for row in rows} == {str(QUICK.marked_images)}
    _check_one_mean(rows, list(csv.DictReader((tmp_path / "toy_summary.csv").open(encoding="utf-8"))))
    again = measure_one(1, "sigmoid", QUICK, "sklearn")  # the same numbers for the same seed
    stored = [row["hgr"] for row in rows if row["seed"] == "1" and row["weights"] == "without-gndrp"]
    assert stored == [f"{row.hgr:.6f}" for row in again.rows["without-gndrp"]]
    assert read_json(tmp_path / "toy.json")["config"]["epochs"] == QUICK.epochs
    before = (tmp_path / "toy.csv").read_bytes()
    assert main([*arguments, "--epochs", "3"]) == 2
    assert "epochs 2 there, 3 now" in capsys.readouterr().err
    assert (tmp_path / "toy.csv").read_bytes() == before
    words = " ".join(ElementTree.parse(tmp_path / "toy.svg").getroot().itertext())
    for panel in ("Data", "Normalised gradient magnitude", "HGR by stage", "HGR of the non-discriminative"):
        assert panel in words


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seeds": range(2)}, "seeds [0, 1, 2] there, [0, 1] now"),
        ({"last": ["tanh"]}, "last ['sigmoid'] there, ['tanh'] now"),
        ({"config": QUICK}, f"images {ToyConfig().images} there, {QUICK.images} now"),
        ({"digits": "folder"}, "digits 'sklearn' there, 'mnist' now"),
    ],
)
def test_other_settings_do_not_replace_a_result(tmp_path: Path, changes: dict, difference: str) -> None:
    settings = {"seeds": range(3), "last": ["sigmoid"], "config": ToyConfig(), "digits": "sklearn"}
    write_json(
        tmp_path / "toy.json",
        {
            "seeds": [0, 1, 2],
            "digits": "sklearn",
            "config": dataclasses.asdict(ToyConfig()),
            "checks": [{"last": "sigmoid", "seed": seed} for seed in range(3)],
        },
    )
    refuse_other(tmp_path, **settings)  # the same again is fine
    with pytest.raises(ConfigError, match=f"{re.escape(difference)}.*choose another --out"):
        refuse_other(tmp_path, **settings | changes)
    (tmp_path / "toy.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be read"):
        refuse_other(tmp_path, **settings)


def _check_one_mean(rows: list[dict[str, str]], summary: list[dict[str, str]]) -> None:
    key = {
        "weights": "trained",
        "stage": "5",
        "scalar": "sum",
        "scale": "own",
        "threshold": "0.3",
        "region": "non-discriminative",
    }
    values = [float(row["hgr"]) for row in rows if key.items() <= row.items()]
    (found,) = (row for row in summary if key.items() <= row.items())
    assert len(values) == 2
    assert float(found["mean"]) == pytest.approx(np.mean(values), abs=1e-4)
    assert float(found["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-4)


def test_seeds_are_needed(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["toy", "--seeds", "0"])
    assert "'0' is not a whole number from 1 up" in capsys.readouterr().err
