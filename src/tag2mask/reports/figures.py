"""The charts of a report: scores by class, seeds against the threshold, and what trainings went through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from tag2mask.reports.charts import Bar, Figure, Line, class_bars, line_chart
from tag2mask.reports.gather import StageFacts
from tag2mask.runs.log import Epoch, loss_points, map_points
from tag2mask.runs.scores import ScoreRow

COLOURS = ("var(--muted)", "var(--accent)", "var(--ink)")


def class_figures(scores: Sequence[ScoreRow], colours: Mapping[str, str]) -> list[tuple[str, str, Markup]]:
    """One small chart per class, whose colour is in `colours`: (name, colour, svg)."""
    found = []
    for name, colour in colours.items():
        bars = [Bar(s.short_title, s.per_class.get(name), s.kind.strength, s.kind.upper_bound) for s in scores]
        found.append((name, colour, class_bars(name, colour, bars)))
    return found


def threshold_figure(scores: Sequence[ScoreRow]) -> list[Figure]:
    """The mIoU of seeds against the threshold, where there are curves."""
    rows = [row for row in scores if row.curve]
    if not rows:
        return []
    lines = []
    for number, row in enumerate(rows):
        text = f"{row.title} {100 * row.miou:.1f} at {row.threshold_text}" if row.threshold_text else ""
        lines.append(Line(row.title, row.curve, COLOURS[number % 3], mark=row.threshold, mark_text=text))
    remark = "marked thresholds chosen on ground truth" if any(row.on_truth for row in rows) else ""
    chart = line_chart(lines, "threshold", "mIoU, percent", scale=100)
    return [Figure("Seeds against the threshold", chart, lines, remark)]


def training_figures(stages: Sequence[StageFacts]) -> list[Figure]:
    """For each kind of stage that logged epochs its loss, and held-out mAP where it was measured; a line a stage."""
    kinds: dict[str, list[StageFacts]] = {}
    for stage in stages:
        kinds.setdefault(stage.step.stage, []).append(stage)
    found = []
    for trained in kinds.values():
        title = trained[0].step.title.partition(": ")[0]
        found += _figure(title, trained, loss_points, "loss", 1)
        found += _figure(f"{title}: held-out tags", trained, map_points, "mAP, percent", 100)
    return found


def _figure(
    title: str,
    stages: Sequence[StageFacts],
    points: Callable[[Sequence[Epoch]], list[tuple[float, float]]],
    label: str,
    scale: float,
) -> list[Figure]:
    curves = [(stage.step.title, curve) for stage in stages if (curve := points(stage.epochs))]
    lines = [
        Line(name, curve, COLOURS[(number + 1) % 3], dashed=number > 0) for number, (name, curve) in enumerate(curves)
    ]
    if not lines:
        return []
    chart = line_chart(lines, "epoch", label, scale=scale, whole_x=True)
    return [Figure(title, chart, lines if len(lines) > 1 else ())]
