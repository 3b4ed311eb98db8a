"""How a run goes on with what a person decided in its review: what that changes, and what gives way to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from tag2mask.common.files import read_json
from tag2mask.data import Dataset
from tag2mask.data.records import changed
from tag2mask.recipe import Recipe
from tag2mask.runs.decisions import NO_SCORES, Effect, Scores, write_applied
from tag2mask.stages.refine import RefineConfig
from tag2mask.stages.refinements import aside_of, folder_of
from tag2mask.stages.stage import Context, Planned

EARLIER = "earlier"  # folder in the run's, for what has given way
BY_EYE = "chosen by eye in the review"


def with_decisions(context: Context, effect: Effect) -> Context:
    """The same run after what was decided on tags and thresholds."""
    recipe = with_threshold(context.recipe, effect)
    train = with_tags(context.train, effect)
    val = with_tags(context.val, effect) if context.val is not None else None
    return dataclasses.replace(context, recipe=recipe, train=train, val=val, effect=effect)


def with_threshold(recipe: Recipe, effect: Effect) -> Recipe:
    """The recipe with the background scores that were chosen by eye, in the refinements that they are of."""
    refine = _by_eye(recipe.refine, (effect.threshold, effect.thresholds))
    tried = {name: _by_eye(one, effect.others.get(name, NO_SCORES)) for name, one in recipe.tried.items()}
    return dataclasses.replace(recipe, refine=refine, tried=tried)


def _by_eye(refine: RefineConfig, scores: Scores) -> RefineConfig:
    threshold, thresholds = scores
    if refine.method == "irn":  # whose background score is another thing
        return refine
    if threshold is not None:
        refine = dataclasses.replace(refine, threshold=threshold, threshold_chosen_on=BY_EYE)
    return dataclasses.replace(refine, thresholds=dict(sorted(thresholds.items()))) if thresholds else refine


def with_tags(dataset: Dataset, effect: Effect) -> Dataset:
    """The data set with the tags that were added and taken away; other classes than its own count for nothing."""
    if not effect.tags:
        return dataset
    place = {name: index for index, name in enumerate(dataset.classes)}
    labels = {}
    for record in dataset.records:
        if record.id in effect.tags:
            names = effect.labels(record.id, [dataset.classes[label] for label in record.labels])
            labels[record.id] = tuple(sorted(place[name] for name in names if name in place))
    records = tuple(changed(r, labels=labels[r.id]) if r.id in labels else r for r in dataset.records)
    own = {r.id: r.labels for r in dataset.records if labels.get(r.id, r.labels) != r.labels}
    return dataclasses.replace(dataset, records=records, own_labels=own)


@dataclasses.dataclass(frozen=True)
class Outdated:
    """What of a run was made before the decisions that there are now."""

    folders: tuple[str, ...] = ()  # as a whole
    photos: frozenset[str] = frozenset()  # whose tags are others now: their files give way, not others'
    photo_folders: tuple[str, ...] = ()  # in these folders
    aside: tuple[str, ...] = ()  # of pseudo-masks that aren't in use: made again once they are


def outdated(plan: Sequence[Planned], before: Sequence[Planned], context: Context, earlier: Context) -> Outdated:
    """What must be made again, and nothing else: `before` and `earlier` are as the folders were made."""
    ids = [record.id for record in context.train.records]
    photos = _retagged(context.train, earlier.train)
    old = {entry.folder: entry.settings for entry in before}
    stale = {entry.folder for entry in plan if old.get(entry.folder, entry.settings) != entry.settings}
    otherwise = bool(photos) or context.effect.on_training(ids) != earlier.effect.on_training(ids)
    if otherwise:
        stale |= {e.folder for e in plan if e.stage.name == "train-segmenter" and not e.upper_bound}
    for entry in plan:  # in the order in which they run
        if stale & set(entry.reads.values()):
            stale.add(entry.folder)
    kept = [e.folder for e in plan if e.folder not in stale and e.stage.per_image and e.on == "train"]
    folders = tuple(e.folder for e in plan if e.folder in stale)
    aside = (aside_of(name) for name in context.recipe.tried if otherwise or folder_of(name) in stale)
    return Outdated(folders, photos, tuple(kept) if photos else (), tuple(aside))


def _retagged(now: Dataset, before: Dataset) -> frozenset[str]:
    labels = {record.id: record.labels for record in before.records}
    return frozenset(record.id for record in now.records if record.labels != labels[record.id])


def give_way(found: Outdated, context: Context) -> None:
    """Move what is outdated to RUN/earlier/N, where it can be had back, and note what the run goes on with."""
    out = context.out
    moves = [(out / name, name) for name in (*found.folders, *found.aside) if (out / name).is_dir()]
    moves += [
        (path, str(path.relative_to(out)))
        for folder in found.photo_folders
        for path in _files_of(out / folder, found.photos)
    ]
    if moves:
        away = _next_folder(out / EARLIER)
        for path, name in moves:
            target = away / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        context.say(f"! {_in_words(context.effect)}; made again: {_named(found)}; what was there is kept in {away}")
    write_applied(out, context.effect)


def _files_of(folder: Path, ids: Collection[str]) -> Iterator[Path]:
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir():
            names = (f"{image_id}{suffix}" for image_id in sorted(ids) for suffix in (".npz", ".png"))
            yield from (inner / name for name in names if (inner / name).is_file())


def _next_folder(parent: Path) -> Path:
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / str(max(numbers, default=0) + 1)


def _in_words(effect: Effect) -> str:
    counts = {"rejected photo": len(effect.rejected), "corrected mask": len(effect.masks)}
    counts["photo with other tags"] = len(effect.tags)
    told = [f"{count} {name if count == 1 else _plural(name)}" for name, count in counts.items() if count]
    if effect.threshold is not None or effect.thresholds:
        told.append("a threshold chosen by eye")
    return "the review decided otherwise" + (f" ({', '.join(told)})" if told else " (nothing any more)")


def _plural(name: str) -> str:
    first, *rest = name.split(" ")
    return " ".join(["photos", *rest]) if first == "photo" else f"{name}s"


def _named(found: Outdated) -> str:
    photos = [f"{len(found.photos)} photos in {', '.join(found.photo_folders)}"] if found.photo_folders else []
    return "; ".join([*photos, ", ".join(found.folders)])


def kept_in_spite(context: Context) -> Iterable[str]:
    """What is said of a classifier that learned from other tags than there are now: it stays, as it took hours."""
    path = context.out / "classifier" / "manifest.json"
    made = read_json(path) if path.is_file() else {}
    if made.get("finished"):
        now = context.train.corrected_tags()
        then = made.get("corrected_tags", {})
        others = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
        if others:
            yield (
                f"classifier: learned from other tags of {len(others)} photos than they have now, e.g. {others[0]}; "
                f"it stays, and so do other photos' maps; to train it anew, delete {path.parent} and what follows"
            )
