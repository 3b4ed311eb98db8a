"""Score rows: intervals, any number of processes, the slip, and predictions that don't fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from tag2mask.common.errors import DataError
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, read_mask, save_maps, write_mask
from tag2mask.data.records import BadFileError
from tag2mask.metrics import SegmentationScore, ThresholdCurve, bootstrap_interval
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.stages.evaluate import EvaluateConfig, score_maps, score_masks

CLASSES = ("cat", "dog", "cow")


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Dataset, Path]:
    """Forty images with true masks, predicted masks with some unsure pixels, and maps."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(40):
        size = tuple(int(side) for side in rng.integers(12, 30, 2))
        truth = rng.integers(0, 4, size)
        truth[rng.random(size) < 0.1] = 255
        guess = np.where(rng.random(size) < 0.6, truth % 255, rng.integers(0, 4, size))
        guess[rng.random(size) < 0.05] = 255
        write_mask(tmp_path / "true" / f"{number}.png", truth)
        write_mask(tmp_path / "masks" / f"{number}.png", guess)
        sums = [rng.random((2, -(-size[0] // 16), -(-size[1] // 16))).astype(np.float32)]
        maps = LocalizationMaps(np.array([0, 2]), size, (1.0,), sums)
        save_maps(tmp_path / "maps" / f"{number}.npz", maps)
        records.append(ImageRecord(str(number), tmp_path, (0, 2), "train", tmp_path / "true" / f"{number}.png"))
    return Dataset("set", CLASSES, tuple(records)), tmp_path


def test_the_row_has_an_interval_that_holds_the_score(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    row = score_masks(dataset, folder / "masks", split="train").row
    interval = row["interval"]
    assert interval["low"] < row["miou"] < interval["high"]
    assert interval["high"] - interval["low"] < 0.05
    assert (interval["level"], interval["resamples"], interval["seed"]) == (0.95, 1000, 0)
    assert row["images"] == 40
    assert 0.94 < row["coverage"] < 0.96
    none = score_masks(dataset, folder / "masks", split="train", config=EvaluateConfig(resamples=0)).row
    assert "interval" not in none
    assert none["miou"] == row["miou"]


def test_same_score_for_any_number_of_processes(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    one, two = (score_masks(dataset, folder / "masks", split="train", processes=n) for n in (1, 2))
    assert one == two


@pytest.mark.parametrize("count_ignored", [False, True])
def test_same_score_for_any_parts(
    scored: tuple[Dataset, Path], count_ignored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes get parts of the images; neither their number nor their size changes a score."""
    dataset, folder = scored
    config = EvaluateConfig(threshold_step=0.05, count_ignored=count_ignored)
    scores = []
    for size in (1, 7, 100):
        monkeypatch.setattr("tag2mask.stages.evaluate._CHUNK", size)
        scores.append(
            [
                s(dataset, folder / name, config=config, split="train", processes=1)
                for s, name in ((score_masks, "masks"), (score_maps, "maps"))
            ]
        )
    assert scores[0] == scores[1] == scores[2]


def test_equals_torchmetrics_over_all_images(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    index = MulticlassJaccardIndex(num_classes=4, average="none", ignore_index=255)
    for record in dataset.records:
        guess, truth = (
            read_mask(folder / "masks" / f"{record.id}.png"),
            read_mask(folder / "true" / f"{record.id}.png"),
        )
        index.update(torch.from_numpy(np.where(guess == 255, 0, guess)), torch.from_numpy(truth).long())
    row = score_masks(dataset, folder / "masks", split="train").row
    np.testing.assert_allclose(list(row["per_class"].values()), index.compute().numpy(), atol=1e-6)


def test_equals_torchmetrics_on_real_masks(animals_dir: Path, tmp_path: Path) -> None:
    index = MulticlassJaccardIndex(num_classes=21, average="none", ignore_index=255)
    records = []
    for path in sorted((animals_dir / "SegmentationClass").glob("*.png"))[:12]:
        truth = read_mask(path)
        guess = np.roll(np.where(truth == 255, 0, truth), 11, axis=1)
        write_mask(tmp_path / "masks" / path.name, guess)
        records.append(ImageRecord(path.stem, path, (), "val", path))
        index.update(torch.from_numpy(guess), torch.from_numpy(truth).long())
    dataset = Dataset("animals", tuple(f"c{i}" for i in range(20)), tuple(records))
    row = score_masks(dataset, tmp_path / "masks", split="val").row
    ours = np.array([np.nan if v is None else v for v in row["per_class"].values()])
    there = ~np.isnan(ours)
    np.testing.assert_allclose(ours[there], index.compute().numpy()[there], atol=1e-6)
    assert index.compute().numpy()[~there].sum() == 0
    assert row["miou"] == pytest.approx(ours[there].mean(), abs=1e-12)


def test_the_slip_counts_ignored_pixels_in_masks_and_curves(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    slipped = EvaluateConfig(count_ignored=True)
    plain, slip = (
        score_masks(dataset, folder / "masks", split="train", config=c) for c in (EvaluateConfig(), slipped)
    )
    assert slip.row["count_ignored"] is True
    assert "count_ignored" not in plain.row
    assert slip.row["miou"] < 0.8 * plain.row["miou"] + 1e-9  # one more class, of IoU 0
    assert slip.per_image == plain.per_image  # the slip is one of the set's score
    assert slip.row["interval"]["low"] < slip.row["miou"] < slip.row["interval"]["high"]


def test_the_curve_with_the_slip_equals_brute_force() -> None:
    rng = np.random.default_rng(2)
    curve = ThresholdCurve(4, [0.2, 0.5], include_ignore_slip=True)
    scores = [SegmentationScore(4, include_ignore_slip=True) for _ in range(2)]
    for _ in range(3):
        maps, truth = rng.random((2, 9, 7)).astype(np.float32), rng.integers(0, 4, (9, 7))
        truth[0, :3] = 255
        curve.update(maps, np.array([0, 2]), truth)
        for score, threshold in zip(scores, (0.2, 0.5), strict=True):
            score.update(labels_from_maps(maps, np.array([0, 2]), threshold), truth)
    np.testing.assert_allclose(curve.compute().miou, [score.compute().miou for score in scores], atol=1e-15)


def test_a_prediction_of_the_wrong_size_is_an_error(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    write_mask(folder / "masks" / "7.png", np.zeros((5, 6)))
    with pytest.raises(DataError, match=r"masks/7\.png: the prediction is 5x6 but the truth is .*true/7\.png"):
        score_masks(dataset, folder / "masks", split="train")


def test_unreadable_files_are_named_and_left_out(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    (folder / "masks" / "7.png").write_bytes(b"\x89PNG")
    row = score_masks(dataset, folder / "masks", split="train").row
    assert (row["images"], row["images_without_score"]) == (39, 1)
    assert "7.png" in row["errors"]["7"]


def test_damaged_maps_and_true_masks_are_named_and_left_out(scored: tuple[Dataset, Path]) -> None:
    dataset, folder = scored
    whole = (folder / "maps" / "3.npz").read_bytes()
    (folder / "maps" / "3.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "true" / "5.png").write_bytes(b"\x89PNG")
    config = EvaluateConfig(threshold_step=0.1, resamples=0)
    row = score_maps(dataset, folder / "maps", config, split="train").row
    assert (row["images"], row["images_without_score"], set(row["errors"])) == (38, 2, {"3", "5"})
    assert max(miou for _, miou in row["curve"]) == pytest.approx(row["miou"])
    for record in dataset.records:
        (folder / "maps" / f"{record.id}.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 40 images could be scored: .*0\.npz: is no whole map file"):
        score_maps(dataset, folder / "maps", config, split="train")


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(BadFileError("x.png", "is broken", "mend it")))
    assert str(error) == "x.png: is broken; mend it"


def test_the_interval_narrows_with_the_images_and_leaves_out_empty_classes() -> None:
    rng = np.random.default_rng(0)
    union = rng.integers(50, 300, (4000, 5))
    hits = (union * rng.random((4000, 5))).astype(int)
    hits[:, 3] = union[:, 3] = 0
    few, many = (bootstrap_interval(hits[:n], union[:n], 0, repeats=200) for n in (100, 4000))
    score = np.mean(hits.sum(axis=0)[[0, 1, 2, 4]] / union.sum(axis=0)[[0, 1, 2, 4]])
    assert many[0] < score < many[1]
    assert 4 < (few[1] - few[0]) / (many[1] - many[0]) < 9  # about the root of 40
    with pytest.raises(DataError, match="N, C"):
        bootstrap_interval(hits, union[:3], 0)
