"""`tag2mask review`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, at_least
from tag2mask.common.errors import ConfigError


def add(commands: Any) -> None:
    """Add `review`."""
    review = add_command(
        commands,
        "review",
        "a page to look at photos and masks, decide on them and correct them (extra 'review')",
        _do,
    )
    review.add_argument("run", type=Path, help="the run's folder")
    review.add_argument("--port", type=at_least(0), default=0, help="of this machine (default: a free one)")
    review.add_argument("--no-browser", action="store_true", help="only print the page's address")
    review.add_argument("--export", type=Path, metavar="FILE", help="write the decisions to a zip file instead")
    review.add_argument(
        "--import", type=Path, metavar="FILE", dest="taken", help="take decisions in from such a file"
    )


def _do(options: argparse.Namespace) -> int:
    if not options.run.is_dir():
        raise ConfigError(f"{options.run}: no such folder; give the folder of a run")
    if options.export is not None:
        return _export(options.run, options.export)
    if options.taken is not None:
        return _import(options.run, options.taken)
    from tag2mask.review.server import serve

    serve(options.run, port=options.port, browser=not options.no_browser)
    return 0


def _export(run: Path, out: Path) -> int:
    from tag2mask.common.files import atomic_write
    from tag2mask.review.store import exported

    if not (run / "run.json").is_file():
        raise ConfigError(f"{run}: is no run's folder (no run.json); give one that 'run' wrote")
    if out.exists():
        raise ConfigError(f"{out}: is there already, and nothing is overwritten; choose another file")
    with atomic_write(out) as temporary:
        temporary.write_bytes(exported(run))
    print(f"decisions: {out}")
    return 0


def _import(run: Path, path: Path) -> int:
    from tag2mask.review.store import Store, imported
    from tag2mask.review.subjects import open_subjects

    taken, left = imported(Store(open_subjects(run)), path)
    why = "of photos or classes that this run doesn't have, or masks of another size than their photo"
    print(f"{taken} decisions taken in" + (f", {left} left out: {why}" if left else ""))
    return 0
