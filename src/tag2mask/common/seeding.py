"""Randomness that depends on a seed and on names, never on order, workers or global state."""

from __future__ import annotations

import hashlib
import random


def seed_for(seed: int, *parts: object) -> int:
    """Return a 63-bit seed that is a stable function of `seed` and of the text of `parts`."""
    text = "\x1f".join([str(int(seed)), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


def rng_for(seed: int, *parts: object) -> random.Random:
    """Return Python's generator seeded by `seed_for(seed, *parts)`: same names, same draws, anywhere."""
    return random.Random(seed_for(seed, *parts))
