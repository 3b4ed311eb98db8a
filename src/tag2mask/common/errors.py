"""Errors whose text a user can act on: what was wrong, where, which value, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_LONG = re.compile(r"\S{400,}")  # a word that no terminal shows well, as from a damaged file


class Tag2MaskError(Exception):
    """Base of all errors that are meant for the user's eyes; the CLI prints them without a traceback."""

    def __init__(self, text: str = "") -> None:
        super().__init__(_LONG.sub(lambda found: f"{found[0][:100]}...", str(text)))


class DataError(Tag2MaskError):
    """Something about the user's images, labels or masks."""


class ConfigError(Tag2MaskError):
    """An unknown setting, a wrong type or an impossible combination of settings."""


class WeightsError(Tag2MaskError):
    """Weights that are missing, of the wrong kind, or cannot be trusted."""


class GoneError(Tag2MaskError):
    """A folder or drive that was there when the work began and isn't any more: no fault of any single image."""

    def __init__(self, place: Path | str, reason: str = "is not there (any more)") -> None:
        self.place, self.reason = place, reason
        super().__init__(f"{place}: {reason}; once it is back, give the same command again: what is finished is kept")

    def __reduce__(self) -> tuple[type[GoneError], tuple[Path | str, str]]:
        """Let it cross from one process to another."""
        return GoneError, (self.place, self.reason)


class MissingExtraError(Tag2MaskError):
    """An optional dependency is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs the package '{package}', which is not installed; "
            f"install it with: pip install 'tag2mask[{extra}]'"
        )


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or a short list of what is known."""
    names = sorted(known)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(value.casefold(), list(folded), n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{folded[near[0]]}'?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}" if names else ""


def refuse_other_settings(folder: Path, what: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming each difference, where `folder` holds `what` with other settings than `asked`."""
    differing = [
        f"{key} {stored.get(key)!r} there, {value!r} now" for key, value in asked.items() if stored.get(key) != value
    ]
    if differing:
        raise ConfigError(
            f"{folder}: holds {what} with other settings ({'; '.join(differing)}); nothing is overwritten: choose "
            "another --out, or delete this folder"
        )
