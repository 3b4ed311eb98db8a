"""Which images share no class with a given one: an index built once, sampled without a scan."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from tag2mask.common.errors import DataError, did_you_mean
from tag2mask.common.seeding import rng_for

_TRIES_PER_PARTNER = 16  # random tries before the rest is found by one scan
_MORE_TRIES = 64


class PartnerIndex:
    """Samples class-disjoint partners of an image; the same seed and id give the same partners.

    labels: (N, C) bool, which class is present in which image; ids: N unique names. The order of rows does
    not matter: the same ids are drawn for any order. `pool` names the rows that may be drawn where not all of them
    may (a bank that fits into memory, say). `rows_touched` counts the label rows compared so far.
    """

    def __init__(self, labels: np.ndarray, ids: Sequence[str], pool: Sequence[int] | None = None) -> None:
        labels = np.asarray(labels, dtype=bool)
        if labels.ndim != 2 or len(labels) != len(ids) or len(set(ids)) != len(ids):
            raise DataError(
                f"the index needs (N, C) labels and N different ids, got {labels.shape} and {len(ids)} ids"
                f" ({len(set(ids))} different)"
            )
        order = sorted(range(len(ids)), key=lambda row: ids[row])
        self._rows = np.array(order, dtype=np.int64)  # place in order of id -> row of the caller
        self._place = {ids[row]: place for place, row in enumerate(order)}
        self._bits = np.packbits(labels[self._rows], axis=1)  # (N, ceil(C / 8)) uint8
        self._masks = [int.from_bytes(row.tobytes(), "big") for row in self._bits]
        allowed = range(len(ids)) if pool is None else sorted(self._place[ids[row]] for row in set(pool))
        self._pool = np.array(allowed, dtype=np.int64)  # places that may be drawn, ascending
        self.rows_touched = 0

    def sample(self, image_id: str, count: int, seed: int, disjoint: bool = True) -> list[int]:
        """Return `count` rows of images that share no class with `image_id`, never itself.

        They are drawn evenly and without replacement. Are there fewer than `count`, all are used, then all
        again in another order, and so on; are there none (a set with one class, say), the list is empty.
        With `disjoint=False` any other image may be drawn. Raises DataError for an id not in the index.
        """
        if image_id not in self._place:
            raise DataError(f"image '{image_id}' is not in the index{did_you_mean(image_id, self._place)}")
        target = self._place[image_id]
        mask = self._masks[target] if disjoint else 0
        rng = rng_for(seed, "partners", image_id)
        places = self._try(target, mask, count, rng)
        if len(places) < count:
            rest = sorted(set(self._scan(target, mask)) - set(places))
            places += rng.sample(rest, min(count - len(places), len(rest)))
        everyone = list(places)
        while everyone and len(places) < count:
            rng.shuffle(everyone)
            places += everyone[: count - len(places)]
        return [int(self._rows[place]) for place in places]

    def _try(self, target: int, mask: int, count: int, rng: random.Random) -> list[int]:
        """Draw any rows and keep those that fit, in a bounded number of tries."""
        kept: dict[int, None] = {}
        tries = _TRIES_PER_PARTNER * count + _MORE_TRIES
        while len(kept) < min(count, len(self._pool) - 1) and tries:
            tries -= 1
            place = int(self._pool[rng.randrange(len(self._pool))])
            self.rows_touched += 1
            if place != target and not self._masks[place] & mask:
                kept.setdefault(place)
        return list(kept)

    def _scan(self, target: int, mask: int) -> list[int]:
        """Return all places in the pool that fit."""
        self.rows_touched += len(self._pool)
        row = np.frombuffer(mask.to_bytes(self._bits.shape[1], "big"), dtype=np.uint8)
        fits = ~np.any(self._bits[self._pool] & row, axis=1) & (self._pool != target)
        return [int(place) for place in self._pool[fits]]
