"""`tag2mask data`: look a data set through before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command


def add(commands: Any) -> None:
    """Add `data` and its commands."""
    data = commands.add_parser("data", help="look a data set through before anything is trained")
    check = add_command(data.add_subparsers(required=True, metavar="COMMAND"), "check", "list what is wrong", _check)
    check.add_argument("dir", type=Path, help="the data set's folder or label file")
    check.add_argument("--reader", default="auto", help="auto, csv, folders, voc or coco (default auto)")
    check.add_argument("--classes", help="comma-separated class names; labels outside are reported")
    check.add_argument("--no-decode", action="store_true", help="don't open the images (faster)")
    check.add_argument("--all", action="store_true", help="list every problem, one a line")


def _check(options: argparse.Namespace) -> int:
    from tag2mask.data import check_dataset, read_dataset

    classes = [name.strip() for name in options.classes.split(",")] if options.classes else None
    dataset = read_dataset(options.dir, reader=options.reader, classes=classes)
    report = check_dataset(dataset, decode=not options.no_decode)
    print("\n".join(report.summary()))
    if options.all:
        print("\n".join(str(problem) for problem in report.problems))
    return 0 if report.ok else 1
