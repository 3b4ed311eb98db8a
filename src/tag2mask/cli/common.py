"""What several commands share: options, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.common.errors import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import; --help must not
    from tag2mask.engine.execution import Execution
    from tag2mask.recipe import Recipe

DEFAULT_RECIPE = "photos"
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")  # Lightning Fabric's


def at_least(least: int) -> Callable[[str], int]:
    """A type of an option: a whole number from `least` up; argparse says what was given instead."""

    def number(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} up")
        return int(text)

    return number


def add_command(
    commands: Any, name: str, text: str, function: Callable[[Any], int | None]
) -> argparse.ArgumentParser:
    """Add one command with its help `text` and the function that runs it."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:])
    command.set_defaults(command=function)
    return command


def add_recipe_options(command: argparse.ArgumentParser, optional: bool = False) -> None:
    """Options of commands that work with a recipe."""
    command.add_argument(
        "recipe",
        nargs="?" if optional else None,
        default=None,
        help="a recipe's file or name, or the folder of a run that is to go on with its own"
        + (f" (default: that of --out, else {DEFAULT_RECIPE})" if optional else ""),
    )
    command.add_argument("--data", type=Path, help="the data set's folder or label file")
    command.add_argument("--out", type=Path, help="the run's folder (default runs/RECIPE)")
    command.add_argument("--limit", type=at_least(1), metavar="N", help="train on N images, class-balanced")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's setting")


def data_settings(overrides: list[str], section: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a recipe's data section that --set gives, over those of `section`; ConfigError for others."""
    from tag2mask.config import with_overrides

    values = with_overrides({"data": section or {}}, overrides)
    other = [key for key in values if key != "data"]
    if other:
        raise ConfigError(f"--set {other[0]}: takes settings of the data section only here, as data.KEY=VALUE")
    settings: dict[str, Any] = values["data"]
    return settings


def add_execution_options(command: argparse.ArgumentParser) -> None:
    """Options of commands that compute: devices, processes."""
    command.add_argument("--device", default="auto", choices=DEVICES, help="what computes (default auto)")
    command.add_argument("--devices", type=at_least(1), default=1, help="how many devices train together (default 1)")
    command.add_argument("--precision", default="32-true", choices=PRECISIONS, help="of training")
    command.add_argument("--workers", type=at_least(0), default=1, help="processes that load images (default 1)")
    command.add_argument(
        "--processes", type=at_least(0), default=0, help="processes for single images (default: cores)"
    )
    command.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="spread single images over the Ray cluster that runs here, at HOST:PORT, or 'local' (extra 'ray')",
    )


def execution_of(options: argparse.Namespace) -> Execution:
    """Where and how wide to run, from the options."""
    from tag2mask.common.memory import keep_freed_memory
    from tag2mask.engine.execution import Execution

    keep_freed_memory()
    return Execution(
        options.device, options.devices, options.precision, options.workers, options.processes, ray=options.ray
    )


def recipe_and_out(options: argparse.Namespace) -> tuple[Recipe, Path]:
    """The recipe asked for, else that of --out, and the run's folder."""
    from tag2mask.recipe import load_recipe

    run = run_of(options)
    path = options.recipe or DEFAULT_RECIPE if run is None else run / "recipe.yaml"
    recipe = load_recipe(path, options.set)
    return recipe, run or options.out or Path("runs") / recipe.name


def run_of(options: argparse.Namespace) -> Path | None:
    """The folder of a run that is there and is meant to go on with its own recipe; None where a recipe is named."""
    from tag2mask.recipe import is_recipe

    given = options.recipe
    if given is None:
        out: Path | None = options.out
        return out if out is not None and (out / "recipe.yaml").is_file() else None
    if is_recipe(given) or not (Path(given) / "recipe.yaml").is_file():
        return None
    if options.out is not None:
        raise ConfigError(f"{given} is the folder of a run, and --out {options.out} too; give the run's folder once")
    return Path(given)


def data_of(options: argparse.Namespace, run: Path | None = None) -> Path:
    """The data set's path, from a `run` that is there if it isn't given; ConfigError without one."""
    from tag2mask.runs.info import parse_info, read_info

    found = options.data or (parse_info(read_info(run)).root if run is not None else None)
    if found is None:
        raise ConfigError("--data is missing; give the data set's folder or label file")
    return Path(found)
