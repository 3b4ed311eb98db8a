"""`tag2mask new`: look at a folder and draft its recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, data_settings
from tag2mask.common.commands import command
from tag2mask.common.errors import ConfigError


def add(commands: Any) -> None:
    """Add `new`."""
    new = add_command(commands, "new", "look at a folder, check it, and write a short recipe for it", _new)
    new.add_argument("dir", type=Path, help="the data set's folder or label file")
    new.add_argument("--out", type=Path, metavar="FILE", help="where the recipe goes (default: NAME.yaml, here)")
    new.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of data, as data.reader=folders"
    )
    new.add_argument("--no-decode", action="store_true", help="don't open every image (faster)")


def _new(options: argparse.Namespace) -> int:
    from tag2mask.draft import draft, free_name

    out: Path = options.out or Path(f"{free_name(options.dir)}.yaml")
    if out.exists():
        raise ConfigError(f"{out}: is there already, and nothing is overwritten; edit it, or choose another --out")
    found = draft(options.dir, out.stem, decode=not options.no_decode, given=data_settings(options.set))
    print("\n".join(found.lines))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("x", encoding="utf-8") as stream:
        stream.write(found.recipe)
    print(f"\n{out}:\n{found.recipe}")
    if found.stops:
        print("\n".join(f"! a run would stop at: {line}" for line in found.stops))
        return 1
    print(f"edit it where it is wrong, then: {command('run', out, '--data', options.dir)}")
    return 0
