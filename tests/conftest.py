"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tiny_run


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with reference numbers and real photos, kept outside the project; tests skip without it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("TAG2MASK_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set TAG2MASK_SHARED")
    return folder


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Numbers computed by the reference implementation."""
    folder = shared_dir / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}")
    return folder


@pytest.fixture(scope="session")
def animals_dir(shared_dir: Path) -> Path:
    """Real photos in VOC layout with labels.csv."""
    folder = shared_dir / "voc_animals"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny finished run, as its stages wrote it; tests that change anything take a copy."""
    return tiny_run.make_run(tmp_path_factory.mktemp("tiny"))
