"""Figures as stand-alone SVG: text, curves with a band, dots, and small pictures as runs of pixels.

Pictures are drawn as paths, not embedded as files, so that a figure shows wherever an SVG does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import escape

from tag2mask.common.files import atomic_write

INK, SOFT, GRID, PAPER = "#1a1a1e", "#62646d", "#e4e4e1", "#ffffff"
REGION_COLOURS = ("#1864ab", "#d9480f", "#868e96")  # discriminative, non-discriminative, the rest
LEVELS = 16  # shades of a picture
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True)
class Curve:
    """One curve over whole x positions 0, 1, 2...; NaN leaves a gap. `spread` is drawn as a band around it."""

    label: str
    colour: str
    values: Sequence[float]
    spread: Sequence[float] = ()
    dashed: bool = False


@dataclass
class Drawing:
    """An SVG that is added to and then written."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write one line; `y` is its base line."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 2, dash: str = "") -> None:
        """Draw straight lines through `points`."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>')

    def area(self, points: Sequence[tuple[float, float]], colour: str, opacity: float) -> None:
        """Fill the polygon through `points`."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
        self.parts.append(f'<path d="{path}" fill="{colour}" fill-opacity="{opacity:g}"/>')

    def dot(self, x: float, y: float, colour: str, *, radius: float = 3, opacity: float = 1.0) -> None:
        """Draw a filled circle."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" fill-opacity="{opacity:g}"/>'
        )

    def picture(self, x: float, y: float, size: float, values: npt.NDArray, *, heat: bool = False) -> None:
        """Draw values (S, S) in 0..1 as a square picture, black to white or in colours of heat."""
        side = len(values)
        levels = np.rint(np.clip(values, 0, 1) * (LEVELS - 1)).astype(int)
        paths: dict[int, list[str]] = {}
        for row, line in enumerate(levels):
            edges = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), side]
            for start, end in pairwise(edges):
                if line[start]:
                    paths.setdefault(int(line[start]), []).append(f"M{start} {row}h{end - start}")
        body = "".join(
            f'<path d="{"".join(runs)}" stroke="{_shade(level / (LEVELS - 1), heat)}"/>'
            for level, runs in sorted(paths.items())
        )
        self.parts.append(
            f'<g transform="translate({x:.1f} {y:.1f}) scale({size / side:.4f})" shape-rendering="crispEdges">'
            f'<rect width="{side}" height="{side}" fill="#000"/><g transform="translate(0 .5)">{body}</g></g>'
        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'font-family="{FONT}" role="img"><title>{escape(self.title)}</title>'
            f'<rect width="100%" height="100%" fill="{PAPER}"/>'
        )
        with atomic_write(path) as temporary:
            temporary.write_text(head + "\n".join(self.parts) + "</svg>\n", encoding="utf-8")


def draw_chart(
    drawing: Drawing, box: Box, title: str, names: Sequence[str], curves: Sequence[Curve], *, y_label: str = "HGR"
) -> None:
    """Draw curves over named positions into `box`, with a legend below; y begins at 0 and ends at a round value."""
    left, top, width, height = box[0] + 38, box[1] + 40, box[2] - 50, box[3] - 40 - 26 - 18 * len(curves)
    highest = max((v for c in curves for v in c.values if not math.isnan(v)), default=1.0)
    ceiling = next(value for value in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0) if value >= min(highest, 1.0))

    def place(index: float, value: float) -> tuple[float, float]:
        across = (index + 0.5) / len(names)
        return left + width * across, top + height * (1 - min(max(value / ceiling, 0.0), 1.0))

    drawing.text(box[0], box[1] + 14, title, size=14, bold=True)
    drawing.text(box[0], box[1] + 31, y_label, colour=SOFT)
    for tick in range(6):
        y = top + height * (1 - tick / 5)
        drawing.line([(left, y), (left + width, y)], GRID, width=1)
        drawing.text(left - 6, y + 4, f"{ceiling * tick / 5:.2g}", size=11, colour=SOFT, anchor="end")
    for index, name in enumerate(names):
        drawing.text(place(index, 0)[0], top + height + 17, name, size=11, colour=SOFT, anchor="middle")
    for number, curve in enumerate(curves):
        _draw_curve(drawing, curve, place)
        y = top + height + 38 + 18 * number
        drawing.line([(left, y - 4), (left + 22, y - 4)], curve.colour, dash="5 4" if curve.dashed else "")
        drawing.text(left + 30, y, curve.label, colour=SOFT)


def _draw_curve(drawing: Drawing, curve: Curve, place: Callable[[float, float], tuple[float, float]]) -> None:
    known = [index for index, value in enumerate(curve.values) if not math.isnan(value)]
    if curve.spread and len(known) > 1:
        upper = [place(i, curve.values[i] + curve.spread[i]) for i in known]
        lower = [place(i, curve.values[i] - curve.spread[i]) for i in known]
        drawing.area([*upper, *reversed(lower)], curve.colour, 0.15)
    if len(known) > 1:
        drawing.line([place(i, curve.values[i]) for i in known], curve.colour, dash="5 4" if curve.dashed else "")
    for index in known:
        drawing.dot(*place(index, curve.values[index]), curve.colour)


def _shade(share: float, heat: bool) -> str:
    if not heat:
        return "#" + f"{round(255 * share):02x}" * 3
    # black, red, orange, near white
    stops = ((0.0, (0, 0, 0)), (0.35, (150, 25, 20)), (0.7, (250, 150, 30)), (1.0, (255, 250, 220)))
    for (low, dark), (high, light) in pairwise(stops):
        if share <= high:
            mix = (share - low) / (high - low)
            return "#" + "".join(f"{round(a + mix * (b - a)):02x}" for a, b in zip(dark, light, strict=True))
    return "#fffadc"
