"""Whether two runs left the same: their files, byte for byte, without what only tells times and the machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tag2mask.common.files import is_leftover, read_json
from tag2mask.common.values import as_dict, as_text
from tag2mask.runs import lock

_OF_A_CALL = frozenset({"seconds", "started", "later_versions", "versions", "machine", "record"})
_NOT_RESULTS = frozenset({lock.FILE, "report.html"})  # the report tells times in many words


def contents(run: Path) -> dict[str, str]:
    """The digest of every result by its name in a run's folder; what a call made beside them isn't among them."""
    names = _own_names(run)
    return {path.relative_to(run).as_posix(): _digest(path, names) for path in _results(run)}


def _own_names(run: Path) -> dict[bytes, bytes]:
    """The folders of the run and of its data set, which may differ where the results don't."""
    path = run / "run.json"
    data = as_text(as_dict(as_dict(read_json(path)).get("record")).get("data")) if path.is_file() else ""
    return {str(run.resolve()).encode(): b"RUN"} | ({data.encode(): b"DATA"} if data else {})


def differences(first: Path, second: Path) -> list[str]:
    """What two runs' folders differ in, a line for each file, in the order of names; [] where they are the same."""
    one, other = contents(first), contents(second)
    return [_line(name, one, other) for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _line(name: str, one: dict[str, str], other: dict[str, str]) -> str:
    if name in one and name in other:
        return f"{name}: differs"
    return f"{name}: only in the {'first' if name in one else 'second'}"


def _results(run: Path) -> Iterator[Path]:
    """Files on top, and those of the folders that stages wrote."""
    for path in sorted(run.iterdir()):
        if path.is_file() and path.name not in _NOT_RESULTS:
            yield path
        elif (path / "manifest.json").is_file():
            yield from (inner for inner in sorted(path.rglob("*")) if inner.is_file())


def _digest(path: Path, names: dict[bytes, bytes]) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        data = _plain(read_json(path))
    elif path.suffix == ".jsonl":
        data = b"\n".join(_plain(json.loads(line)) for line in data.splitlines())
    for name, plain in names.items():
        data = data.replace(name, plain)
    return sha256(data).hexdigest() + "?" * is_leftover(path)


def _plain(value: Any) -> bytes:
    return json.dumps(_without_times(value), sort_keys=True).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_times(inner) for key, inner in as_dict(value).items() if key not in _OF_A_CALL}
