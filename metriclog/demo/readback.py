"""What the demo shows, read back through `metriclog.reader`: never from the trainer's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metriclog.reader import Reader

LOSS = "train/loss"  # the metric that says whether a run went well


@dataclass(frozen=True)
class Curve:
    """One metric of one run by step; NaN and ±Inf are in `values`."""

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @property
    def finite(self) -> Curve:
        """The points that have a number."""
        keep = np.isfinite(self.values)
        return Curve(self.steps[keep], self.values[keep])

    @property
    def nonfinite_count(self) -> int:
        """How many values are NaN or infinite."""
        return len(self.values) - len(self.finite.values)

    @property
    def first_nonfinite_step(self) -> int | None:
        """The first step without a number, or None."""
        bad = self.steps[~np.isfinite(self.values)]
        return int(bad[0]) if len(bad) else None

    @property
    def last(self) -> float:
        """The value logged last; NaN for an empty curve too."""
        return float(self.values[-1]) if len(self.values) else math.nan

    def best(self, *, highest: bool) -> tuple[float, int] | None:
        """The best finite value and the step that first had it, or None."""
        finite = self.finite
        if not len(finite.values):
            return None
        index = int(finite.values.argmax() if highest else finite.values.argmin())
        return float(finite.values[index]), int(finite.steps[index])

    def nonfinite_text(self) -> str:
        """For example `NaN from step 37 (64 values)`; infinities in front, joined by commas; empty if all is finite."""
        parts = []
        for name, chosen in (
            ("+Inf", np.isposinf(self.values)),
            ("-Inf", np.isneginf(self.values)),
            ("NaN", np.isnan(self.values)),
        ):
            count = int(chosen.sum())
            if count:
                noun = "value" if count == 1 else "values"
                parts.append(f"{name} from step {self.steps[chosen][0]} ({count} {noun})")
        return ", ".join(parts)


@dataclass(frozen=True)
class RunRecord:
    """One run as the journal or the server has it."""

    run: str
    status: str
    steps: int
    params: Mapping[str, Any]
    curves: Mapping[str, Curve]

    def curve(self, metric: str) -> Curve:
        """One curve; empty if the run never logged that metric."""
        empty = Curve(np.empty(0, np.int64), np.empty(0, np.float64))
        return self.curves.get(metric, empty)

    @property
    def points(self) -> int:
        """How many values were read back, over all metrics."""
        return sum(len(curve.values) for curve in self.curves.values())


def read_runs(reader: Reader, experiment: str, runs: Sequence[str]) -> list[RunRecord]:
    """Read `runs` in that order. A run that the store does not have (yet) is left out."""
    listed = {str(row["run"]): row for row in reader.runs(experiment).to_dict("records")}
    return [_read_run(reader, run, listed[run]) for run in runs if run in listed]


def _read_run(reader: Reader, run: str, row: Mapping[Any, Any]) -> RunRecord:
    curves = {}
    for metric in reader.metrics(run):
        frame = reader.curve(run, metric)
        curves[metric] = Curve(frame["step"].to_numpy(np.int64), frame["value"].to_numpy(np.float64))
    return RunRecord(run, str(row["status"]), int(row["steps"]), dict(row["params"]), curves)
