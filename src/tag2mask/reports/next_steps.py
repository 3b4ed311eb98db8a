"""What the user of a run should do next, told from what its stages noted and from a look at its masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tag2mask.common.commands import command
from tag2mask.common.values import as_dict, as_number
from tag2mask.reports.gather import RunFacts
from tag2mask.reports.look import FINAL, OWN, Look, MaskFigures

FEW = 50  # photos of a class below which tags are hardly enough
MANY_LOST = 0.03  # share of the tags without a pixel from which another threshold is worth a try
_LOWER = 0.8  # of the threshold, as a first try
_NAMED = 4  # classes or photos in a line
_WARNINGS = 3


@dataclass(frozen=True)
class Advice:
    """One thing to do: in words, and the command for it."""

    text: str
    command: str = ""
    urgent: bool = False  # something is wrong or doubtful


def advice(facts: RunFacts, found: Look, run: str, *, review: bool) -> list[Advice]:
    """What to do next, what is wrong first. `run` is the folder as commands are to name it.

    `review` says whether this installation has the page on which masks are looked through.
    """
    parts: tuple[Callable[[], Iterator[Advice]], ...] = (
        lambda: _unfinished(facts, run),
        lambda: _warnings(facts),
        lambda: _failed(facts),
        lambda: _lost(facts, found, run),
        lambda: _doubted(facts),
        lambda: _few(facts),
        lambda: _look_through(found, run, review),
        lambda: _unscored(facts),
        lambda: _use(facts, run),
    )
    return [one for part in parts for one in part()]


def _unfinished(facts: RunFacts, run: str) -> Iterator[Advice]:
    if not facts.info.finished:
        yield Advice("The run isn't finished; it goes on where it is.", command("run", run), urgent=True)


def _warnings(facts: RunFacts) -> Iterator[Advice]:
    said = [f"{stage.step.title}: {text}." for stage in facts.stages for text in stage.manifest.warnings]
    for text in said[:_WARNINGS]:
        yield Advice(text.replace("..", "."), urgent=True)


def _failed(facts: RunFacts) -> Iterator[Advice]:
    failed = sorted({name for stage in facts.stages for name in stage.failed})
    if failed:
        count = f"{len(failed)} photo{'' if len(failed) == 1 else 's'} could not be used"
        yield Advice(f"{count}: {_some(failed)}. Why stands below; replace or delete them.", urgent=True)


def _lost(facts: RunFacts, found: Look, run: str) -> Iterator[Advice]:
    """Tags without a pixel: in the final masks, and in the masks that the network learned from."""
    final, own = (found.figures.get(folder, MaskFigures()) for folder in (FINAL, OWN))
    if final.lost.total():
        text = f"The final masks leave {_lost_of(final, found)}. These photos are the first of the doubtful ones."
        yield Advice(text, urgent=True)
    lower = _lower_threshold(facts)
    if own.lost.total() > MANY_LOST * own.tags.total() and lower:
        text = f"The pseudo-masks leave {_lost_of(own, found)}. A lower threshold, beside these, keeps more."
        yield Advice(text, command("refine", run, "--set", lower), urgent=True)
    elif own.lost.total() and not final.tags:
        yield Advice(f"The pseudo-masks leave {_lost_of(own, found)}.", urgent=True)


def _lost_of(figures: MaskFigures, found: Look) -> str:
    """How many tags have no pixel, by class, in words."""
    by_class = _some([f"{name} {count}" for name, count in figures.lost.most_common() if count])
    seen = f" in the {found.photos} photos looked at" if found.photos < found.available else ""
    return f"{figures.lost.total()} of {figures.tags.total()} tags{seen} without a pixel ({by_class})"


def _lower_threshold(facts: RunFacts) -> str:
    """The setting for a lower threshold than that of the pseudo-masks; "" where it isn't known."""
    made = next((stage.manifest for stage in facts.stages if stage.step.folder == OWN), None)
    if made is None:
        return ""
    irn = made.config.get("method") == "irn"
    value = as_number((as_dict(made.config.get("walk")) if irn else made.config).get("threshold"))
    value = as_number(made.raw.get("threshold")) if value is None else value
    return "" if value is None else f"refine.{'walk.' if irn else ''}threshold={_LOWER * value:.2f}"


def _doubted(facts: RunFacts) -> Iterator[Advice]:
    doubted = facts.tags.doubted if facts.tags else ()
    if doubted:
        shown = _some([f"{tag.id} ({'' if tag.tagged else 'not '}{tag.name})" for tag in doubted])
        yield Advice(f"The classifier contradicts some tags, often rightly: {shown}. Correct those that are wrong.")


def _few(facts: RunFacts) -> Iterator[Advice]:
    train = [image for image in facts.index.images.values() if image.split in ("", "train")]
    counts = Counter(label for image in train for label in image.labels)
    few = [f"{name} {counts[name]}" for name in facts.classes if 0 < counts[name] < FEW]
    if few:
        yield Advice(f"Fewer than about {FEW} photos of a class teach little: {_some(few)}. More photos help most.")


def _look_through(found: Look, run: str, review: bool) -> Iterator[Advice]:
    if not found.figures:
        return
    if review:
        yield Advice(
            "Look the masks through, the most doubtful first: keep, correct or reject them.", command("review", run)
        )
    else:
        yield Advice("Take the masks to where they can be corrected.", command("export", "cvat", run))


def _unscored(facts: RunFacts) -> Iterator[Advice]:
    if not facts.scores and facts.info.finished:
        text = "Nothing was scored, for want of true masks: twenty, drawn for held-out photos, tell how good it is."
        yield Advice(text)


def _use(facts: RunFacts, run: str) -> Iterator[Advice]:
    if any(stage.step.folder == "segmenter" and stage.manifest.finished for stage in facts.stages):
        text = "The network answers photos without tags too."
        yield Advice(text, command("predict", "--images", "NEW", "--out", run, "--masks", "DIR"))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
