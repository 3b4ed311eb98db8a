"""Charts of high-gradient ratios, where `tag2mask hgr` has written any into the run's folder."""

from __future__ import annotations

from typing import Any

from tag2mask.common.values import as_count, as_dict, as_list, as_number
from tag2mask.reports.charts import Figure, Line, line_chart
from tag2mask.reports.gather import RunFacts

COLOURS = {"discriminative": "#3b82c4", "non-discriminative": "var(--accent)", "background": "var(--muted)"}


def hgr_figures(facts: RunFacts) -> list[Figure]:
    """Charts by layer, before and after RIB, and by RIB step; none without hgr/hgr.json."""
    found = as_dict(facts.notes.json(facts.folder, "hgr/hgr.json"))
    layers = [str(layer) for layer in as_list(found.get("layers"))]
    last = (as_count(found.get("steps")) or 1) - 1
    smoothing = as_count(as_dict(found.get("config")).get("smoothing"))
    measured = [row for row in map(as_dict, as_list(found.get("means"))) if row.get("scalar") in ("sum", "class")]
    rows = [row for row in measured if as_count(row.get("smoothing")) == smoothing]
    if not layers or not rows:
        return []
    by_layer = []
    for region, colour in COLOURS.items():
        by_layer.append(Line(region, _by_layer(rows, layers, region, 0), colour))
        by_layer.append(Line(f"{region}, after RIB", _by_layer(rows, layers, region, last), colour, dashed=True))
    by_step = [Line(region, _by_step(rows, region), colour) for region, colour in COLOURS.items()]
    axis = f"layer: 1 {layers[0]} to {len(layers) - 1} logit, {len(layers)} sigmoid"
    images = as_count(found.get("images"))
    return [
        _figure(f"High-gradient ratio by layer, {images} images", by_layer, axis),
        _figure("High-gradient ratio of the class logit along RIB", by_step, "updates so far"),
    ]


def _figure(title: str, lines: list[Line], axis: str) -> Figure:
    chart = line_chart(lines, axis, "HGR, percent", scale=100, whole_x=True)
    return Figure(title, chart, [line for line in lines if line.points])


def _by_layer(rows: list[dict[str, Any]], layers: list[str], region: str, step: int) -> list[tuple[float, float]]:
    here = (row for row in rows if as_count(row.get("step")) == step and row.get("region") == region)
    found = [(row["layer"], as_number(row.get("mean"))) for row in here if row.get("layer") in layers]
    return sorted((layers.index(layer) + 1.0, mean) for layer, mean in found if mean is not None)


def _by_step(rows: list[dict[str, Any]], region: str) -> list[tuple[float, float]]:
    here = (row for row in rows if row.get("region") == region and row.get("layer") == "logit")
    found = [(as_number(row.get("step")), as_number(row.get("mean"))) for row in here]
    return sorted((step, mean) for step, mean in found if step is not None and mean is not None)
