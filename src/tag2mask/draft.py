"""Drafting a recipe for a folder of photos: what it is taken for, what was chosen and why, what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tag2mask.common.commands import command
from tag2mask.common.errors import DataError
from tag2mask.config import build, with_overrides
from tag2mask.data import Dataset, Problem, check_dataset, image_sizes
from tag2mask.data.findings import before_training, few_images
from tag2mask.data.readers import READERS, taken_for
from tag2mask.data.records import printable
from tag2mask.data.settings import DataConfig, read_set
from tag2mask.data.words import perhaps_negative
from tag2mask.recipe import load_recipe

BASE = "photos"  # the recipe that a draft begins from
_SETTING = re.compile(r"data\.(\w+): (\{[^{}]*\}|\[[^\[\]]*\]|[\w.]+)")  # as remedies name one
_REASON = 120  # characters of a finding behind the setting that ends it
_SIZES = 200  # photos whose size is looked at


@dataclass(frozen=True)
class Draft:
    """A recipe that is to be edited, and what was found."""

    lines: list[str]  # what the folder is taken for, and what is wrong with it
    recipe: str  # YAML
    stops: list[str]  # what would stop a run before training


def draft(root: Path, name: str, *, decode: bool = True, given: Mapping[str, Any] | None = None) -> Draft:
    """Look at a data set and draft its recipe, called `name`; `decode` opens every picture. Raises DataError.

    Settings that a finding's remedy names are tried, and kept where the finding is gone with them. `given` are
    settings of the section `data` that stay as they are.
    """
    given = given or {}
    reader = given.get("reader", "auto")
    if reader == "auto":
        reader = "names" if given.get("pattern") else taken_for(root)
    tried: dict[str, Any] = {"long_side": load_recipe(BASE).data.long_side, **given, "reader": reader}
    reasons: dict[str, str] = {}
    dataset = _read(root, tried)
    wrong = _wrong(dataset)
    for problem, setting, value in _remedies(wrong):
        if setting in given:
            continue
        other = _read_or_none(root, {**tried, setting: value})
        left = wrong if other is None else _wrong(other)
        if other is not None and len(left) < len(wrong):
            tried, dataset, wrong = {**tried, setting: value}, other, left
            reasons[setting] = " ".join(problem.message.split())[:_REASON]
    report = check_dataset(dataset, decode=decode)
    about = [f"{root} is taken for '{reader}': {READERS[reader].looks_for}", *report.summary()]
    settings = [line for line in _settings(root, dataset, tried, reasons) if line.key not in given]
    settings = [*(Line("as given", key, value) for key, value in given.items()), *settings]
    return Draft(about, _written(root, name, settings), [str(problem) for problem in wrong if problem.fatal])


def free_name(root: Path) -> str:
    """A name for the recipe of a folder, and of its run, that is fit for files."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", root.resolve().stem).strip("-") or "mine"


def _read(root: Path, settings: dict[str, Any]) -> Dataset:
    return read_set(root, build(DataConfig, settings, source="the draft", place=("data",)))


def _read_or_none(root: Path, settings: dict[str, Any]) -> Dataset | None:
    try:
        return _read(root, settings)
    except DataError:
        return None


def _wrong(dataset: Dataset) -> list[Problem]:
    return [problem for problem in before_training(dataset, None) if not problem.note]


def _remedies(problems: Iterable[Problem]) -> Iterator[tuple[Problem, str, Any]]:
    """The settings that remedies name, with their values; those with "..." are for the user to fill in."""
    for problem in problems:
        for key, value in _SETTING.findall(problem.remedy):
            if "..." not in value:
                yield problem, key, with_overrides({}, [f"data.{key}={value}"])["data"][key]


@dataclass(frozen=True)
class Line:
    """A setting of the draft with the reason for it; without a value a remark."""

    why: str
    key: str = ""
    value: Any = None
    off: bool = False  # only proposed

    def __str__(self) -> str:
        """One line of YAML, its reason behind it."""
        if not self.key:
            return f"  # {self.why}"
        value = yaml.safe_dump(self.value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
        return f"  {'# ' if self.off else ''}{self.key}: {value.removesuffix('...').strip()}  # {self.why}"


def _settings(root: Path, dataset: Dataset, tried: dict[str, Any], reasons: dict[str, str]) -> Iterator[Line]:
    """The lines of the section `data`."""
    yield Line("how the folder is read; auto: told by what lies there", "reader", tried["reader"])
    yield from _classes(root, dataset, tried)
    for key, reason in reasons.items():
        yield Line(f"without it: {reason}", key, tried[key])
    yield from _negatives(dataset)
    if "background" not in tried:
        yield Line("false: every pixel belongs to one of its photo's classes", "background", True)
    yield from _splits(dataset)
    if dataset.reading.value_range is not None:
        low, high = dataset.reading.value_range
        yield Line(
            "black and white of pictures with more than 8 bits: 0 and the set's 99.9 % point",
            "value_range",
            [low, high],
        )
    if "bands" not in tried:
        yield Line("which bands to see as red, green, blue, where a file has more", "bands", None, off=True)
    yield _long_side(dataset)


def _classes(root: Path, dataset: Dataset, tried: dict[str, Any]) -> Iterator[Line]:
    """Their order; only proposed where naming them would change what is read."""
    same = _read_or_none(root, {**tried, "classes": list(dataset.classes)})
    off = same is None or same.digest() != dataset.digest() or bool((same.mask_lut != dataset.mask_lut).any())
    source = dataset.class_source or "as found"
    yield Line(f"in this order, which is from: {source}", "classes", list(dataset.classes), off=off)
    few = few_images(dataset)
    if few:
        yield Line(f"under 50 photos, which tags hardly teach: {', '.join(few)}")


def _negatives(dataset: Dataset) -> Iterator[Line]:
    count = dataset.negatives()
    yield Line(f"{count} of {len(dataset)} photos hold none of the classes; false: leave them out", "negatives", True)
    perhaps = [name for name in dataset.classes if perhaps_negative(name)]
    if perhaps and len(dataset.classes) > len(perhaps):
        yield Line("instead, if this class means that there is none of the others", "negatives", perhaps, off=True)


def _splits(dataset: Dataset) -> Iterator[Line]:
    sizes = Counter(record.split for record in dataset.records)
    named = ", ".join(f"{split or 'unnamed'} {count}" for split, count in sorted(sizes.items()))
    if sizes["val"]:
        yield Line(f"the set names its splits: {named}", "val_fraction", 0.0)
    else:
        yield Line(f"held out by tags and seed, as there is no val ({named})", "val_fraction", 0.2)
    groups = {record.group for record in dataset.records if record.group}
    if groups:
        yield Line(f"{len(groups)} groups (patient, slide, video, ...) stay on one side each")


def _long_side(dataset: Dataset) -> Line:
    sides = [max(size) for size in image_sizes(dataset.records, _SIZES)]
    span = "" if not sides else str(max(sides)) if min(sides) == max(sides) else f"{min(sides)} to {max(sides)}"
    found = f"photos have {span} pixels; " if span else ""
    why = f"{found}the size that they are worked on at, at least and at most; else as the variant says"
    return Line(why, "long_side", [448, 640], off=True)


def _written(root: Path, name: str, settings: Iterable[Line]) -> str:
    folder = printable(root.resolve().name)
    return "\n".join(
        [
            f"# Drafted by `tag2mask new` for {folder}: look it through, change what is wrong, then",
            f"# {command('run', f'{printable(name)}.yaml', '--data', 'DIR')}",
            yaml.safe_dump({"name": name}, allow_unicode=True, width=10_000).strip(),
            f"like: {BASE}  # everything that isn't said here is as in that recipe: tag2mask recipes show {BASE}",
            "data:",
            *map(str, settings),
            "# large: things cover much of their photos; small: a few hundredths; auto: tried in a minute or two",
            "variant: auto",
            "# sizes: [640, 896]  # tried first, the best becomes long_side: where things are too small for that",
            "",
        ]
    )
