"""A whole run of a set in which every pixel belongs to a class: network, scores and report know no background."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.chain import run
from tag2mask.cli.scores import print_scores
from tag2mask.common.files import read_json
from tag2mask.data import read_mask, write_mask
from tag2mask.engine.execution import Execution
from tag2mask.inference import predict_photos
from tag2mask.recipe import load_recipe
from tag2mask.reports import write_report
from tiny_run import RECIPE

CLASSES = ("field", "wood")


def write_land(folder: Path) -> None:
    """Photos of two halves, a class each, and their masks, which hold no 0."""
    rng = np.random.default_rng(5)
    lines = ["image,labels,split"]
    for number in range(8):
        tone = np.zeros((48, 64, 3), np.uint8)
        tone[:, :32], tone[:, 32:] = (200, 180, 60), (20, 90, 30)
        pixels = np.clip(tone + rng.integers(-15, 15, tone.shape), 0, 255).astype(np.uint8)
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        write_mask(folder / "masks" / f"{number}.png", np.where(tone[..., 0] > 100, 1, 2).astype(np.uint8))
        lines.append(f"{number}.png,field;wood,{'train' if number < 6 else 'val'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("land")
    write_land(folder / "land")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    changes = [
        "data={background: false}",
        "refine={method: none, threshold: 0.4}",
        "comparisons={}",
        "supervised=false",
    ]
    recipe = load_recipe(folder / "tiny.yaml", changes)
    here = Execution("cpu", workers=0, processes=1)
    run(recipe, folder / "land", folder / "run", execution=here, say=lambda _: None)
    return folder / "run"


@pytest.mark.parametrize("part", ["pseudo_masks", "masks", "predictions"])
def test_no_mask_holds_background(land: Path, part: str) -> None:
    masks = sorted((land / part / "masks").glob("*.png"))
    assert masks
    assert set(np.unique(np.stack([read_mask(path) for path in masks]))) <= {1, 2}
    assert "background" not in (land / part / "labelmap.txt").read_text()


def test_scores_and_report_leave_background_out(land: Path, capsys: pytest.CaptureFixture) -> None:
    scores = read_json(land / "scores.json")
    assert set(scores) == {"seed_cam", "seed_rib", "pseudo_mask", "final_mask", "segmentation_val"}
    for row in scores.values():
        assert set(row["per_class"]) == set(CLASSES)
        known = [value for value in row["per_class"].values() if value is not None]
        assert row["miou"] == pytest.approx(np.mean(known))
        assert row["interval"]["low"] <= row["miou"] + 1e-9
    print_scores(scores)
    assert "background" not in capsys.readouterr().out
    text = re.sub(
        r"<style>.*?</style>|<script.*?</script>|<pre.*?</pre>", "", write_report(land).read_text(), flags=re.S
    )
    assert "field" in text
    assert "background</th>" not in text
    assert "background only" not in text


def test_new_photos_have_none_either(land: Path, tmp_path: Path) -> None:
    here = Execution("cpu", workers=0, processes=1)
    assert predict_photos(land.parent / "land" / "0.png", land, tmp_path / "new", execution=here) == {}
    assert set(np.unique(read_mask(tmp_path / "new" / "masks" / "0.png"))) <= {1, 2}
    assert "background" not in (tmp_path / "new" / "labelmap.txt").read_text()


def test_the_order_of_the_classes_has_a_source(land: Path) -> None:
    for manifest in ("run.json", "classifier/manifest.json", "segmenter/manifest.json"):
        assert read_json(land / manifest)["class_source"] == "classes.txt"
