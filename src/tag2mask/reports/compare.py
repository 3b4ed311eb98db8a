"""The pseudo-masks of a run beside each other: how they were made, what they cover, which tags they lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tag2mask.common.values import as_dict, as_number
from tag2mask.reports.gather import RunFacts, StageFacts
from tag2mask.reports.look import OWN, Look, MaskFigures


@dataclass(frozen=True)
class Compared:
    """One refinement of a run."""

    name: str  # as `tag2mask choose` takes it
    title: str  # how it was made: "RIB+CRF"
    threshold: float | None
    chosen: bool  # later stages follow it
    figures: MaskFigures
    miou: float | None  # 0..1

    @property
    def folder(self) -> str:
        """Where it lies in the run's folder."""
        return OWN if self.chosen else f"{OWN}_{self.name}"

    @property
    def lost(self) -> str:
        """Tags without a pixel, by class, in words."""
        named = ", ".join(f"{name} {count}" for name, count in sorted(self.figures.lost.items()) if count)
        total = sum(self.figures.tags.values())
        return f"{sum(self.figures.lost.values())} of {total}" + (f" ({named})" if named else "")


def compared(facts: RunFacts, look: Look) -> list[Compared]:
    """The finished refinements of a run, the one that later stages follow first."""
    stages = {stage.step.folder: stage for stage in facts.stages if stage.step.stage == "refine"}
    scores = {score.key.replace("pseudo_mask", OWN, 1): score.miou for score in facts.scores}
    return [
        Compared(
            facts.chosen if folder == OWN else folder.removeprefix(f"{OWN}_"),
            str(stages[folder].manifest.raw.get("title") or "pseudo-masks"),
            _threshold(stages[folder]),
            folder == OWN,
            figures,
            scores.get(folder),
        )
        for folder, figures in look.figures.items()
        if folder in stages
    ]


def _threshold(stage: StageFacts) -> float | None:
    """The background score that masks were cut at, from their manifest."""
    config: Mapping[str, object] = stage.manifest.config
    section = as_dict(config.get("walk")) if config.get("method") == "irn" else config
    return as_number(
        stage.manifest.raw.get("threshold") if section.get("threshold") == "auto" else section.get("threshold")
    )


def lines(rows: Sequence[Compared], classes: Sequence[str]) -> list[str]:
    """The comparison as lines of text for a terminal; at most six classes by name."""
    named = classes[:6]
    head = ["", "made by", "cut at", *named, "tags lost", "mIoU"]
    table = [head]
    for row in rows:
        covers = [_percent(row.figures.cover(name)) for name in named]
        cut = "" if row.threshold is None else f"{row.threshold:.3f}".removesuffix("0")
        table.append(
            [f"{'* ' if row.chosen else '  '}{row.name}", row.title, cut, *covers, row.lost, _percent(row.miou)]
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return [*text, "* later stages follow it; by class: mean cover, in percent, of the photos tagged with it"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
