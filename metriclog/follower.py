"""Reads on in the journal of this process as it grows: the newest values, what is not finite, and what the rules find.

Off the `log()` path, also while the server is away and offline. Most rows cost one sum: whether all of their values are
finite. Only columns that are watched go through the rules, and of many rows only the last one is remembered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from metriclog.divergence import GRADIENT_RULES, LOSS_RULES, Detector, Finding, RankSpread, Rule
from metriclog.journal import Journal
from metriclog.live import Latest
from metriclog.metric_names import kind_of
from metriclog.points import Tags
from metriclog.replay import JournalReader
from metriclog.segments import LINES, Row, Shape, Text, Values, position_of

MOST_POINTS = 10_000  # read at once: what follows asks the clock in between
MOST_METRICS = 100_000  # whose newest values are kept
MOST_SHAPES = 1_000  # lists of metrics that are remembered at a time
MOST_TAG_SETS = 64  # of one run, each with rules of its own: models, data sets

_Key = tuple[tuple[str, ...], Tags]


class Event(NamedTuple):
    """A line of `events` and the position of its record's end."""

    position: int
    line: str


@dataclass(slots=True)
class _Plan:
    """What to do with rows of one shape."""

    metrics: tuple[str, ...]
    rank: str
    detector: Detector | None
    watched: list[tuple[int, str]]  # (place in a row, metric)


class Follower:
    """Follows one journal. Not for several threads."""

    def __init__(self, journal: Journal, *, default: bool = True, keep_events: bool = False) -> None:
        self.last_log_ns: int | None = None
        self.behind = False  # whether there was more than there was time for
        self.events: list[Event] = []  # read and not yet taken; empty unless `keep_events`
        self.nonfinite: dict[str, int] = {}  # how many values of a metric were not finite
        self._journal, self._reader = journal, JournalReader(journal.directory)
        self._default, self._keep_events = default, keep_events
        self._wishes: list[tuple[str, tuple[Rule, ...]]] = []
        self._detectors: dict[Tags, Detector] = {}
        self._plans: dict[_Key, _Plan] = {}
        self._last: dict[_Key, Row] = {}  # in the order of logging
        self._latest: dict[str, tuple[float, int, int]] = {}
        self._ill: set[str] = set()  # metrics that no rule watches but whose values were not finite lately

    @property
    def position(self) -> int:
        """How far it has come."""
        return self._reader.position

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def watch(self, metric: str, rules: tuple[Rule, ...] | None) -> None:
        """From now on these rules for a metric, or for all that match a pattern.

        None: those that it has by its name, else those of a loss; but a pattern like "*" makes no loss of everything.
        """
        kind, pattern = kind_of(metric), bool(set("*?[") & set(metric))
        if rules is None:
            if self._default and (kind != "other" or pattern):
                return
            rules = GRADIENT_RULES if kind == "gradient_norm" else () if kind == "other" and pattern else LOSS_RULES
        self._wishes.append((metric, rules))
        for detector in self._detectors.values():
            detector.watch(metric, *rules)
        self._plans.clear()

    def spread_of(self, metric: str) -> RankSpread | None:
        """The rule by which ranks are compared in a metric, if they are."""
        wish = self._wish_for(metric)
        if wish is None:
            return RankSpread() if self._default and kind_of(metric) != "other" else None
        return next((rule for rule in wish if isinstance(rule, RankSpread)), None)

    def _wish_for(self, metric: str) -> tuple[Rule, ...] | None:
        return next((rules for name, rules in reversed(self._wishes) if fnmatchcase(metric, name)), None)

    def follow(self, ends_s: float = math.inf) -> Iterator[Finding]:
        """Read what has come since, until `ends_s` of `time.monotonic` if that is sooner; what the rules found.

        A segment that was deleted meanwhile is passed over. `OSError` and `JournalError` pass through.
        """
        self.behind, touched, ill = True, set[_Key](), set(self._ill)
        while self.behind and time.monotonic() < ends_s:
            entries = self._reader.read(MOST_POINTS, self._journal.readable)
            self.behind = sum(entry.points for _, entry in entries) >= MOST_POINTS
            for number, entry in entries:
                if isinstance(entry, Values):
                    touched.add((entry.shape.metrics, entry.shape.tags))
                    yield from self._take(entry)
                elif isinstance(entry, Text) and entry.kind == LINES and self._keep_events:
                    self._keep(entry, position_of(number, entry.end))
        for key in touched & self._last.keys() & self._plans.keys() if ill else ():
            yield from self._look_at_the_ill(self._plans[key], self._last[key], ill)

    def latest(self) -> dict[str, Latest]:
        """The newest value of each metric, in order of first appearance."""
        self._fold()
        count = self.nonfinite.get
        return {name: Latest(value, step, at, count(name, 0)) for name, (value, step, at) in self._latest.items()}

    def _take(self, entry: Values) -> Iterator[Finding]:
        shape, rows = entry.shape, entry.rows
        key = shape.metrics, shape.tags
        plan = self._plans.get(key) or self._make_plan(key, shape)
        self._last.pop(key, None)
        self._last[key] = rows[-1]
        self.last_log_ns = rows[-1][0]
        finite = math.isfinite
        bad = [row for row in rows if not finite(sum(row))]  # a sum that overflows costs the slow way, no more
        for row in bad:
            yield from self._look_for_nonfinite(plan, row)
        if plan.detector is not None:
            add, rank = plan.detector.add, plan.rank
            for row in rows if plan.watched else ():
                for place, metric in plan.watched:
                    if found := add(metric, rank, row[1], row[place]):
                        yield from found

    def _look_for_nonfinite(self, plan: _Plan, row: Row) -> Iterator[Finding]:
        """Count what is not finite in a row; of metrics that are not watched otherwise the rules see the first one."""
        watched = {place for place, _ in plan.watched}
        for place, value in enumerate(row[2:], 2):
            if not math.isfinite(value):
                metric = plan.metrics[place - 2]
                self.nonfinite[metric] = self.nonfinite.get(metric, 0) + 1
                fresh = place not in watched and metric not in self._ill and len(self._ill) < MOST_METRICS
                if fresh and plan.detector is not None and (self._default or self._wish_for(metric) is not None):
                    found = plan.detector.add(metric, plan.rank, row[1], value)
                    if found:
                        self._ill.add(metric)
                        yield from found

    def _look_at_the_ill(self, plan: _Plan, row: Row, ill: set[str]) -> Iterator[Finding]:
        """The newest value of metrics that are not watched but were not finite: it may go on, or be over.

        Once in a while does: where a run has broken, all of its metrics may be ill.
        """
        if plan.detector is None:
            return
        watched = {metric for _, metric in plan.watched}
        for place, metric in enumerate(plan.metrics, 2):
            if metric in ill and metric not in watched:
                found = plan.detector.add(metric, plan.rank, row[1], row[place])
                if any(finding.recovered for finding in found):
                    self._ill.discard(metric)
                yield from found

    def _make_plan(self, key: _Key, shape: Shape) -> _Plan:
        if len(self._plans) >= MOST_SHAPES:
            self._plans.clear()
            self._fold()
        detector = self._detector(shape.tags)
        places = enumerate(shape.metrics, 2)
        watched = [(place, metric) for place, metric in places if detector is not None and detector.watches(metric)]
        plan = _Plan(shape.metrics, dict(shape.tags).get("rank", ""), detector, watched)
        self._plans[key] = plan
        return plan

    def _detector(self, tags: Tags) -> Detector | None:
        """The rules for one tag set: the losses of two models in one run are two curves."""
        if tags not in self._detectors and len(self._detectors) < MOST_TAG_SETS:
            self._detectors[tags] = made = Detector(default=self._default)
            for metric, rules in self._wishes:
                made.watch(metric, *rules)
        return self._detectors.get(tags)

    def _fold(self) -> None:
        """Values of the rows that were remembered, by metric."""
        rows, self._last = self._last, {}
        for (metrics, _), row in rows.items():
            for place, metric in enumerate(metrics, 2):
                if metric in self._latest or len(self._latest) < MOST_METRICS:
                    self._latest[metric] = row[place], row[1], row[0]

    def _keep(self, entry: Text, position: int) -> None:
        lines = entry.body.decode().split("\n") if b"events," in entry.body else []
        self.events += [Event(position, line) for line in lines if line.startswith("events,")]
