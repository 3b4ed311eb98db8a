"""Photos from a camera, and thumbnails: worked on within bounds of size, with masks in their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.files import read_json
from tag2mask.data import load_maps, read_mask
from tag2mask.experiments.demo_data import digit_scenes

pytest.importorskip("sklearn")

RECIPE = """
name: large
data: {classes: [four, six, three, two, zero], mask_classes: [four, six, three, two, zero], long_side: 80}
classifier: {backbone: resnet18, weights: none, epochs: 1, batch_size: 4, learning_rate: 0.001, long_side_min: 64,
             long_side_max: 80, crop_size: 64}
localize:
  partner_long_side_min: 64
  partner_long_side_max: 80
  partner_crop_size: 64
  rib: {steps: 2, step_size: searched, partners: amortised, batch_size: 2, limit: none, scales: [1.0, 0.5],
        loss_scales: [1.0]}
  gradient_images: 2
refine: {method: irn, confident: {refinement: none}, boundary: {epochs: 1, batch_size: 2, crop_size: 64, radius: 4}}
segmenter: {backbone: resnet18, weights: none, output_stride: 16, epochs: 1, batch_size: 2, learning_rate: 0.001,
            crop_size: 64}
predict: {scales: [1.0]}
"""
SIZE, SMALL = (480, 640), (24, 32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of 480 x 640 pixels, one of them stored lying on its side as a phone does."""
    return _scenes(tmp_path_factory, SIZE)


@pytest.fixture(scope="module")
def thumbnails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of 24 x 32 pixels."""
    return _scenes(tmp_path_factory, SMALL)


def _scenes(tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int]) -> Path:
    folder = digit_scenes(tmp_path_factory.mktemp("large") / "data", images=4, val_images=2, size=64, clutter=1)
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        image = Image.open(path).convert("RGB").resize(size[::-1])
        mask_path = folder / "masks" / f"{path.stem}.png"
        mask = Image.fromarray(np.array(Image.open(mask_path))).resize(size[::-1], Image.Resampling.NEAREST)
        exif = Image.Exif()
        if number == 0:
            exif[0x0112] = 6  # to be turned right by a quarter
            image = image.transpose(Image.Transpose.ROTATE_90)
        image.save(path, quality=90, exif=exif)
        mask.save(mask_path)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_masks_have_the_photos_own_size(data: Path, tmp_path: Path) -> None:
    _all_of_size(data, tmp_path, SIZE, [])


def test_small_photos_are_enlarged_and_their_masks_are_not(thumbnails: Path, tmp_path: Path) -> None:
    own = ["long_side_min=null", "long_side_max=null"]  # the classifier learns at the size that maps are made at
    overrides = ["data.long_side=[80, 96]", *(f"classifier.{text}" for text in own)]
    _all_of_size(thumbnails, tmp_path, SMALL, [part for text in overrides for part in ("--set", text)])


def _all_of_size(data: Path, tmp_path: Path, size: tuple[int, int], overrides: list[str]) -> None:
    out = tmp_path / "run"
    common = ["--data", str(data), "--out", str(out), "--workers", "0", "--processes", "1", *overrides]
    assert main(["run", str(data / "recipe.yaml"), *common]) == 0
    maps = [load_maps(path) for path in (out / "localization" / "rib").iterdir()]
    assert len(maps) == 4
    assert all(m.size == size and m.sums[0].shape[1:] == (4, 5) for m in maps)  # 80 x 60 pixels at stride 16
    for folder in ("pseudo_masks", "predictions"):
        masks = [read_mask(path) for path in (out / folder / "masks").iterdir()]
        assert masks
        assert all(mask.shape == size for mask in masks)
    assert all(
        read_mask(path).shape == (60, 80) for path in (out / "confident_rib" / "masks").iterdir()
    )  # where the boundary network learns
    scores = read_json(out / "scores.json")
    assert scores["pseudo_mask"]["images"] == 4
    assert scores["segmentation_val"]["images"] == 2
    assert (out / "report.html").is_file()
    assert main(["predict", "--images", str(data / "images"), "--out", str(out), "--masks", str(tmp_path / "m")]) == 0
    assert {read_mask(path).shape for path in (tmp_path / "m" / "masks").iterdir()} == {size}
    assert main(["train-segmenter", "--supervised", *common]) == 0


def test_a_size_that_is_too_small_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["run", str(data / "recipe.yaml"), "--data", str(data), "--out", str(tmp_path / "x")]
    for value, expected in {
        "8": "data.long_side is 8; expected a number, or a list of 2 numbers, each 32 or more",
        "[96, 80]": "data.long_side is [96, 80]; expected [least, most], ascending",
        "[96]": "data.long_side is [96]; expected a number, or a list of 2 numbers",
    }.items():
        assert main([*command, "--set", f"data.long_side={value}"]) == 2
        assert expected in capsys.readouterr().err
