"""A run repeated from its own record: the same bytes, or the files that differ are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tiny_run
from tag2mask.cli import main
from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.engine.execution import Execution
from tag2mask.rerun import rerun
from tag2mask.runs.compare import differences


def test_the_same_bytes(finished_run: Path, tmp_path: Path) -> None:
    record = read_json(finished_run / "run.json")["record"]
    assert record["data"] == str(finished_run.parent / "farm")
    execution = Execution("cpu", workers=0, processes=1)
    again = rerun(finished_run, tmp_path / "again", execution=execution, say=lambda _: None)
    assert (again.different, again.circumstances) == ([], [])
    assert read_json(tmp_path / "again" / "run.json")["finished"]


def test_what_differs_is_named(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tiny_run.copy_run(finished_run, tmp_path, networks=True)
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert differences(run, again) == []
    mask = next((again / "masks" / "masks").iterdir())
    mask.write_bytes(mask.read_bytes() + b"x")
    (again / "scores.json").unlink()
    (again / "predictions" / "more.txt").write_text("")
    tiny_run.edit(again / "run.json", lambda info: info | {"started": "then", "seconds": {}})
    names = [f"masks/masks/{mask.name}: differs", "predictions/more.txt: only in the second"]
    assert differences(run, again) == [*names, "scores.json: only in the first"]
    monkeypatch.setattr("tag2mask.rerun.run", lambda *_, **__: None)
    assert main(["rerun", str(run), "--out", str(again), "--data", str(tmp_path / "farm")]) == 1
    said = capsys.readouterr().out
    assert f"! masks/masks/{mask.name}: differs" in said
    assert said.endswith("again: differs\n")


def test_what_cannot_be_repeated(finished_run: Path, tmp_path: Path) -> None:
    run = tiny_run.copy_run(finished_run, tmp_path)
    with pytest.raises(ConfigError, match="is the run itself"):
        rerun(run, run)
    tiny_run.edit(run / "run.json", lambda info: info | {"record": {}})
    with pytest.raises(ConfigError, match="give --data"):
        rerun(run)
    tiny_run.edit(run / "run.json", lambda info: info | {"finished": False})
    with pytest.raises(ConfigError, match="holds no finished run"):
        rerun(run)
