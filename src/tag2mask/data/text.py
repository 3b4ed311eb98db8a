"""Reading small text files and tables as any program on any system writes them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tag2mask.data.records import BadFileError

_SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)

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
    """Yield (line, cells) of every row of a CSV that isn't blank, separated as its first line is."""
    text = read_text(path)
    given = _SEPARATOR.match(text)  # Excel's line that says what separates cells
    text = text[given.end() :] if given else text
    mark = given[1] if given else _delimiter(text)
    lines = list(io.StringIO(text, newline=""))
    read = partial(csv.reader, delimiter=mark, skipinitialspace=True)
    reader, start = read(lines), 0
    try:
        for row in reader:
            if reader.line_num > start + 1:
                list(read(lines[start : reader.line_num], strict=True))  # a quote that closes too late is an error
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num + bool(given), cells
            start = reader.line_num
    except csv.Error as error:
        where = f"line {start + 1 + bool(given)}"
        if reader.line_num > start + 1:
            remedy = 'close it, or write "" for a quote inside of a cell'
            raise BadFileError(path, f"{where}: a quote opens here and isn't closed in this line", remedy) from error
        raise BadFileError(path, f"{where}: {error}", "save it as plain CSV in UTF-8") from error


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    there = [mark for mark in ",;\t|" if mark in first]
    without_header = (mark for mark in there if _PICTURE.search(first.partition(mark)[0].strip("\"' ")))
    return next(without_header, there[0] if there else ",")
