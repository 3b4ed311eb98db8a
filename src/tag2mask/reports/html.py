"""Puts a run's facts, charts and gallery into one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tag2mask import __version__
from tag2mask.common.commands import command
from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write
from tag2mask.common.values import as_dict, as_list, as_number, as_text
from tag2mask.data import decode_image
from tag2mask.reports import pictures
from tag2mask.reports.compare import compared
from tag2mask.reports.figures import class_figures, threshold_figure, training_figures
from tag2mask.reports.gallery import PLACES, Section, build_sections
from tag2mask.reports.gather import RunFacts, gather
from tag2mask.reports.hgr import hgr_figures
from tag2mask.reports.look import Look, look
from tag2mask.reports.next_steps import advice
from tag2mask.reports.palette import BACKGROUND, class_colour, heat_gradient, hex_colour
from tag2mask.runs.scores import ScoreRow, kind_of, size_in_words, sizes_of, threshold_marks
from tag2mask.runs.scores import place_of as score_place

TEMPLATES = Path(__file__).parent / "templates"
LISTED = 30  # broken files and failed images named one by one


def write_report(run: Path | str, *, out: Path | str | None = None, examples: int = 12, seed: int = 0) -> Path:
    """Write one self-contained HTML report about a finished or partly finished run and return its path.

    run: the run's folder; any part of it may be missing or broken, the report then says so.
    out: where to write; default `run/report.html`.
    examples: images shown per part of the gallery (a third each best, worst and random where scores exist).
    seed: of the random draw. The file stays under some 7 MB: examples that do not fit are counted, not shown.
    Raises DataError if `run` is no folder or `examples` is negative.
    """
    run = Path(run)
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder; give the folder that 'tag2mask run' wrote")
    if examples < 0:
        raise DataError(f"examples is {examples}; give 0 or more images per part of the gallery")
    facts = gather(run)
    out = run / "report.html" if out is None else Path(out)
    return write_page(facts, look(run, facts.index, seed), out, examples=examples, seed=seed)


def write_page(
    facts: RunFacts, found: Look, out: Path, *, examples: int = 12, seed: int = 0, review: bool | None = None
) -> Path:
    """Write the report on what was gathered and found; the rest as for `write_report`.

    `review` says whether this installation has the page on which masks are looked through; None: find out.
    """
    page = render(facts, found, examples, seed, has_review() if review is None else review)
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def has_review() -> bool:
    """Whether `tag2mask review` is one of the commands."""
    from tag2mask.cli import GROUPS  # which imports this module's users

    return any(group.__name__.endswith(".review") for group in GROUPS)


def page_environment() -> Environment:
    """What all pages are rendered with: everything escaped, a name that isn't there is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(facts: RunFacts, found: Look, examples: int, seed: int, review: bool) -> str:
    """Render the page as text; reads the pictures of one example at a time."""
    environment = page_environment()
    environment.filters.update(percent=percent, number=number, duration=duration, place_of=place_of, capital=capital)
    table = _score_table(facts)
    sections = build_sections(facts, found, examples, seed) if examples else []
    run = facts.folder.resolve().name
    context = {
        "facts": facts,
        "name": facts.info.name or run,
        "run": run,
        "command": command,
        "advice": advice(facts, found, run, review=review),
        "look": found,
        "compared": compared(facts, found),
        "took": sum(stage.seconds or 0 for stage in facts.stages) or None,
        "scores": table,
        "bars": class_figures(facts.scores, table["colours"]),
        "figures": [*threshold_figure(facts.scores), *training_figures(facts.stages), *hgr_figures(facts)],
        "sections": {place: [one for one in sections if one.place == place] for place in PLACES},
        "chips": [(i, name, hex_colour(class_colour(i))) for i, name in enumerate(facts.classes)],
        "kind_of": kind_of,
        "groups": {place: _groups([one for one in sections if one.place == place]) for place in PLACES},
        "showcase": _showcase(facts),
        "heat": Markup(heat_gradient()),
        "steps": {f"{s.key}-{i}": card.steps for s in sections for i, card in enumerate(s.cards) if card.steps},
        "machine": _flat(facts.info.machine),
        "versions": _flat(facts.info.versions),
        "broken": list(dict.fromkeys(facts.notes.broken)),  # a photo may be shown in several parts
        "listed": LISTED,
        "version": __version__,
    }
    return environment.get_template("report.html.j2").render(context)


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share 0..1 as percent without the sign; "–" for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def number(value: int | None) -> str:
    """Format a count with thin spaces between thousands; "–" for None."""
    return "–" if value is None else f"{value:,}".replace(",", "\u2009")


def duration(seconds: float | None) -> str:
    """Format seconds as "0.42 s", "12.3 s", "4 min 10 s" or "2 h 5 min"; "–" for None."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def capital(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[:1].upper() + text[1:]


def place_of(name: str, classes: tuple[str, ...]) -> int:
    """Return the 0-based index of a class, or -1 for a tag outside the class list."""
    return classes.index(name) if name in classes else -1


def _score_table(facts: RunFacts) -> dict[str, Any]:
    """Rows, per-class columns, and what RIB gained over CAM in points of IoU (None where one is missing)."""
    known = {score.key: score for score in facts.scores}
    named = {name: None for score in facts.scores for name in score.per_class}
    columns = [name for name in ("background", *facts.classes) if name in named]
    columns += [name for name in named if name not in columns]
    cam, rib = known.get("seed_cam"), known.get("seed_rib")
    return {
        "rows": facts.scores,
        "head": sorted((score for score in facts.scores if not score.comparison), key=_from_the_end),
        "columns": columns,
        "gain": None if cam is None or rib is None else _gain(cam, rib, columns),
        "colours": _colours(facts, columns),
        "notes": threshold_marks(facts.scores),
        "sizes": {size: size_in_words(size) for size in sizes_of(facts.scores)},
    }


def _from_the_end(score: ScoreRow) -> tuple[bool, int]:
    """Order of the figures at the head of the page: the network's work first, the upper bound last."""
    return score.kind.upper_bound, -score_place(score.key)


def _gain(cam: ScoreRow, rib: ScoreRow, columns: list[str]) -> dict[str, Any]:
    deltas: dict[str, float | None] = {}
    for name in columns:
        before, after = cam.per_class.get(name), rib.per_class.get(name)
        deltas[name] = None if before is None or after is None else 100 * (after - before)
    same = (cam.images, cam.split) == (rib.images, rib.split)
    return {"miou": 100 * (rib.miou - cam.miou), "per_class": deltas, "same": same, "cam": cam, "rib": rib}


def _colours(facts: RunFacts, names: list[str]) -> dict[str, str]:
    places = {name: index for index, name in enumerate(facts.classes)}
    return {n: hex_colour(class_colour(places[n]) if n in places else BACKGROUND) for n in names}


def _groups(sections: list[Section]) -> list[tuple[str, str]]:
    used = {group for section in sections if section.filtered for card in section.cards for group in card.groups}
    known = (("random", "Random"), ("best", "Best"), ("worst", "Worst"))
    return [pair for pair in known if pair[0] in used] if len(used) > 1 else []


def _showcase(facts: RunFacts) -> dict[str, Any]:
    items = []
    for entry in map(as_dict, as_list(facts.showcase.get("items"))):
        shown = []
        for key, title in (("photo", "Photo"), ("cam", "CAM"), ("rib", "RIB"), ("mask", "Mask")):
            picture = _showcase_picture(facts, entry.get(key))
            if picture:
                shown.append((title, *picture))
        if shown:
            texts = {key: as_text(entry.get(key)) for key in ("name", "tag")}
            items.append({**texts, "seconds": as_number(entry.get("seconds")), "pictures": shown})
    title = as_text(facts.showcase.get("title")) or "Showcase"
    return {"title": title, "text": as_text(facts.showcase.get("text")), "items": items}


def _showcase_picture(facts: RunFacts, name: Any) -> tuple[str, float] | None:
    """Return (data URI, width / height) of a picture inside the run's folder; other places are refused."""
    if not isinstance(name, str) or not name:
        return None
    path = facts.folder / name
    if not path.resolve().is_relative_to(facts.folder.resolve()):
        facts.notes.broken.append(f"showcase picture {name}: lies outside the run's folder")
        return None
    pixels = facts.notes.attempt(name, path, decode_image)
    if pixels is None:
        return None
    return pictures.photo_uri(pixels, quality=80), pixels.shape[1] / pixels.shape[0]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested facts to (name, text) for a plain list."""
    pairs = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{key} ")
        else:
            pairs.append((f"{prefix}{key}", "–" if value is None else str(value)))
    return pairs
