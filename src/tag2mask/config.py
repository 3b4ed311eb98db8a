"""Recipes: YAML over frozen dataclasses. Every mistake is named with its key, file, line and nearest valid key.

What a setting may be stands beside its field, `epochs: Annotated[int, Range(ge=0, le=10_000)] = 5`, and holds for
recipes and for dataclasses made in Python. A setting without a range says why: `Annotated[str, Free("...")]`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.common.yaml_files import parse_yaml

C = TypeVar("C")
_SHOWN = 600  # characters of a value in an error message
PRESET = "preset"  # in a section: start from a named set of values
Lines = dict[tuple[str, ...], int | str]  # of each key: its line in the file, or "--set KEY=VALUE"


@dataclass(frozen=True)
class Range:
    """Finite numbers from `ge` or above `gt` to `le` or below `lt`; of a list, each of its `items`."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    note: str = ""  # behind the numbers in error messages: a unit or, in brackets, a remark
    items: tuple[int, int] | None = None  # of a list: how many it has, at least and at most
    single: bool = False  # with `items`: one number alone will do as well

    def holds(self, value: Any) -> bool:
        """Whether a number, or each number of a list, lies inside; never for NaN and infinity."""
        if self.items is not None and not (self.single and isinstance(value, int | float)):
            return self.items[0] <= len(value) <= self.items[1] and all(map(self._has, value))
        return self._has(value)

    def _has(self, value: float) -> bool:
        above = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        below = (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)
        return above and below and -math.inf < value < math.inf

    def __str__(self) -> str:
        bounds = ((self.ge, "{} or more"), (self.gt, "above {}"), (self.le, "at most {}"), (self.lt, "below {}"))
        text = ", ".join(words.format(bound) for bound, words in bounds if bound is not None)
        if self.items is not None:
            fewest, most = self.items
            text = f"a list of {fewest if fewest == most else f'{fewest} to {most}'} numbers, each {text}"
            text = f"a number, or {text}" if self.single else text
        return f"{text} {self.note}".rstrip()


@dataclass(frozen=True)
class Free:
    """No range is possible, and why, or where else the setting is checked."""

    reason: str


class SettingError(ConfigError):
    """The first of `keys` is out of its range or at odds with the others; keys of inner sections are written a.b."""

    def __init__(self, config: object, keys: tuple[str, ...], expected: str) -> None:
        self.keys = keys
        value = functools.reduce(_of_section, keys[0].split("."), config)
        self.problem = f"is {_shown(value)}; expected {expected}"
        section = re.sub("(Config|Settings|Parameters)$", "", type(config).__name__).lower()
        super().__init__(f"{section}.{keys[0]} {self.problem}")


def _shown(value: Any) -> str:
    """A value as messages have it, on one line of bounded length."""
    text = repr(_plain(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _of_section(section: Any, key: str) -> Any:
    return section[key] if isinstance(section, dict) else getattr(section, key)


class Settings:
    """Base of config dataclasses: a value outside of what its field may be raises ConfigError when it is made."""

    def __post_init__(self) -> None:
        """Raise ConfigError for the first setting that is no such value, naming it, its value and its range."""
        cls: type = type(self)
        for name, hint in hints_of(cls).items():
            expected = _expected_of(hint, getattr(self, name))
            if expected is not None:
                raise SettingError(self, (name,), expected)
        self.check_relations()

    def check_relations(self) -> None:
        """Raise SettingError where settings, each in its range, don't fit each other; a section's own."""


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Type of each field of a dataclass, ranges included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.metadata.get("key", True)}


def _expected_of(hint: Any, value: Any) -> str | None:
    """What a field takes instead of `value`, in words; None where it takes it."""
    notes: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)  # type: ignore[assignment]
    if not _is_of(hint, value):
        return _describe(hint)
    ranges = [] if isinstance(value, str | None) else [note for note in notes if isinstance(note, Range)]
    out = [note for note in ranges if not note.holds(value)]
    return f"{out[0]}{', or null' if _is_of(hint, None) else ''}" if out else None


def _is_of(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(option, value) for option in arguments)
    if origin is typing.Literal:  # 8 is one of 8 and 16, 8.0 isn't
        return any(type(one) is type(value) and one == value for one in arguments)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_is_of(arguments[0], inner) for inner in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(arguments[1], inner) for inner in value.values())
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, hint)


def load_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and the line of each key, for error messages."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; give a YAML file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values, node = parse_yaml(text)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {line}: not in UTF-8; save the file as UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that doesn't exist
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, found {type(values).__name__}")
    lines: Lines = {}
    _collect_lines(node, (), lines)
    return values, lines


def _collect_lines(node: Any, place: tuple[str, ...], lines: Lines) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, str(key.value))
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines)


def build(
    cls: type[C],
    values: Mapping[str, Any],
    *,
    source: str = "settings",
    lines: Lines | None = None,
    place: tuple[str, ...] = (),
) -> C:
    """Build the dataclass `cls` from a mapping, checking keys, types and ranges at every depth; raises ConfigError.

    A class with `presets()`, a mapping from names to whole configs, takes `preset: NAME` beside settings that differ.
    """
    lines = {} if lines is None else lines
    hints = typing.get_type_hints(cls)
    presets = getattr(cls, "presets", None)
    if PRESET in values and presets is not None:
        there = where(source, lines, (*place, PRESET))
        values = _of_preset(presets(), values, f"{there}: {'.'.join((*place, PRESET))}")
    fields = {f.name for f in dataclasses.fields(cls) if f.metadata.get("key", True)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        here = (*place, str(key))
        if key not in fields:
            unknown = f"unknown setting '{'.'.join(here)}'{did_you_mean(str(key), fields)}"
            raise ConfigError(f"{where(source, lines, here)}: {unknown}")
        arguments[key] = _convert(hints[key], value, source, lines, here)
    try:
        return cls(**arguments)
    except SettingError as error:
        concerned = [(*place, *key.split(".")) for key in error.keys]
        written = next((here for here in concerned if here in lines), concerned[0])
        there = where(source, lines, written)
        raise ConfigError(f"{there}: {'.'.join(concerned[0])} {error.problem}") from error
    except TypeError as error:
        raise ConfigError(f"{source}: section '{'.'.join(place) or 'top'}': {error}") from error


def _of_preset(presets: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = values[PRESET]
    if not isinstance(name, str) or name not in presets:
        raise ConfigError(f"{where}: there is no preset {name!r}{did_you_mean(str(name), presets)}")
    return to_mapping(presets[name]) | {key: value for key, value in values.items() if key != PRESET}


def where(source: str, lines: Lines, place: tuple[str, ...]) -> str:
    """Where a setting was written: file and line (of its section, if it has none of its own) or "--set KEY=VALUE"."""
    while place and place not in lines:
        place = place[:-1]
    line = lines.get(place)
    return line if isinstance(line, str) else f"{source} line {line}" if line else source


def _convert(hint: Any, value: Any, source: str, lines: Lines, place: tuple[str, ...]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            if option is not type(None):
                try:
                    return _convert(option, value, source, lines, place)
                except ConfigError:
                    if dataclasses.is_dataclass(option):
                        raise
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return build(typing.cast(Any, hint), value, source=source, lines=lines, place=place)
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_convert(arguments[0], v, source, lines, place) for v in value)
    elif origin is dict:
        if isinstance(value, Mapping):
            return {
                str(name): _convert(arguments[1], inner, source, lines, (*place, str(name)))
                for name, inner in value.items()
            }
    elif origin is typing.Literal:
        if _is_of(hint, value):
            return value
    elif hint is float:
        number = _number(value)
        if number is not None:
            return number
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    words = isinstance(value, (list, tuple)) and any(isinstance(one, bool) or one is None for one in value)
    quotes = "; put words like no, yes, on and null in quotes" if words and "text" in _describe(hint) else ""
    raise ConfigError(
        f"{where(source, lines, place)}: {'.'.join(place)} is {_shown(value)}; expected {_describe(hint)}{quotes}"
    )


def _number(value: Any) -> float | None:
    """A number of YAML as a float; 1e-4 among them, which YAML reads as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in arguments)
    if origin is tuple:
        return f"a list of {_describe(arguments[0])}"
    if origin is dict:
        return f"names, each with {_describe(arguments[1])}"
    if hint is type(None):
        return "null"
    if dataclasses.is_dataclass(hint):
        return "a section with settings"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))


def to_mapping(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into plain values for YAML and JSON."""
    fields = (field for field in dataclasses.fields(config) if field.metadata.get("key", True))
    return {field.name: _plain(getattr(config, field.name)) for field in fields}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return value


def with_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping `values` with `changes` laid over it, section by section.

    A section with a preset starts from that instead.
    """
    if PRESET in changes:
        return dict(changes)
    result = dict(values)
    for key, change in changes.items():
        before = result.get(key)
        nested = isinstance(before, Mapping) and isinstance(change, Mapping)
        result[key] = with_changes(before, change) if nested else change  # type: ignore[arg-type]
    return result


def with_overrides(
    values: dict[str, Any], overrides: typing.Sequence[str], lines: Lines | None = None
) -> dict[str, Any]:
    """Apply overrides like "classifier.epochs=3" (values read as YAML) to a recipe's mapping and to its `lines`."""
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, e.g. classifier.epochs=3")
        *sections, key = name.strip().split(".")
        target = values
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {text}: '{section}' is a single value, not a section")
            target = inner
        replaced = (*sections, key)
        if key == PRESET:
            target.clear()  # it stands for all settings of its section; what comes after it changes single ones
            replaced = tuple(sections)
        try:
            target[key] = parse_yaml(value)[0]
        except (yaml.YAMLError, ValueError) as error:  # the latter for a date that doesn't exist
            reason = getattr(error, "problem", None) or "see its brackets and quotes"
            raise ConfigError(
                f"--set {text}: the value is not valid YAML ({reason}); quote text with ':' or brackets: "
                f"--set '{name.strip()}=\"...\"'"
            ) from error
        if lines is not None:
            for place in [place for place in lines if place[: len(replaced)] == replaced]:
                del lines[place]
            lines[(*sections, key)] = f"--set {text}"
    return values
