"""`tag2mask results`: published results beside one's own runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.cli.common import add_command

if TYPE_CHECKING:
    from tag2mask.reports.results import Result

WRITTEN = {  # what tells a file that this command wrote, and may write again
    "--html": "<title>Results · tag2mask</title>",
    "--json": '[\n {\n  "task": ',
    "--csv": "task,dataset,split,metric,value,model,",
}
SORTS = ("group", "value", "model", "dataset", "year", "source")


def add(commands: Any) -> None:
    """Add `results`."""
    results = add_command(commands, "results", "published results beside one's own runs, as table and page", _results)
    results.add_argument(
        "runs", nargs="*", type=Path, help="folders of runs, or folders that hold runs (default runs)"
    )
    results.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    results.add_argument("--json", type=Path, metavar="FILE", help="write one's own rows as JSON")
    results.add_argument("--csv", type=Path, metavar="FILE", help="write one's own rows as CSV")
    results.add_argument("--filter", nargs="+", default=[], metavar="WORD", help="only rows with all of these words")
    results.add_argument("--sort", choices=SORTS, default="group", help="order of the table (default group)")


def _results(options: argparse.Namespace) -> int:
    from tag2mask.common.files import atomic_write, refuse_existing
    from tag2mask.reports.results import filtered, find_runs, own, published, ranked, to_csv, to_json
    from tag2mask.reports.results_page import results_page

    files = {"--html": options.html, "--json": options.json, "--csv": options.csv}
    for option, path in files.items():
        if path is not None and not _written_before(path, WRITTEN[option]):
            refuse_existing(path, option)
    default = [Path("runs")] if Path("runs").is_dir() else []
    mine, notes = own(find_runs(options.runs or default))
    rows = filtered(ranked([*published(), *mine]), options.filter)
    if options.sort == "value":
        rows.sort(key=lambda row: -row.value)
    elif options.sort != "group":
        rows.sort(key=lambda row: str(getattr(row, options.sort)).casefold())
    _print(rows)
    for note in notes:
        print(f"! {note}", file=sys.stderr)
    for path, text in (
        (options.html, lambda: results_page(rows, notes)),
        (options.json, lambda: to_json(rows)),
        (options.csv, lambda: to_csv(rows)),
    ):
        if path is not None:
            with atomic_write(path) as temporary:
                temporary.write_text(text(), encoding="utf-8")
            print(path)
    return 0


def _written_before(path: Path, mark: str) -> bool:
    """Whether a file is one that this command wrote, which has `mark` near its beginning."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as stream:
        return mark in stream.read(4096)


def _print(rows: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 170)
    table = Table(title="mIoU in percent; own rows in bold", title_justify="left")
    for column in ("task", "data set", "split", "metric", "value", "model", "source", "remarks"):
        table.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for row in rows:
        place = f"place {row.rank}" if row.rank else "not ranked"
        parts = (place, row.kind, row.beyond_labels and f"uses {row.beyond_labels}", *row.remarks)
        remarks = "; ".join(part for part in parts if part)
        value = f"{row.value:.1f}\n{row.interval_text}".strip()
        cells = (row.task, row.dataset, row.split, row.metric, value, row.model, row.source, remarks)
        table.add_row(*(Text(cell) for cell in cells), style="bold" if row.own else None)
    console.print(table)
