"""Runs that went well and runs that did not, as line protocol, and which alerts each has at which instants.

Times are seconds after NOW_S, so those of the past are negative. Points, roll-ups, heartbeats and reports are encoded
by metriclog itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import orjson

from metriclog.identity import Identity
from metriclog.points import Field, Tags, encode_line, encode_rows, metric_prefixes
from metriclog.rollups import Rollups
from metriclog.segments import Shape, Values
from tests.servers.api import Influx

NOW_S = 1_795_176_000
SECOND_NS = 1_000_000_000
EXPERIMENT = "ours, and theirs & more"
HEARTBEAT_S = 15
LOSS = "train/loss"
SEED = 6
HOUR = 3600

Curve = Callable[[int], float]
"""The value at a step."""
Counter = Callable[[int], int]
"""A count at a second after NOW_S."""


@dataclass(frozen=True)
class Life:
    """One process: it logs `metric` every `every_s` seconds until `logs_until`, beats until `end`, then says `status`.

    Without a status it was killed, or still lives.
    """

    begin: int
    end: int
    status: str | None = None
    curve: Curve = lambda _: 1.0
    metric: str = LOSS
    every_s: int = 1
    logs_until: int | None = None
    tags: Tags = ()
    """Beside experiment and run."""
    dropped: Counter = lambda _: 0
    quarantined: Counter = lambda _: 0


@dataclass(frozen=True)
class Event:
    """One point of `events`."""

    at: int
    kind: str
    level: str = "critical"
    metric: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Tale:
    """One run. `alerts`: the last words of the uids of the rules that hold at an instant; at the others none does."""

    run: str
    lives: Sequence[Life]
    events: Sequence[Event] = ()
    alerts: Mapping[int, Sequence[str]] = field(default_factory=dict)
    beside: Sequence[Life] = ()
    """Other processes and series of the run: they log and report, and say nothing of its state."""


def fill(influx: Influx, tales: Sequence[Tale], now_s: int = NOW_S) -> None:
    """Writes all of it."""
    influx.write(b"".join(line for tale in tales for line in lines(tale, now_s)))


def lines(tale: Tale, now_s: int = NOW_S) -> Iterator[bytes]:
    """A run as it is on the server."""
    texts = [*_states(tale, now_s), *_events(tale, now_s)]
    for series in _series(tale):
        yield from _points(tale, series, now_s)
        texts += [line for life in series for line in _reports(tale, life, now_s)]
    yield from (f"{text}\n".encode() for text in texts)


def _series(tale: Tale) -> list[Sequence[Life]]:
    """Lives that go on with the roll-ups of the one before."""
    return [tale.lives, *([life] for life in tale.beside)]


def identity(tale: Tale, life: Life, now_s: int = NOW_S) -> Identity:
    """Who writes the points of this process."""
    tags: Tags = (("experiment", EXPERIMENT), ("run", tale.run), *life.tags)
    started_ns = (now_s + tale.lives[0].begin) * SECOND_NS
    rank = dict(life.tags).get("rank")
    number = None if rank is None else int(rank)
    attempt = tale.lives.index(life) + 1 if life in tale.lives else 1
    return Identity(EXPERIMENT, tale.run, number, tags, "online", Path(), attempt, started_ns)


def _states(tale: Tale, now_s: int) -> Iterator[str]:
    for life in tale.lives:
        who = identity(tale, life, now_s)
        for at in range(life.begin, life.end + (life.status is None), HEARTBEAT_S):
            logged = min(at, life.end if life.logs_until is None else life.logs_until) - life.begin
            yield who.run_line((now_s + at) * SECOND_NS, "running", max(logged, 0) // life.every_s)
        if life.status:
            yield who.run_line((now_s + life.end) * SECOND_NS, life.status, (life.end - life.begin) // life.every_s)


def _points(tale: Tale, lives: Sequence[Life], now_s: int) -> Iterator[bytes]:
    rollups = Rollups((now_s + tale.lives[0].begin) * SECOND_NS)
    for number, life in enumerate(lives):
        who = identity(tale, life, now_s)
        until = life.end if life.logs_until is None else life.logs_until
        moments = enumerate(range(life.begin + life.every_s, until + 1, life.every_s))
        rows = [((now_s + at) * SECOND_NS, step, life.curve(step)) for step, at in moments]
        if not rows:
            continue
        yield from encode_rows(metric_prefixes(who.tags, [life.metric]), who.started_ns, rows, orjson.dumps)
        shape = Shape(number, (life.metric,), who.tags)
        for first in range(0, len(rows), 10):
            made = rollups.add([Values(shape, rows[first : first + 10], 0, 0)])
            yield from (line for line in made if line.startswith(b"summary"))
    yield from (line for line in rollups.finish() if line.startswith(b"summary"))


def _reports(tale: Tale, life: Life, now_s: int) -> Iterator[str]:
    who = identity(tale, life, now_s)
    stats = {"pending": 3, "pending_bytes": 40, "retried": 0, "lag_s": 0.4}
    for at in range(life.begin + HEARTBEAT_S, life.end + 1, HEARTBEAT_S):
        counts = {"delivered": at - life.begin, "dropped": life.dropped(at), "quarantined": life.quarantined(at)}
        yield who.delivery_line((now_s + at) * SECOND_NS, {**stats, **counts})


def _events(tale: Tale, now_s: int) -> Iterator[str]:
    begins = [Event(life.begin, "resume" if number else "start", "info") for number, life in enumerate(tale.lives)]
    for event in (*begins, *tale.events):
        since_s = event.at - tale.lives[0].begin
        fields: dict[str, Field] = {"title": event.kind, "text": "", "level": event.level, "count": 1}
        fields |= {"step": since_s, "elapsed": 1000 * since_s}
        fields |= {} if event.value is None else {"value": event.value}
        metric = () if event.metric is None else (("metric", event.metric),)
        tags = (("experiment", EXPERIMENT), ("run", tale.run), ("kind", event.kind), *metric)
        yield encode_line("events", tags, fields, (now_s + event.at) * SECOND_NS + 2)


# --- Curves -----------------------------------------------------------------------------------------------------------

_NOISE = np.random.default_rng(SEED).standard_normal(100_000)


def falling(step: int) -> float:
    """A loss that learns, with noise."""
    return float(0.3 + 2 * math.exp(-step / 300) + 0.06 * _NOISE[step])


def noisy(step: int) -> float:
    """A fine-tuned model's: no progress, much noise, only above 0."""
    return float(abs(0.3 + 0.2 * _NOISE[step]))


def broken(first: int, last: int, value: float = math.nan) -> Curve:
    """NaN, or an infinity, from step `first` to `last`."""
    return lambda step: value if first <= step <= last else falling(step)


def rising(since: int, until: int = 10**9) -> Curve:
    """Climbs between two steps, doubling every minute, to 8 above what it was."""
    return lambda step: falling(step) + (min(2 ** ((step - since) / 60) / 4, 8) if since <= step <= until else 0)


def minus(curve: Curve) -> Curve:
    """The same below zero."""
    return lambda step: curve(step) - 80


def restarts(step: int) -> float:
    """A cosine schedule with warm restarts: a saw."""
    return float(0.1 + 2 * math.exp(-step / 300) + 0.5 * (1 - step % 600 / 600) + 0.05 * _NOISE[step])


def overfitting(step: int) -> float:
    """A validation loss that comes back up."""
    return float(0.5 + math.exp(-step / 200) + max(0, step - 600) / 300)


def constant(_: int) -> float:
    """As many equal values as one likes: their mean is not exactly the same."""
    return 0.1


# --- What happens -----------------------------------------------------------------------------------------------------

INSTANTS = (-1500, -800, -200, 0, 300, 20 * HOUR, 25 * HOUR)


def _run(name: str, life: Life, alert: str = "", at: Sequence[int] = (), events: Sequence[Event] = ()) -> Tale:
    return Tale(name, [life], events, {instant: [alert] for instant in at})


def well() -> list[Tale]:
    """Runs with which nothing is wrong at any of the instants."""
    return [
        _run("healthy", Life(-2400, 0, "finished", falling)),
        _run("noisy", Life(-2400, 300, "finished", noisy)),
        _run("constant", Life(-2400, 300, "finished", constant)),
        _run("warm-restarts", Life(-2400, 300, "finished", restarts)),
        _run("overfitting", Life(-2400, 300, "finished", overfitting, "val/loss")),
        _run("actor", Life(-2400, 300, "finished", rising(1200), "actor_loss")),
        _run("short", Life(-230, -205, "finished", falling)),
        _run("just-begun", Life(-205, 300, "finished", falling, logs_until=-205)),
        _run("logs-each-half-hour", Life(-8 * HOUR, 300, "finished", falling, every_s=1800)),
        _run("nan-long-ago", Life(-9000, -7000, "finished", broken(1000, 1999))),
        _run("nan-and-finished-within-a-minute", Life(-1000, -210, "finished", broken(750, 780))),
        _run("diverged-and-failed", Life(-2400, -210, "failed", rising(2000))),
        _run("stopped-by-its-user", Life(-2400, -210, "killed", falling)),
        _run("warned", Life(-1000, 300, "finished", falling), events=[Event(-300, "divergence", "warning", LOSS)]),
        Tale(
            "counts-anew",
            [
                Life(-1490, -700, None, falling, dropped=lambda _: 9),
                Life(-690, -10, "finished", lambda step: falling(790 + step)),
            ],
        ),
        Tale(
            "teacher-and-student",
            [Life(-2400, 300, "finished", lambda _: 5.0, tags=(("model", "teacher"),))],
            beside=[Life(-2400, 300, None, falling, tags=(("model", "student"),))],
        ),
    ]


def badly() -> list[Tale]:
    """Runs that have alerts."""
    divergence = Event(-400, "divergence", metric=LOSS, value=3.5)
    growing, once = (lambda at: max(0, at + 400)), (lambda at: 3 * (at > -300))
    since_killed = (0, 300, 20 * HOUR)  # a day later it is asked about no more
    return [
        _run("nan-goes-on", Life(-1900, 300, "finished", broken(1000, 9999)), "nonfinite", (-800, -200, 0)),
        _run("nan-then-failed", Life(-1000, -200, "failed", broken(790, 799)), "nonfinite", (-200, 0, 300)),
        _run("nan-then-finished", Life(-1490, -100, "finished", broken(900, 1250)), "nonfinite", (-200,)),
        _run("infinite-once", Life(-1000, 300, "finished", broken(50, 50, math.inf), "g"), "nonfinite", (-800, -200)),
        _run("diverging", Life(-2500, 300, "finished", rising(1900)), "diverged", (-200, 0)),
        _run("diverging-below-zero", Life(-2500, 300, "finished", minus(rising(1900))), "diverged", (-200, 0)),
        _run("recovering", Life(-2500, 300, "finished", rising(1000, 1800)), "diverged", (-800,)),
        _run("stalled", Life(-3000, 840, "finished", falling, logs_until=-820), "stalled", (-200, 0, 300)),
        _run("killed", Life(-1000, -230, None, falling), "dead", since_killed),
        Tale(
            "killed-then-finished",
            [Life(-3000, -1600, None, falling), Life(-1000, -100, "finished", lambda step: falling(1400 + step))],
            alerts={-1500: ["dead"]},
        ),
        _run("drops", Life(-1000, 300, "finished", falling, dropped=growing), "lost", (-200, 0)),
        _run("quarantines", Life(-1000, 840, "finished", falling, quarantined=once), "lost", (-200, 0, 300)),
        _run("says-so", Life(-1000, 300, "finished", falling), "event", (-200, 0), [divergence]),
        _run("alerts", Life(-1000, 290, "failed", falling), "event", (-200, 0, 300), [Event(-400, "alert")]),
    ]


def on_ranks(count: int) -> Tale:
    """One run on many ranks: all have NaN, one of them drops points."""
    ranks = [Life(-60, 0, None, broken(20, 60), tags=(("rank", str(rank)),)) for rank in range(count)]
    ranks[7] = replace(ranks[7], dropped=lambda at: at + 60)
    return Tale("ranks", ranks[:1], beside=ranks[1:])


def expected(tales: Sequence[Tale], instant: int) -> set[tuple[str, str]]:
    """Rule and run of every alert at an instant."""
    return {(f"metriclog-{alert}", tale.run) for tale in tales for alert in tale.alerts.get(instant, ())}
