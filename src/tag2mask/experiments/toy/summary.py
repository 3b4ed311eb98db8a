"""Means and spreads over seeds, and the files with all numbers."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from tag2mask.common.errors import ConfigError, refuse_other_settings
from tag2mask.common.files import atomic_write, read_json, write_json
from tag2mask.config import to_mapping
from tag2mask.experiments.toy.config import ToyConfig
from tag2mask.experiments.toy.data import REGIONS
from tag2mask.experiments.toy.experiment import WEIGHTS, Measured, ToyResult
from tag2mask.experiments.toy.measure import WITHOUT, Row
from tag2mask.experiments.toy.network import STAGES
from tag2mask.runs.folder import versions

Key = tuple[str, str, int, str, str, str, float, str]  # last, weights, then Row without hgr and images


class Spread(NamedTuple):
    """Mean and standard deviation (of a sample, n - 1; NaN for one) over `seeds` seeds."""

    mean: float
    sd: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values that are numbers."""
        known = [value for value in values if not math.isnan(value)]
        mean = statistics.fmean(known) if known else math.nan
        return cls(mean, statistics.stdev(known) if len(known) > 1 else math.nan, len(known))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if math.isnan(self.sd) else f"{self.mean:.2f} ± {self.sd:.2f}"

    @property
    def signed(self) -> str:
        """The same for a difference."""
        return f"{self.mean:+.2f}" if math.isnan(self.sd) else f"{self.mean:+.2f} ± {self.sd:.2f}"


def by_key(result: ToyResult) -> dict[Key, list[float]]:
    """Every ratio, one value a seed."""
    found: dict[Key, list[float]] = {}
    for one, weights, row in _rows(result):
        key = (one.last, weights, row.stage, row.scalar, row.through, row.scale, row.threshold, row.region)
        found.setdefault(key, []).append(row.hgr)
    return found


def at_last_stage(
    result: ToyResult,
    last: str,
    weights: str,
    region: str = "non-discriminative",
    *,
    scale: str = "own",
    threshold: float | None = None,
) -> list[float]:
    """Ratios at G_6, one a seed: through the activation where the network still has it, else without."""
    has_it = weights in ("trained", "continued")
    return by_key(result)[
        (
            last,
            weights,
            STAGES,
            "class",
            last if has_it else WITHOUT,
            scale,
            threshold or result.config.threshold,
            region,
        )
    ]


def curve(
    result: ToyResult, last: str, weights: str, region: str, *, scalar: str = "sum", threshold: float | None = None
) -> list[Spread]:
    """The ratio of a region at G_1 to G_6, over seeds."""
    values, threshold = by_key(result), threshold or result.config.threshold
    inner = [values[(last, weights, stage, scalar, "", "own", threshold, region)] for stage in range(1, STAGES)]
    return [Spread.of(each) for each in [*inner, at_last_stage(result, last, weights, region, threshold=threshold)]]


def changes(result: ToyResult, last: str, weights: str, region: str = "non-discriminative") -> Spread:
    """Change of the ratio at G_6 against the trained network of the same seed, on the same pictures."""
    after, before = (at_last_stage(result, last, name, region) for name in (weights, "trained"))
    return Spread.of([b - a for a, b in zip(before, after, strict=True)])


def last_drop(result: ToyResult, last: str, region: str) -> Spread:
    """The trained network's ratio at G_6 minus that at G_5, seed by seed."""
    before = by_key(result)[(last, "trained", STAGES - 1, "sum", "", "own", result.config.threshold, region)]
    after = at_last_stage(result, last, "trained", region)
    return Spread.of([b - a for a, b in zip(before, after, strict=True)])


def checks(result: ToyResult, last: str) -> dict[str, Spread]:
    """Accuracy and the like, over seeds."""
    ones = [one for one in result.measured if one.last == last]
    return {name: Spread.of([one.checks[name] for one in ones]) for name in ones[0].checks}


def refuse_other(folder: Path, seeds: Sequence[int], last: Sequence[str], config: ToyConfig, digits: str) -> None:
    """Raise ConfigError when `folder` holds the experiment with other settings, seeds, digits or last activations."""
    path = folder / "toy.json"
    if not path.is_file():
        return
    asked = to_mapping(config) | {"seeds": sorted(seeds), "last": list(last), "digits": _digits_name(digits)}
    try:
        old = read_json(path)
        last_there = list(dict.fromkeys(check["last"] for check in old["checks"]))
        stored = old["config"] | {"seeds": old["seeds"], "last": last_there, "digits": old["digits"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: can't be read; choose another --out, or delete it") from error
    refuse_other_settings(folder, "the toy experiment", stored, asked)


def _digits_name(digits: str) -> str:
    return "sklearn" if digits == "sklearn" else "mnist"


def write_numbers(result: ToyResult, folder: Path) -> None:
    """Write toy.csv (one row a seed), toy_summary.csv (over seeds) and toy.json (settings, checks, versions)."""
    names = ("last", "weights", *Row._fields[:-2])
    rows = [
        (one.last, weights, *row[:-2], one.seed, f"{row.hgr:.6f}", row.images) for one, weights, row in _rows(result)
    ]
    _write_csv(folder / "toy.csv", (*names, "seed", "hgr", "images"), rows)
    means = [
        (*key, f"{s.mean:.4f}", f"{s.sd:.4f}", s.seeds)
        for key, s in ((key, Spread.of(values)) for key, values in by_key(result).items())
    ]
    _write_csv(folder / "toy_summary.csv", (*names, "mean", "sd", "seeds"), means)
    write_json(
        folder / "toy.json",
        {
            "digits": _digits_name(result.digits),
            "seeds": result.seeds,
            "config": asdict(result.config),
            "weights": WEIGHTS,
            "regions": list(REGIONS),
            "versions": versions(),
            "checks": [{"last": one.last, "seed": one.seed, **one.checks} for one in result.measured],
        },
    )


def _rows(result: ToyResult) -> Iterator[tuple[Measured, str, Row]]:
    for one in result.measured:
        for weights, rows in one.rows.items():
            for row in rows:
                yield one, weights, row


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
