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


MOST_COLUMNS = 11  # classes in the table, background included; more of them are left to scores.json and the report


def title_of(name: str, row: dict[str, Any]) -> str:
    """What a row of scores.json is called: pseudo-masks say what refined them, e.g. "pseudo-mask RIB+IRN"."""
    if name.startswith("pseudo_mask"):
        return f"pseudo-mask {row.get('title') or name.removeprefix('pseudo_mask').strip('_')}".strip()
    return TITLES.get(name, name)


def interval_of(row: dict[str, Any]) -> str:
    """The bootstrap interval as a second line of the cell, "" without one."""
    interval = row.get("interval") or {}
    if interval.get("low") is None:
        return ""
    return f"\n{100 * interval['low']:.1f}-{100 * interval['high']:.1f}"


def remarks(name: str, row: dict[str, Any]) -> list[str]:
    """What has to be said about a row besides its threshold: undecided pixels, where saliency came from."""
    found = []
    if row.get("coverage") is not None:
        share, decided = 100 * row["coverage"], row.get("miou_decided")
        text = f"{title_of(name, row)}: {share:.1f} % of the pixels are decided, the rest is scored as background"
        found.append(text if decided is None else f"{text}; mIoU over the decided ones alone {100 * decided:.1f}")
    if row.get("count_ignored"):
        found.append(f"{title_of(name, row)}: ignored pixels are counted, as in the reference's slip on COCO")
    if row.get("saliency"):
        found.append(f"{title_of(name, row)}: saliency {row['saliency']}")
    return found


def print_scores(scores: dict[str, Any]) -> None:
    """Print the score table: figures in percent, on which images, at which threshold chosen how."""
    from rich.console import Console
    from rich.table import Table

    from tag2mask.reports.letters import letter

    if not scores:
        print("no scores: there are no true masks to score against")
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    classes = list(next(iter(scores.values()))["per_class"])
    classes = classes if len(classes) <= MOST_COLUMNS else []
    table = Table(title="mIoU in percent", title_justify="left")
    for column in ("", "mIoU", *classes, "images", "threshold"):
        table.add_column(column, justify="left" if column == "" else "right", overflow="fold")
    notes: dict[str, str] = {}
    for name, row in scores.items():
        threshold = "" if row["threshold"] is None else f"{row['threshold']:.2f}"
        if row["threshold"] is not None:
            threshold += f" [{notes.setdefault(row['threshold_chosen_on'], letter(len(notes)))}]"
        values = (row["miou"], *(row["per_class"].get(name) for name in classes))
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        cells[0] += interval_of(row)
        table.add_row(title_of(name, row), *cells, f"{row['images']} {row['split']}", threshold.replace("[", r"\["))
    console.print(table)
    if any(row.get("interval") for row in scores.values()):
        print("second line of mIoU: 95 % bootstrap interval over the scored images, at the threshold shown")
    for text, mark in notes.items():
        print(f"[{mark}] {text}")
    for text in (text for name, row in scores.items() for text in remarks(name, row)):
        print(text)
