"""Names of images that are unique in their data set and safe as names of files."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence

from tag2mask.data.words import nfc

__all__ = ["decoded", "nfc", "safe_id", "unique_ids"]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNDECODED = re.compile(r"[\ud800-\udfff]")  # how Python shows the bytes of a file name that aren't UTF-8
_LONGEST_ID = 150  # bytes; file systems allow 255, and suffixes are added


def unique_ids(relatives: Sequence[str], *, by_path: bool) -> list[str]:
    """Return an id for each path, all different.

    It is the name without suffix (by_path: the path without suffix), where several share that the whole path, and
    where even these become equal ('a/b.jpg' and 'a__b.jpg') a digest is added to the later one.
    """
    wholes = (os.path.splitext(relative)[0] for relative in relatives)
    shorts = [safe_id(whole if by_path else whole.rpartition("/")[2]) for whole in wholes]
    counts = Counter(shorts)
    taken: dict[str, None] = {}  # a set that keeps its order
    for relative, short in zip(relatives, shorts, strict=True):
        name = short if counts[short] == 1 else safe_id(relative)
        taken[name if name not in taken else safe_id(f"{relative}-{_digest(relative)}")] = None
    return list(taken)


def safe_id(name: str) -> str:
    """Return a name that can be a file's: no separators, control characters or leading dot, UTF-8, not too long."""
    text = nfc(name).replace("\\", "/").replace("/", "__")
    text = decoded(_CONTROL.sub("_", text))
    if text.startswith("."):
        text = "_" + text[1:]
    if len(text.encode("utf-8")) > _LONGEST_ID:
        text = text.encode("utf-8")[: _LONGEST_ID - 13].decode("utf-8", "ignore") + "-" + _digest(text)
    return text


def decoded(name: str) -> str:
    """Return a file's name; where its bytes aren't UTF-8 with '_' for them and a digest, so that it stays unique."""
    plain = _UNDECODED.sub("_", name)
    return name if plain == name else f"{plain}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
