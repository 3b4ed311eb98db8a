"""Which epoch's weights a classifier keeps, and when its training ends: told by tags of held-out photos."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from refine_world import make_world
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset
from tag2mask.engine.execution import Execution
from tag2mask.recipe import Recipe
from tag2mask.runs.log import Epoch, epochs_in
from tag2mask.runs.tags import Kept, tag_figures
from tag2mask.stages import best_epoch as module
from tag2mask.stages.best_epoch import best_epoch, merit, no_better
from tag2mask.stages.stage import Context
from tag2mask.stages.train_classifier import BEST, STAGE, ClassifierConfig, load_classifier, train_classifier

HERE = Execution("cpu", workers=0, processes=1)
EPOCHS = 6


def row(epoch: int, precision: float | None = None, criterion: float | None = None) -> Epoch:
    return Epoch(epoch, epoch, 1.0, 0.1, 1.0, precision, criterion)


def config(**changes: Any) -> ClassifierConfig:
    settings = {"backbone": "resnet18", "weights": "none", "epochs": EPOCHS, "batch_size": 4, "learning_rate": 0.01}
    sizes = {"long_side_min": 32, "long_side_max": 40, "crop_size": 40}
    return ClassifierConfig(**{**settings, **sizes, "keep": "best", **changes})


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    (tmp_path / "world").mkdir()
    return make_world(tmp_path / "world")[0]


def without_masks(dataset: Dataset) -> Dataset:
    """The same photos, on which nothing can be scored."""
    return dataclasses.replace(
        dataset, records=tuple(dataclasses.replace(record, mask_path=None) for record in dataset.records)
    )


class Told:
    """Stands in for what held-out photos tell: a precision an epoch, and the weights that it was told of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, precisions: list[float]) -> None:
        self.precisions, self.weights, self.killed_at = precisions, list[dict[str, Tensor]](), 0
        monkeypatch.setattr(module, "tag_scores", self.look)
        monkeypatch.setattr(module, "localization_criterion", lambda *_: {"criterion": 0.125})

    def look(self, classifier: nn.Module, *_: Any) -> Told:
        if self.killed_at and len(self.weights) + 1 == self.killed_at:
            raise KeyboardInterrupt
        self.weights.append({name: value.clone() for name, value in classifier.state_dict().items()})
        return self

    def average_precision(self) -> dict[str, float]:
        return {"cat": self.precisions[len(self.weights) - 1]}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_telling_tags_and_looking_at_things_count_alike() -> None:
    assert merit(0.7, 0.3) == pytest.approx(merit(0.8, 0.2))
    assert merit(0.7, None) == 0.7
    assert best_epoch([row(1, 0.7, 0.1), row(2, 0.6, 0.3), row(3), row(4, 0.9, -0.2)]) == row(2, 0.6, 0.3)
    assert best_epoch([row(1, 0.7, 0.1), row(2, 0.7, 0.1)]) == row(2, 0.7, 0.1)  # of equals the last
    assert best_epoch([row(1), row(2)]) is None
    assert best_epoch([]) is None


def test_patience_counts_looks_behind_the_best() -> None:
    rows = [row(1, 0.5), row(2), row(3, 0.8), row(4), row(5, 0.7), row(6), row(7, 0.75)]
    assert [no_better(rows[:n], 2) for n in range(8)] == [False] * 7 + [True]
    assert not no_better(rows, 3)
    assert not no_better([row(1), row(2), row(3)], 1)  # nothing is known


@pytest.mark.parametrize("keep", ["best", "auto"])
def test_the_best_epochs_weights_are_the_result(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    monkeypatch.setattr("tag2mask.stages.train_classifier.TELLING", len(photos))
    told = Told(monkeypatch, [0.2, 0.6, 0.9, 0.3, 0.9 - 1e-6, 0.5])
    out, held_out = tmp_path / "classifier", without_masks(photos)
    trained = train_classifier(photos, out, config(keep=keep), execution=HERE, validation=held_out)
    assert len(told.weights) == EPOCHS
    assert same(dict(trained.state_dict()), told.weights[2])
    assert same(dict(load_classifier(out).state_dict()), told.weights[2])
    assert not same(told.weights[2], told.weights[5])
    manifest = read_json(out / "manifest.json")
    count = len(photos)
    assert manifest["kept"] == {"epoch": 3, "learned": EPOCHS, "planned": EPOCHS, "photos": count}
    assert [one.val_criterion for one in epochs_in(out)] == [0.125] * EPOCHS
    figures = tag_figures(manifest)
    assert figures is not None
    assert f"weights of epoch 3 of {EPOCHS}, the best on {count} of these" in figures.in_words()
    assert not (out / BEST).exists()


@pytest.mark.parametrize("killed_at", [2, 4, 5])
def test_a_training_that_is_no_longer_better_ends_wherever_it_was_killed(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    precisions = [0.2, 0.9, 0.3, 0.4, 0.5, 0.6]
    settings, held_out = config(patience=2), without_masks(photos)
    whole = Told(monkeypatch, precisions)
    train_classifier(photos, tmp_path / "whole", settings, execution=HERE, validation=held_out)
    assert len(whole.weights) == 4  # two behind the second
    cut = Told(monkeypatch, precisions)
    cut.killed_at = killed_at
    if killed_at <= 4:
        with pytest.raises(KeyboardInterrupt):
            train_classifier(photos, tmp_path / "cut", settings, execution=HERE, validation=held_out)
        cut.killed_at = 0
    train_classifier(photos, tmp_path / "cut", settings, execution=HERE, validation=held_out)
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    assert same(dict(load_classifier(tmp_path / "cut").state_dict()), whole.weights[1])
    kept = read_json(tmp_path / "cut" / "manifest.json")["kept"]
    assert kept == {"epoch": 2, "learned": 4, "planned": EPOCHS, "photos": len(photos)}


def test_killed_between_the_training_and_its_end_it_ends_as_it_would_have(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch, [0.2, 0.9, 0.3, 0.4, 0.5, 0.6])
    settings, held_out, out = config(patience=2), without_masks(photos), tmp_path / "classifier"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tag2mask.stages.train_classifier.what_was_learned", killed)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(photos, out, settings, execution=HERE, validation=held_out)
    assert (out / BEST).is_file()
    train_classifier(photos, out, settings, execution=HERE, validation=held_out)
    assert len(told.weights) == 4  # no epoch more
    assert same(dict(load_classifier(out).state_dict()), told.weights[1])


def test_nothing_is_chosen_by_photos_that_have_masks(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch, [0.9, 0.2, 0.2, 0.2, 0.2, 0.1])
    masked = dataclasses.replace(
        without_masks(photos),
        records=(dataclasses.replace(photos.records[0], mask_path=tmp_path / "mask.png"), *photos.records[1:]),
    )
    settings = config(keep="auto", patience=1)
    monkeypatch.setattr("tag2mask.stages.train_classifier.TELLING", len(photos) + 1)
    assert not settings.keeps_best(without_masks(photos))  # too few
    assert config(keep="best").keeps_best(without_masks(photos))
    monkeypatch.setattr("tag2mask.stages.train_classifier.TELLING", len(photos))
    assert settings.keeps_best(without_masks(photos))
    assert not settings.keeps_best(masked)
    assert not settings.keeps_best(None)
    assert not config(keep="last").keeps_best(without_masks(photos))
    assert config(keep="best").keeps_best(masked)
    train_classifier(photos, tmp_path / "classifier", settings, execution=HERE, validation=masked)
    manifest = read_json(tmp_path / "classifier" / "manifest.json")
    assert len(told.weights) == EPOCHS
    assert same(dict(load_classifier(tmp_path / "classifier").state_dict()), told.weights[-1])
    assert "kept" not in manifest
    assert [one.val_criterion for one in epochs_in(tmp_path / "classifier")] == [None] * EPOCHS  # not worked out


def test_a_training_that_chose_by_other_photos_is_not_gone_on_with(photos: Dataset, tmp_path: Path) -> None:
    held_out = without_masks(photos)
    settings = config(epochs=1)
    train_classifier(photos, tmp_path / "classifier", settings, execution=HERE, validation=held_out)
    train_classifier(photos, tmp_path / "classifier", settings, execution=HERE, validation=held_out)  # is finished
    fewer = dataclasses.replace(held_out, records=held_out.records[1:])
    with pytest.raises(ConfigError, match="validation"):
        train_classifier(photos, tmp_path / "classifier", settings, execution=HERE, validation=fewer)


def test_a_best_epoch_that_nothing_can_tell_is_refused(photos: Dataset, tmp_path: Path) -> None:
    recipe = Recipe("x", classifier=config())
    for val, told in ((None, False), (photos, True)):
        context = Context(recipe, photos, val, tmp_path)
        (entry,) = STAGE.entries(context)
        with nullcontext() if told else pytest.raises(ConfigError, match=r"classifier.keep is 'best'.*val_fraction"):
            STAGE.check(entry, context)


def test_really_looking_measures_both(photos: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "classifier"
    train_classifier(photos, out, config(epochs=3), execution=HERE, validation=without_masks(photos))
    rows = epochs_in(out)
    assert all(one.val_map is not None and one.val_criterion is not None for one in rows)
    manifest, best = read_json(out / "manifest.json"), best_epoch(rows)
    assert best is not None
    assert manifest["kept"]["epoch"] == best.epoch
    assert manifest["validation_map"] == pytest.approx(best.val_map, abs=1e-6)  # of the weights that are kept


def test_what_is_said_of_an_early_end() -> None:
    assert Kept(8, 16, 24, 20).in_words() == (
        "weights of epoch 8, ended early after 16 of 24, the best on 20 of these"
    )
    assert tag_figures({"validation_map": 0.5, "kept": {"epoch": 3}}).kept is None  # type: ignore[union-attr]


def test_a_trial_has_neither_curve_nor_doubts(photos: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "trial"
    train_classifier(photos, out, config(epochs=1, keep="last"), execution=HERE, validation=photos, trial=2)
    manifest = read_json(out / "manifest.json")
    assert {"validation_map", "validation_ap", "localization_criterion"} <= set(manifest)
    assert not {"doubted_tags", "warnings", "kept"} & set(manifest)
    assert manifest["localization_criterion"]["photos"] == 2
    assert [one.val_map for one in epochs_in(out)] == [None]
