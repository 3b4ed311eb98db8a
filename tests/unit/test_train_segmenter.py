"""The stage that trains the segmentation network: settings, a small training, what it says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset, ImageRecord, write_mask
from tag2mask.engine.execution import Execution
from tag2mask.engine.loop import Enough
from tag2mask.recipe import Recipe
from tag2mask.runs.log import read_epochs
from tag2mask.stages import stage_named
from tag2mask.stages import train_segmenter as stage
from tag2mask.stages.predict import PredictConfig, predict, predict_answer
from tag2mask.stages.stage import Context
from tag2mask.stages.train_segmenter import Samples, SegmenterConfig, load_segmenter, train_segmenter

CONFIG = SegmenterConfig(
    architecture="fpn",
    backbone="resnet10t",
    weights="none",
    epochs=6,
    batch_size=4,
    optimiser="adamw",
    learning_rate=0.002,
    new_layers_multiplier=3.0,
    schedule="one_cycle",
    crop_size=64,
    scale_min=0.8,
    scale_max=1.2,
    balanced=False,
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Red and green squares on grey, with their masks."""
    folder = tmp_path_factory.mktemp("squares")
    records = []
    for number in range(12):
        rng = np.random.default_rng(number)
        top, left, label = rng.integers(0, 32), rng.integers(0, 40), number % 2
        image, mask = rng.integers(90, 160, (64, 72, 3), dtype=np.uint8), np.zeros((64, 72), np.uint8)
        image[top : top + 30, left : left + 30] = (220, 20, 20) if label == 0 else (20, 220, 20)
        mask[top : top + 30, left : left + 30] = label + 1
        Image.fromarray(image).save(folder / f"{number}.png")
        write_mask(folder / f"{number}_mask.png", mask)
        paths = folder / f"{number}.png", folder / f"{number}_mask.png"
        records.append(ImageRecord(str(number), paths[0], (label,), "train", paths[1]))
    return Dataset("squares", ("red", "green"), tuple(records))


def test_a_network_learns_squares(squares: Dataset, tmp_path: Path) -> None:
    network = train_segmenter(squares, None, tmp_path / "net", CONFIG, execution=Execution("cpu", workers=0))
    manifest = read_json(tmp_path / "net" / "manifest.json")
    assert manifest["warning"] == ""
    image = np.asarray(Image.open(squares.records[0].path))
    answer = predict_answer(network, image, PredictConfig(scales=(1.0,), mirror=False))
    truth = np.asarray(Image.open(squares.records[0].mask_path))
    assert (answer.labels == truth).mean() > 0.85
    loaded = load_segmenter(tmp_path / "net")
    assert type(loaded) is type(network)
    pixels = torch.randn(1, 3, 64, 72)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), network(pixels))


def test_a_small_set_is_gone_over_more_often_where_asked(
    squares: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "ENOUGH", Enough(epochs=1, images=2 * len(squares), most=9))
    config = dataclasses.replace(CONFIG, epochs="auto")
    train_segmenter(squares, None, tmp_path / "net", config, execution=Execution("cpu", workers=0))
    rows, _ = read_epochs((tmp_path / "net" / "log.jsonl").read_text())
    assert [row.epoch for row in rows] == [1, 2]
    assert type(load_segmenter(tmp_path / "net")).__name__ == "EncoderDecoder"


def test_a_network_that_learned_nothing_says_so(squares: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=2, learning_rate=1e-9)
    train_segmenter(squares, None, tmp_path / "net", config, execution=Execution("cpu", workers=0))
    assert "segmenter." in read_json(tmp_path / "net" / "manifest.json")["warning"]


def test_a_further_round_learns_from_the_answers_within_tags(squares: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    train_segmenter(squares, None, tmp_path / "segmenter_round0", config, execution=Execution("cpu", workers=0))
    within = PredictConfig(scales=(1.0,), mirror=False, restrict=True, negatives=True)
    predict(squares, tmp_path / "segmenter_round0", tmp_path / "masks_round0", within)
    for record in squares.records:
        labels = set(np.unique(np.asarray(Image.open(tmp_path / "masks_round0" / "masks" / f"{record.id}.png"))))
        assert labels <= {0, record.labels[0] + 1}
    train_segmenter(
        squares, tmp_path / "masks_round0", tmp_path / "net", config, execution=Execution("cpu", workers=0)
    )
    manifest = read_json(tmp_path / "net" / "manifest.json")
    assert manifest["trained_on"] == "pseudo-masks"
    assert set(manifest["inputs"]) >= {"masks_config", "dataset", "images"}


def test_rounds_go_on_from_one_another(squares: Dataset, tmp_path: Path) -> None:
    def folders(rounds: int) -> list[tuple[str, str]]:
        recipe = Recipe("test", rounds=rounds, final_masks=True, supervised=False)
        context = Context(recipe, squares, squares, tmp_path)
        entries = [e for name in ("train-segmenter", "predict") for e in stage_named(name).entries(context)]
        entries.sort(key=lambda entry: entry.turn)
        return [(entry.folder, next(iter(entry.reads.values()))) for entry in entries]

    assert folders(0) == [("segmenter", "pseudo_masks"), ("masks", "segmenter"), ("predictions", "segmenter")]
    assert folders(2) == [
        ("segmenter_round0", "pseudo_masks"),
        ("masks_round0", "segmenter_round0"),
        ("segmenter_round1", "masks_round0"),
        ("masks_round1", "segmenter_round1"),
        ("segmenter", "masks_round1"),
        ("masks", "segmenter"),
        ("predictions", "segmenter"),
    ]


def test_objects_of_another_photo_are_laid_over_a_sample(squares: Dataset) -> None:
    paths = {record.id: record.mask_path for record in squares.records}

    def sample(share: float, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = dataclasses.replace(CONFIG, paste=share)
        return Samples(squares.records, paths, None, config, 0)(epoch, 1)  # type: ignore[arg-type]

    more = 0
    for epoch in range(6):
        plain, _ = sample(0.0, epoch)
        image, labels = sample(1.0, epoch)
        changed = (image != plain).any(dim=0)
        assert ((labels[changed] > 0) & (labels[changed] < 255)).all()  # what is new is an object
        more += int(changed.sum())
        assert torch.equal(image, sample(1.0, epoch)[0])
    assert more > 0


def test_nothing_is_laid_over_a_sample_where_there_is_no_background(
    squares: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def no_samples(*arguments: object) -> None:
        used.extend(one.paste for one in arguments if isinstance(one, SegmenterConfig))
        raise ConfigError("enough was seen")

    monkeypatch.setattr("tag2mask.stages.train_segmenter.Samples", no_samples)
    for background in (True, False):
        photos = dataclasses.replace(squares, background=background)
        with pytest.raises(ConfigError, match="enough"):
            train_segmenter(
                photos,
                None,
                tmp_path / str(background),
                dataclasses.replace(CONFIG, paste=0.5),
                execution=Execution("cpu", workers=0),
            )
    assert used == [0.5, 0.0]


def test_edges_of_masks_are_unsure_where_asked(squares: Dataset) -> None:
    paths = {record.id: record.mask_path for record in squares.records}
    samples = [
        Samples(squares.records, paths, None, dataclasses.replace(CONFIG, unsure_edges=width), 0)(0, 1)[1]  # type: ignore[arg-type]
        for width in (0, 3)
    ]
    unsure = samples[1] == 255
    assert (samples[0][~unsure] == samples[1][~unsure]).all()
    assert int(unsure.sum()) > int((samples[0] == 255).sum())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "fnp"}, r"segmenter\.architecture is 'fnp'; expected one of .*; did you mean 'fpn'"),
        ({"loss": "colision"}, r"segmenter\.loss is 'colision'; expected one of .*; did you mean 'collision'"),
        ({"frozen_trunk": True}, r"frozen_trunk is True; expected false for other architectures"),
        ({"average": 1.0}, r"segmenter\.average is 1\.0; expected 0 or more, below 1"),
        ({"warmup": 0.0}, r"segmenter\.warmup is 0\.0"),
        ({"unsure_edges": -1}, r"segmenter\.unsure_edges is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(CONFIG, **changes)
