"""Runs as metriclog stores them, for the dashboards' queries: one of each kind that a query could get wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tests.live.lines import SECOND_NS, START_NS, line, metric, run_state

EXPERIMENT = 'digits/v1.2 - it\'s "new" +aug'
OTHER_EXPERIMENT = "digits"
PLAIN, RESUMED, LIVE, FAILED = "lr0.1-k3f9", "2026-11-23_lr0.1", "live.1", "1e5"
FULL, LONG, FOREIGN = "ranks.r2-x", "long-run", "foreign"
LOSS, VALIDATION, ACCURACY = "train/loss", "val/loss", 'val acc. (top-5) + it\'s "best"'
RATE, NORM, THROUGHPUT = "opt/lr", "grad_norm", "samples/s"
MODEL, DATASET = 'mlp/1 "big"', "digits, v=2"

FROM_MS = START_NS // 1_000_000 - 60_000
TO_MS = FROM_MS + 660_000
SPIKE_STEP = 6_123_400
_TO_NS = TO_MS * 1_000_000


def lines() -> list[str]:
    """All of it, as line protocol."""
    return [*_plain(), *_resumed(), *_live(), *_failed(), *_full(), *_long(), *_foreign()]


def tags(run: str, name: str, **more: str) -> dict[str, str]:
    return {"experiment": EXPERIMENT, "run": run, "metric": name, **more}


def _of(run: str) -> dict[str, str]:
    return {"experiment": EXPERIMENT, "run": run}


def _series(of: dict[str, str], steps: Sequence[int], values: Sequence[float | None]) -> Iterable[str]:
    """One value a second: the points, the buckets of ten steps, and the summary at the end. None is a NaN."""
    times = [START_NS + place * SECOND_NS for place in range(len(steps))]
    yield from (metric(of, step, value, time) for step, value, time in zip(steps, values, times, strict=True))
    for first in range(0, len(steps), 10):
        part = values[first : first + 10]
        fields = _statistics([value for value in part if value is not None], "value")
        missing = f",nonfinite={part.count(None)}i" if None in part else ""
        at = times[min(first + 9, len(steps) - 1)]
        where = f"step={steps[first] // 10 * 10 + 5}i,elapsed={1000 * steps[first] + 40}i"
        yield line("metrics_10", of, f"{fields}{where}{missing}", at)
    finite = [value for value in values if value is not None]
    last = f"last={finite[-1]!r}," if finite else ""
    rest = f"last_step={steps[-1]}i,count={len(values)}i,nonfinite={values.count(None)}i"
    yield line("summary", of, f"{last}{_statistics(finite, 'mean')}{rest}", times[-1])


def _statistics(finite: Sequence[float], mean: str) -> str:
    if not finite:
        return ""
    return f"{mean}={sum(finite) / len(finite)!r},min={min(finite)!r},max={max(finite)!r},"


def _param(run: str, name: str, value: float | str) -> str:
    field = f'text="{value}"' if isinstance(value, str) else f"number={value!r}"
    return line("params", {**_of(run), "param": name}, field, START_NS)


def _event(run: str, kind: str, second: int, **more: str) -> str:
    fields = f'title="{kind} of it",text="",level="info",step={second}i,elapsed={1000 * second}i,count=1i'
    return line("events", {**_of(run), "kind": kind, **more}, fields, START_NS + second * SECOND_NS)


def _report(run: str, second: int, delivered: int, pending: int, **more: str) -> str:
    fields = (
        f"pending_points={pending}i,pending_bytes={40 * pending}i,delivered={delivered}i,retried={second // 30}i,"
        f"quarantined=1i,dropped=2i,lag_s={second / 10}"
    )
    return line("delivery", {**_of(run), "host": "h1", **more}, fields, START_NS + second * SECOND_NS)


def _plain() -> list[str]:
    """A NaN at step 2; two models on one metric; parameters."""
    loss = [2.0, 1.0, None, 0.5, *(0.4 for _ in range(8))]
    return [
        *_series(tags(PLAIN, LOSS, model=MODEL, dataset=DATASET), range(12), loss),
        *_series(tags(PLAIN, VALIDATION, model=MODEL, dataset=DATASET), [3, 7, 11], [2.5, 1.5, 1.25]),
        *_series(tags(PLAIN, VALIDATION, model="ema", dataset=DATASET), [3, 7], [2.25, 0.75]),
        *_series(tags(PLAIN, ACCURACY, model=MODEL, dataset=DATASET), range(4), [0.0, 0.25, 0.5, 0.75]),
        run_state(_of(PLAIN), "running", 6, START_NS + 6 * SECOND_NS),
        run_state(_of(PLAIN), "finished", 12, START_NS + 12 * SECOND_NS),
        _param(PLAIN, "lr", 0.1),
        _param(PLAIN, "optimizer", "sgd"),
        _param(PLAIN, "seed", 1.0),
        _param(PLAIN, "steps", 12.0),
        _event(PLAIN, "start", 0),
        _event(PLAIN, "nonfinite", 2, metric=LOSS),
        _event(PLAIN, "finish", 12),
    ]


def _resumed() -> list[str]:
    """Steps 0 to 3, then 2 to 5 once more with other values. No model, no data set."""
    steps = [0, 1, 2, 3, 2, 3, 4, 5]
    return [
        *_series(tags(RESUMED, LOSS), steps, [10.0 + place for place in range(8)]),
        run_state(_of(RESUMED), "finished", 6, START_NS + 8 * SECOND_NS),
        _param(RESUMED, "lr", 0.2),
        _param(RESUMED, "optimizer", "adam"),
        _param(RESUMED, "seed", 1.0),
        _event(RESUMED, "resume", 4),
    ]


def _live() -> list[str]:
    """It has just begun, and shows a sign of life; nothing is logged yet."""
    return [run_state(_of(LIVE), "running", 0, _TO_NS - 20 * SECOND_NS)]


def _failed() -> list[str]:
    state = run_state(_of(FAILED), "failed", 3, START_NS + 3 * SECOND_NS)
    return [*_series(tags(FAILED, LOSS, model="cnn", dataset="mnist"), range(3), [None, None, None]), state]


def _full() -> list[str]:
    """Two ranks, every kind of metric and event, reports; silent since its last heartbeat: killed."""
    points: list[str] = []
    for rank in ("0", "1"):
        of_rank = {"rank": rank, "model": MODEL, "dataset": DATASET}
        for name in (LOSS, VALIDATION, RATE, NORM, THROUGHPUT):
            values = [100.0 * int(rank) + step for step in range(30)]
            points += _series(tags(FULL, name, **of_rank), range(30), values)
        points += _series(tags(FULL, "broken/loss", **of_rank), range(30), [None] * 30)
    for second in (0, 15, 30, 300, 315):
        points.append(run_state(_of(FULL), "running", second, START_NS + second * SECOND_NS))
        points += [_report(FULL, second, 10 * second, 315 - second, rank=rank) for rank in ("0", "1")]
    kinds = ("start", "resume", "checkpoint", "divergence", "nonfinite", "note")
    points += [_event(FULL, kind, 10 + place, metric=LOSS) for place, kind in enumerate(kinds)]
    return [*points, _param(FULL, "lr", 0.3), _param(FULL, "optimizer", "sgd")]


def _long() -> list[str]:
    """Ten million steps, of which the raw points are not here; one value, in one step, is 25."""
    of = tags(LONG, LOSS)
    points = []
    for bucket in range(1000):
        low, high = math.exp(-bucket / 300), math.exp(-bucket / 300) + 0.5
        high = 25.0 if bucket == SPIKE_STEP // 10_000 else high
        fields = f"value={low + 0.25!r},min={low!r},max={high!r},step={10_000 * bucket + 5_000}i,elapsed={bucket}i"
        points.append(line("metrics_10000", of, fields, START_NS + bucket * SECOND_NS // 2))
    state = run_state(_of(LONG), "finished", 10_000_000, START_NS + 501 * SECOND_NS, "metrics_10000")
    summary = "last=0.3,min=0.03,max=25.0,mean=0.5,last_step=9999999i,count=10000000i,nonfinite=0i"
    return [*points, line("summary", of, summary, START_NS + 501 * SECOND_NS), state]


def _foreign() -> list[str]:
    of = {"experiment": OTHER_EXPERIMENT, "run": FOREIGN}
    return [
        *_series({**of, "metric": "other"}, range(2), [1.0, 2.0]),
        run_state(of, "finished", 2, START_NS + 2 * SECOND_NS),
    ]
