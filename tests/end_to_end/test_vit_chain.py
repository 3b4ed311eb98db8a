"""The whole chain on a plain ViT, tiny and random: every stage that takes a backbone, interrupted and not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_families  # noqa: F401  # timm knows its networks by name from now on
from tag2mask import localize_image
from tag2mask.chain import run
from tag2mask.common.files import read_json
from tag2mask.data import load_maps
from tag2mask.engine.execution import Execution
from tag2mask.recipe import load_recipe
from tiny_run import write_photos

RECIPE = """
name: tiny
seed: 3
data: {mask_classes: [cat, cow, person]}
backbone: tiny_vit
classifier: {weights: none, epochs: 2, batch_size: 4}
localize: {gradient_images: 2}
affinity: {weights: none, scale: 1.0, positions: 64}
refine:
  method: irn
  unsure: 0.05
  confident: {refinement: none}
  boundary: {weights: none, epochs: 1, batch_size: 4, crop_size: 64, radius: 4}
segmenter: {weights: none, epochs: 1, batch_size: 4}
predict: {scales: [1.0]}
supervised: false
evaluate: {threshold_step: 0.1, resamples: 20}
"""
SIZES = ["classifier.long_side_min=48", "classifier.long_side_max=64", "classifier.crop_size=64"]
SIZES += ["localize.partner_long_side_min=64", "localize.partner_long_side_max=64", "localize.partner_crop_size=64"]
SIZES += ["segmenter.crop_size=64", "localize.rib.scales=[1.0, 2.0]", "localize.rib.loss_scales=[1.0]"]
SIZES += ["localize.rib.mirror=false"]
ONE = Execution("cpu", workers=0, processes=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    write_photos(folder / "farm")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    run(load_recipe(folder / "tiny.yaml", SIZES), folder / "farm", folder / "run", execution=ONE, say=lambda _: None)
    return folder


def test_every_stage_is_done(finished: Path) -> None:
    folder = finished / "run"
    config = read_json(folder / "classifier" / "manifest.json")["config"]
    assert (config["backbone"], config["pooling"]) == ("tiny_vit", "ranking")
    assert read_json(folder / "segmenter" / "manifest.json")["config"]["backbone"] == "tiny_vit"
    scores = read_json(folder / "scores.json")
    assert {"seed_cam", "seed_rib", "seed_rib_affinity", "pseudo_mask", "segmentation_val"} <= set(scores)
    maps = load_maps(folder / "localization" / "rib" / "photo 00 é.npz")
    assert maps.whole
    assert [values.shape[1:] for values in maps.sums] == [(3, 4), (6, 8)]  # 48 x 64 photo pixels, cells of 16
    assert maps.full().shape[1:] == (48, 64)
    followed = load_maps(folder / "affinity" / "rib" / "photo 00 é.npz")
    assert not followed.whole
    assert followed.full().shape == maps.full().shape


def test_one_photo_in_memory(finished: Path) -> None:
    photo = finished / "farm" / "photo 00 é.png"
    stored = load_maps(finished / "run" / "localization" / "cam" / "photo 00 é.npz")
    config = load_recipe(finished / "tiny.yaml", SIZES).localize.rib
    found = localize_image(finished / "run", photo, list(map(int, stored.classes)), config)
    assert found.cam.whole
    assert np.allclose(found.cam.full(), stored.full(), atol=2e-3)  # files hold half precision
    rib = localize_image(finished / "run", Image.open(photo), list(map(int, stored.classes)), config).rib
    assert np.array_equal(rib.full(), found.rib.full())


def test_a_map_that_was_lost_comes_back_the_same(finished: Path) -> None:
    path = finished / "run" / "localization" / "rib" / "photo 03 é.npz"
    before = load_maps(path)
    path.unlink()
    run(load_recipe(finished / "tiny.yaml", SIZES), finished / "farm", finished / "run", execution=ONE, say=print)
    assert all(np.array_equal(a, b) for a, b in zip(before.sums, load_maps(path).sums, strict=True))
