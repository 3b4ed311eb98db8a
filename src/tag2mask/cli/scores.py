"""The score table in the terminal."""

from __future__ import annotations

import sys
from typing import Any

TITLES = {
    "seed_cam": "CAM seed",
    "seed_rib": "RIB seed",
    "pseudo_mask": "pseudo-mask",
    "segmentation_val": "segmentation",
    "supervised_val": "upper bound: trained on true masks",
}


def print_scores(scores: dict[str, Any]) -> None:
    """Print the score table: figures in percent, on which images, at which threshold chosen how."""
    from rich.console import Console
    from rich.table import Table

    if not scores:
        print("no scores: there are no true masks to score against")
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    classes = list(next(iter(scores.values()))["per_class"])
    table = Table(title="mIoU in percent", title_justify="left")
    for column in ("", "mIoU", *classes, "images", "threshold"):
        table.add_column(column, justify="left" if column == "" else "right", overflow="fold")
    notes: dict[str, str] = {}
    for name, row in scores.items():
        threshold = "" if row["threshold"] is None else f"{row['threshold']:.2f}"
        if row["threshold"] is not None:
            threshold += f" [{notes.setdefault(row['threshold_chosen_on'], chr(ord('a') + len(notes)))}]"
        cells = [
            "-" if value is None else f"{100 * value:.1f}" for value in (row["miou"], *row["per_class"].values())
        ]
        table.add_row(
            TITLES.get(name, name), *cells, f"{row['images']} {row['split']}", threshold.replace("[", r"\[")
        )
    console.print(table)
    for text, letter in notes.items():
        print(f"[{letter}] {text}")
