"""The benchmark of large sets: what it makes is a set that a run takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tag2mask.data import check_dataset, read_dataset

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "large_sets.py"


@pytest.fixture
def benchmark() -> ModuleType:
    made_of = importlib.util.spec_from_file_location("large_sets", BENCHMARK)
    assert made_of is not None
    assert made_of.loader is not None
    module = importlib.util.module_from_spec(made_of)
    made_of.loader.exec_module(module)
    return module


def test_tags_and_masks_of_the_set_agree(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.LINKS = 16  # files may be linked so often
    benchmark.make(tmp_path, 80)
    dataset = read_dataset(tmp_path / "set")
    assert len(dataset) == 80
    assert {record.split for record in dataset.records} == {"train", "val"}
    found = check_dataset(dataset)
    assert {problem.kind for problem in found.found} <= {"duplicate", "small-image"}  # links of one
