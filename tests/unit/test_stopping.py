"""SIGTERM and Ctrl-C end a run at once, whatever it is at, with a line that says how to go on; killed runs go on."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

import tiny_run
from tag2mask import cli
from tag2mask.common.workers import WorkerPool

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals and forks")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_says_how_to_go_on(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    tiny_run.write_photos(tmp_path / "farm")
    (tmp_path / "tiny.yaml").write_text(tiny_run.RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "tag2mask", "run", str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "farm")]
    where = ["--out", str(tmp_path / "run"), "--device", "cpu", "--processes", "1", "--workers", "0"]
    where += ["--set", "classifier.epochs=100000"]  # never done before the signal arrives, on a busy machine too
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *where],
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in a shell's background ignore it
        )
    try:
        while not (tmp_path / "run" / "classifier" / "log.jsonl").is_file():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.wait(60) == code, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "log").read_text()
    assert said.splitlines()[-1] == "stopped; the same command goes on where it stopped"
    assert "Traceback" not in said


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_meets_a_destructor_is_not_lost(
    sent: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python drops what is raised in a destructor: without a second signal the command would go on to its end."""

    class Fragile:
        def __del__(self) -> None:
            os.kill(os.getpid(), sent)
            time.sleep(0)  # the handler runs here

    reached = []

    def command(_: argparse.Namespace) -> int:
        fragile = Fragile()
        del fragile
        reached.append(True)
        time.sleep(60)
        return 0

    parser = argparse.ArgumentParser()
    parser.set_defaults(command=command)
    monkeypatch.setattr(cli, "_parser", lambda: parser)
    hook = sys.unraisablehook
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert cli.main([]) == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached
    assert sys.unraisablehook is hook
    assert "stopped" in capsys.readouterr().err


def test_a_killed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed before four changes on disk, in a process of its own: forks of one that has threads would hang."""
    campaign = [sys.executable, str(REPOSITORY / "benchmarks" / "kill_campaign.py"), "--at-files", "--kills", "4"]
    done = subprocess.run(
        [*campaign, "--folder", str(tmp_path / "campaign")], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills in" in done.stdout
    assert "0 differences" in done.stdout


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
