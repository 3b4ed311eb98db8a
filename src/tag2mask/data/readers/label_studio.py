"""Label Studio's JSON: tasks with annotations, or its short form; choices and the labels of regions are the tags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tag2mask.common.values import as_list
from tag2mask.data.readers.found import IMAGE_FOLDERS, Folders, Found, Query, Row, check_complete
from tag2mask.data.readers.labels import LabelError, split_labels
from tag2mask.data.readers.located import Located
from tag2mask.data.readers.mask_files import give_masks
from tag2mask.data.readers.tables import COLUMNS, TOOLS_OWN
from tag2mask.data.readers.tree import is_picture
from tag2mask.data.records import BadFileError

LOOKS_FOR = "a JSON export of Label Studio"
_SNIFFED = 1 << 16  # bytes
_SHORT = ("annotation_id", "lead_time")  # keys of the short form (JSON-MIN)
_TAGGING = ("choices", "taxonomy", "labels")


def matches(root: Path) -> bool:
    """Tell whether `root` is or holds such a file."""
    return _file(root) is not None


def _file(root: Path) -> Path | None:
    paths = [root] if root.is_file() else sorted(root.glob("*.json"))
    return next((path for path in paths if path.suffix.lower() == ".json" and _is_export(path)), None)


def _is_export(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(_SNIFFED).lstrip(b"\xef\xbb\xbf \t\r\n")
    keys = (b'"annotations"', b'"completions"', b'"annotation_id"')
    return head.startswith(b"[") and any(key in head for key in keys)


def read(root: Path, query: Query) -> Found:
    """Read every task's last annotation that wasn't cancelled; an empty one is a negative."""
    path = _file(root)
    if path is None:
        raise BadFileError(root, "holds no export of Label Studio", "give the JSON file")
    tasks = _tasks(path)
    found = Found(path.parent.name)
    folders = Folders(path.parent)
    names, keys = [_image(task) for task in tasks], _keys_of_tags(path, tasks)
    located = Located.find(folders, names, (*IMAGE_FOLDERS, "upload", "media/upload"))
    located.say(found, path.name)
    last: dict[Path, Row] = {}  # of the short form, which has an entry for each person's answer
    for number, (task, name) in enumerate(zip(tasks, names, strict=True)):
        actual, place = located.names[name], f"task {number}"
        if actual is None:
            message = f"image '{name}' {located.why.get(name, 'is not on disk')}"
            found.report("missing-image", path.name, place, message, "add the file to the folder")
            continue
        try:
            labels = _labels(task, keys, query)
        except LabelError as error:
            found.report("bad-annotation", path.name, place, f"'{name}' {error}", "left out; export it again")
            continue
        row = Row(folders.root / actual, actual, labels or [], "", None, path.name, place, negative=labels == [])
        before = last.setdefault(row.path, row) if _is_short(task) else row
        if before is row:
            found.rows.append(row)
            continue
        if set(before.names) != set(row.names):
            message = f"image '{actual}' was tagged differently before ({before.place})"
            found.report("contradiction", path.name, place, message, "the last answer counts")
        before.names, before.negative, before.at = row.names, row.negative, row.at
    check_complete(found, path.name)
    give_masks(found, folders, found.rows)
    return found


def _tasks(path: Path) -> list[Mapping[str, Any]]:
    try:
        tasks = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadFileError(path, f"is not valid JSON ({error})", "export it again") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadFileError(path, "holds more than tasks", "export it as JSON or JSON-MIN")
    return list(tasks)


def _image(task: Mapping[str, Any]) -> str:
    """Return what a task says of its image: a name, path or address."""
    data = task.get("data")
    values = data if isinstance(data, dict) else task
    named = [values[key] for key in COLUMNS["image"] if isinstance(values.get(key), str)]
    texts = [*named, *(value for value in values.values() if isinstance(value, str))]
    return next((text for text in texts if _is_address(text)), str(task.get("file_upload") or (named or [""])[0]))


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return is_picture(parts.path) or is_picture(parts.query)


def _is_short(task: Mapping[str, Any]) -> bool:
    return any(key in task for key in _SHORT) and "annotations" not in task


def _keys_of_tags(path: Path, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Under which keys tasks of the short form have their tags: whatever the project calls them, the same in all.

    A task without an answer lacks the key. BadFileError where several could be meant.
    """
    own = dict.fromkeys(key for task in filter(_is_short, tasks) for key in task if _may_be_tags(key, task[key]))
    named = [key for key in own if key.casefold() in COLUMNS["labels"]]
    if not named and len(own) > 1:
        message = f"has the keys {', '.join(list(own)[:6])}, of which one holds tags"
        raise BadFileError(path, message, "call that one 'label' and export it again")
    return named or list(own)


def _may_be_tags(key: str, value: Any) -> bool:
    names_image = key.casefold() in COLUMNS["image"] or (isinstance(value, str) and _is_address(value))
    return key.casefold() not in TOOLS_OWN and not names_image


def _labels(task: Mapping[str, Any], keys: Sequence[str], query: Query) -> list[str] | None:
    """Return a task's labels, None where nobody has answered; LabelError for values that aren't labels."""
    if _is_short(task):
        return _of_short(task, keys, query)
    answers = as_list(task.get("annotations") or task.get("completions"))
    kept = [answer for answer in answers if isinstance(answer, dict) and not answer.get("was_cancelled")]
    if not kept:
        return None
    labels: list[str] = []
    for region in as_list(kept[-1].get("result")):
        value = region.get("value") if isinstance(region, dict) else None
        if isinstance(value, dict) and region.get("type") != "relation":
            kind = str(region.get("type", ""))
            if kind not in _TAGGING and not kind.endswith("labels"):
                continue  # ratings, numbers, dates and texts are no tags
            labels += split_labels(json.dumps(value[kind]), query.known()) if kind in value else []
    return list(dict.fromkeys(labels))


def _of_short(task: Mapping[str, Any], keys: Sequence[str], query: Query) -> list[str]:
    cells = [task[key] for key in keys if key in task]
    return list(
        dict.fromkeys(
            name
            for cell in cells
            if cell is not None
            for name in split_labels(cell if isinstance(cell, str) else json.dumps(cell), query.known())
        )
    )
