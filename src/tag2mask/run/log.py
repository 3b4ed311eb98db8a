"""log.jsonl of a training: one row an epoch, as the loop writes it and as charts read it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tag2mask.common.files import atomic_write

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


def append_epoch(folder: Path, row: Epoch) -> None:
    """Append a row, dropping rows of epochs that a killed run had logged but not saved."""
    path = folder / FILE
    rows = path.read_text(encoding="utf-8").splitlines()[: row.epoch - 1] if path.is_file() else []
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([*rows, json.dumps(asdict(row))]) + "\n", encoding="utf-8")


def read_epochs(text: str) -> tuple[list[Epoch], int]:
    """The rows of a log's text, by epoch, and how many of its lines can't be read."""
    rows, bad = {}, 0
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            row = _row(json.loads(line))
        except (ValueError, TypeError, KeyError):
            bad += 1
            continue
        rows[row.epoch] = row
    return [rows[epoch] for epoch in sorted(rows)], bad


def _row(values: dict[str, float]) -> Epoch:
    loss = values["train_loss"]
    return Epoch(
        int(values["epoch"]),
        int(values["step"]),
        None if loss is None else float(loss),
        float(values["lr"]),
        float(values["seconds"]),
        values.get("val_map"),
    )


def loss_points(rows: Iterable[Epoch]) -> list[tuple[float, float]]:
    """(epoch, loss) of the epochs that have one."""
    return [(float(row.epoch), row.train_loss) for row in rows if row.train_loss is not None]
