"""What a person decided on a run's photos: RUN/review/decisions.jsonl, a line a decision, and review/masks/ID.png."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag2mask.common.files import read_json, write_json
from tag2mask.common.values import as_dict, as_list, as_number, as_numbers, as_text

FOLDER = "review"  # in the run's
APPLIED = f"{FOLDER}/applied.json"
CHOICES = "choices.json"  # in the run's: its refinements, and which one is in use
FIRST = "first"  # the name of the refinement that the recipe asked for, beside others
ACCEPTED, REJECTED = "accepted", "rejected"
VERDICTS = (ACCEPTED, REJECTED, "")  # "" = none any more
Scores = tuple[float | None, dict[str, float]]  # background scores by eye: of all classes, and of single ones
NO_SCORES: Scores = (None, {})


@dataclass
class Decisions:
    """Where the decisions on a run stand, after all lines of its log so far."""

    verdicts: dict[str, str] = field(default_factory=dict)  # of photos
    seen: dict[str, str] = field(default_factory=dict)  # what tells the mask that a verdict was given on
    tags: dict[str, dict[str, bool]] = field(default_factory=dict)  # of photos: classes added or taken away
    masks: dict[str, str] = field(default_factory=dict)  # sha256 of review/masks/ID.png, where one was corrected
    threshold: float | None = None  # background score chosen by eye; None = the recipe's
    thresholds: dict[str, float] = field(default_factory=dict)  # the same of single classes
    in_use: str = FIRST  # name of the refinement that these two are of
    others: dict[str, Scores] = field(default_factory=dict)  # the same of refinements that aren't in use

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in one line of the log; a field that it doesn't know, or of another type, changes nothing."""
        name = as_text(line.get("id"))
        if name and line.get("verdict") in VERDICTS:
            _keep(self.verdicts, name, line["verdict"])
            _keep(self.seen, name, as_text(line.get("seen")) if line["verdict"] else "")
        if name and as_text(line.get("tag")) and "present" in line:
            self._tag(name, line["tag"], line["present"])
        if name and "mask" in line:
            _keep(self.masks, name, as_text(line["mask"]))
        if "threshold" in line:
            scores = as_number(line["threshold"]), as_numbers(line.get("thresholds"))
            if (name := as_text(line.get("of")) or self.in_use) == self.in_use:
                self.threshold, self.thresholds = scores
            else:
                self.others[name] = scores

    def _tag(self, name: str, tag: str, present: Any) -> None:
        tags = self.tags.setdefault(name, {})
        tags.pop(tag, None)
        if isinstance(present, bool):
            tags[tag] = present
        if not tags:
            del self.tags[name]

    def labels(self, name: str, own: Iterable[str]) -> tuple[str, ...]:
        """The tags of a photo, given those that the data set itself has."""
        changed = self.tags.get(name, {})
        kept = [tag for tag in own if changed.get(tag, True)]
        return (*kept, *(tag for tag, present in changed.items() if present and tag not in kept))

    @property
    def rejected(self) -> frozenset[str]:
        """Ids of the photos that nothing is learned from, and that aren't exported."""
        return frozenset(name for name, verdict in self.verdicts.items() if verdict == REJECTED)


def _keep(values: dict[str, str], name: str, value: str) -> None:
    if value:
        values[name] = value
    else:
        values.pop(name, None)


def log_path(run: Path) -> Path:
    """The log of the decisions on a run."""
    return run / FOLDER / "decisions.jsonl"


def mask_path(run: Path, image_id: str) -> Path:
    """Where the corrected mask of a photo lies, if there is one."""
    return run / FOLDER / "masks" / f"{image_id}.png"


def in_use(run: Path) -> str:
    """The name of the refinement that the run's later stages follow."""
    path = run / CHOICES
    return (as_text(as_dict(read_json(path)).get("chosen")) if path.is_file() else "") or FIRST


def read_lines(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of the log; one that was cut off, as a crash may leave it, is passed over."""
    path = log_path(run)
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            yield as_dict(json.loads(line))
        except ValueError:  # of decoding, too
            continue


def read_decisions(run: Path) -> Decisions:
    """Where the decisions on a run stand; none for a run that nobody looked at."""
    decisions = Decisions(in_use=in_use(run))
    for line in read_lines(run):
        decisions.take(line)
    return decisions


def append(run: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write decisions to the end of the log, on disk when this returns; other writers' lines stay whole."""
    path, now = log_path(run), time.strftime("%Y-%m-%d %H:%M:%S")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({"time": now, **line}, ensure_ascii=True) + "\n" for line in lines)
    with open(path, "ab+") as stream:
        if stream.tell() and _torn(stream):
            text = "\n" + text
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def _torn(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) != b"\n")


@dataclass(frozen=True)
class Effect:
    """What the decisions change in the later steps of a run."""

    tags: dict[str, dict[str, bool]] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    masks: dict[str, str] = field(default_factory=dict)
    threshold: float | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    others: dict[str, Scores] = field(default_factory=dict)  # these two of refinements that aren't in use

    @classmethod
    def of(cls, decisions: Decisions) -> Effect:
        """What these decisions change; a rejected photo's mask matters no more."""
        gone = decisions.rejected
        masks = {name: digest for name, digest in sorted(decisions.masks.items()) if name not in gone}
        tags = {name: dict(sorted(tags.items())) for name, tags in sorted(decisions.tags.items())}
        others = _chosen(decisions.others)
        return cls(tags, tuple(sorted(gone)), masks, decisions.threshold, decisions.thresholds, others)

    def labels(self, name: str, own: Iterable[str]) -> tuple[str, ...]:
        """As `Decisions.labels`."""
        return Decisions(tags=self.tags).labels(name, own)

    def on_training(self, names: Iterable[str]) -> dict[str, Any]:
        """What a training on the masks of these photos learns otherwise; {} for nothing."""
        there = set(names)
        masks = {name: digest for name, digest in self.masks.items() if name in there}
        tags = {name: changed for name, changed in self.tags.items() if name in there}
        rejected = [name for name in self.rejected if name in there]
        return {"rejected": rejected, "masks": masks, "tags": tags} if rejected or masks or tags else {}


def read_applied(run: Path) -> Effect:
    """The decisions that the steps of a run were made with."""
    path = run / APPLIED
    found = as_dict(read_json(path)) if path.is_file() else {}
    tags = {name: as_dict(changed) for name, changed in as_dict(found.get("tags")).items()}
    masks = {name: as_text(digest) for name, digest in as_dict(found.get("masks")).items()}
    rejected = tuple(map(str, as_list(found.get("rejected"))))
    others = {name: as_list(pair) for name, pair in as_dict(found.get("others")).items()}
    scores = {name: (as_number(pair[0]), as_numbers(pair[1])) for name, pair in others.items() if len(pair) == 2}
    now = in_use(run)
    scores[as_text(found.get("of")) or now] = as_number(found.get("threshold")), as_numbers(found.get("thresholds"))
    threshold, thresholds = scores.pop(now, NO_SCORES)
    return Effect(tags, rejected, masks, threshold, thresholds, _chosen(scores))


def write_applied(run: Path, effect: Effect) -> None:
    """Note the decisions that the steps of a run are made with from now on."""
    write_json(run / APPLIED, {**vars(effect), "of": in_use(run)})


def _chosen(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    return {name: pair for name, pair in scores.items() if pair != NO_SCORES}


def name_scores(run: Path, following: str) -> None:
    """Note which refinement the scores chosen by eye are of, before `following` takes its place.

    Lines without a name count for what is in use, so those of `following` come last. Twice does no harm.
    """
    if log_path(run).is_file():
        found = read_decisions(run)
        scores = {found.in_use: (found.threshold, found.thresholds)}
        scores[following] = found.others.get(following, NO_SCORES)
        rows = ({"threshold": one, "thresholds": single, "of": name} for name, (one, single) in scores.items())
        append(run, rows)
        write_applied(run, read_applied(run))
