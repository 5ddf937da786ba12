"""What a training script writes, with the types that mypy must find for it, and the mistakes that it must find.

An `ignore` that is not needed is an error in strict mode: so each of them says that mypy refuses the line.
"""

from __future__ import annotations

from decimal import Decimal
from typing import assert_type

import numpy as np

import metriclog
from metriclog import Receipt, Run, testing
from metriclog.points import Point


def train(run: Run) -> list[Receipt]:
    """Every way to log that a script may use."""
    receipts = [
        run.log({"loss": 0.5}),
        run.log({"loss": 1, "ok": True, "exact": Decimal("0.1")}, 3),
        run.log({"loss": np.float32(0.5), "mean": np.array(0.5)}, step=4),
        run.log(
            {"train": {"loss": 0.5}, "lr": 0.1}, timestamp=1_700_000_000.5, model="mlp", dataset=("digits", "1f3a")
        ),
        run.log_metric("loss", 0.5, 5),
        run.log_metrics({"loss": 0.5}, step=6),
        run.log_batch([("loss", 0.5), ("loss", 0.4, 7)], params={"lr": 0.1}, tags={"team": "a"}),
        run.log_params({"lr": 0.1, "net": {"depth": 3}, "name": None}),
        run.event("checkpoint", "best so far", text="epoch 3", step=7, level="info"),
        run.alert("disk is slow", "reading takes 80 % of a step", level="WARN", wait_duration_s=60),
    ]
    assert_type(receipts[0], Receipt)
    assert_type(receipts[0].wait(0.0), bool)
    assert_type(receipts[0].delivered, bool)
    assert_type(receipts[0].exception(), metriclog.MetriclogError | None)
    return receipts


def watch(run: Run) -> None:
    """Every way to watch that a script may use."""
    found: list[metriclog.Finding] = []
    run.watch("train/loss", on_fire=found.append)
    run.watch("eval/*", metriclog.Spike())
    run.watch("grad_norm", [metriclog.NonFinite(), metriclog.GradientExplosion()], lambda finding: finding.step)
    assert_type(run.should_stop, bool)
    assert_type(found[0].baseline if found else None, float | None)


def whole() -> testing.Captured:
    """A run from start to end."""
    with testing.capture() as captured, metriclog.init("exp", params={"lr": 0.1}, tags={"fold": 3}, rank=0) as run:
        assert_type(run, Run)
        assert_type(run.run_id, str)
        assert_type(run.url, str | None)
        watch(run)
        train(run)
        assert_type(run.flush(0.0), bool)
        assert_type(metriclog.active_run(), Run)
        metriclog.log({"loss": 0.5})
        assert_type(metriclog.alert("done"), Receipt)
        metriclog.finish("finished", timeout_s=0.0)
    assert_type(captured.values("loss"), list[float])
    assert_type(captured.curve("loss"), list[tuple[int, float]])
    assert_type(captured.events("note"), list[Point])
    return captured


async def awaits(receipt: Receipt) -> None:
    """A receipt is awaitable and gives nothing."""
    await receipt


def mistakes(run: Run) -> None:
    """What must not pass; never called."""
    run.log({"loss": "high"})  # type: ignore[dict-item]
    run.log({"loss": None})  # type: ignore[dict-item]
    run.log([("loss", 1.0)])  # type: ignore[arg-type]
    run.log({"loss": 1.0}, "3")  # type: ignore[arg-type]
    run.log({"loss": 1.0}, 3, 1_700_000_000.0)  # type: ignore[call-arg]
    run.finish("done")  # type: ignore[arg-type]
    run.watch("loss", "spike")  # type: ignore[arg-type]
    run.watch("loss", metriclog.Spike)  # type: ignore[arg-type]
    run.should_stop = True  # type: ignore[misc]
    metriclog.init("exp", resume="yes")  # type: ignore[arg-type]
    metriclog.init("exp", mode="on")  # type: ignore[arg-type]
    metriclog.init("exp", dataset=7)  # type: ignore[arg-type]
    metriclog.init()  # type: ignore[call-arg]
