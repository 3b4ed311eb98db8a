"""Labels in the images' file names, by a pattern that is given."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tag2mask.common.errors import DataError
from tag2mask.data.readers.found import MASK_PLACES, Folders, Found, Query, Row
from tag2mask.data.readers.labels import split_labels
from tag2mask.data.readers.mask_files import give_masks, is_mask_beside
from tag2mask.data.readers.tree import is_picture, walk
from tag2mask.data.words import natural, nfc, split_name

LOOKS_FOR = "data.pattern, such as '{label}_*' for names like cat_01.jpg"
_PARTS = {
    "{label}": "(?P<label>.*)",
    "{split}": "(?P<split>[^/]+)",
    "{group}": "(?P<group>.+?)",
    "*": ".*?",
    "#": r"\d+",
}
_TOKEN = re.compile("|".join(map(re.escape, _PARTS)))
_JOINED = re.compile(r"[+&]")  # besides ; | and , where file systems don't like these


def matches(root: Path) -> bool:
    """Never by itself: only where a pattern is given."""
    return False


def compiled(pattern: str) -> re.Pattern[str]:
    """Return what matches names by a pattern: {label}, {split}, {group}, * for anything, # for digits; or a regex.

    DataError for a pattern without a label, or one that isn't a regular expression.
    """
    if "(?P<" in pattern:
        text = pattern
    else:
        ends = [match.span() for match in _TOKEN.finditer(pattern)]
        starts = [0, *(end for _, end in ends)]
        fixed = [re.escape(pattern[a:b]) for a, b in zip(starts, [*(a for a, _ in ends), len(pattern)], strict=True)]
        tokens = [_PARTS[pattern[a:b]] for a, b in ends]
        text = "".join(part for pair in zip(fixed, [*tokens, ""], strict=True) for part in pair)
    try:
        found = re.compile(text)
    except re.error as error:
        raise DataError(f"data.pattern '{pattern}' can't be read ({error}); write it like '{{label}}_*'") from error
    if "label" not in found.groupindex:
        raise DataError(f"data.pattern '{pattern}' doesn't say where the label stands; write it like '{{label}}_*'")
    return found


def read(root: Path, query: Query) -> Found:
    """Read every picture's labels from its name without suffix, or from its path where the pattern has a '/'."""
    if query.pattern is None or not root.is_dir():
        raise DataError(f"{root}: labels in file names need a folder and data.pattern, such as '{{label}}_*'")
    pattern = compiled(query.pattern)
    found = Found(root.name, ids_by_path=True, known_from="the labels in the file names, sorted")
    for parent, names in walk(root):
        relative = parent.relative_to(root)
        if any(part in MASK_PLACES for part in relative.parts):
            continue
        for name in names:
            if is_picture(name) and not is_mask_beside(name, names):
                _add(found, query, pattern, parent / name, (relative / name).as_posix())
    found.known = natural({n for row in found.rows for n in row.names if not query.means_none(n)}) or None
    give_masks(found, Folders(root), found.rows)
    return found


def _add(found: Found, query: Query, pattern: re.Pattern[str], path: Path, relative: str) -> None:
    whole = nfc(os.path.splitext(relative)[0])
    match = pattern.fullmatch(whole if "/" in pattern.pattern else whole.rpartition("/")[2])
    if match is None:
        message = f"its name doesn't match data.pattern '{query.pattern}'"
        found.report("no-label", relative, "", message, "left out; change the pattern or the name")
        return
    parts = match.groupdict()
    labels = split_labels(_JOINED.sub(";", parts["label"] or ""), query.known())
    split = split_name(parts.get("split") or "")
    if split is None:
        message = f"split '{parts['split']}' is not train, val or test"
        found.report("unknown-split", relative, "", message, "left out; correct the pattern")
        return
    row = Row(path, relative, labels, split, None, relative, negative=not labels, group=parts.get("group") or "")
    found.rows.append(row)
