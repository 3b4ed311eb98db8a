"""Files that are whole or not there at all, and digests of what was read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


_UNFINISHED = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{6}\.partial(?:\.[^.]*)?")  # what killed processes leave


def is_leftover(path: Path) -> bool:
    """Whether this is what a process was writing when it was killed, by the name."""
    return _UNFINISHED.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in `folder` and the folders in it; others must not be writing there."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())):
        for path in filter(is_leftover, place.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on an exception.

    The temporary name keeps the suffix, because some writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # unique also where several machines write to one folder
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(3)}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which isn't there; rename it on success, delete it on an exception."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.partial")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as readable UTF-8 JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        # a path that isn't UTF-8 holds lone surrogates; JSON's own escape brings them back
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path | str) -> Any:
    """Read a UTF-8 JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest_file(path: Path | str) -> str:
    """Return the sha256 of a file's bytes in hex."""
    with open(path, "rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else (hashlib.sha256(stream.read()).hexdigest())
        )


def digest_value(value: Any) -> str:
    """Return the sha256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
