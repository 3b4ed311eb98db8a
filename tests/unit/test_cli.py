"""The command line: help without torch, errors in one line, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main


def test_help_does_not_import_torch() -> None:
    code = """
import sys
import tag2mask.cli
try:
    tag2mask.cli.main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = "train-classifier localize refine train-segmenter predict evaluate"
    for command in ("run", *steps.split(), "report", "demo", "data", "recipes"):
        assert command in done.stdout


def make_photos(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            seed = np.random.default_rng(hash((name, number)) % 1000 + number)
            Image.fromarray(seed.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / name / f"{number}.jpg")
    return folder


def test_data_check_counts_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = make_photos(tmp_path / "photos")
    assert main(["data", "check", str(photos)]) == 0
    assert "4 images" in capsys.readouterr().out
    (photos / "cat" / "bad.jpg").write_bytes(b"")
    assert main(["data", "check", str(photos), "--all"]) == 1
    assert "bad.jpg" in capsys.readouterr().out
    assert main(["data", "check", str(photos), "--no-decode", "--classes", "cat,dgo"]) in (1, 2)
    text = capsys.readouterr()
    assert "dog" in text.out + text.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "photos"], "--data is missing"),
        (["run", "photo", "--data", "x"], "did you mean 'photos'"),
        (["run", "photos", "--data", "/does/not/exist"], "no such file or folder"),
        (["report", "/does/not/exist"], "no such folder"),
        (["predict", "--images", "x"], "needs --out RUN"),
        (["data", "check", "/does/not/exist"], "no such file or folder"),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = make_photos(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    assert main(["run", "photos", "--data", str(photos), "--out", str(tmp_path / "out")]) == 2
    assert "not a run's folder" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
