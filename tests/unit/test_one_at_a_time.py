"""Two runs in one folder: the second is refused, before it does anything, until the first is gone."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tag2mask
from tag2mask.common.errors import ConfigError
from tag2mask.runs.lock import FILE, alone_in

HOLD = """
import sys
sys.path.insert(0, {sources!r})
from pathlib import Path
from tag2mask.runs.lock import alone_in
with alone_in(Path({folder!r})):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process(tmp_path: Path) -> None:
    code = HOLD.format(sources=str(Path(tag2mask.__file__).parents[1]), folder=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"process {other.pid} on .* is at work in it; wait until it ends"):
            alone_in(tmp_path).__enter__()
        other.kill()
        other.wait()
        with alone_in(tmp_path):  # the system let go of it
            assert (tmp_path / FILE).is_file()


def test_another_thread_and_the_same(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with alone_in(tmp_path):
                found.append("entered")
        except ConfigError as error:
            found.append(str(error))

    with alone_in(tmp_path), alone_in(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another thread of this process" in found.pop()
    other()
    assert found == ["entered"]
