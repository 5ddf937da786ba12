"""Curves by step as a PNG: one panel a metric, one line a run, non-finite values marked. Needs no display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metriclog.demo.readback import LOSS, Curve, RunRecord


@dataclass(frozen=True)
class Panel:
    """What one panel shows. `noisy`: measured on single batches, so a moving mean is drawn over it."""

    metric: str
    unit: str
    logarithmic: bool = False
    noisy: bool = False


PANELS = (
    Panel("train/loss", "cross entropy in nats (log)", logarithmic=True, noisy=True),
    Panel("train/accuracy", "share of right answers", noisy=True),
    Panel("grad_norm", "L2 norm of the gradient (log)", logarithmic=True, noisy=True),
    Panel("eval/loss", "cross entropy in nats (log)", logarithmic=True),
    Panel("eval/accuracy", "share of right answers"),
    Panel("lr", "learning rate (log)", logarithmic=True),
)
# Okabe and Ito: colour-blind readers can tell them apart too.
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9", "#444444")
WINDOWS_PER_CURVE = 40
SMALLEST_WINDOW_STEPS = 5


def draw(path: Path, experiment: str, records: Sequence[RunRecord]) -> None:
    """Write a PNG of 1,600 × 960 pixels to `path`, whose folder is made. Raises OSError if that cannot be."""
    figure = Figure(figsize=(16, 9.6), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    for ax, panel in zip(figure.subplots(2, 3, sharex=True).flat, PANELS, strict=True):
        _draw_panel(ax, panel, records)
    figure.suptitle(f"Experiment {experiment}: {len(records)} runs, metrics by step", fontsize=17, fontweight="bold")
    _draw_legend(figure, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _draw_panel(ax: Axes, panel: Panel, records: Sequence[RunRecord]) -> None:
    longest = max((len(record.curve(panel.metric).values) for record in records), default=0)
    window = max(SMALLEST_WINDOW_STEPS, longest // WINDOWS_PER_CURVE) if panel.noisy else 1
    if panel.logarithmic:
        ax.set_yscale("log", nonpositive="mask")  # a loss can reach 0, which has no logarithm
    for record, colour in zip(records, COLOURS, strict=False):
        _draw_curve(ax, record.curve(panel.metric), colour, window)
    for record, colour in zip(records, COLOURS, strict=False):
        _mark_nonfinite(ax, record, panel.metric, colour)
    title = f"{panel.metric}   (bold: mean of {window} steps)" if panel.noisy else panel.metric
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold")
    ax.set_xlabel("step")
    ax.set_ylabel(panel.unit)
    ax.xaxis.set_tick_params(labelbottom=True)
    ax.grid(True, color="#e4e4e4", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_curve(ax: Axes, curve: Curve, colour: str, window: int) -> None:
    values = np.where(np.isfinite(curve.values), curve.values, np.nan)
    if window == 1:
        ax.plot(curve.steps, values, color=colour, linewidth=2.0)
        return
    ax.plot(curve.steps, values, color=colour, linewidth=0.7, alpha=0.35)
    if len(values) >= window:
        means = np.convolve(values, np.full(window, 1 / window), mode="valid")
        ax.plot(curve.steps[window - 1 :], means, color=colour, linewidth=2.0)


def _mark_nonfinite(ax: Axes, record: RunRecord, metric: str, colour: str) -> None:
    """A cross on the last number and a dashed line where the numbers end; dotted where only the loss has none."""
    curve = record.curve(metric)
    step = curve.first_nonfinite_step
    if step is None:
        loss_step = record.curve(LOSS).first_nonfinite_step
        if loss_step is not None:
            ax.axvline(loss_step, color=colour, linewidth=1.2, linestyle=":", alpha=0.8)
        return
    ax.axvline(step, color=colour, linewidth=1.6, linestyle="--")
    before = curve.finite
    if len(before.values):
        ax.plot(before.steps[-1:], before.values[-1:], "X", color=colour, markersize=11, markeredgecolor="white")
    ax.annotate(
        curve.nonfinite_text().replace(", ", "\n"),
        xy=(step, 0.98),
        xycoords=ax.get_xaxis_transform(),
        xytext=(11, 0),
        textcoords="offset points",
        va="top",
        color=colour,
        fontsize=10.5,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )


def _draw_legend(figure: Figure, records: Sequence[RunRecord]) -> None:
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=f"{record.run}  ({record.status})")
        for record, colour in zip(records, COLOURS, strict=False)
    ]
    if any(record.curve(LOSS).first_nonfinite_step is not None for record in records):
        mark = Line2D(
            [], [], color="#555555", marker="X", markersize=10, linestyle="--", label="NaN or infinite from here"
        )
        handles.append(mark)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12)
