"""The range of values of a whole set, where its pictures have more than 8 bits: found once, the same for all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from tag2mask.common.seeding import rng_for
from tag2mask.data.images import extra_bands, raw_values
from tag2mask.data.records import BadFileError, Dataset, ImageRecord, Problem, text_of

_DEEP_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".pgm"})  # files that can hold more than 8 bits a band
PICTURES = 64  # whose values are looked at
_LOOKED_AT = 512  # whose headers are: enough to meet deep pictures where one in a hundred is
_VALUES = 1 << 16  # of a picture, on a grid
TOP, BOTTOM = 99.9, 0.1  # percent of the values


def value_range(dataset: Dataset) -> tuple[float, float] | None:
    """Return the values that become black and white, None where no picture has more than 8 bits a band.

    White is the 99.9 % point of the values of up to 64 training pictures, drawn by their ids; black is 0, or the
    0.1 % point where values are negative. Pictures that can't be read don't count.
    """
    deep = (values for path in _candidates(dataset.records) if (values := _grid(path)) is not None)
    parts = list(islice(deep, PICTURES))
    if not parts:
        return None
    values = np.concatenate(parts)
    low, high = (float(point) for point in np.percentile(values, (BOTTOM, TOP)))
    low = min(low, 0.0)
    return (low, high) if high > low else (low, max(float(values.max()), low + 1.0))


def _candidates(records: Sequence[ImageRecord]) -> Iterator[Path]:
    learned = [record for record in records if record.split not in ("val", "test")] or records
    there = [r for r in learned if os.path.splitext(text_of(r, "path")[1])[1].lower() in _DEEP_SUFFIXES]
    there.sort(key=lambda record: record.id)
    rng_for(0, "value range").shuffle(there)
    return (record.path for record in there[:_LOOKED_AT])


def _grid(path: Path) -> np.ndarray | None:
    """Return some of a deep picture's values, evenly over it."""
    try:
        values = raw_values(path)
    except BadFileError:
        return None
    if values is None:
        return None
    step = max(1, round((values.size / _VALUES) ** 0.5))
    flat = values[::step, ::step].astype(np.float64).ravel()
    return flat[np.isfinite(flat)]


def said(dataset: Dataset) -> Iterator[Problem]:
    """Say once what is done with values of more than 8 bits and with bands that RGB has no place for."""
    reading = dataset.reading
    if reading.value_range is not None:
        low, high = reading.value_range
        message = f"pictures with more than 8 bits: {low:g} becomes black and {high:g} white in all of them"
        remedy = f"the {TOP} % point of up to {PICTURES} pictures; data.value_range sets others"
        yield Problem("value-range", dataset.name, "", message, remedy, note=True)
    if reading.bands is None:
        banded = [path for path in _candidates(dataset.records) if extra_bands(path) == 1]
        if banded:
            message = f"'{banded[0].name}' and {len(banded) - 1} more have a fourth band that isn't transparency"
            yield Problem("bands", dataset.name, "", message, "the first three are used; data.bands picks", note=True)
