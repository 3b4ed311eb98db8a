"""The figure: the paper's three panels (data, gradients, ratios), and the comparison that carries the argument."""

from __future__ import annotations

from pathlib import Path

from tag2mask.experiments.hgr.drawing import INK, REGION_COLOURS, SOFT, Curve, Drawing, draw_chart
from tag2mask.experiments.toy.data import REGIONS
from tag2mask.experiments.toy.experiment import EXAMPLES, WEIGHTS, ToyResult
from tag2mask.experiments.toy.network import STAGES
from tag2mask.experiments.toy.summary import Spread, at_last_stage, curve

SHORT = {
    "trained": "trained",
    "continued": "as many more steps",
    "without": "tuned without",
    "without-opposed": "… opposed",
    "without-single": "… each picture",
    "without-gndrp": "… and GNDRP",
}
COLUMNS = {"input": "picture", **{f"G{k}": f"G{k}" for k in range(1, STAGES + 1)}, "G6 without": "G6 tuned"}


def write_figure(result: ToyResult, path: Path) -> None:
    """Draw the figure for the first last activation that was asked for."""
    last = result.endings[0]
    seeds = f"{len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}"
    drawing = Drawing(1060, 720, f"Toy experiment: high-gradient ratios by stage, last activation {last}, {seeds}")
    _draw_data(drawing, result)
    _draw_gradients(drawing, result)
    _draw_ratios(drawing, result, last, seeds)
    _draw_comparison(drawing, result, last, seeds)
    drawing.write(path)


def _draw_data(drawing: Drawing, result: ToyResult) -> None:
    drawing.text(20, 34, "a  Data", size=14, bold=True)
    share = 100 * result.config.marked_share
    for place, text in enumerate((f"{share:.0f}% with a mark", f"{100 - share:.0f}% without")):
        drawing.text(20, 60 + 126 * place, text, colour=SOFT)
    for index, image in enumerate(result.pictures.images):
        drawing.picture(20 + 108 * (index % 2), 68 + 126 * (index // 2), 100, image)


def _draw_gradients(drawing: Drawing, result: ToyResult) -> None:
    drawing.text(250, 34, "b  Normalised gradient magnitude of each stage's output", size=14, bold=True)
    examples = result.measured[0].examples
    for column, (name, title) in enumerate(COLUMNS.items()):
        x = 250 + 99 * column
        drawing.text(x + 46, 60, title, colour=SOFT, anchor="middle")
        for row in range(EXAMPLES):
            drawing.picture(x, 68 + 126 * row, 92, examples[name][row], heat=name != "input")


def _draw_ratios(drawing: Drawing, result: ToyResult, last: str, seeds: str) -> None:
    curves = []
    for name, colour in zip(REGIONS, REGION_COLOURS, strict=True):
        spreads = curve(result, last, "trained", name)
        curves.append(_curve(name, colour, spreads))
    without = curve(result, last, "without", "non-discriminative")
    curves.append(_curve("non-discriminative, tuned without it", REGION_COLOURS[1], without, dashed=True))
    title = f"c  HGR by stage, trained through {last}, {seeds}"
    draw_chart(drawing, (20, 330, 500, 380), title, [f"G{k}" for k in range(1, STAGES + 1)], curves)


def _curve(label: str, colour: str, spreads: list[Spread], dashed: bool = False) -> Curve:
    deviations = [0.0 if s.seeds < 2 else s.sd for s in spreads]
    return Curve(label, colour, [s.mean for s in spreads], deviations, dashed)


def _draw_comparison(drawing: Drawing, result: ToyResult, last: str, seeds: str) -> None:
    """Mean and every seed of the non-discriminative region at G_6, for each of the networks."""
    left, top, width, height = 700.0, 372.0, 340.0, 40.0
    drawing.text(550, 344, "d  HGR of the non-discriminative region at G6", size=14, bold=True)
    drawing.text(550, 361, f"line: mean of {seeds}; dots: seeds", colour=SOFT)
    bottom = top + height * len(WEIGHTS)
    for tick in range(6):
        x = left + width * tick / 5
        drawing.line([(x, top), (x, bottom)], "#e4e4e1", width=1)
        drawing.text(x, bottom + 16, f"{tick / 5:.1f}", size=11, colour=SOFT, anchor="middle")
    for row, weights in enumerate(WEIGHTS):
        values = at_last_stage(result, last, weights)
        y = top + height * (row + 0.5)
        drawing.text(left - 12, y + 4, SHORT[weights], anchor="end")
        for value in values:
            drawing.dot(left + width * value, y, REGION_COLOURS[1], radius=4, opacity=0.5)
        mean = left + width * Spread.of(values).mean
        drawing.line([(mean, y - 11), (mean, y + 11)], INK, width=2.5)
