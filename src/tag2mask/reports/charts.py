"""Inline SVG charts: bars per class, and line charts. Colours come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520.0, 296.0  # on a phone the style sheet enlarges the text of the shrunken chart
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 30.0, 44.0


@dataclass(frozen=True)
class Bar:
    """One bar: `value` in 0..1, `strength` in 0..1 is the opacity of the class colour."""

    label: str
    value: float | None
    strength: float
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """One curve; `colour` is a CSS colour. `mark` is an x position to point out, with its own text."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    mark: float | None = None
    mark_text: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the lines to explain below it, and what has to be said of them."""

    title: str
    chart: Markup
    legend: Sequence[Line] = ()
    remark: str = ""


def class_bars(name: str, colour: str, bars: Sequence[Bar]) -> Markup:
    """Draw the scores of one class as horizontal bars on a scale of 0 to 100 percent."""
    width, label, row = 360.0, 96.0, 19.0
    span = width - label - 44
    height = 6 + row * len(bars)
    parts = [_element("title", f"IoU of {name}, percent")]
    for number, bar in enumerate(bars):
        y = 3 + row * number
        parts.append(_text(0, y + 12.5, bar.label, "label"))
        parts.append(_element("rect", x=label, y=y + 3, width=span, height=row - 8, rx=2, class_="track"))
        if bar.value is None:
            parts.append(_text(width, y + 12.5, "–", "value", "end"))
            continue
        length = max(1.5, span * min(max(bar.value, 0.0), 1.0))
        paint: dict[str, Any] = {"fill": "none", "stroke": colour, "stroke_width": 1.5, "stroke_dasharray": "4 2"}
        inset = 0.75 if bar.hollow else 0.0
        if not bar.hollow:
            paint = {"fill": colour, "fill_opacity": bar.strength}
        shape: dict[str, Any] = {"x": label + inset, "y": y + 3 + inset, "height": row - 8 - 2 * inset, "rx": 2}
        parts.append(_element("rect", width=max(0.1, length - 2 * inset), **shape, **paint))
        parts.append(_text(width, y + 12.5, f"{100 * bar.value:.1f}", "value", "end"))
    spoken = ", ".join(f"{b.label} {'none' if b.value is None else format(100 * b.value, '.1f')}" for b in bars)
    return _svg(width, height, f"IoU of {name} in percent: {spoken}", parts)


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, *, scale: float = 1.0, whole_x: bool = False
) -> Markup:
    """Draw curves over common axes; y values are multiplied by `scale` (100 for percent).

    `whole_x` keeps the ticks of x at whole numbers (steps, epochs).
    """
    lines = [replace(line, points=[(x, y * scale) for x, y in line.points]) for line in lines if line.points]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = [tick for tick in _ticks(min(xs), max(xs), 5, whole=whole_x) if tick <= max(xs)]
    y_ticks = _ticks(min(0.0, *ys), max(ys), 5)
    frame = _Frame(x_ticks[0], max(*xs, x_ticks[-1]), y_ticks[0], y_ticks[-1])
    parts = [*_axes(frame, x_ticks, y_ticks, x_label, y_label)]
    for line in lines:
        parts += _curve(frame, line)
    for number, line in enumerate(lines):  # texts last, so that no curve crosses them
        parts += _mark_text(frame, line, number)
    ends = "; ".join(f"{c.label} from {c.points[0][1]:.3g} to {c.points[-1][1]:.3g}" for c in lines)
    return _svg(WIDTH, HEIGHT, f"{y_label} against {x_label}: {ends}", parts)


@dataclass(frozen=True)
class _Frame:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x0) / ((self.x1 - self.x0) or 1.0)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y0) / ((self.y1 - self.y0) or 1.0)


def _axes(frame: _Frame, x_ticks: list[float], y_ticks: list[float], x_label: str, y_label: str) -> list[Markup]:
    parts = []
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(_element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", "tick", "end"))
    for tick in x_ticks:
        parts.append(_text(frame.x(tick), HEIGHT - BOTTOM + 17, f"{tick:g}", "tick", "middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 5, x_label, "axis", "end"))
    parts.append(_text(0, 11, y_label, "axis"))
    return parts


def _curve(frame: _Frame, line: Line) -> list[Markup]:
    path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in line.points)
    dash: dict[str, Any] = {"stroke_dasharray": "5 4"} if line.dashed else {}
    parts = [_element("path", d=path, fill="none", stroke=line.colour, class_="curve", **dash)]
    if len(line.points) == 1:
        (x, y) = line.points[0]
        parts.append(_element("circle", cx=frame.x(x), cy=frame.y(y), r=3, fill=line.colour))
    if line.mark is not None:
        x, y = min(line.points, key=lambda point: abs(point[0] - (line.mark or 0.0)))
        mark = frame.x(line.mark)
        ends: dict[str, Any] = {"x1": mark, "x2": mark, "y1": frame.y(y), "y2": HEIGHT - BOTTOM}
        parts.append(_element("line", **ends, stroke=line.colour, class_="mark"))
        parts.append(_element("circle", cx=mark, cy=frame.y(y), r=4.5, fill=line.colour, class_="dot"))
    return parts


def _mark_text(frame: _Frame, line: Line, number: int) -> list[Markup]:
    if line.mark is None:
        return []
    mark = frame.x(line.mark)
    anchor, shift = ("end", -8) if mark > WIDTH * 0.62 else ("start", 8)
    return [_text(mark + shift, HEIGHT - BOTTOM - 9 - 19 * number, line.mark_text, "marked", anchor)]


def _ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Round positions that enclose low..high with some `about` steps of 1, 2, 2.5 or 5 times a power of ten."""
    if high <= low:
        high = low + 1.0
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough), 10 * power)
    if whole:
        step = float(max(1, math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _svg(width: float, height: float, spoken: str, parts: Sequence[Markup]) -> Markup:
    body = Markup("").join(parts)
    view = f"0 0 {width:g} {height:g}"
    return _element("svg", body, viewBox=view, role="img", aria_label=spoken, class_="chart")


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Markup:
    return _element("text", text, x=x, y=y, class_=kind, text_anchor=anchor)


def _element(element: str, content: str = "", **attributes: Any) -> Markup:
    """Build an element; values and content are escaped, and `stroke_width` becomes `stroke-width`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _plain(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(element), written, escape(content))


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
