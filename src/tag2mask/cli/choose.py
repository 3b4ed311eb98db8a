"""`tag2mask choose`: which pseudo-masks a run's later stages follow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command
from tag2mask.common.commands import command
from tag2mask.common.errors import ConfigError


def add(commands: Any) -> None:
    """Add `choose`."""
    choose = add_command(commands, "choose", "which of a run's pseudo-masks its later stages follow", _choose)
    choose.add_argument("run", type=Path, help="the run's folder")
    choose.add_argument("name", nargs="?", help="of the pseudo-masks; left out: list them")


def _choose(options: argparse.Namespace) -> int:
    from tag2mask.choices import choose, refuse_no_run

    refuse_no_run(options.run)
    if options.name is None:
        print_compared(options.run)
        return 0
    aside = choose(options.run, options.name)
    print(f"{options.run}: later stages follow the pseudo-masks '{options.name}'")
    if aside:
        print(f"set aside, until the ones before are chosen again: {', '.join(aside)}")
    print(f"to make network and masks by them: {command('run', options.run)}")
    return 0


def print_compared(run: Path) -> None:
    """Print the pseudo-masks of a run beside each other."""
    from tag2mask.reports.compare import compared, lines
    from tag2mask.reports.gather import gather
    from tag2mask.reports.look import look

    facts = gather(run)
    found = look(run, facts.index, facts.info.seed or 0)
    rows = compared(facts, found)
    if not rows:
        raise ConfigError(f"{run}: it has no whole pseudo-masks to compare; give: {command('run', run)}")
    print("\n".join(lines(rows, facts.classes)))
