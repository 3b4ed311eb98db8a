"""What is doubtful about each photo, told from its maps and masks: computed once, kept in RUN/review/index.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write, digest_value, read_json
from tag2mask.common.progress import track
from tag2mask.common.seeding import rng_for
from tag2mask.common.values import as_dict
from tag2mask.data.images import image_size
from tag2mask.data.masks import read_mask
from tag2mask.data.records import IGNORED
from tag2mask.refine.threshold import COVER_STEPS, best_class, cover_by_score, score_of_equal_cover
from tag2mask.review.maps import over_photo, sampled, within
from tag2mask.review.subjects import Cut, Subject, Subjects
from tag2mask.runs.decisions import FOLDER, read_decisions

GRID = 64  # positions along the longer side at which maps and masks are compared
SAMPLE = 500  # photos at most for the score at which CAM covers as much as the maps that masks are cut from
STEPS = 100  # scores 0, 0.01 .. 1 at which a cut is tried
VERSION = 1  # of the rows' meaning

Row = dict[str, Any]


def build_index(subjects: Subjects) -> dict[str, Row]:
    """A row for each photo by id; only those whose files have changed since the last time are computed.

    cover: share of the mask, by class in `classes`; lost: tags without a pixel; agreement: mean IoU, over tags and
    pairs, of CAM, RIB and mask, None where there is one of them; doubt: the higher, the sooner it should be looked
    at; cuts: by tag the share of the photo that a cut at 0, 0.01 .. 1 keeps, in millionths.
    """
    path = subjects.run / FOLDER / "index.json"
    old, decisions = as_dict(_stored(path)), read_decisions(subjects.run)
    tags = {s.id: decisions.labels(s.id, s.own) for s in subjects.photos.values()}
    before = {s.id: _stamp(subjects, s, tags[s.id]) for s in subjects.photos.values()}
    fresh = {name: row for name, row in old.items() if before.get(name) == as_dict(row).get("stamp")}
    todo = [subject for subject in subjects.photos.values() if subject.id not in fresh]
    if todo:
        scores = _scores(subjects)
        for subject in track(todo, total=len(todo), description="look at photos"):
            fresh[subject.id] = {
                "stamp": before[subject.id],
                **_row(subjects, subject, tags[subject.id], scores),
            }
    if todo or len(fresh) != len(old):
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(fresh, separators=(",", ":")), encoding="utf-8")
    return {name: fresh[name] for name in subjects.photos}


def _stored(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):  # it is made again
        return {}


def _stamp(subjects: Subjects, subject: Subject, tags: Sequence[str]) -> str:
    """What tells whether a row still holds: the state of its files, its tags, and how they are compared."""
    files = [subjects.run / layer / "masks" / f"{subject.id}.png" for layer in subject.layers[:1]]
    files += [subjects.run / subjects.folders[kind] / kind / f"{subject.id}.npz" for kind in subject.kinds]
    states = [(str(path.relative_to(subjects.run)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest_value([VERSION, states, tags, subjects.cut.__dict__, subjects.doubted.get(subject.id)])[:16]


def _scores(subjects: Subjects) -> dict[str, float]:
    """For each kind of maps the score to cut at: the run's own, and for the other kind that of equal cover."""
    cut = subjects.cut
    others = [kind for kind in ("rib", "cam") if kind != cut.kind]
    return {cut.kind: cut.threshold} | {kind: _equal(subjects, cut, kind) for kind in others}


def _equal(subjects: Subjects, cut: Cut, kind: str) -> float:
    chosen = [s for s in subjects.photos.values() if {cut.kind, kind} <= set(s.kinds)]
    rng_for(0, "review").shuffle(chosen)
    totals, used = np.zeros((2, COVER_STEPS + 1)), 0
    for subject in chosen[:SAMPLE]:
        try:
            pair = [subjects.maps_of(subject, name) for name in (cut.kind, kind)]
        except DataError:
            continue  # its own row says so
        totals += [cover_by_score(over_photo(maps, within(maps.size, GRID))) for maps in pair]
        used += 1
    reference, own = totals / max(used, 1)
    return score_of_equal_cover(cut.threshold, reference, own)


def _row(subjects: Subjects, subject: Subject, named: Sequence[str], scores: dict[str, float]) -> Row:
    try:
        size = image_size(subject.path)
        mask = read_mask(subjects.mask_file(subject, subject.layers[0])) if subject.layers else None
        found = {kind: subjects.maps_of(subject, kind) for kind in subject.kinds}
    except DataError as error:
        return {"size": [3, 4], "problem": str(error), "doubt": 2.0, "classes": {}, "lost": [], "cuts": {}}
    grid = within(size, GRID)
    values = {kind: (over_photo(maps, grid), maps.classes) for kind, maps in found.items()}
    labels = [
        np.where(value > scores[kind], best, 0)
        for kind, (best, value) in ((kind, best_class(*pair)) for kind, pair in values.items())
    ]
    labels += [sampled(mask, grid)] if mask is not None else []
    tags = [subjects.classes.index(tag) + 1 for tag in named if tag in subjects.classes]
    agreement = agreement_of(labels, tags)
    row = _of_mask(mask, subjects.classes, tags) if mask is not None else {"cover": None, "classes": {}, "lost": []}
    doubted = subjects.doubted.get(subject.id, [])
    cuts = _cuts(*values[subjects.cut.kind], subjects.classes) if subjects.cut.kind in values else {}
    doubt = (0.5 if agreement is None else 1 - agreement) + 0.5 * bool(row["lost"]) + 0.5 * bool(doubted)
    return {"size": list(size), **row, "agreement": agreement, "doubt": round(doubt, 4), "cuts": cuts}


def agreement_of(labels: Sequence[np.ndarray], tags: Iterable[int]) -> float | None:
    """Mean IoU, 0..1, over mask values `tags` and pairs of masks (h, w); None without a pair or a tag.

    Where neither of a pair has a pixel of a tag, they agree that the tag is nowhere, which is 0: it should be.
    """
    found = []
    for tag in tags:
        for one, other in combinations([values == tag for values in labels], 2):
            together = int(np.count_nonzero(one | other))
            found.append(int(np.count_nonzero(one & other)) / together if together else 0.0)
    return round(float(np.mean(found)), 4) if found else None


def _of_mask(mask: np.ndarray, classes: Sequence[str], tags: Sequence[int]) -> Row:
    counts = np.bincount(mask.ravel(), minlength=256)
    known = max(int(counts.sum() - counts[IGNORED]), 1)
    shares = {name: round(int(counts[value]) / known, 5) for value, name in enumerate(classes, 1) if counts[value]}
    return {
        "cover": round(sum(shares.values()), 5),
        "classes": shares,
        "lost": [classes[tag - 1] for tag in tags if not counts[tag]],
    }


def _cuts(values: np.ndarray, indices: np.ndarray, classes: Sequence[str]) -> dict[str, list[int]]:
    """By tag the share of the positions, in millionths, that is its own and above each score k / STEPS."""
    best, value = best_class(values, indices)
    found = {}
    for index in indices:
        own = value[best == index + 1]
        exceeded = np.clip(np.ceil(own.astype(np.float64) * STEPS), 0, STEPS + 1).astype(int)
        above = len(own) - np.cumsum(np.bincount(exceeded, minlength=STEPS + 2))[: STEPS + 1]
        found[classes[index]] = [int(count) for count in np.rint(1e6 * above / value.size)]
    return found
