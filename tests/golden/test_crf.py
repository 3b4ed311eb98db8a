"""The dense CRF gives the reference's labels exactly and its posterior to 1e-5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tag2mask.refine.crf import LABEL_CRF, _infer, crf_labels, label_energy

pytest.importorskip("pydensecrf", reason="the extra 'crf' is not installed")


@pytest.fixture(scope="module")
def numbers(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "i_crf.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("n_labels", [3, 4])
@pytest.mark.parametrize("iterations", [1, 10])
def test_labels_equal_the_reference(
    numbers: dict[str, np.ndarray], image: int, n_labels: int, iterations: int
) -> None:
    parameters = replace(LABEL_CRF, iterations=iterations)
    refined = crf_labels(numbers[f"img{image}"], numbers[f"labels{image}"], n_labels, parameters=parameters)
    np.testing.assert_array_equal(refined, numbers[f"crf{image}_n{n_labels}_t{iterations}"])
    if iterations == 10:
        assert (refined != numbers[f"labels{image}"]).any(), "the case would pass without any CRF"


@pytest.mark.parametrize("image", [0, 1])
def test_two_labels_and_background_only(numbers: dict[str, np.ndarray], image: int) -> None:
    photo = numbers[f"img{image}"]
    two = crf_labels(photo, numbers[f"labels2_{image}"], 2)
    np.testing.assert_array_equal(two, numbers[f"crf{image}_two"])
    empty = np.zeros(photo.shape[:2], np.int64)
    np.testing.assert_array_equal(crf_labels(photo, empty, 2), numbers[f"crf{image}_onlybg_n2"])


def test_energy_and_posterior(numbers: dict[str, np.ndarray]) -> None:
    energy = label_energy(numbers["labels0"], 3, LABEL_CRF.label_probability)
    np.testing.assert_array_equal(energy.reshape(3, -1), numbers["unary0_n3"])
    posterior = _infer(numbers["img0"], energy, LABEL_CRF)
    np.testing.assert_allclose(posterior, numbers["crf0_n3_t10_q"], rtol=0, atol=1e-5)


def test_layout_of_memory_does_not_matter(numbers: dict[str, np.ndarray]) -> None:
    photo = np.asfortranarray(numbers["img0"])
    labels = np.asfortranarray(numbers["labels0"])
    np.testing.assert_array_equal(crf_labels(photo, labels, 3), numbers["crf0_n3_t10"])
