"""Resizing, cropping, normalising and joining of maps against numbers of the reference implementation."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask.data import at_full, at_stride4, decode_image, transforms
from tag2mask.data.maps import strided_size, strided_up_size

RIB_RUNS = (
    "default_2007_000032",
    "default_2007_000063",
    "explode_2007_000032",
    "gap_2007_000032",
    "stopneg_2007_000063",
)


@pytest.fixture(scope="module")
def numbers(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "d_imutils.npz", allow_pickle=False) as stored:
        return dict(stored)


def test_rescaled_sizes(numbers: dict[str, np.ndarray]) -> None:
    for height, width, scale, *expected in numbers["pil_rescale"]:
        assert transforms.scaled_size((int(height), int(width)), scale) == tuple(expected)


@pytest.mark.parametrize("scale", ["0.5", "1.5", "2.0"])
def test_cubic_pixels(numbers: dict[str, np.ndarray], scale: str) -> None:
    assert np.array_equal(transforms.rescale(numbers["img"], float(scale)), numbers[f"pil_rescale_cubic_{scale}"])


@pytest.mark.parametrize("scale", ["0.25", "1.3"])
def test_nearest_pixels(numbers: dict[str, np.ndarray], scale: str) -> None:
    ours = transforms.rescale(numbers["lab"], float(scale), nearest=True)
    assert np.array_equal(ours, numbers[f"pil_rescale_nearest_{scale}"])


def test_random_long_side(numbers: dict[str, np.ndarray]) -> None:
    rng = random.Random(5)
    for height, width, target, *expected in numbers["random_resize_long"]:
        blank = np.zeros((height, width, 3), np.uint8)
        assert transforms.random_resize_long(blank, rng).shape[:2] == tuple(expected)
        assert max(expected) == target


def test_strided_sizes(numbers: dict[str, np.ndarray]) -> None:
    for height, width, stride, *expected in numbers["strided"]:
        size = (int(height), int(width))
        assert strided_size(size, stride) + strided_up_size(size, stride) == tuple(expected)


def test_crop_boxes(numbers: dict[str, np.ndarray]) -> None:
    rng = random.Random(6)
    for height, width, crop_size, *edges in numbers["crop_box"]:
        top, bottom, left, right, image_top, image_bottom, image_left, image_right = edges
        box = transforms.draw_crop_box((height, width), crop_size, rng)
        assert (box.top, box.left) == (top, left)
        assert (box.image_top, box.image_left) == (image_top, image_left)
        assert (box.height, box.width) == (bottom - top, right - left)
        assert (box.height, box.width) == (image_bottom - image_top, image_right - image_left)


def test_crop_pixels(numbers: dict[str, np.ndarray]) -> None:
    image, mask = numbers["img"], numbers["lab"]
    box = transforms.draw_crop_box((37, 45), 40, random.Random(7))
    assert np.array_equal(transforms.crop(image.astype(np.float32), box, 40), numbers["crop_img"])
    assert np.array_equal(transforms.crop(mask, box, 40, 255), numbers["crop_lab"])
    assert np.array_equal(transforms.top_left_crop(image, 40), numbers["topleft_img"])
    assert np.array_equal(transforms.top_left_crop(mask, 40, 255), numbers["topleft_lab"])


def test_mirror_draws(numbers: dict[str, np.ndarray]) -> None:
    rng = random.Random(8)
    assert [transforms.draw_mirror(rng) for _ in numbers["flips"]] == numbers["flips"].tolist()


def test_normalised_values(numbers: dict[str, np.ndarray]) -> None:
    assert np.array_equal(transforms.normalise(numbers["img"]), numbers["normalize"])


def replayed(recorded: dict) -> tuple[transforms.Draws, list[int]]:
    side, mirror, left, top = (draw[2] for draw in recorded["rand"])
    return transforms.Draws(side, bool(mirror), left, top), [draw[1][0] for draw in recorded["rand"][2:]]


@pytest.mark.parametrize("tag", RIB_RUNS)
def test_recorded_batches_replay(golden_dir: Path, tag: str) -> None:
    record = json.loads((golden_dir / f"g_rib_{tag}.json").read_text(encoding="utf-8"))
    with np.load(golden_dir / f"g_rib_{tag}.npz", allow_pickle=False) as run:
        steps = [s for s in range(len(record["sampled"]) // 4) if f"step{s}_batch_sub" in run][:3]
        assert steps
        for step in steps:
            samples = []
            for sampled in record["sampled"][4 * step : 4 * step + 4]:
                image = decode_image(golden_dir / "data/VOC/JPEGImages" / f"{sampled['name']}.jpg")
                samples.append(transforms.augment(image, replayed(sampled)[0], 512))
            batch = np.stack(samples)
            np.testing.assert_allclose(batch[:, :, 13::64, 13::64], run[f"step{step}_batch_sub"], atol=1e-5)
            whole = [batch.mean(), np.abs(batch).mean(), batch.std()]
            np.testing.assert_allclose(whole, run[f"step{step}_batch_fingerprint"], atol=1e-5)


def test_our_draws_have_the_recorded_ranges(golden_dir: Path) -> None:
    record = json.loads((golden_dir / "g_rib_default_2007_000032.json").read_text(encoding="utf-8"))
    for sampled in record["sampled"][:8]:
        image = decode_image(golden_dir / "data/VOC/JPEGImages" / f"{sampled['name']}.jpg")
        draws, ranges = replayed(sampled)
        recorder = Recorder([draws.long_side, int(draws.mirror), draws.left, draws.top])
        assert transforms.Draws.draw(recorder, image.shape[:2]) == draws
        assert recorder.asked == [(320, 640), (1,), (ranges[0],), (ranges[1],)]


class Recorder(random.Random):
    """Answers draws from a list and notes what was asked."""

    def __new__(cls, answers: list[int]) -> Recorder:
        return super().__new__(cls)  # Python 3.10's takes what it is given for a seed

    def __init__(self, answers: list[int]) -> None:
        super().__init__(0)
        self.answers, self.asked = answers, []

    def _answer(self, *asked: int) -> int:
        self.asked.append(asked)
        return self.answers[len(self.asked) - 1]

    randint = getrandbits = randrange = _answer  # type: ignore[assignment]


@pytest.mark.parametrize("tag", RIB_RUNS)
def test_joined_maps(golden_dir: Path, tag: str) -> None:
    with np.load(golden_dir / f"g_rib_{tag}.npz", allow_pickle=False) as run:
        sums = [torch.from_numpy(run[f"accum_scale{scale}"][run["keys"]]) for scale in range(4)]
        size = (int(run["size"][0]), int(run["size"][1]))
        np.testing.assert_allclose(at_stride4(sums, size), run["cam"], atol=1e-5)
        np.testing.assert_allclose(at_full(sums, size), run["high_res"], atol=1e-5)
