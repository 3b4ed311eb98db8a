"""`tag2mask demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, add_execution_options, execution_of
from tag2mask.cli.scores import print_scores


def add(commands: Any) -> None:
    """Add `demo`."""
    demo = add_command(commands, "demo", "the main job on embedded photos and digits; ends with a report", _demo)
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder (default runs/demo)")
    add_execution_options(demo)


def _demo(options: argparse.Namespace) -> int:
    from tag2mask.experiments.demo import demo

    report, scores = demo(options.out, execution=execution_of(options))
    print_scores(scores)
    print(f"report: {report.resolve()}")
    return 0
