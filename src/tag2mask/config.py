"""Recipes: YAML over frozen dataclasses. Every mistake is named with its key, file, line and nearest valid key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tag2mask.common.errors import ConfigError, did_you_mean

C = TypeVar("C")
PRESET = "preset"  # in a section: start from a named set of values
Lines = dict[tuple[str, ...], int]
Ranges = Mapping[str, tuple[Callable[[Any], bool], str]]  # a setting, what holds of it, and that in words
TRAINING_RANGES: Ranges = {
    "epochs": (lambda v: v >= 0, "0 or more"),
    "batch_size": (lambda v: v >= 1, "1 or more"),
    "learning_rate": (lambda v: v > 0, "above 0"),
    "weight_decay": (lambda v: v >= 0, "0 or more"),
    "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "power": (lambda v: v >= 0, "0 or more"),
    "crop_size": (lambda v: v >= 1, "1 or more pixels"),
}


def check_ranges(section: str, config: Any, ranges: Ranges) -> None:
    """Raise ConfigError for the first setting of `config` that is out of its range, naming it and its value."""
    for name, (holds, text) in ranges.items():
        value = getattr(config, name)
        if not holds(value):
            raise ConfigError(f"{section}.{name} is {value}; expected {text}")


def load_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and the line of each key, for error messages."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; give a YAML file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
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
    """Build the dataclass `cls` from a mapping, checking keys and types at every depth; raises ConfigError.

    A class with `presets()`, a mapping from names to whole configs, takes `preset: NAME` beside settings that differ.
    """
    hints = typing.get_type_hints(cls)
    presets = getattr(cls, "presets", None)
    if PRESET in values and presets is not None:
        where = _where(source, lines, (*place, PRESET))
        values = _of_preset(presets(), values, f"{where}: {'.'.join((*place, PRESET))}")
    fields = {f.name for f in dataclasses.fields(cls) if f.metadata.get("key", True)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        here = (*place, str(key))
        where = _where(source, lines, here)
        if key not in fields:
            raise ConfigError(f"{where}: unknown setting '{'.'.join(here)}'{did_you_mean(str(key), fields)}")
        arguments[key] = _convert(hints[key], value, where, source, lines, here)
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"{source}: section '{'.'.join(place) or 'top'}': {error}") from error


def _of_preset(presets: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = values[PRESET]
    if name not in presets:
        raise ConfigError(f"{where}: there is no preset {name!r}{did_you_mean(str(name), presets)}")
    return to_mapping(presets[name]) | {key: value for key, value in values.items() if key != PRESET}


def _where(source: str, lines: Lines | None, place: tuple[str, ...]) -> str:
    line = (lines or {}).get(place)
    return f"{source} line {line}" if line else source


def _convert(hint: Any, value: Any, where: str, source: str, lines: Lines | None, place: tuple[str, ...]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            if option is not type(None):
                try:
                    return _convert(option, value, where, source, lines, place)
                except ConfigError:
                    if dataclasses.is_dataclass(option):
                        raise
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return build(typing.cast(Any, hint), value, source=source, lines=lines, place=place)
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_convert(arguments[0], v, where, source, lines, place) for v in value)
    elif origin is dict:
        if isinstance(value, Mapping):
            return {
                str(name): _convert(arguments[1], inner, _where(source, lines, here), source, lines, here)
                for name, inner in value.items()
                for here in ((*place, str(name)),)
            }
    elif origin is typing.Literal:
        if value in arguments:
            return value
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is float and isinstance(value, str) and _is_number(value):
        return float(value)  # YAML reads 1e-4 as text
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: '{'.'.join(place)}' is {value!r}; expected {_describe(hint)}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


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


def with_overrides(values: dict[str, Any], overrides: typing.Sequence[str]) -> dict[str, Any]:
    """Apply overrides like "classifier.epochs=3" (values read as YAML) to a recipe's mapping."""
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
        if key == PRESET:
            target.clear()  # it stands for all settings of its section; what comes after it changes single ones
        try:
            target[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:  # the latter for a date that doesn't exist
            reason = getattr(error, "problem", None) or "see its brackets and quotes"
            raise ConfigError(
                f"--set {text}: the value is not valid YAML ({reason}); quote text with ':' or brackets: "
                f"--set '{name.strip()}=\"...\"'"
            ) from error
    return values
