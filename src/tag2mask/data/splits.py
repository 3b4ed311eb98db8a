"""A held-out part where a data set has none: drawn by tags, groups and seed, the same for any order of images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tag2mask.common.seeding import rng_for
from tag2mask.data.records import Dataset, ImageRecord, Problem, changed

NOTHING = -1  # stands for the class of negatives


def with_held_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Return the set with `fraction` of each class's (and of the negatives') images in the split "val".

    Images of one group stay together, so that the share is only met as nearly as groups allow. The rarest class is
    served first; every class keeps at least one group that is learned from. A set that has a split "val" stays as it
    is, and so does one of which no group can be held out, which becomes a note among its problems.
    """
    if fraction == 0 or any(record.split == "val" for record in dataset.records):
        return dataset
    learned = [record for record in dataset.records if record.split in ("", "train")]
    held_out = _drawn(learned, fraction, seed)
    if not held_out:
        problem = Problem(
            "held-out",
            dataset.name,
            "",
            f"data.val_fraction is {fraction} and no image can be held out of {len(learned)}, since every class must "
            "keep one to learn from, so nothing is",
            "add images, or name a split val",
            note=True,
        )
        return replace(dataset, problems=(*dataset.problems, problem))
    ids = {record.id for record in learned}
    records = (
        changed(r, split="val" if _unit(r) in held_out else "train") if r.id in ids else r for r in dataset.records
    )
    return replace(dataset, records=tuple(records))


def _unit(record: ImageRecord) -> tuple[str, str]:
    return ("group", record.group) if record.group else ("image", record.id)


def _kinds(record: ImageRecord) -> tuple[int, ...]:
    return record.labels or (NOTHING,)


def _drawn(records: Sequence[ImageRecord], fraction: float, seed: int) -> set[tuple[str, str]]:
    """Return the groups that are held out."""
    units: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for record in records:
        units[_unit(record)].update(_kinds(record))
    order = sorted(units)
    rng_for(seed, "held out").shuffle(order)
    total: Counter[int] = Counter(kind for record in records for kind in _kinds(record))
    left = Counter(kind for unit in order for kind in units[unit])  # groups that are learned from, by class
    taken: Counter[int] = Counter()
    held_out: set[tuple[str, str]] = set()
    for kind in sorted(total, key=lambda kind: (total[kind], kind)):
        for unit in order:
            own = units[unit]
            if kind not in own or unit in held_out or any(left[other] < 2 for other in own):
                continue
            if abs(taken[kind] + own[kind] - fraction * total[kind]) >= abs(taken[kind] - fraction * total[kind]):
                continue
            held_out.add(unit)
            taken.update(own)
            left.subtract(dict.fromkeys(own, 1))
    return held_out
