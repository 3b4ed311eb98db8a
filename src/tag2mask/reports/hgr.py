"""Charts of high-gradient ratios, where `tag2mask hgr` has written any into the run's folder."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from tag2mask.common.files import read_json
from tag2mask.reports import charts
from tag2mask.reports.gather import RunFacts, as_count, as_dict, as_list, as_number

Chart = tuple[str, Markup, list[charts.Line]]  # title, svg, lines to explain in a legend
COLOURS = {"discriminative": "#3b82c4", "non-discriminative": "var(--accent)", "background": "var(--muted)"}


def hgr_charts(facts: RunFacts) -> list[Chart]:
    """Charts by layer, before and after RIB, and by RIB step; none without hgr/hgr.json."""
    path = facts.folder / "hgr" / "hgr.json"
    found = as_dict(facts.notes.attempt("hgr/hgr.json", path, read_json)) if path.is_file() else {}
    layers = [str(layer) for layer in as_list(found.get("layers"))]
    last = (as_count(found.get("steps")) or 1) - 1
    smoothing = as_count(as_dict(found.get("config")).get("smoothing"))
    rows = [row for row in map(as_dict, as_list(found.get("means")))
            if as_count(row.get("smoothing")) == smoothing and row.get("scalar") in ("sum", "class")]  # fmt: skip
    if not layers or not rows:
        return []
    by_layer = [line for region, colour in COLOURS.items() for step, after in ((0, False), (last, True))
                if (line := _by_layer(rows, layers, region, colour, step, after))]  # fmt: skip
    by_step = [charts.Line(region, _points(rows, region, "logit"), colour) for region, colour in COLOURS.items()]
    images = as_count(found.get("images"))
    return [
        (f"High-gradient ratio by layer, {images} images", charts.line_chart(
            by_layer, f"layer: 1 {layers[0]} to {len(layers) - 1} logit, {len(layers)} sigmoid", "HGR, percent",
            scale=100, whole_x=True), by_layer),
        ("High-gradient ratio of the class logit along RIB", charts.line_chart(
            by_step, "updates so far", "HGR, percent", scale=100, whole_x=True), by_step),
    ]  # fmt: skip


def _by_layer(
    rows: list[dict[str, Any]], layers: list[str], region: str, colour: str, step: int, after: bool
) -> charts.Line | None:
    points = []
    for row in rows:
        mean = as_number(row.get("mean"))
        here = as_count(row.get("step")) == step and row.get("region") == region and row.get("layer") in layers
        if here and mean is not None:
            points.append((layers.index(str(row["layer"])) + 1.0, mean))
    label = f"{region}, after RIB" if after else region
    return charts.Line(label, sorted(points), colour, dashed=after) if points else None


def _points(rows: list[dict[str, Any]], region: str, layer: str) -> list[tuple[float, float]]:
    found = [(as_number(row.get("step")), as_number(row.get("mean"))) for row in rows
             if row.get("region") == region and row.get("layer") == layer]  # fmt: skip
    return sorted((step, mean) for step, mean in found if step is not None and mean is not None)
