"""What a background score costs and covers, for all scores at once: a slider then needs but a look-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tag2mask.review.index import STEPS, Row

KEPT = 0.1  # share of a class's mean cover; some 27 of 595 tags then, where 24 are lost (six animal classes, CRF)


def cover_by_class(rows: Mapping[str, Row], classes: Sequence[str]) -> dict[str, list[float]]:
    """By class the mean share of its photos, 0..1, that a cut at 0, 0.01 .. 1 keeps; none without maps."""
    found = {}
    for name in classes:
        cuts = [row["cuts"][name] for row in rows.values() if name in row["cuts"]]
        if cuts:
            found[name] = [round(float(share), 5) for share in np.mean(cuts, axis=0) / 1e6]
    return found


def least_by_class(covers: Mapping[str, Sequence[float]], threshold: float) -> dict[str, float]:
    """By class the share of a photo, 0..1, below which a tag counts as lost: so little doesn't survive refinement.

    It is `KEPT` of what the class covers on average at `threshold`, so that it fits small things and large ones.
    """
    return {name: KEPT * cover[round(STEPS * threshold)] for name, cover in covers.items()}


def lost_at(row: Row, least: Mapping[str, float]) -> dict[str, int]:
    """By tag the first k at which a cut at k / 100 keeps less than `least` of the photo; 101 where none does."""
    return {name: _first_below(cuts, 1e6 * least[name]) for name, cuts in row["cuts"].items()}


def _first_below(cuts: Sequence[int], least: float) -> int:
    return next((k for k, share in enumerate(cuts) if share < least), STEPS + 1)
