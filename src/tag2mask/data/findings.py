"""What is said of a data set before it is used: each finding once, with a count and three examples."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import yaml

from tag2mask.data import agreement, ranges
from tag2mask.data.check_masks import check_masks
from tag2mask.data.records import IGNORED, Dataset, Problem, printable
from tag2mask.data.words import perhaps_negative

EXAMPLES = 3
_FEW = 50  # images of a class below which tags are hardly enough
_VARIABLE = re.compile(r"'[^']*'|\d+")


def grouped(problems: Iterable[Problem]) -> list[str]:
    """Return the problems as lines: equal findings in one, with their number and three examples."""
    groups: dict[tuple[str, str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        pattern = _VARIABLE.sub("'", problem.message.partition("; did you mean")[0])
        groups[problem.kind, pattern, _VARIABLE.sub("'", problem.remedy)].append(problem)
    return [_line(group) for group in groups.values()]


def _line(group: list[Problem]) -> str:
    if len(group) == 1:
        return str(group[0])
    shown = " | ".join(f"{_where(problem)}: {problem.message}" for problem in group[:EXAMPLES])
    more = f" | and {len(group) - EXAMPLES} more" if len(group) > EXAMPLES else ""
    return printable(" ".join(f"{len(group)} x {group[0].kind}: {shown}{more}; {group[0].remedy}".split()))


def _where(problem: Problem) -> str:
    return " ".join(part for part in (problem.file, problem.place) if part)


def of_set(dataset: Dataset) -> Iterator[Problem]:
    """Say what the tags alone show."""
    if len(dataset.classes) == 1 and not dataset.negatives():
        message = (
            f"'{dataset.classes[0]}' is the only class and no image is without it, so a constant answer is right"
        )
        remedy = "maps will mean little; add photos without it (an empty label, or a folder 'background')"
        yield Problem("one-class", dataset.name, "", message, remedy)
    if not dataset.negatives():
        names = list(filter(perhaps_negative, dataset.classes if len(dataset.classes) > 1 else ()))
        if names:
            message = f"class {' and '.join(map(repr, names))} may mean that there is none of the others"
            value = yaml.safe_dump(names, default_flow_style=True, allow_unicode=True, width=10_000).strip()
            remedy = f'if so, set data.negatives: {value}, or --set "data.negatives={value}"'
            yield Problem("negatives", dataset.name, "", message, remedy, note=True)
    yield from _split_groups(dataset)


def _split_groups(dataset: Dataset) -> Iterator[Problem]:
    splits: dict[str, set[str]] = defaultdict(set)
    for record in dataset.records:
        if record.group and record.split:
            splits[record.group].add(record.split)
    for group, names in splits.items():
        if len(names) > 1:
            message = f"group '{group}' has images in {' and '.join(sorted(names))}"
            remedy = "keep a group on one side, or the scores are measured on what was learned"
            yield Problem("group-split", dataset.name, "", message, remedy)


def before_training(train: Dataset, val: Dataset | None, *, prepared: bool = False) -> list[Problem]:
    """Return all that is to be said before training; what is fatal must stop it. prepared: masks were checked before.

    Opens the headers of all true masks, and decodes up to 256 of them.
    """
    whole = train if val is None else replace(train, records=(*train.records, *val.records))
    problems = [*train.problems, *of_set(train), *ranges.said(whole)]
    if not any(record.labels for record in train.records):
        message = f"none of the {len(train.records)} training photos has a tag"
        remedy = "give each photo the names of what it shows; only photos that show none of them go without"
        problems.append(Problem("no-label", train.name, "", message, remedy, fatal=True))
    if not prepared:
        problems += check_masks(whole)
    compared = agreement.compare(whole)
    return [*problems, *_unnamed_values(compared), *agreement.findings(compared)]


def _unnamed_values(compared: agreement.Agreement) -> Iterator[Problem]:
    lut = compared.dataset.mask_lut
    counts = Counter(v for _, values in compared.rows for v in values if 0 < v < IGNORED and lut[v] == IGNORED)
    if counts:
        shown = ", ".join(f"{value} (in {count} masks)" for value, count in sorted(counts.items())[:8])
        message = f"mask value(s) {shown} name no class"
        yield Problem("mask-values", compared.dataset.name, "", message, "ignored; name them in data.mask_classes")


def few_images(dataset: Dataset) -> list[str]:
    """Return the classes that have fewer images than tags alone teach well."""
    counts = Counter(label for record in dataset.records for label in record.labels)
    return [name for index, name in enumerate(dataset.classes) if 0 < counts[index] < _FEW]
