"""Sets in which every pixel belongs to one of its image's tags: no mask and no answer has a background."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from refine_world import make_world

from tag2mask.data import read_mask
from tag2mask.engine.execution import Execution
from tag2mask.stages.answer import answer_of_logits
from tag2mask.stages.refine import RefineConfig, refine

HERE = Execution(device="cpu", workers=0, processes=1, trace=0)


def test_pseudo_masks_have_no_background(tmp_path: Path) -> None:
    dataset, localization = make_world(tmp_path)
    config = RefineConfig(method="none", threshold=0.5)
    refine(dataset, localization, tmp_path / "with", config, execution=HERE)
    refine(dataclasses.replace(dataset, background=False), localization, tmp_path / "without", config, execution=HERE)
    for record in dataset.records[:5]:
        with_it, without = (read_mask(tmp_path / name / "masks" / f"{record.id}.png") for name in ("with", "without"))
        assert (with_it == 0).any()
        assert set(np.unique(without)) <= {label + 1 for label in record.labels}
        assert (without[with_it > 0] == with_it[with_it > 0]).all()


def test_answers_have_no_background() -> None:
    logits = torch.zeros(3, 4, 4)
    logits[0] = 9.0
    logits[2, :2] = 1.0
    labels = answer_of_logits(logits, background=False).labels
    assert labels[:2].tolist() == [[2] * 4] * 2
    assert set(np.unique(labels)) <= {1, 2}
    assert set(np.unique(answer_of_logits(logits, (0,), background=False).labels)) == {1}
    assert set(np.unique(answer_of_logits(logits).labels)) == {0}
