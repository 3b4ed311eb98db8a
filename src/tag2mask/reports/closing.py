"""The five lines that end a run in the terminal, and the report that they speak of."""

from __future__ import annotations

from pathlib import Path

from tag2mask.common.commands import command
from tag2mask.common.files import ids_in
from tag2mask.reports.gather import RunFacts, gather
from tag2mask.reports.html import write_page
from tag2mask.reports.look import FINAL, OWN, Look, look
from tag2mask.reports.next_steps import advice

_SHOWN = 3  # photos to look at


def write_and_close(run: Path, *, review: bool) -> list[str]:
    """Write the report of a run; return where masks, network, report and review are, and what to look at.

    `review` says whether this installation has the page on which masks are looked through.
    """
    facts = gather(run)
    found = look(run, facts.index, facts.info.seed or 0)
    report = write_page(facts, found, run / "report.html", review=review)
    folder = FINAL if FINAL in found.figures else OWN
    count = len(ids_in(run / folder / "masks", ".png"))
    predict = command("predict", "--images", "NEW", "--out", run, "--masks", "DIR")
    lines = {
        "masks": f"{run / folder / 'masks'}  ({count} PNGs; what their numbers mean: classes.csv beside that folder)",
        "network": f"{run / 'segmenter'}  (new photos: {predict})",
        "report": f"{report}  (open it in a browser)",
        "review": f"{command('review', run)}  (keep, correct or reject masks, the most doubtful first)",
        "look at": _to_look_at(facts, found, str(run), review),
    }
    if not review:
        lines["review"] = (
            f"{command('export', 'cvat', run)}  (masks to be corrected in CVAT; other tools: tag2mask export -h)"
        )
    return [f"{name + ':':<9}{text}" for name, text in lines.items()]


def _to_look_at(facts: RunFacts, found: Look, run: str, review: bool) -> str:
    """What is wrong before anything else, else the photos that are the most doubtful."""
    urgent = [one for one in advice(facts, found, run, review=review) if one.urgent]
    if urgent:
        more = f" ({len(urgent) - 1} more in the report)" if len(urgent) > 1 else ""
        command = f" {urgent[0].command}" if urgent[0].command else ""
        return f"{urgent[0].text}{command}{more}"
    doubtful = ", ".join(doubt.id for doubt in found.doubts[:_SHOWN])
    return f"the report's doubtful photos, such as {doubtful}" if doubtful else "the report's first pictures"
