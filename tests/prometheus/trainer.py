"""Trains small models with numpy and metriclog, as a process of its own that Prometheus is to watch.

python -m tests.prometheus.trainer sweep         four learning rates at once, one of them far too high; then it ends
python -m tests.prometheus.trainer steady RUN    one run that goes on until it is killed, or finishes at a newline
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator

import numpy as np

import metriclog

EXPERIMENT = "regression"
RATES = {"lr0.01": 0.01, "lr0.05": 0.05, "lr0.1": 0.1, "lr9": 9.0}
DIVERGES = "lr9"
STEPS, SEED = 600, 717
_PACE_S = 0.05


def losses(rate: float) -> Iterator[float]:
    """Gradient descent on least squares, for ever: its mean squared error before each step."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((256, 8))
    y = x @ rng.standard_normal(8) + 0.1 * rng.standard_normal(256)
    weights = np.zeros(8)
    with np.errstate(all="ignore"):
        while True:
            error = x @ weights - y
            yield float(np.mean(error**2))
            weights -= rate * 2 * (x.T @ error) / len(y)


def sweep() -> None:
    """All of them step by step; of the one that diverged the status is failed, as its last loss is no number."""
    runs = {name: metriclog.init(EXPERIMENT, run_id=name) for name in RATES}
    curves = {name: losses(rate) for name, rate in RATES.items()}
    for step in range(STEPS):
        for name, run in runs.items():
            run.log({"train/loss": (loss := next(curves[name])), "lr": RATES[name]}, step=step)
            if step == STEPS - 1:
                run.finish("finished" if np.isfinite(loss) else "failed")


def steady(name: str) -> None:
    """Goes on where the run was, if there was one."""
    with metriclog.init(EXPERIMENT, run_id=name, resume="allow") as run:
        for loss in losses(0.01):
            run.log({"train/loss": loss})
            if select.select([sys.stdin], [], [], _PACE_S)[0]:
                return


if __name__ == "__main__":
    sweep() if sys.argv[1] == "sweep" else steady(sys.argv[2])
