"""Letters that point from a table to the notes below it."""

from __future__ import annotations

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def letter(number: int) -> str:
    """Return the mark of the note `number`, counted from 0: "a" to "z", then "aa", "ab" and so on."""
    before, place = divmod(number, len(_ALPHABET))
    return (letter(before - 1) if before else "") + _ALPHABET[place]
