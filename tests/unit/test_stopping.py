"""SIGTERM and Ctrl-C end a run at once, whatever it is at, with a line that says how to go on; killed runs go on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from importlib import util
from multiprocessing import active_children
from pathlib import Path
from types import ModuleType

import pytest

import tiny_run
from tag2mask import chain, reports  # noqa: F401 (once for all forks)
from tag2mask.cli import main
from tag2mask.common.workers import WorkerPool
from tag2mask.runs.compare import contents, differences

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def campaign() -> ModuleType:
    """The module benchmarks/kill_campaign.py."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_campaign.py"
    spec = util.spec_from_file_location("kill_campaign", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """The command of a tiny run."""
    tiny_run.write_photos(tmp_path / "farm")
    (tmp_path / "tiny.yaml").write_text(tiny_run.RECIPE, encoding="utf-8")
    where = ["--out", str(tmp_path / "run"), "--device", "cpu", "--processes", "1", "--workers", "0"]
    return ["run", str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "farm"), *where]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_says_how_to_go_on(sent: signal.Signals, code: int, arguments: list[str], tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        os.setsid()
        campaign().speak_to(tmp_path / "log")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in a shell's background ignore
        os._exit(main(arguments))
    while not (tmp_path / "run" / "classifier" / "log.jsonl").is_file():
        assert os.waitpid(process, os.WNOHANG) == (0, 0), (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.kill(process, sent)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
    said = (tmp_path / "log").read_text()
    assert said.splitlines()[-1] == "stopped; the same command goes on where it stopped"
    assert "Traceback" not in said


def test_a_killed_run_equals_an_uninterrupted_one(arguments: list[str], finished_run: Path, tmp_path: Path) -> None:
    """Before changes on disk that lie in the start, a training, the maps, the masks and the scores."""
    killing = campaign()
    command = ["python", "-m", "tag2mask.cli", *arguments]
    stages: Counter[str] = Counter()
    for moment in (3, 60, 120, 150):
        assert killing.forked(command, tmp_path / "log", moment, stages) == -signal.SIGKILL
    assert killing.forked(command, tmp_path / "log", None, stages) == 0
    assert len(stages) >= 3
    assert killing.leftovers(tmp_path / "run") == []
    assert differences(finished_run, tmp_path / "run") == []  # though it lies elsewhere, and its photos too
    assert len(contents(finished_run)) > 50


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def interrupted() -> None:
    with WorkerPool(1) as pool:
        pool.submit(sleep, 600)
        while not pool.begun:
            time.sleep(0.05)
        raise KeyboardInterrupt


def test_an_interrupt_ends_workers_at_once() -> None:
    before = set(active_children())
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(active_children()) <= before
