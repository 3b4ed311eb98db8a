"""Masks of photos and of a split: which mask belongs to which photo, what is refused, impossible settings."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.common.files import read_json, write_json
from tag2mask.config import to_mapping
from tag2mask.data import Dataset, ImageRecord, read_mask, write_mask
from tag2mask.engine.execution import Execution
from tag2mask.inference import predict_photos
from tag2mask.networks import save_module
from tag2mask.stages import predict as stage
from tag2mask.stages.answer import Answer
from tag2mask.stages.predict import PredictConfig, check, predict
from tag2mask.stages.train_segmenter import SegmenterConfig, build_segmenter

CONFIG = PredictConfig(scales=(1.0,), mirror=False)
SEGMENTER = SegmenterConfig(backbone="efficientnet_lite0", weights="none", output_stride=16)
CLASSES = ("cat", "dog")


def nothing(image: np.ndarray) -> Answer:
    """All background."""
    return Answer(np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a recipe and an untrained segmentation network."""
    folder = tmp_path_factory.mktemp("run")
    save_module(build_segmenter(SEGMENTER, len(CLASSES) + 1, "none"), folder / "segmenter" / "weights.safetensors")
    write_json(
        folder / "segmenter" / "manifest.json",
        {
            "stage": "train-segmenter",
            "config": to_mapping(SEGMENTER),
            "classes": list(CLASSES),
            "finished": True,
        },
    )
    (folder / "recipe.yaml").write_text("name: tiny\npredict: {scales: [1.0], mirror: false}\n", encoding="utf-8")
    return folder


def photo(path: Path, size: tuple[int, int] = (40, 32), seed: int = 0) -> Path:
    """A photo of (width, height) pixels of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_another_photo_of_the_same_name_never_gets_the_old_mask(run: Path, tmp_path: Path) -> None:
    first, second = photo(tmp_path / "a" / "IMG_1.jpg"), photo(tmp_path / "b" / "IMG_1.jpg", (24, 40), seed=1)
    masks = tmp_path / "m"
    assert predict_photos(first, run, masks, CONFIG) == {}
    before = (masks / "masks" / "IMG_1.png").read_bytes()
    with pytest.raises(ConfigError, match=r"b/IMG_1\.jpg: .*made from another photo .*a/IMG_1\.jpg.*another folder"):
        predict_photos(second, run, masks, CONFIG)
    assert (masks / "masks" / "IMG_1.png").read_bytes() == before
    (masks / "masks" / "IMG_1.png").unlink()  # the remedy that the error names
    assert predict_photos(second, run, masks, CONFIG) == {}
    assert read_mask(masks / "masks" / "IMG_1.png").shape == (40, 24)


def test_a_photo_replaced_under_its_name_is_told(run: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "new" / "IMG_1.png")
    predict_photos(path, run, tmp_path / "m", CONFIG)
    state = path.stat()
    photo(path, seed=1)  # the same number of pixels
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(ConfigError, match="an earlier state of this photo"):
        predict_photos(path, run, tmp_path / "m", CONFIG)


def test_other_tags_of_a_photo_are_told(run: Path, tmp_path: Path) -> None:
    photos, masks = [photo(tmp_path / "photos" / f"{number}.png", seed=number) for number in range(3)], tmp_path / "m"

    def predicted(rows: str) -> list[list[int]]:
        (tmp_path / "tags.csv").write_text("image,labels\n" + rows, encoding="utf-8")
        predict_photos(tmp_path / "photos", run, masks, CONFIG, tags=tmp_path / "tags.csv")
        return [np.unique(read_mask(masks / "masks" / path.name)).tolist() for path in photos]

    first = predicted("0.png,cat\n1.png,\n")
    assert set(first[0]) <= {0, 1}
    assert first[1] == [0]  # it is known to show none of the classes; of the third nothing is known
    assert predicted("0.png,cat\n1.png,\n") == first
    with pytest.raises(ConfigError, match=r"0\.png was made from this photo with other tags; nothing is overwritten"):
        predicted("0.png,dog\n1.png,\n")
    with pytest.raises(ConfigError, match="this photo with other tags"):
        predicted("0.png,cat\n1.png,\n2.png,dog\n")


def test_rows_of_no_photo_are_named(run: Path, tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "0.png")
    (tmp_path / "tags.csv").write_text("image,labels\n0.png,cat\ntypo.png,dog\n", encoding="utf-8")
    said: list[str] = []
    predict_photos(tmp_path / "photos", run, tmp_path / "m", CONFIG, tags=tmp_path / "tags.csv", say=said.append)
    assert len(said) == 1
    assert "1 row(s) are of no photo there: typo.png" in said[0]


def test_tags_of_a_folder_that_an_earlier_version_began(run: Path, tmp_path: Path) -> None:
    """It noted no tags: only photos that are told to show no class may have another mask by now."""
    photo(tmp_path / "photos" / "0.png"), photo(tmp_path / "photos" / "1.png")
    (tmp_path / "tags.csv").write_text("image,labels\n0.png,cat\n1.png,dog\n", encoding="utf-8")
    masks = tmp_path / "m"
    predict_photos(tmp_path / "photos", run, masks, CONFIG, tags=tmp_path / "tags.csv")
    made = read_json(masks / "manifest.json")
    made["config"]["negatives"] = False
    for noted in made["photos"].values():
        del noted["labels"]
    write_json(masks / "manifest.json", made)
    predict_photos(tmp_path / "photos", run, masks, CONFIG, tags=tmp_path / "tags.csv")
    write_json(masks / "manifest.json", made)
    (tmp_path / "tags.csv").write_text("image,labels\n0.png,cat\n1.png,\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1\.png was made from this photo with other tags"):
        predict_photos(tmp_path / "photos", run, masks, CONFIG, tags=tmp_path / "tags.csv")


def test_tiles_are_of_the_photo_at_its_own_size(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        stage, "predict_answer", lambda network, image, *_: seen.append(image.shape) or nothing(image)
    )
    large, small = photo(tmp_path / "large.png", (300, 200)), photo(tmp_path / "small.png", (30, 20))
    for long_side in (64, (64, 128)):
        dataset = Dataset("photos", CLASSES, (ImageRecord("large", large, ()), ImageRecord("small", small, ())))
        dataset = dataset.worked_on_at(long_side)
        out, network = tmp_path / f"masks {long_side}", run / "segmenter"
        predict(dataset, network, out, dataclasses.replace(CONFIG, tile=128), execution=Execution("cpu", processes=1))
    assert seen == [(200, 300, 3), (20, 30, 3), (200, 300, 3), (43, 64, 3)]  # the least size still holds


def test_added_photos_are_done_in_addition(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, masks = tmp_path / "new", tmp_path / "m"
    photo(new / "one.jpg")
    (new / "bad.jpg").write_bytes(b"")
    assert set(predict_photos(new, run, masks, CONFIG)) == {"bad"}
    written = (masks / "masks" / "one.png").stat().st_mtime_ns
    photo(new / "two.jpg", (24, 40))
    photo(new / "bad.jpg")  # mended
    assert predict_photos(new, run, masks, CONFIG) == {}
    assert {path.name for path in (masks / "masks").iterdir()} == {"one.png", "two.png", "bad.png"}
    assert (masks / "masks" / "one.png").stat().st_mtime_ns == written
    assert predict_photos(photo(tmp_path / "alone.jpg"), run, masks, CONFIG) == {}
    manifest = read_json(masks / "manifest.json")
    assert manifest["finished"]
    assert {name: state["status"] for name, state in manifest["images"].items()} == dict.fromkeys(
        ("one", "two", "bad", "alone"), "done"
    )
    monkeypatch.setattr(stage, "run_images", lambda *_, **__: pytest.fail("nothing is left to do"))
    assert predict_photos(new, run, masks, CONFIG) == {}


def test_other_settings_are_still_refused(run: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "one.jpg")
    predict_photos(path, run, tmp_path / "m", CONFIG)
    with pytest.raises(ConfigError, match=r"config\.mirror"):
        predict_photos(path, run, tmp_path / "m", dataclasses.replace(CONFIG, mirror=True))


def split(folder: Path, *names: str) -> Dataset:
    records = tuple(ImageRecord(name, photo(folder / f"{name}.jpg"), (0,), "val") for name in names)
    return Dataset("set", CLASSES, records)


def test_a_split_may_move_but_not_change(run: Path, tmp_path: Path) -> None:
    predict(split(tmp_path / "here", "a", "b"), run / "segmenter", tmp_path / "m", CONFIG)
    predict(split(tmp_path / "there", "a", "b"), run / "segmenter", tmp_path / "m", CONFIG)
    with pytest.raises(ConfigError, match=r"inputs\.images"):
        predict(split(tmp_path / "here", "a", "c"), run / "segmenter", tmp_path / "m", CONFIG)


def test_a_network_that_is_not_there_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the folder that 'train-segmenter' wrote"):
        predict(split(tmp_path, "a"), tmp_path / "supervised", tmp_path / "m", CONFIG)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-0.5,), (float("nan"),), (float("inf"),)])
def test_scales_that_cannot_work_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"predict\.scales is \["):
        dataclasses.replace(CONFIG, scales=scales)


def test_the_crf_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "crf_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"predict\.crf: true.*tag2mask\[crf\]"):
        check(dataclasses.replace(CONFIG, crf=True))
    monkeypatch.setattr(stage, "crf_available", lambda: True)
    check(dataclasses.replace(CONFIG, crf=True))


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1)])
def test_actors_of_a_cluster_get_the_gpu_that_was_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, gpus: int
) -> None:
    seen = []
    monkeypatch.setattr(stage, "run_images", lambda *_, cluster, **__: seen.append(cluster))
    execution = Execution(device=device, ray="local")
    monkeypatch.setattr(stage, "resolve_device", torch.device)  # no GPU needed here
    predict(split(tmp_path, "a"), run / "segmenter", tmp_path / "m", CONFIG, execution=execution)
    assert [cluster.gpus for cluster in seen] == [gpus]


def test_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = photo(tmp_path / "a" / "IMG_1.jpg"), photo(tmp_path / "b" / "IMG_1.jpg", seed=1)
    common = ["predict", "--out", str(run), "--masks", str(tmp_path / "m"), "--processes", "1", "--device", "cpu"]
    assert main([*common, "--images", str(first)]) == 0
    assert main([*common, "--images", str(second)]) == 2
    error = capsys.readouterr().err
    assert "made from another photo" in error
    assert error.count("error: ") == 1
    assert main([*common, "--images", str(tmp_path / "nothere")]) == 2
    assert main([*common, "--images", str(first), "--supervised"]) == 2
    assert "leave out --supervised or --images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--set", "predict.edges=pamr"], "--set"),
        (["--out", "nowhere"], "--out"),
        (["--limit", "3"], "--limit"),
        (["photos"], "'photos'"),
    ],
)
def test_what_an_onnx_file_has_no_use_for_is_refused(
    more: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, masks = photo(tmp_path / "a.png"), tmp_path / "m"
    assert main(["predict", *more, "--onnx", "any.onnx", "--images", str(path), "--masks", str(masks)]) == 2
    assert f"leave out {named}, or --onnx" in capsys.readouterr().err


def test_a_tag_that_the_network_misses_gets_its_pseudo_mask(run: Path, tmp_path: Path) -> None:
    """An untrained network answers one label or the other; what a pseudo-mask says of the rest is kept."""
    records = []
    for number in range(3):
        records.append(ImageRecord(str(number), photo(tmp_path / f"{number}.png", seed=number), (0, 1), "train"))
        if number < 2:  # the third has no pseudo-mask
            pseudo = np.zeros((32, 40), np.uint8)
            pseudo[4:9, 4:9], pseudo[20:24, 20:30], pseudo[0, 0] = 1, 2, 255
            write_mask(tmp_path / "pseudo_masks" / "masks" / f"{number}.png", pseudo)
    manifest = {"stage": "refine", "config": {}, "inputs": {"maps": "rib"}, "finished": True}
    write_json(tmp_path / "pseudo_masks" / "manifest.json", manifest)
    dataset = Dataset("photos", CLASSES, tuple(records))
    config = dataclasses.replace(CONFIG, restrict=True, negatives=True)
    makers = {"plain": None, "filled": tmp_path / "pseudo_masks"}
    for name, pseudo_masks in makers.items():
        predict(dataset, run / "segmenter", tmp_path / name, config, of_a_set=True, pseudo_masks=pseudo_masks)
    for number in range(3):
        plain, filled = (read_mask(tmp_path / name / "masks" / f"{number}.png") for name in makers)
        lost = {1, 2} - set(np.unique(plain))
        assert lost
        assert np.array_equal(filled, plain) == (number == 2)
        if number < 2:
            for label in lost:
                assert np.array_equal(filled == label, pseudo == label)
            kept = ~np.isin(pseudo, list(lost))
            assert np.array_equal(filled[kept], plain[kept])
    joined = dataclasses.replace(config, joined=20.0)
    predict(dataset, run / "segmenter", tmp_path / "joined", joined, of_a_set=True, pseudo_masks=makers["filled"])
    for number in range(3):
        plain, both = (read_mask(tmp_path / name / "masks" / f"{number}.png") for name in ("plain", "joined"))
        expected = plain if number == 2 else np.where(pseudo == 255, plain, pseudo)
        assert np.array_equal(both, expected)
    write_json(tmp_path / "pseudo_masks" / "manifest.json", {**manifest, "inputs": {"maps": "cam"}})
    with pytest.raises(ConfigError, match="pseudo_masks"):
        predict(dataset, run / "segmenter", tmp_path / "filled", config, of_a_set=True, pseudo_masks=makers["filled"])
