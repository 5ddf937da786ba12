"""One recipe trained with its metrics logged: the demo's training loop as a user would write it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import metriclog
from metriclog.demo.progress import Display
from metriclog.demo.readback import LOSS
from metriclog.demo.training import Digits, Recipe, Step, train
from metriclog.run import Run, Status
from metriclog.settings import Settings

EXPERIMENT = "digits"
PATIENCE_STEPS = 50  # a loss that has been NaN for so long does not come back


@dataclass(frozen=True)
class Logged:
    """A run that was trained: where to find it, and how much of it there must be."""

    run: str
    url: str | None
    values: int  # metric values handed to log()
    delivered: int  # points of every kind, as `Run.stats` counts them
    pending: int
    quarantined: int


@dataclass(frozen=True)
class Trial:
    """What the four runs have in common."""

    settings: Settings
    digits: Digits
    steps: int
    seed: int

    def log(self, recipe: Recipe, shown: Display, *, finish_timeout_s: float) -> Logged:
        """Train `recipe` as a run of its own; waits up to `finish_timeout_s` for the server, if there is one."""
        with metriclog.init(
            EXPERIMENT,
            name=recipe.name,
            params=self._params(recipe),
            model=recipe.model,
            dataset=("digits", self.digits.digest),
            settings=self.settings,
        ) as run:
            shown.begin(run.run_id, self.steps)
            values, status = log_steps(run, train(recipe, self.digits, steps=self.steps, seed=self.seed), shown)
            run.finish(status, timeout_s=finish_timeout_s)
            shown.end(status)
        stats = run.stats()
        return Logged(run.run_id, run.url, values, stats["delivered"], stats["pending"], stats["quarantined"])

    def _params(self, recipe: Recipe) -> dict[str, object]:
        return {
            "model": recipe.model,
            "hidden": recipe.hidden,
            "lr": recipe.peak_lr,
            "momentum": recipe.momentum,
            "batch_size": recipe.batch_size,
            "train_examples": len(self.digits.train_x[: recipe.train_examples]),
            "max_steps": self.steps,
            "seed": self.seed,
        }


def log_steps(run: Run, steps: Iterable[Step], shown: Display) -> tuple[int, Status]:
    """Log every step, up to PATIENCE_STEPS into a NaN loss; returns how many values that were, and how it ended.

    A NaN loss is journaled as an event without being asked: losses are watched.
    """
    values = nan_steps = 0
    loss = math.nan
    for step in steps:
        run.log(step.metrics, step=step.number)
        shown.step(step.number, step.metrics)
        values += len(step.metrics)
        if step.phase:
            run.event("phase", step.phase, step=step.number)
        loss = step.metrics[LOSS]
        nan_steps = nan_steps + 1 if math.isnan(loss) else 0
        if nan_steps == PATIENCE_STEPS:
            break
    return values, "finished" if math.isfinite(loss) else "failed"
