"""`tag2mask rerun`: repeat a run from its record and say where bytes differ."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, add_execution_options, execution_of

_SHOWN = 20


def add(commands: Any) -> None:
    """Add `rerun`."""
    rerun = add_command(commands, "rerun", "repeat a finished run from its record and say where bytes differ", _rerun)
    rerun.add_argument("run", type=Path, help="the finished run's folder; it is read, never changed")
    rerun.add_argument("--out", type=Path, help="the new run's folder (default RUN-again)")
    rerun.add_argument("--data", type=Path, help="where the data set lies by now (default: where it lay)")
    rerun.add_argument("--as-now", action="store_true", help="with the options below instead of the run's own")
    add_execution_options(rerun)


def _rerun(options: argparse.Namespace) -> int:
    from tag2mask.rerun import rerun

    execution = execution_of(options) if options.as_now else None
    done = rerun(options.run, options.out, data=options.data, execution=execution)
    for line in done.different[:_SHOWN]:
        print(f"! {line}")
    if len(done.different) > _SHOWN:
        print(f"! {len(done.different) - _SHOWN} more files differ")
    for line in done.circumstances if done.different else ():
        print(f"! perhaps because of {line}")
    print(f"{done.out}: " + ("differs" if done.different else f"the same as {options.run}, byte for byte"))
    return 1 if done.different else 0
