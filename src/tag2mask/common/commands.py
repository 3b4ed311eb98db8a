"""Commands that are printed for people to copy."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """A command of tag2mask as a shell takes it: words with spaces and the like are quoted."""
    return shlex.join(["tag2mask", *map(str, words)])
