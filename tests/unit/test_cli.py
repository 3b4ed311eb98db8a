"""The command line: help without torch, errors in one line, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.errors import DataError

ROOM = "make room there, then give the same command again: what is finished is kept\n"
ALLOW = "it can't be written there: choose another --out, or allow it\n"


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


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_asleep_unless_asked_otherwise(before: str | None, after: str) -> None:
    code = "import os; from tag2mask.cli import main; main(['recipes', 'ls']); print(os.environ['OMP_WAIT_POLICY'])"
    given = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = given | ({} if before is None else {"OMP_WAIT_POLICY": before})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == after


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
        (["choose", "/does/not/exist"], "no run's folder"),
        (["new", "/does/not/exist"], "no such file or folder"),
        (["run", "/does/not/exist"], "no such recipe file or name"),
        (["predict", "--images", "x"], "needs --out RUN"),
        (["data", "check", "/does/not/exist"], "no such file or folder"),
        (["results", "nowhere"], "no such folder"),
        (["predict", "--images", "nothere", "--out", "x"], "--masks DIR"),
        (["predict", "--images", "nothere", "--out", "x", "--masks", "m"], "x/segmenter: has no manifest.json"),
        (["predict", "--images", "x", "--supervised"], "leave out --supervised or --images"),
        (["hgr", "x", "--data", "y"], "x: no such folder"),
        (["ablate", "nowhere"], "--data is missing"),
        (["toy", "--digits", "nowhere"], "MNIST"),
        (["export", "voc-server", "--data", "nowhere"], "no VOC layout"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["hgr", "x"],
        ["run"],
        ["nothing"],
        ["hgr", "x", "--data", "y", "--device", "gpu"],
        ["run", "photos", "--data", "x", "--device", "cude"],
    ],
)
def test_wrong_use_ends_with_one_line_below_the_usage(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/data/runs"), "error: Permission denied: /data/runs; " + ALLOW),
        (
            OSError(28, "No space left on device", "/r/.weights.712-a0b1c2.partial.safetensors"),
            "error: No space left on device: /r/weights.safetensors; " + ROOM,
        ),
        (OSError(28, "No space left on device"), "error: No space left on device; " + ROOM),
        (ConnectionError("no route\nto host"), "error: no route to host\n"),
        (DataError("x.jpg: is empty"), "error: x.jpg: is empty\n"),
        (KeyboardInterrupt(), "\nstopped; the same command goes on where it stopped\n"),
        (BrokenPipeError(), ""),
    ],
)
def test_what_stops_a_command_is_said_in_one_line(
    error: BaseException, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def stop(_: object) -> int:
        raise error

    monkeypatch.setattr("tag2mask.cli.recipes._recipes_ls", stop)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert main(["recipes", "ls"]) == {KeyboardInterrupt: 130, BrokenPipeError: 0}.get(type(error), 2)
    assert capfd.readouterr().err == text


def test_what_starts_anew_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("tag2mask.cli.toy._toy", stop)
    assert main(["toy"]) == 130
    assert capsys.readouterr().err == "\nstopped; the same command starts anew\n"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    photos = make_photos(tmp_path / "photos")
    assert main(["run", "photos", "--data", str(photos), "--out", str(tmp_path / "file" / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "file" in error


def test_a_folder_with_other_things_is_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = make_photos(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    assert main(["run", "photos", "--data", str(photos), "--out", str(tmp_path / "out")]) == 2
    assert "not a run's folder" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
