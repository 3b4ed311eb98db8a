"""Reading small text files and tables as any program on any system writes them."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

from tag2mask.data.records import BadFileError

_SEPARATOR = re.compile(r"sep=([^\r\n\"])\r?\n", re.IGNORECASE)

_PICTURE = re.compile(r"\.(jpe?g|png|bmp|gif|tiff?|webp)$", re.IGNORECASE)


def read_text(path: Path) -> str:
    """Return a file's text: UTF-8, or UTF-16 with its mark (Excel's "Unicode text"); BadFileError for others."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        value = data[error.start : error.start + 1]
        raise BadFileError(path, f"line {line}: byte {value!r} is not UTF-8", "save the file as UTF-8") from error


def table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of every row of a CSV that isn't blank, separated as its first line is.

    The file is read as it is asked for, so that a long one takes no more memory than a short one.
    """
    with path.open("rb") as stream:
        wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        with path.open(encoding="utf-16" if wide else "utf-8-sig", newline="") as lines:
            yield from _rows(path, lines)
    except UnicodeDecodeError:
        read_text(path)  # says in which line
        raise


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    head = list(islice(lines, 1))
    given = _SEPARATOR.fullmatch(head[0]) if head else None  # Excel's line that says what separates cells
    head = [] if given else head
    head += _until_filled(lines) if not head or not head[0].strip() else []
    mark = given[1] if given else _delimiter(head[-1] if head else "")
    read = partial(csv.reader, delimiter=mark, skipinitialspace=mark != " ")
    taken: list[str] = []  # lines of the row that is being read
    reader, start = read(_noted(chain(head, lines), taken)), 0
    try:
        for row in reader:
            if len(taken) > 1:
                list(read(taken, strict=True))  # a quote that closes too late is an error
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num + bool(given), cells
            start = reader.line_num
            taken.clear()
    except csv.Error as error:
        where = f"line {start + 1 + bool(given)}"
        if len(taken) > 1:
            remedy = 'close it, or write "" for a quote inside of a cell'
            raise BadFileError(path, f"{where}: a quote opens here and isn't closed in this line", remedy) from error
        raise BadFileError(path, f"{where}: {error}", "save it as plain CSV in UTF-8") from error


def _until_filled(lines: Iterator[str]) -> Iterator[str]:
    """Blank lines up to the first that isn't, and that one."""
    for line in lines:
        yield line
        if line.strip():
            return


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    there = [mark for mark in ",;\t|" if mark in first]
    without_header = (mark for mark in there if _PICTURE.search(first.partition(mark)[0].strip("\"' ")))
    return next(without_header, there[0] if there else ",")
