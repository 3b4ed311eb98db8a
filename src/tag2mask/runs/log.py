"""log.jsonl of a training: one row an epoch, as the loop writes it and as charts read it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tag2mask.common.files import atomic_write
from tag2mask.common.values import as_number

FILE = "log.jsonl"


@dataclass(frozen=True)
class Epoch:
    """What is noted of an epoch."""

    epoch: int  # from 1
    step: int  # updates so far
    train_loss: float | None  # mean over its updates; None where no image could be used
    lr: float  # after its last update
    seconds: float
    val_map: float | None = None  # mean average precision of the tags of some held-out images
    val_criterion: float | None = None  # where it looks in some of them: -1..1, the higher the better


def append_epoch(folder: Path, row: Epoch) -> None:
    """Append a row, dropping rows of epochs that a killed run had logged but not saved."""
    path = folder / FILE
    rows = path.read_text(encoding="utf-8").splitlines()[: row.epoch - 1] if path.is_file() else []
    known = {key: value for key, value in asdict(row).items() if value is not None}
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([*rows, json.dumps(known)]) + "\n", encoding="utf-8")


def read_epochs(text: str) -> tuple[list[Epoch], int]:
    """The rows of a log's text, by epoch, and how many of its lines can't be read."""
    rows, bad = {}, 0
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            row = _row(json.loads(line))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError):
            bad += 1
            continue
        rows[row.epoch] = row
    return [rows[epoch] for epoch in sorted(rows)], bad


def _row(values: dict[str, float]) -> Epoch:
    return Epoch(
        int(values["epoch"]),
        int(values["step"]),
        as_number(values.get("train_loss")),
        float(values["lr"]),
        float(values["seconds"]),
        as_number(values.get("val_map")),
        as_number(values.get("val_criterion")),
    )


def epochs_in(folder: Path) -> list[Epoch]:
    """The rows of the log in a training's folder; none where there is no log."""
    path = folder / FILE
    return read_epochs(path.read_text(encoding="utf-8"))[0] if path.is_file() else []


def loss_points(rows: Iterable[Epoch]) -> list[tuple[float, float]]:
    """(epoch, loss) of the epochs that have one."""
    return [(float(row.epoch), row.train_loss) for row in rows if row.train_loss is not None]


def map_points(rows: Iterable[Epoch]) -> list[tuple[float, float]]:
    """(epoch, held-out mean average precision 0..1) of the epochs that have one."""
    return [(float(row.epoch), row.val_map) for row in rows if row.val_map is not None]
