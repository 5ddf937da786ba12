"""Curves by step as text, for a terminal, drawn by plotext: its version 5 and its quite different version 6."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotext
from matplotlib.ticker import MaxNLocator

from metriclog.demo.readback import Curve, RunRecord

Rgb = tuple[int, int, int]

PLOTEXT_5 = hasattr(plotext, "plot_size")
# As in the picture, a little lighter so that they can be read on black and on white.
COLOURS: tuple[Rgb, ...] = (
    (40, 130, 210),
    (0, 165, 120),
    (225, 155, 0),
    (225, 85, 20),
    (200, 120, 170),
    (90, 180, 235),
    (130, 130, 130),
)
HEIGHT_ROWS = 14
COLUMNS_PER_VALUE = 2  # noisy curves become means, one for so many columns


@dataclass(frozen=True)
class Line:
    """One line of a chart, in the numbers that are drawn."""

    x: list[float]
    y: list[float]
    colour: Rgb
    broken: bool  # ends in a non-finite value: its last point gets a cross


@dataclass(frozen=True)
class Chart:
    """One chart, ready to be drawn by either version."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    y_labels: Sequence[str]


def chart(metric: str, records: Sequence[RunRecord], *, width: int, logarithmic: bool) -> str:
    """One metric of all runs as lines of text with ANSI colours, `width` columns wide. Empty if nothing is finite."""
    lines = []
    for record, colour in zip(records, COLOURS, strict=False):
        curve = _thin(record.curve(metric), width // COLUMNS_PER_VALUE, positive=logarithmic)
        y = np.log10(curve.values) if logarithmic else curve.values
        broken = record.curve(metric).nonfinite_count > 0
        if len(y):
            lines.append(Line(curve.steps.tolist(), y.tolist(), colour, broken))
    if not lines:
        return ""
    title = f"{metric} by step{' (log)' if logarithmic else ''}"
    last_step = max(line.x[-1] for line in lines)
    low, high = min(min(line.y) for line in lines), max(max(line.y) for line in lines)
    y_ticks = _log_ticks(low, high) if logarithmic else _ticks(low, high)
    labels = [f"{10**tick if logarithmic else tick:.3g}" for tick in y_ticks]
    finished = Chart(title, lines, _ticks(0, last_step), y_ticks, labels)
    return _draw_5(finished, width) if PLOTEXT_5 else _draw_6(finished, width)


def _thin(curve: Curve, buckets: int, *, positive: bool) -> Curve:
    """At most `buckets` means of neighbouring finite values: more than that is only ink."""
    finite = curve.finite
    keep = finite.values > 0 if positive else np.full(len(finite.values), True)
    steps, values = finite.steps[keep], finite.values[keep]
    if len(values) <= buckets:
        return Curve(steps, values)
    edges = np.linspace(0, len(values), buckets + 1).astype(int)
    means = [values[start:end].mean() for start, end in pairwise(edges)]
    return Curve(steps[edges[1:] - 1], np.array(means))


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two numbers."""
    ticks = MaxNLocator(5).tick_values(low, high) if high > low else [low]
    return [float(tick) for tick in ticks if low <= tick <= high]


def _log_ticks(low: float, high: float) -> list[float]:
    """Exponents of 1, 3, 10, 30, … between two exponents."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    ticks = [exponent + part for exponent in exponents for part in (0.0, math.log10(3))]
    return [tick for tick in ticks if low <= tick <= high] or [low, high]


def _draw_5(chart: Chart, width: int) -> str:
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plot_size(width, HEIGHT_ROWS)
    plotext.theme("clear")
    for line in chart.lines:
        plotext.plot(line.x, line.y, marker="braille", color=line.colour)
    for line in chart.lines:
        if line.broken:
            plotext.scatter(line.x[-1:], line.y[-1:], marker="x", color=line.colour)
    plotext.title(chart.title)
    plotext.xticks(chart.x_ticks, [f"{tick:g}" for tick in chart.x_ticks])
    plotext.yticks(chart.y_ticks, chart.y_labels)
    return str(plotext.build())


def _draw_6(chart: Chart, width: int) -> str:
    figure = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)
    figure.plot_size(width, HEIGHT_ROWS)
    figure.theme("colorless")
    for line in chart.lines:
        figure.draw(figure.signal(line.x, line.y, marker=plotext.marker("braille", line.colour)).lines())
    for line in chart.lines:
        if line.broken:
            figure.draw(figure.signal(line.x[-1:], line.y[-1:], marker=plotext.marker("x", line.colour)))
    figure.title(chart.title)
    figure.ruler(0, 0).ticks(chart.x_ticks, [f"{tick:g}" for tick in chart.x_ticks])
    figure.ruler(1, 0).ticks(chart.y_ticks, chart.y_labels)
    return str(figure.build().string())
