"""What `tag2mask hgr` writes: every ratio, their means, and a figure."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError, refuse_other_settings
from tag2mask.common.files import atomic_write, read_json, write_json
from tag2mask.experiments.hgr.drawing import REGION_COLOURS, Curve, Drawing, draw_chart
from tag2mask.experiments.hgr.hgr import HGRConfig, HGRResult, Key, Mean, Ratio, change, means, summary_rows
from tag2mask.experiments.hgr.regions import REGIONS


def refuse_other(folder: Path, config: HGRConfig, data: str) -> None:
    """Raise ConfigError when `folder` holds results with other settings, or on a data set of another name."""
    path = folder / "hgr.json"
    if not path.is_file():
        return
    try:
        old = read_json(path)
        stored = {"data": old.get("data", data), **old["config"]}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: can't be read; choose another --out, or delete it") from error
    asked = {"data": data, **asdict(config)}
    refuse_other_settings(folder, "ratios", stored, asked)


def write_hgr(result: HGRResult, folder: Path, data: str) -> None:
    """Write hgr.csv (a row an image and class), hgr.json (means and errors; the report reads it) and hgr.svg.

    `data` is the data set's name.
    """
    with atomic_write(folder / "hgr.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        rows = [(*row[:-1], "" if math.isnan(row.hgr) else f"{row.hgr:.6f}") for row in result.rows]
        csv.writer(stream, lineterminator="\n").writerows([Ratio._fields, *rows])
    write_json(folder / "hgr.json", {"data": data, **as_json(result)})
    write_figure(result, folder / "hgr.svg")


def as_json(result: HGRResult) -> dict[str, Any]:
    """Settings, means by step and layer, and the change of the logit's ratios from the first step to the last."""
    changes = []
    for smoothing in dict.fromkeys((result.config.smoothing, 1)):
        for layer in ("logit", "sigmoid"):
            for region in REGIONS:
                mean, rose = change(result, layer, "class", smoothing, region)
                place = {"layer": layer, "smoothing": smoothing, "region": region}
                changes.append({**place, **_numbers(mean), "rose": rose})
    names = ("step", "layer", "scalar", "smoothing", "region")
    return {
        "config": asdict(result.config),
        "images": result.images,
        "steps": result.steps,
        "learning_rate": result.learning_rate,
        "layers": result.layers,
        "regions": list(REGIONS),
        "means": [dict(zip(names, key, strict=True)) | _numbers(mean) for key, mean in summary_rows(result)],
        "changes": changes,
        "failures": result.failures,
    }


def _numbers(mean: Mean) -> dict[str, Any]:
    """Numbers fit for JSON, None for NaN."""
    values = {"mean": mean.mean, "error": mean.error}
    return {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()} | {"pairs": mean.pairs}


def write_figure(result: HGRResult, path: Path) -> None:
    """Draw ratios by layer, before and after RIB, and those of the logit along the steps."""
    drawing = Drawing(1060, 430, "High-gradient ratios by layer and by RIB step")
    found, last = means(result), result.steps - 1
    layers = result.layers
    by_layer = [
        _curve(found, f"{region}, {text}", colour, [_key(step, layer, result, region) for layer in layers], dashed)
        for region, colour in zip(REGIONS, REGION_COLOURS, strict=True)
        for step, text, dashed in ((0, "before", False), (last, f"after {last} updates", True))
    ]
    title = f"HGR by layer, {result.images} images"
    draw_chart(drawing, (20, 20, 620, 400), title, layers, by_layer)
    steps = range(result.steps)
    by_step = [
        _curve(found, region, colour, [_key(step, "logit", result, region) for step in steps], False)
        for region, colour in zip(REGIONS, REGION_COLOURS, strict=True)
    ]
    draw_chart(
        drawing,
        (680, 20, 370, 400),
        "HGR of the class logit",
        [str(s) for s in steps],
        by_step,
        y_label="HGR, by RIB updates so far",
    )
    drawing.write(path)


def _key(step: int, layer: str, result: HGRResult, region: str) -> Key:
    scalar = "class" if layer in ("logit", "sigmoid") else "sum"
    return step, layer, scalar, result.config.smoothing, region


def _curve(found: dict[Key, Mean], label: str, colour: str, keys: list[Key], dashed: bool) -> Curve:
    """A curve with a band of one standard error; a gap where nothing was measured."""
    nothing = Mean(math.nan, math.nan, 0)
    each = [found.get(key, nothing) for key in keys]
    errors = [0.0 if math.isnan(m.error) else m.error for m in each]
    return Curve(label, colour, [m.mean for m in each], errors, dashed)
