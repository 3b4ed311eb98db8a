"""What a background score costs and covers, for all scores at once: a slider then needs but a look-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tag2mask.review.index import KEPT, STEPS, Row


def cover_by_class(rows: Mapping[str, Row], classes: Sequence[str]) -> dict[str, list[float]]:
    """By class the mean share of its photos, 0..1, that a cut at 0, 0.01 .. 1 keeps; none without maps."""
    found = {}
    for name in classes:
        cuts = [row["cuts"][name] for row in rows.values() if name in row["cuts"]]
        if cuts:
            found[name] = [round(float(share), 5) for share in np.mean(cuts, axis=0) / 1e6]
    return found


def lost_at(row: Row) -> dict[str, int]:
    """By tag the first k at which a cut at k / 100 keeps less than `KEPT` of the photo; 101 where none does."""
    return {name: _first_below(cuts) for name, cuts in row["cuts"].items()}


def _first_below(cuts: Sequence[int]) -> int:
    return next((k for k, share in enumerate(cuts) if share < 1e6 * KEPT), STEPS + 1)


def about(rows: Mapping[str, Row], classes: Sequence[str]) -> dict[str, Any]:
    """What the page needs for its sliders."""
    return {"steps": STEPS, "kept": KEPT, "cover": cover_by_class(rows, classes)}
