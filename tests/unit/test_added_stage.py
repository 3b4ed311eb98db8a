"""A stage and a score row that somebody adds are found everywhere: command, recipe, run, terminal, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_run
from dummy_stage import DummyConfig
from tag2mask.cli import main
from tag2mask.common.files import read_json
from tag2mask.recipe import load_recipe
from tag2mask.reports import write_report
from tag2mask.reports.results import own
from tag2mask.runs.scores import ROWS, Row
from tag2mask.stages import STAGES


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What whoever adds a stage and a score writes: a line each."""
    monkeypatch.setitem(STAGES, "brighten", ("dummy_stage", "note how bright the photos are"))
    ROWS.append(Row("brightness", "brightness score", "an example of a row", "brightness"))
    yield
    ROWS.pop()


def test_it_is_a_command(added: None, capsys: pytest.CaptureFixture) -> None:
    for arguments in (["--help"], ["brighten", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "ote how bright the photos are" in capsys.readouterr().out


def test_a_run_goes_through_it_and_every_reader_shows_it(
    added: None, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tiny_run.copy_run(finished_run, tmp_path, networks=True)
    recipe = tmp_path / "brighter.yaml"
    recipe.write_text(f"{tiny_run.RECIPE}brightness: {{digits: 1}}\n", encoding="utf-8")
    assert load_recipe(recipe).extra == {"brightness": DummyConfig(digits=1)}
    options = ["--data", str(tmp_path / "farm"), "--out", str(out), "--processes", "1"]
    assert main(["run", str(recipe), *options]) == 0
    printed = capsys.readouterr().out
    assert "brightness: mIoU 12.5 on 8 train images" in printed
    assert "brightness score" in printed
    assert read_json(out / "run.json")["finished"]
    assert read_json(out / "brightness" / "manifest.json")["config"] == {"digits": 1}
    assert len(list((out / "brightness").glob("*.txt"))) == tiny_run.TRAIN
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Note the brightness" in page
    assert f"Note the brightness: 1 image failed</b>\n    <ul><li>{tiny_run.BROKEN}:" in page
    assert "Brightness score<span" in page
    assert "an example of a row" in page
    (row,) = (row for row in own([out])[0] if row.task == "brightness")
    assert (row.value, row.model) == (12.5, "brightness score")


def test_without_it_the_run_names_it_still(finished_run: Path, tmp_path: Path) -> None:
    """A run's folder says of itself what its stages are called; who reads it need not have them."""
    run = tiny_run.copy_run(finished_run, tmp_path)
    step = {"folder": "brightness", "stage": "brighten", "title": "Note the brightness", "per_image": True}
    tiny_run.edit(run / "run.json", lambda info: info | {"stages": [*info["stages"], step]})
    assert "Not part of this run: brightness/ (note the brightness)" in write_report(run).read_text(encoding="utf-8")
