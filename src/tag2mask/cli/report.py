"""`tag2mask report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command
from tag2mask.common.errors import ConfigError


def add(commands: Any) -> None:
    """Add `report`."""
    report = add_command(commands, "report", "write the HTML report of a run's folder", _report)
    report.add_argument("run", type=Path, help="the run's folder")
    report.add_argument("--examples", type=int, default=12, help="examples a section (default 12)")


def _report(options: argparse.Namespace) -> int:
    from tag2mask.reports import write_report

    if not options.run.is_dir():
        raise ConfigError(f"{options.run}: no such folder; give the folder of a run")
    if not (options.run / "run.json").exists() and not any(options.run.glob("*/manifest.json")):
        raise ConfigError(f"{options.run}: no run's folder (no run.json); give the folder of a run")
    if options.examples < 0:
        raise ConfigError(f"--examples {options.examples}: give 0 or more")
    print(f"report: {write_report(options.run, examples=options.examples)}")
    return 0
