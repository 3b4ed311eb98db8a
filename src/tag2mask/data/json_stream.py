"""Reading large JSON files element by element, so that COCO's 300 MB need no gigabytes of memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tag2mask.data.records import BadFileError

CHUNK = 1 << 20  # bytes
_DECODER = json.JSONDecoder()
_SPACE = " \t\n\r"
_REMEDY = "download or export it again"


class Element(NamedTuple):
    """One element of a top-level list; or, with `number` -1, another key's value or a list's end (None)."""

    key: str
    number: int  # from 0
    value: Any
    start: int  # byte offset in the file
    length: int  # bytes


class _Window:
    """A sliding part of the file. Bytes are read as Latin-1, one character a byte, so that places are offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("rb")
        self.text = ""
        self.base = 0  # byte offset of text[0]
        self.at = 0
        self.ended = False

    def more(self) -> bool:
        data = self.stream.read(CHUNK)
        self.ended = not data
        self.text = self.text[self.at :] + data.decode("latin-1")
        self.base += self.at
        self.at = 0
        return not self.ended

    def peek(self) -> str:
        """Return the next character that isn't space, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        found = self.peek()
        if not found or found not in expected:
            raise self.broken(f"expected {' or '.join(expected)} at byte {self.base + self.at}")
        self.at += 1
        return found

    def value(self) -> tuple[Any, int, int]:
        """Return the next value with its byte offset and length."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # else a number may go on in the next chunk
                    break
            except (json.JSONDecodeError, RecursionError) as error:
                if self.ended:
                    raise self.broken(f"{error} near byte {self.base + self.at}") from error
            self.more()
        start, length, raw = self.base + self.at, end - self.at, self.text[self.at : end]
        self.at = end
        return value if raw.isascii() else self._decoded(raw), start, length

    def _decoded(self, raw: str) -> Any:
        try:
            return json.loads(raw.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self.broken(f"not UTF-8 near byte {self.base + self.at}") from error

    def broken(self, reason: str) -> BadFileError:
        return BadFileError(self.path, f"is not valid JSON ({reason})", _REMEDY)


def stream_json(path: Path, lists: Collection[str]) -> Iterator[Element]:
    """Yield the elements of the top-level `lists` of a JSON object one by one, and every other key's value whole.

    After the last element of a list comes one with number -1, so that an empty list is told from none. Memory is that
    of one element and `CHUNK` bytes. Raises BadFileError for what isn't JSON or has no object on top,
    and when a key of `lists` holds no list.
    """
    window = _Window(path)
    try:
        while len(window.text) < 3 and window.more():
            pass
        if window.text.startswith("\xef\xbb\xbf"):  # byte-order mark
            window.at = 3
        if window.peek() != "{":
            raise BadFileError(path, "is not a COCO file (no object at the top)", "give an instances file")
        window.take("{")
        if window.peek() == "}":
            return
        while True:
            key = str(window.value()[0])
            window.take(":")
            if key in lists:
                yield from _elements(window, key)
                yield Element(key, -1, None, 0, 0)
            else:
                yield Element(key, -1, *window.value())
            if window.take(",}") == "}":
                return
    finally:
        window.stream.close()


def _elements(window: _Window, key: str) -> Iterator[Element]:
    if window.peek() != "[":
        raise BadFileError(window.path, f"has no list '{key}'", "give an instances file, not captions or results")
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        return
    index = 0
    while True:
        yield Element(key, index, *window.value())
        index += 1
        if window.take(",]") == "]":
            return


def read_elements(path: Path, places: Collection[tuple[int, int]]) -> list[Any]:
    """Return the values at (byte offset, length) `places` of a file that `stream_json` went through before."""
    values = []
    with path.open("rb") as stream:
        for start, length in places:
            stream.seek(start)
            try:
                values.append(json.loads(stream.read(length)))
            except (ValueError, RecursionError) as error:
                raise BadFileError(path, f"changed while it was read ({error})", "start again") from error
    return values
