"""Photos that belong to no data set are read as the run's own were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask import inference
from tag2mask.common.files import write_json
from tag2mask.data import Dataset
from tag2mask.inference import predict_listed, predict_photos


def make_run(folder: Path) -> Path:
    """What is asked of a run's folder, without a network."""
    made = {"stage": "train-segmenter", "finished": True, "classes": ["cat"], "config": {}}
    write_json(folder / "segmenter" / "manifest.json", made)
    data = "data: {long_side: 320, bands: [2, 1, 0], background: false}"
    (folder / "recipe.yaml").write_text(f"name: deep\nlike: photos\n{data}\n", encoding="utf-8")
    write_json(folder / "run.json", {"name": "deep", "data": {"value_range": [0.0, 3900.0]}})
    return folder


def test_size_bands_and_range_of_values_are_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    photo = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photo)
    seen: list[Dataset] = []

    def predict(dataset: Dataset, _: Path, out: Path, *__: Any, **___: Any) -> None:
        seen.append(dataset)
        write_json(out / "manifest.json", {"stage": "predict"})

    monkeypatch.setattr(inference, "predict", predict)
    assert predict_listed({"a": photo}, run, tmp_path / "listed") == ("cat",)
    assert predict_photos(photo, run, tmp_path / "photos") == {}
    assert len(seen) == 2
    for dataset in seen:
        (record,) = dataset.records
        assert (record.id, record.long_side) == ("a", 320)
        assert record.reading.bands == (2, 1, 0)
        assert record.reading.value_range == (0.0, 3900.0)
        assert not dataset.background
