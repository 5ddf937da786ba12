"""Training runs as line protocol, with everything that metriclog writes about them, for tests of the dashboards.

The numbers are made up from a seed. Points and roll-ups are encoded by metriclog itself; what only tells a story (run
states, events, delivery) is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from metriclog.levels import resolution
from metriclog.points import Field, Tags, encode_line, encode_rows, metric_prefixes, param_line
from metriclog.rollups import Rollups
from metriclog.segments import Shape, Values

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Curves: TypeAlias = Mapping[str, Floats]

SECOND_NS = 1_000_000_000
HEARTBEAT_NS = 15 * SECOND_NS
SERVER_AWAY = (0.55, 0.75)  # of a run's time, where it has a backlog
EVALUATIONS = 100


@dataclass(frozen=True)
class Event:
    """One point of `events`; with a metric for `nonfinite` and `divergence`, and then with its value if it has one."""

    kind: str
    step: int
    title: str
    text: str = ""
    level: str = "info"
    metric: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive calls of log() with the same metrics."""

    steps: Ints
    curves: Curves


@dataclass(frozen=True)
class Attempt:
    """One process' life within a run: what it logged, `pause_s` after the attempt before had ended."""

    blocks: Sequence[Block]
    pause_s: float = 0.0
    events: Sequence[Event] = ()


@dataclass(frozen=True)
class Story:
    """One run. `ranks` 0: it has none. `dropped`, `quarantined`: points that this run's delivery had to give up."""

    experiment: str
    run: str
    started_ns: int
    attempts: Sequence[Attempt]
    step_ns: int = SECOND_NS
    status: str = "finished"
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 0
    backlog: bool = False
    dropped: int = 0
    quarantined: int = 0


def lines(story: Story) -> Iterator[bytes]:
    """Everything that is on the server about a run, each line ending in a line break."""
    for rank in range(story.ranks) if story.ranks else (None,):
        yield from _points(story, Timeline(story), rank)
    yield from lines_beside_points(story)


def lines_beside_points(story: Story) -> Iterator[bytes]:
    """The same without points, roll-ups and summaries."""
    timeline = Timeline(story)
    yield from _texts(_param_lines(story))
    yield from _texts(_state_lines(story, timeline))
    yield from _texts(_event_lines(story, timeline))
    yield from _texts(_delivery_lines(story, timeline))
    yield from _texts(_system_lines(story, timeline))


def _texts(texts: Iterator[str]) -> Iterator[bytes]:
    return (f"{text}\n".encode() for text in texts)


class Timeline:
    """When each step of a run was: one step after the other, with the pauses between attempts."""

    def __init__(self, story: Story) -> None:
        self._story = story
        lengths = [_length(attempt) * story.step_ns for attempt in story.attempts]
        pauses = [round(attempt.pause_s * SECOND_NS) for attempt in story.attempts]
        ends = list(accumulate(length + pause for length, pause in zip(lengths, pauses, strict=True)))
        self.spans = [
            (story.started_ns + end - length, story.started_ns + end) for end, length in zip(ends, lengths, strict=True)
        ]
        self.ended_ns = self.spans[-1][1]

    def times_ns(self, number: int, steps: Ints) -> Ints:
        """The instants of these steps in this attempt."""
        first = _first(self._story.attempts[number])
        times: Ints = self.spans[number][0] + (steps - first + 1) * self._story.step_ns
        return times

    def beats(self) -> Iterator[tuple[int, int, int]]:
        """Every heartbeat as (instant, attempt from 0, highest step so far)."""
        highest = 0
        for number, (begin, end) in enumerate(self.spans):
            first = _first(self._story.attempts[number])
            for now_ns in (*range(begin, end, HEARTBEAT_NS), end - 1):
                highest = max(highest, first + (now_ns - begin) // self._story.step_ns)
                yield now_ns, number, highest


def _first(attempt: Attempt) -> int:
    return min(int(block.steps[0]) for block in attempt.blocks)


def _length(attempt: Attempt) -> int:
    return max(int(block.steps[-1]) for block in attempt.blocks) - _first(attempt) + 1


# --- What was logged --------------------------------------------------------------------------------------------------


def _points(story: Story, timeline: Timeline, rank: int | None) -> Iterator[bytes]:
    """Points, roll-ups and summaries of one rank."""
    of_rank = () if rank is None else (("rank", str(rank)),)
    tags: Tags = (("experiment", story.experiment), ("run", story.run), *story.tags.items(), *of_rank)
    rng = np.random.default_rng(rank or 0)
    entries: list[Values] = []
    for number, attempt in enumerate(story.attempts):
        for block in attempt.blocks:
            times_ns = timeline.times_ns(number, block.steps) + 1000 * (rank or 0)
            curves = [_seen_by(rank, values, rng) for values in block.curves.values()]
            rows = list(
                zip(times_ns.tolist(), block.steps.tolist(), *(curve.tolist() for curve in curves), strict=True)
            )
            entries.append(Values(Shape(len(entries), tuple(block.curves), tags), rows, 0, 0))
    for entry in entries:
        prefixes = metric_prefixes(tags, entry.shape.metrics)
        yield from encode_rows(prefixes, story.started_ns, entry.rows, orjson.dumps)
    rollups = Rollups(story.started_ns)
    yield from rollups.add(entries)
    yield from rollups.finish()


def _seen_by(rank: int | None, values: Floats, rng: np.random.Generator) -> Floats:
    """The same curve on another part of the data."""
    return values if not rank else values * (1 + 0.04 * rank) + rng.normal(0, 0.02, len(values)) * np.abs(values)


# --- What tells its story ---------------------------------------------------------------------------------------------


def _param_lines(story: Story) -> Iterator[str]:
    for name, value in story.params.items():
        yield param_line(story.experiment, story.run, name, value, story.started_ns)


def _state_lines(story: Story, timeline: Timeline) -> Iterator[str]:
    state = (1, "running", story.started_ns)
    for now_ns, number, steps in timeline.beats():
        state = (number + 1, "running", now_ns)
        yield _state_line(story, state, steps)
    if story.status != "running":
        yield _state_line(story, (state[0], story.status, timeline.ended_ns), steps)


def _state_line(story: Story, state: tuple[int, str, int], steps: int) -> str:
    attempt, status, now_ns = state
    running, now_ms = status == "running", now_ns // 1_000_000
    fields: dict[str, Field] = {
        "running": int(running),
        "status": status,
        "started": story.started_ns // 1_000_000,
        "ended": now_ms,
        "to": "now" if running else str(now_ms + 1),
        "steps": steps,
        "resolution": resolution(steps),
        "host": _host(story),
        "pid": 4000 + attempt,
        "attempt": attempt,
    }
    return encode_line("runs", _of(story), fields, now_ns)


def _event_lines(story: Story, timeline: Timeline) -> Iterator[str]:
    for number, (attempt, (begin_ns, end_ns)) in enumerate(zip(story.attempts, timeline.spans, strict=True)):
        first = _first(attempt)
        begun = (
            Event("resume", first, f"Run resumed (attempt {number + 1})")
            if number
            else Event("start", 0, "Run started")
        )
        yield _event_line(story, begun, begin_ns)
        for event in attempt.events:
            yield _event_line(story, event, begin_ns + (event.step - first + 1) * story.step_ns + 1)
        if number == len(story.attempts) - 1 and story.status != "running":
            level = "info" if story.status == "finished" else "critical"
            ended = Event("finish", first + _length(attempt) - 1, f"Run {story.status}", level=level)
            yield _event_line(story, ended, end_ns)


def _event_line(story: Story, event: Event, now_ns: int) -> str:
    metric = () if event.metric is None else (("metric", event.metric),)
    fields: dict[str, Field] = {"title": event.title, "text": event.text, "level": event.level, "step": event.step}
    fields |= {"elapsed": (now_ns - story.started_ns) // 1_000_000, "count": 1}
    if event.value is not None:
        fields["value"] = event.value
    return encode_line("events", (*_of(story), ("kind", event.kind), *metric), fields, now_ns)


def _delivery_lines(story: Story, timeline: Timeline) -> Iterator[str]:
    """Reports of delivery; with a backlog the server is away for a while, and what waited comes in twice as fast."""
    width = max(len(block.curves) for block in story.attempts[0].blocks)
    for rank in range(max(story.ranks, 1)):
        tags = (*_of(story), ("host", _host(story)), *([("rank", str(rank))] if story.ranks else []))
        for now_ns, _, steps in timeline.beats():
            done = (now_ns - story.started_ns) / (timeline.ended_ns - story.started_ns)
            yield encode_line("delivery", tags, _delivery(story, steps * width, done), now_ns)


def _delivery(story: Story, accepted: int, done: float) -> dict[str, Field]:
    away, back = SERVER_AWAY
    waited = min(max(done - away, 0), back - away) - 2 * max(done - back, 0)
    pending = round(accepted * max(waited, 0) / max(done, away)) if story.backlog else 0
    lost, refused = (
        round(given_up * min(max(done - away, 0) * 4, 1)) for given_up in (story.dropped, story.quarantined)
    )
    return {
        "pending_points": pending,
        "pending_bytes": 14 * pending,
        "delivered": accepted - pending - lost - refused,
        "retried": round(12 * min(max(done - away, 0), back - away) / (back - away)) if story.backlog else 0,
        "quarantined": refused,
        "dropped": lost,
        "lag_s": 0.8 + 3000 * max(waited, 0) if pending else 0.8,
    }


def _system_lines(story: Story, timeline: Timeline) -> Iterator[str]:
    rng = np.random.default_rng(len(story.run))
    for now_ns, _, _ in timeline.beats():
        tags = (*_of(story), ("host", _host(story)))
        load: dict[str, Field] = {"cpu_percent": float(rng.normal(61, 6)), "rss_bytes": float(rng.normal(3.1e9, 4e7))}
        yield encode_line("system", tags, load, now_ns)
        for gpu in range(2):
            used: dict[str, Field] = {"gpu_percent": float(rng.normal(92 - 3 * gpu, 2)), "gpu_memory_bytes": 31e9 + gpu}
            yield encode_line("system", (*tags, ("gpu", str(gpu))), used, now_ns)


def _of(story: Story) -> Tags:
    return (("experiment", story.experiment), ("run", story.run))


def _host(story: Story) -> str:
    return f"node-{1 + len(story.run) % 3}"


# --- Curves that look like training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learner:
    """How fast and how well a model learns, in `horizon` steps; the same seed gives the same noise at the same step."""

    horizon: int
    seed: int = 0
    floor: float = 0.3
    speed: float = 6.0
    noise: float = 0.06
    peak_lr: float = 0.1

    def training(self, first: int, last: int, every: int = 1) -> Block:
        """The metrics of each optimiser step from `first` up to, not including, `last`."""
        steps = np.arange(first, last, every, dtype=np.int64)
        rng = np.random.default_rng((self.seed, first))
        done = steps / self.horizon
        loss = self._loss(done) * (1 + self.noise * rng.standard_normal(len(steps)))
        curves = {
            "train/loss": loss,
            "train/accuracy": np.clip(1 - loss / 2.45, 0.05, 1),
            "grad_norm": (0.4 + 2 * np.exp(-self.speed * done)) * np.exp(0.25 * rng.standard_normal(len(steps))),
            "lr": self.peak_lr * np.where(done < 0.05, done / 0.05, 0.5 * (1 + np.cos(np.pi * np.minimum(done, 1)))),
            "samples_per_second": 5200 + 90 * rng.standard_normal(len(steps)),
        }
        return Block(steps, curves)

    def validation(self, first: int, last: int) -> Block:
        """The metrics of each evaluation in these steps."""
        every = max(1, self.horizon // EVALUATIONS)
        steps = np.arange(first + every - 1 - first % every, last, every, dtype=np.int64)
        done = steps / self.horizon
        loss = self._loss(done) * 1.08 + 0.12 * done
        return Block(steps, {"eval/loss": loss, "eval/accuracy": np.clip(1 - loss / 2.6, 0.05, 1)})

    def _loss(self, done: Floats) -> Floats:
        loss: Floats = self.floor + (2.3 - self.floor) * np.exp(-self.speed * done)
        return loss


def replaced(block: Block, metric: str, where: npt.NDArray[np.bool_], value: float | Floats) -> Block:
    """The block with other values of one metric at some of its steps."""
    curves = dict(block.curves)
    curves[metric] = np.where(where, value, curves[metric])
    return Block(block.steps, curves)
