"""The benchmark of RIB's price: its logic, at a size that takes seconds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "rib_cost.py"


def test_rungs_are_measured_side_by_side():
    options = "--size 64x48 --steps 3 --batch 2 --backbone resnet18 --threads 1 --quick --peak 0.1"
    options += " --in-flight 1 2 --images-each 2 --without"
    left_out = ["1 exact and lean", "2 bank of partners", "3a amortised"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options.split(), *left_out],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    fewer = {
        name: float(times) for name, times in re.findall(r"^\| (\w[^|]+) \| [\d.]+ \| ([\d.]+) ", done.stdout, re.M)
    }
    assert fewer["plain transcription"] == 1.0
    assert fewer["plain CAM"] > fewer["3b one searched step"] > 5  # two partners of 512 pixels beside a tiny target
    looked = [float(rows) for rows in re.findall(r"^\| \d+ \| (\d+) \|", done.stdout, re.M)]
    assert len(looked) == 4
    rates = [float(rate) for rate in re.findall(r"^\| [12] \| ([\d.]+) \| [\d.]+ \|$", done.stdout, re.M)]
    assert len(rates) == 2
    assert min(rates) > 0
    assert looked[-1] < 3 * 1000  # rows of the index an image looks at, of 82,783
