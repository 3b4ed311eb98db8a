"""Values of JSON that may be half-written or of an earlier version: what has the wrong type counts as absent."""

from __future__ import annotations

import math
from typing import Any


def as_dict(value: Any) -> dict[str, Any]:
    """Return `value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return `value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """Return `value` if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def as_number(value: Any) -> float | None:
    """Return `value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def as_count(value: Any) -> int | None:
    """Return `value` as an int, or None."""
    number = as_number(value)
    return None if number is None else int(number)


def as_numbers(value: Any) -> dict[str, float]:
    """Return the finite numbers of a dict by name."""
    found = {str(name): as_number(entry) for name, entry in as_dict(value).items()}
    return {name: number for name, number in found.items() if number is not None}
