"""The score table in the terminal."""

from __future__ import annotations

import sys
from typing import Any

from tag2mask.runs.scores import ScoreRow, rows_of, size_in_words, sizes_of, threshold_marks

MOST_COLUMNS = 11  # classes in the table, background included; more of them are left to scores.json and the report


def print_scores(scores: dict[str, Any]) -> None:
    """Print the rows of a scores.json: figures in percent, on which images, at which threshold chosen how."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = rows_of(scores)
    if not rows:
        print("no scores: there are no true masks to score against")
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    classes = list(rows[0].per_class) if len(rows[0].per_class) <= MOST_COLUMNS else []
    table = Table(title="mIoU in percent", title_justify="left")
    for column in ("", "mIoU", *classes, "images", "threshold"):
        table.add_column(escape(column), justify="left" if column == "" else "right", overflow="fold")
    marks = threshold_marks(rows)
    for row in rows:
        mark = f" [{marks[row.chosen_on]}]" if row.threshold_text and row.chosen_on else ""
        values = (row.miou, *(row.per_class.get(name) for name in classes))
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        cells[0] = f"{cells[0]}\n{row.interval_text}".strip()
        table.add_row(*map(escape, (row.title, *cells, f"{row.images} {row.split}", row.threshold_text + mark)))
    console.print(table)
    if any(row.interval for row in rows):
        print("second line of mIoU: 95 % bootstrap interval over the scored images, at the threshold shown")
    for text, mark in marks.items():
        print(f"[{mark}] {text}")
    for row in rows:
        for remark in row.remarks:
            print(f"{row.title}: {remark}")
    sizes = sizes_of(rows)
    if sizes:
        table = Table(title="mean IoU by how much of its photo a class covers", title_justify="left")
        table.add_column("")
        for size in sizes:
            table.add_column(f"{size}, {size_in_words(size)}", justify="right")
        for row in rows:
            table.add_row(escape(row.title), *(_by_size(row, size) for size in sizes))
        console.print(table)


def _by_size(row: ScoreRow, size: str) -> str:
    if size not in row.by_size:
        return "-"
    iou, count = row.by_size[size]
    return f"{100 * iou:.1f} ({count})"
