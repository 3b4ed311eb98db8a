"""The cell of a table that holds an image's labels: names with separators, Python's and JSON's lists, choices."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from tag2mask.data.words import is_empty, nfc

_STRONG = re.compile(r"[;|\n\r\t]")
_COMMA = re.compile(r",")
_SIDE_BY_SIDE = re.compile(r"""(?:'\s+'|"\s+"|'\s+"|"\s+')""")  # as NumPy prints arrays of names
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_LABEL_KEYS = ("choices", "taxonomy", "label", "class", "name", "tag")  # besides all that end in "labels" or "tags"
_TRUE, _FALSE = (
    frozenset({"1", "1.0", "true", "yes", "y", "x", "t"}),
    frozenset({"0", "0.0", "false", "no", "n", "f"}),
)
_BIT = r"[01](?:\.0*)?"
_VECTOR = re.compile(rf"[\[(]?\s*({_BIT}(?:[\s,;|]+{_BIT})+)\s*[\])]?")
_LONGEST = 20_000  # characters; a longer literal is no list of labels


class LabelError(ValueError):
    """A cell that isn't labels; its text says why."""


def split_labels(cell: str, known: Collection[str] = ()) -> list[str]:
    """Return the names in a cell, each once: separated by ; | or , or as a list; a space is part of a name.

    known: right names, where there is a list: these stay whole, and a cell that consists of them alone is split at
    its spaces. Raises LabelError for a cell that looks like a list or mapping and holds something else.
    """
    cell = nfc(cell.strip())
    if cell in known:
        return [cell]
    if is_empty(cell):
        return []
    parts = _literal(cell) if cell[0] in "[({\"'" else None
    if parts is None:
        parts = _split(cell.strip("[]{}") if cell[0] in "[{" else cell, known)
    return list(dict.fromkeys(part for part in parts if part in known or not is_empty(part)))


def binary(cell: str) -> bool | None:
    """Return whether a cell of a one-hot table says yes or no; an empty one says no, None for anything else."""
    word = cell.strip().casefold()
    return True if word in _TRUE else False if word in _FALSE or is_empty(word) else None


def vectors(cells: Iterable[str]) -> list[tuple[int, ...]] | None:
    """Return the cells as vectors of 0 and 1, () for empty ones; None where any is something else or of other length.

    "[0, 1]" may also be a list of two numbers.
    """
    found: list[tuple[int, ...]] = []
    for cell in cells:
        match = _VECTOR.fullmatch(cell.strip())
        if match is None and not is_empty(cell):
            return None
        found.append(tuple(int(bit[0]) for bit in re.split(r"[\s,;|]+", match[1])) if match else ())
    return found if len({len(bits) for bits in found if bits}) == 1 else None


def _split(text: str, known: Collection[str]) -> list[str]:
    names: list[str] = []
    for part in _STRONG.split(text):
        whole = " ".join(part.split())
        pieces = [whole] if whole in known else [" ".join(piece.split()) for piece in _COMMA.split(part)]
        for piece in pieces:
            names += _known_words(piece, known) or [piece.strip("\"'")]
    return names


def _known_words(text: str, known: Collection[str]) -> list[str]:
    """Return the known names that make up all of a text ("car traffic light"), [] where it holds anything else."""
    words, names = text.split(), []
    while words:
        length = next((n for n in range(len(words), 0, -1) if " ".join(words[:n]) in known), 0)
        if not length:
            return []
        names.append(" ".join(words[:length]))
        del words[:length]
    return names


def _literal(cell: str) -> list[str] | None:
    """Return the names in a list or mapping as Python, JSON or NumPy writes it, None where it is only text."""
    if len(cell) > _LONGEST:
        raise LabelError("is too long for labels")
    if _SIDE_BY_SIDE.search(cell):
        return [" ".join((one or other).split()) for one, other in _QUOTED.findall(cell)]
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return _flat(value, top=True)
    return None


def _flat(value: Any, *, top: bool = False) -> list[str]:
    """Return the names in a value, however deep."""
    if value is None or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, str):
        return _split(nfc(value), ()) if top else [" ".join(nfc(value).split())]
    if isinstance(value, (list, tuple, set, frozenset)):
        ordered = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [name for inner in ordered for name in _flat(inner)]
    if isinstance(value, dict):
        return _of_mapping(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(int(value)) if value == int(value) else str(value)]
    raise LabelError(f"holds {value!r}, which is no label")


def _of_mapping(value: dict[Any, Any]) -> list[str]:
    named = [
        key for key in value if str(key).casefold() in _LABEL_KEYS or str(key).casefold().endswith(("labels", "tags"))
    ]
    if named:
        return [name for key in named for name in _flat(value[key])]
    answers = {str(key): binary(str(answer)) for key, answer in value.items()}
    if any(answer is None for answer in answers.values()):
        raise LabelError(f"is a mapping without choices or labels ({', '.join(answers)[:60]})")
    return [" ".join(nfc(name).split()) for name, answer in answers.items() if answer]
