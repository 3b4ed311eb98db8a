"""Puts a run's facts, charts and gallery into one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tag2mask import __version__
from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write
from tag2mask.data import decode_image
from tag2mask.reports import charts, pictures
from tag2mask.reports.gallery import Section, build_sections
from tag2mask.reports.gather import (
    RunFacts,
    Score,
    as_count,
    as_dict,
    as_list,
    as_number,
    gather,
    spoken,
)
from tag2mask.reports.hgr import hgr_charts
from tag2mask.reports.letters import letter
from tag2mask.reports.palette import BACKGROUND, class_colour, heat_gradient, hex_colour

TEMPLATES = Path(__file__).parent / "templates"
# Opacity of a row's bar in the class colour: the further down the chain, the fuller.
STRENGTHS = {"seed_cam": 0.35, "seed_rib": 0.55, "pseudo_mask": 0.75, "segmentation_val": 1.0}
CHAIN_TITLES = {"seed_rib": "RIB seed", "pseudo_mask": "pseudo-mask", "seed_cam": "CAM seed",
                "segmentation_val": "segmentation", "supervised_val": "upper bound"}  # fmt: skip
LISTED = 30  # broken files and failed images named one by one


def write_report(run: Path | str, *, out: Path | str | None = None, examples: int = 24, seed: int = 0) -> Path:
    """Write one self-contained HTML report about a finished or partly finished run and return its path.

    run: the run's folder; any part of it may be missing or broken, the report then says so.
    out: where to write; default `run/report.html`.
    examples: images shown per part of the gallery (a third each best, worst and random where scores exist).
    seed: of the random draw. The file stays under some 12 MB: examples that do not fit are counted, not shown.
    Raises DataError if `run` is no folder or `examples` is negative.
    """
    run = Path(run)
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder; give the folder that 'tag2mask run' wrote")
    if examples < 0:
        raise DataError(f"examples is {examples}; give 0 or more images per part of the gallery")
    out = run / "report.html" if out is None else Path(out)
    page = render(gather(run), examples, seed)
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def page_environment() -> Environment:
    """What all pages are rendered with: everything escaped, a name that isn't there is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(facts: RunFacts, examples: int, seed: int) -> str:
    """Render the page as text; reads the pictures of one example at a time."""
    environment = page_environment()
    environment.filters.update(percent=percent, number=number, duration=duration, place_of=place_of, cut=cut)
    showcase = _showcase(facts)
    sections = build_sections(facts, examples, seed) if examples else []
    context = {
        "facts": facts,
        "header": _header(facts),
        "scores": _score_table(facts),
        "bars": _bars(facts),
        "threshold_chart": _threshold_chart(facts),
        "training_charts": [*_training_charts(facts), *hgr_charts(facts)],
        "sections": sections,
        "chips": _chips(facts),
        "chain_titles": CHAIN_TITLES,
        "groups": _groups(sections),
        "showcase": showcase,
        "heat": Markup(heat_gradient()),
        "steps": {f"{s.key}-{i}": card.steps for s in sections for i, card in enumerate(s.cards) if card.steps},
        "machine": _flat(as_dict(facts.info.get("machine"))),
        "versions": _flat(as_dict(facts.info.get("versions"))),
        "broken": facts.notes.broken,
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


def cut(threshold: float) -> str:
    """Format a threshold with two decimals, or a third one where it has it."""
    return f"{threshold:.3f}".removesuffix("0")


def place_of(name: str, classes: tuple[str, ...]) -> int:
    """Return the 0-based index of a class, or -1 for a tag outside the class list."""
    return classes.index(name) if name in classes else -1


def _header(facts: RunFacts) -> dict[str, Any]:
    info, data = facts.info, as_dict(facts.info.get("data"))
    stages = [stage.seconds for stage in facts.stages if stage.seconds is not None]
    return {
        "name": str(info.get("name") or facts.folder.resolve().name),
        "recipe": info["recipe"] if isinstance(info.get("recipe"), str) else "",
        "data": str(data.get("root_name") or ""),
        "seed": as_count(info.get("seed")),
        "train": as_count(data.get("train_images")),
        "val": as_count(data.get("val_images")),
        "limited": as_count(data.get("limited_to")),
        "finished": bool(info.get("finished")),
        "seconds": sum(stages) if stages else None,
    }


def _score_table(facts: RunFacts) -> dict[str, Any]:
    """Rows, per-class columns, and what RIB gained over CAM in points of IoU (None where one is missing)."""
    known = {score.key: score for score in facts.scores}
    named = {name: None for score in facts.scores for name in score.per_class}
    columns = [name for name in ("background", *facts.classes) if name in named]
    columns += [name for name in named if name not in columns]
    cam, rib = known.get("seed_cam"), known.get("seed_rib")
    gain = None if cam is None or rib is None else _gain(cam, rib, columns)
    texts = dict.fromkeys(s.chosen_on for s in facts.scores if s.chosen_on and s.threshold is not None)
    notes = {text: letter(number) for number, text in enumerate(texts)}
    colours = _colours(facts, columns)
    return {"rows": facts.scores, "columns": columns, "gain": gain, "colours": colours, "notes": notes}


def _gain(cam: Score, rib: Score, columns: list[str]) -> dict[str, Any]:
    deltas: dict[str, float | None] = {}
    for name in columns:
        before, after = cam.per_class.get(name), rib.per_class.get(name)
        deltas[name] = None if before is None or after is None else 100 * (after - before)
    same = (cam.images, cam.split) == (rib.images, rib.split)
    return {"miou": 100 * (rib.miou - cam.miou), "per_class": deltas, "same": same, "cam": cam, "rib": rib}


def _colours(facts: RunFacts, names: list[str]) -> dict[str, str]:
    places = {name: index for index, name in enumerate(facts.classes)}
    return {n: hex_colour(class_colour(places[n]) if n in places else BACKGROUND) for n in names}


def _bars(facts: RunFacts) -> list[tuple[str, str, Markup]]:
    """One small chart per class: (name, colour, svg)."""
    table = _score_table(facts)
    charts_ = []
    for name in table["columns"]:
        colour = table["colours"][name]
        bars = [charts.Bar(s.title, s.per_class.get(name), _strength(s), s.upper_bound) for s in facts.scores]
        charts_.append((name, colour, charts.class_bars(name, colour, bars)))
    return charts_


def _strength(score: Score) -> float:
    return STRENGTHS["pseudo_mask"] if score.comparison else STRENGTHS.get(score.key, 1.0)


def _threshold_chart(facts: RunFacts) -> Markup:
    colours = {"seed_cam": "var(--muted)", "seed_rib": "var(--accent)"}
    lines = []
    for score in facts.scores:
        at = score.threshold
        text = "" if at is None else f"{score.title} {percent(score.miou)} at {cut(at)}"
        colour = colours.get(score.key, "var(--ink)")
        if score.curve:
            lines.append(charts.Line(score.title, score.curve, colour, mark=at, mark_text=text))
    return charts.line_chart(lines, "threshold", "mIoU, percent", scale=100)


def _training_charts(facts: RunFacts) -> list[tuple[str, Markup, list[charts.Line]]]:
    """Charts of the logs as (title, svg, lines to explain in a legend)."""
    found: list[tuple[str, Markup, list[charts.Line]]] = []
    line = _loss_line(facts, "classifier", "classifier", "var(--accent)")
    if line:
        found.append(("Classifier", charts.line_chart([line[0]], line[1], "loss", whole_x=True), []))
    classifier = facts.logs.get("classifier")
    if classifier and classifier.val_map:
        quality = charts.Line("held-out mAP", classifier.val_map, "var(--accent)")
        chart = charts.line_chart([quality], "epoch", "mAP, percent", scale=100, whole_x=True)
        found.append(("Classifier on held-out images", chart, []))
    found += _boundary_chart(facts)
    pair = (
        _loss_line(facts, "segmenter", "trained on pseudo-masks", "var(--accent)"),
        _loss_line(facts, "supervised", "upper bound, trained on true masks", "var(--muted)", dashed=True),
    )
    lines = [entry for entry in pair if entry]
    for x_label in dict.fromkeys(entry[1] for entry in lines):
        shown = [entry[0] for entry in lines if entry[1] == x_label]
        found.append(("Segmenter", charts.line_chart(shown, x_label, "loss", whole_x=True), shown))
    return found


def _boundary_chart(facts: RunFacts) -> list[tuple[str, Markup, list[charts.Line]]]:
    """One chart of the boundary networks' losses, a line for each; nothing where there are none."""
    names = [name for name in facts.logs if name.startswith("boundary_")]
    colours = ("var(--accent)", "var(--muted)", "var(--ink)")
    lines = []
    for number, name in enumerate(names):
        label = f"{spoken(name.removeprefix('boundary_'))} labels"
        entry = _loss_line(facts, name, label, colours[number % 3], dashed=number > 0)
        lines += [entry] if entry else []
    if not lines:
        return []
    shown = [entry[0] for entry in lines if entry[1] == lines[0][1]]
    chart = charts.line_chart(shown, lines[0][1], "loss", whole_x=True)
    return [("Boundary network", chart, shown if len(shown) > 1 else [])]


def _loss_line(
    facts: RunFacts, folder: str, label: str, colour: str, dashed: bool = False
) -> tuple[charts.Line, str] | None:
    """Return a loss curve and what its x axis counts: steps where they were logged, else epochs."""
    log = facts.logs.get(folder)
    points = (log.loss or log.epoch_loss) if log else []
    if not log or not points:
        return None
    return charts.Line(label, charts.thin(points), colour, dashed), "step" if log.loss else "epoch"


def _chips(facts: RunFacts) -> list[tuple[int, str, str]]:
    """The legend: (index, name, colour) of every class."""
    return [(i, name, hex_colour(class_colour(i))) for i, name in enumerate(facts.classes)]


def _groups(sections: list[Section]) -> list[tuple[str, str]]:
    used = {group for section in sections for card in section.cards for group in card.groups}
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
            items.append({
                "name": str(entry.get("name") or ""), "tag": str(entry.get("tag") or ""),
                "seconds": as_number(entry.get("seconds")), "pictures": shown,
            })  # fmt: skip
    title, text = str(facts.showcase.get("title") or "Showcase"), str(facts.showcase.get("text") or "")
    return {"title": title, "text": text, "items": items}


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
