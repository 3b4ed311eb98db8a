"""What people write for "no class", for splits, and in the heads of tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

BACKGROUND = "background"  # the name of mask value 0, so no class can have it
_BACKGROUND_NAMES = frozenset({"background", "backgrounds", "bg", "unlabelled background", "backgroundclass"})
_EMPTY = frozenset(
    {
        "",
        "nan",
        "none",
        "null",
        "na",
        "n/a",
        "#n/a",
        "<na>",
        "nat",
        "nil",
        "-",
        "--",
        "[]",
        "{}",
        "()",
        "[nan]",
        "[none]",
        "[null]",
        "set()",
        '[""]',
        "['']",
    }
)
_NEGATIVE = frozenset({"negative", "negatives", "no class", "no label", "no labels", "none of these"})
_UNLABELLED = frozenset({"unlabeled", "unlabelled", "unannotated"})
_IGNORED = frozenset({"ignore", "ignored", "void", "unlabeled", "unlabelled", "dont care", "don't care"})
# what often means that a picture holds nothing of interest; only asked about, never taken for granted
_PERHAPS = frozenset(
    {
        "normal",
        "healthy",
        "good",
        "ok",
        "okay",
        "clean",
        "empty",
        "nothing",
        "no finding",
        "no findings",
        "other",
        "others",
        "0",
        "false",
        "no",
        "intact",
        "undamaged",
        "no defect",
        "no damage",
        "defect free",
    }
)
SPLIT_NAMES = {
    "": "",
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}
_DIGITS = re.compile(r"(\d+)")
_NO_LETTERS = re.compile(r"[\W\d_]+")


def nfc(text: str) -> str:
    """Return text with letters and their accents joined, so that equal-looking names are equal."""
    return unicodedata.normalize("NFC", text)


def plain(text: str) -> str:
    """Return a name without case, and with one space for what separates words, around and inside."""
    return " ".join(re.split(r"[\s_\-.]+", text.casefold())).strip()


def labelmap_name(name: str) -> str:
    """Return a class's name as a label map can have it: ':' separates its fields, '#' begins a comment."""
    plain_name = " ".join(name.replace(":", "_").split())
    return f"_{plain_name[1:]}" if plain_name.startswith("#") else plain_name


def is_empty(cell: str) -> bool:
    """Tell whether a cell is empty as people, pandas, JSON and spreadsheets write it."""
    return cell.strip().casefold() in _EMPTY


def is_background(name: str) -> bool:
    """Tell a name of mask value 0."""
    return plain(name) in _BACKGROUND_NAMES


def is_negative(name: str) -> bool:
    """Tell a folder's or label's name that says "none of the classes" in any data set."""
    return is_background(name) or is_empty(name) or plain(name) in _NEGATIVE


def perhaps_negative(name: str) -> bool:
    """Tell a class's name that may mean "none of the others"."""
    return plain(name) in _PERHAPS


def is_unlabelled(name: str) -> bool:
    """Tell a label that says that nobody has looked."""
    return plain(name) in _UNLABELLED


def is_ignored(name: str) -> bool:
    """Tell a name for pixels that take part in nothing (mask value 255)."""
    return plain(name) in _IGNORED


def split_name(text: str) -> str | None:
    """Return "train", "val", "test" or "" for a split's usual names, None for others."""
    return SPLIT_NAMES.get(text.strip().casefold())


def split_word(stem: str) -> str:
    """Return the word of a file's name that names a split ("val" in "coco_val_2017"), "" without one or with several.

    Words end at anything but a letter.
    """
    words = [word for word in _NO_LETTERS.split(stem) if split_name(word)]
    return words[0] if len({split_name(word) for word in words}) == 1 else ""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which 'class2' comes before 'class10'; names without digits stay in their usual order."""
    parts = _DIGITS.split(name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def natural(names: Iterable[str]) -> tuple[str, ...]:
    """Return names sorted as people count."""
    return tuple(sorted(names, key=natural_key))
