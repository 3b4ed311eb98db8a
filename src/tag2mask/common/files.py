"""Files that are whole or not there at all, and digests of what was read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError, DataError

FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))  # no room
GONE = tuple(  # the drive is lost
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "ENXIO")
    if hasattr(errno, name)
)
DONE = {"status": "done"}  # of an image, in the manifest of a stage: one object for a million of them
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{6}\.partial(?:\.[^.]*)?")  # what killed processes leave


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """A path beside `path`, unique also where several machines write to one folder; `is_leftover` knows it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.partial{suffix}")


def is_leftover(path: Path) -> bool:
    """Whether this is what a process was writing when it was killed, by the name."""
    return _UNFINISHED.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in `folder` and the folders in it; nobody may be writing there."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())):
        for path in filter(is_leftover, place.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def ids_in(folder: Path, suffix: str) -> set[str]:
    """What the visible files of a folder are called before `suffix`: the images that it holds; empty without it."""
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries)
            return {n[: -len(suffix)] for n in names if n.endswith(suffix) and not n.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def refuse_existing(path: Path, option: str) -> None:
    """Raise ConfigError where there is something at `path`, be it a broken link; `option` says where else it goes."""
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{path}: is there already, and nothing is overwritten; choose another {option}, or delete it"
        )


_FAILED_WRITE = re.compile(r"I/O error|IoError|iostream error|inline_container|failed writing|write failed")
_LITTLE = 64 * 2**20  # bytes: less is left than weights take


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on an exception.

    The temporary name keeps the suffix, because some writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path.with_suffix(""), path.suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if not isinstance(error, OSError) and _FAILED_WRITE.search(str(error)):  # of torch, or of safetensors
            raise OSError(*_cause_of(error, path.parent), str(path)) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _cause_of(error: Exception, folder: Path) -> tuple[int, str]:
    """The number and text that the system has for a write that failed, where a library has its own."""
    told = re.search(r"(?:code: |os error )(\d+)", str(error))  # torch doesn't say
    full = shutil.disk_usage(folder).free < _LITTLE
    number = int(told[1]) if told else errno.ENOSPC if full else errno.EIO
    return number, os.strerror(number)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which isn't there; rename it on success, delete it on an exception."""
    path = Path(path)
    temporary = temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as readable UTF-8 JSON, whole or not at all; its text is never whole in memory."""
    # a path that isn't UTF-8 holds lone surrogates; JSON's own escape brings them back
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        json.dump(value, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def json_text(value: Any) -> str:
    """Readable JSON, as all files of a run are written."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


class JSONError(DataError, ValueError):
    """A file that isn't the JSON it should be."""


class JSONObject(dict[str, Any]):
    """The object on top of a JSON file; DataError names the file where a key is asked for that it hasn't."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise JSONError(f"{self.path}: has no '{key}'; it is damaged or not tag2mask's, take a whole copy")

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, Any]]]:
        """Other processes get a plain dict."""
        return dict, (dict(self),)


def parse_json(text: str | bytes, source: Path | str, instead: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse UTF-8 JSON; JSONError, naming `source`, for anything else and for thousands of values in each other.

    instead: what to put in the place of each object.
    """
    try:
        if isinstance(text, bytes):  # which aren't kept beside the text
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        return json.loads(text, object_hook=instead)
    except (ValueError, RecursionError) as error:
        raise JSONError(f"{source}: is not valid JSON ({' '.join(str(error).split())}); take a whole copy") from error


def read_json(path: Path | str) -> Any:
    """Read a UTF-8 JSON file; JSONError where it isn't one. Images that are done share one object."""
    return parse_json(Path(path).read_bytes(), path, _shared)


def _shared(value: dict[str, Any]) -> dict[str, Any]:
    return DONE if value == DONE else value


def read_object(path: Path | str) -> JSONObject:
    """Read a JSON file with an object on top; JSONError where it is something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise JSONError(f"{path}: holds a {type(value).__name__} where an object is expected; take a whole copy")
    return JSONObject(Path(path), value)


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
