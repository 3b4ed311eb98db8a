"""The coverage-guided fuzzer for some thousand inputs of each kind; benchmarks/fuzz.py goes on for hours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="no fuzzer here (extra 'dev' has it where there is a wheel)")
FUZZER = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"
RUNS = {"json": 20_000, "maps": 10_000, "arrays": 5_000, "tables": 15_000}


@pytest.mark.parametrize("target", RUNS)
def test_every_input_is_used_or_named(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZER), target, "--runs", str(RUNS[target]), "--seed", "1", "--seconds", "600"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    counted = re.search(r"Done (\d+) runs? in", done.stderr)
    assert counted is not None
    assert int(counted[1]) >= RUNS[target]
    assert list(tmp_path.iterdir()) == []  # no crash-...
