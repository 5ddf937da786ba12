"""The demo's comparison table and what it says about non-finite values. Works on what was read back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from metriclog.demo.readback import LOSS, Curve, RunRecord

# Metric and whether more is better.
COMPARED = (("train/loss", False), ("eval/loss", False), ("eval/accuracy", True))
STATUS_STYLES = {"finished": "green", "failed": "bold red", "running": "yellow"}


def comparison_table(records: Sequence[RunRecord]) -> Table:
    """One column a run; rows for status, the parameters that differ, steps, and final and best values."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("run", no_wrap=True)
    for record in records:
        table.add_column(record.run, justify="right", overflow="fold")
    table.add_row("status", *[Text(record.status, STATUS_STYLES.get(record.status, "")) for record in records])
    for name in differing_params(records):
        table.add_row(name, *[_short(record.params.get(name)) for record in records])
    table.add_row("steps", *[str(record.steps) for record in records])
    for metric, highest in COMPARED:
        table.add_section()
        best = [record.curve(metric).best(highest=highest) for record in records]
        table.add_row(f"{metric} final", *[_final(record.curve(metric)) for record in records])
        table.add_row(f"{metric} best", *_best_cells(best, highest=highest))
    return table


def differing_params(records: Sequence[RunRecord]) -> list[str]:
    """Names of parameters that do not have the same value in every run, in the order they were logged."""
    names = dict.fromkeys(name for record in records for name in record.params)
    return [name for name in names if len({str(record.params.get(name)) for record in records}) > 1]


def nonfinite_sentences(records: Sequence[RunRecord]) -> list[str]:
    """One sentence for each metric of each run that has values which are no numbers; the loss first."""
    sentences = []
    for record in records:
        for metric, curve in sorted(record.curves.items(), key=lambda item: item[0] != LOSS):
            if not curve.nonfinite_count:
                continue
            sentence = f"{record.run}: {metric} is {curve.nonfinite_text()}"
            before = curve.finite
            if metric == LOSS and len(before.values):
                sentence += f"; its last number was {before.last:.4g} at step {before.steps[-1]}"
            sentences.append(sentence)
    return sentences


def _final(curve: Curve) -> Text:
    return Text(_short(curve.last), "" if math.isfinite(curve.last) else "bold red")


def _best_cells(best: Sequence[tuple[float, int] | None], *, highest: bool) -> list[Text]:
    """Value and step for each run, the winner in bold."""
    values = [pair[0] for pair in best if pair]
    winner = (max(values) if highest else min(values)) if values else None
    return [
        Text.assemble((_brief(pair[0]), "bold green" if pair[0] == winner else ""), (f" @{pair[1]}", "dim"))
        if pair
        else Text("none", "red")
        for pair in best
    ]


def _brief(value: float) -> str:
    """At most seven characters for anything between 0 and 10,000, so that four runs fit in 80 columns."""
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.2g}"


def _short(value: object) -> str:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
