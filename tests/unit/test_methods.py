"""Refinements by a line: what a new one needs to be found by recipes, runs and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from refine_world import make_world

from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.common.files import read_json
from tag2mask.data import read_mask
from tag2mask.engine.execution import Execution
from tag2mask.recipe import load_recipe
from tag2mask.refine.methods import METHODS, Method, method_named
from tag2mask.stages.refine import RefineConfig, refine, title_of


def everything(image: np.ndarray, maps: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """The first class everywhere."""
    return np.full(image.shape[:2], classes[0] + 1, np.uint8)


def test_a_new_method_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="method is 'everything'; expected one of auto, irn, crf, pamr, none"):
        RefineConfig(method="everything")
    monkeypatch.setitem(METHODS, "everything", Method(everything, "all"))
    config = load_recipe("photos", ["refine.method=everything"]).refine
    dataset, _ = make_world(tmp_path)
    refine(dataset, tmp_path / "localization", tmp_path / "out", config, execution=Execution("cpu", processes=1))
    record = dataset.records[0]
    mask = read_mask(tmp_path / "out" / "masks" / f"{record.id}.png")
    assert (mask == record.labels[0] + 1).all()
    assert title_of(config) == read_json(tmp_path / "out" / "manifest.json")["title"] == "CAM+all"


def test_automatic_is_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.refine.methods.crf_available", lambda: True)
    assert method_named("auto", "x") == "crf"
    monkeypatch.setattr("tag2mask.refine.methods.crf_available", lambda: False)
    assert method_named("auto", "x") == "pamr"
    with pytest.raises(MissingExtraError, match=r"x: crf needs the package 'pydensecrf2'.*tag2mask\[crf\]"):
        method_named("crf", "x")
    with pytest.raises(ConfigError, match="x is 'crff'; did you mean 'crf'"):
        method_named("crff", "x")
