"""`tag2mask ablate`: a grid of localization settings, one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, add_execution_options, at_least, data_of, execution_of


def add(commands: Any) -> None:
    """Add `ablate`."""
    text = "compare a grid of CAM and RIB settings on the classifier of a run, with true masks or without: one table"
    command = add_command(commands, "ablate", text, _ablate)
    command.add_argument("run", type=Path, help="the folder of a run, whose classifier is used")
    command.add_argument("--data", type=Path, help="the run's data set")
    command.add_argument("--grid", default="paper", help="a grid's file or name (default: paper)")
    command.add_argument("--images", type=at_least(1), default=96, help="class-balanced training images (default 96)")
    command.add_argument("--images-seed", type=int, default=0, help="which images these are (default 0)")
    command.add_argument("--out", type=Path, help="folder for maps and table (default RUN/ablation/GRID)")
    add_execution_options(command)


def _ablate(options: argparse.Namespace) -> int:
    from tag2mask.experiments.ablation import ablate, markdown

    table = ablate(
        options.run,
        data_of(options),
        options.grid,
        options.out,
        images=options.images,
        images_seed=options.images_seed,
        execution=execution_of(options),
    )
    print(markdown(table), end="")
    return 0
