"""The proof: journal and server compared point by point, every point in exactly one state.

    accepted = on the server + pending + quarantined + dropped        (and nothing else is on the server)

Reads everything a run has on both sides: the journals whole (10 to 30 bytes a point), the server page by page.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metriclog import influxql
from metriclog.columns import Block, Series, of_answer
from metriclog.directory import process_directories
from metriclog.errors import RunNotFoundError
from metriclog.held import Held, Stored, stored_fields

PAGE_POINTS = 200_000  # of one series in one query
MAX_NAMED = 20  # differences named one by one; the rest is counted
NAMED_OF_A_PAGE = 3
TORN_READS, TORN_WAIT_S = 20, 0.05  # how often a page is asked again that holds a point half written, and how soon


class Queryable(Protocol):
    """What this room needs of a transport."""

    target: str

    def query(self, text: str) -> list[dict[str, Any]]:
        """Series of one InfluxQL statement, times in ns."""


@dataclass(slots=True)
class Verdict:
    """The counts, in points, and the differences in words."""

    run: str
    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    quarantined: int = 0
    dropped: int = 0
    forgotten: int = 0  # delivered and deleted from the journal since: counted, not compared
    missing: int = 0
    altered: int = 0
    unknown: int = 0
    damaged: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every accepted point is where the counts say, and nothing else is on the server."""
        sums = self.accepted == self.delivered + self.pending + self.quarantined + self.dropped
        return sums and not (self.missing or self.altered or self.unknown or self.damaged)

    def name(self, difference: str) -> None:
        """Put a difference on record."""
        if len(self.differences) < MAX_NAMED:
            self.differences.append(difference)


def verify(root: Path, run: str, server: Queryable, *, sleep: Callable[[float], None] = time.sleep) -> Verdict:
    """Compare one run, dead or alive. Raises `RunNotFoundError`, and what the transport raises."""
    paths = process_directories(root, run)
    if not paths:
        raise RunNotFoundError(f"run {run!r} is not in {root}")
    verdict, held = Verdict(run), Held(paths, server.target)
    try:
        held.read()
        _Comparison(held, _Server(server, run, sleep), verdict).run()
    finally:
        held.close()
    return verdict


class _Comparison:
    """Goes through all series of both sides."""

    def __init__(self, held: Held, server: _Server, verdict: Verdict) -> None:
        self._held, self._server, self._verdict = held, server, verdict
        self._strangers: list[str] = []  # on the server, perhaps deleted from the journal
        self._by_hand = 0  # dropped by hand and still in the journal

    def run(self) -> None:
        """Compare; the verdict is complete then."""
        for damage in self._held.damage:
            self._verdict.damaged += 1
            self._verdict.name(f"damaged record: {damage}")
        for series in sorted(self._held.series() | self._server.series()):
            if series[0] == "metrics" and series not in self._held.lines:
                self._compare_metrics(series)
            else:
                self._compare_lines(series)
        self._account_for_deleted()

    def _compare_metrics(self, series: Series) -> None:
        after_ns = -1
        logged = self._held.columns.block(series)
        for rows, last in self._server.pages(series):
            if self._held.catch_up():  # before the page is compared: it may hold what was logged meanwhile
                logged = self._held.columns.block(series)
            until_ns = 1 << 62 if last else int(rows[-1][0])
            within = (logged.times_ns > after_ns) & (logged.times_ns <= until_ns)
            self._compare_blocks(series, logged.part(within), of_answer(rows))
            after_ns = until_ns

    def _compare_blocks(self, series: Series, logged: Block, there: Block) -> None:
        verdict, held, times_ns = self._verdict, self._held, logged.times_ns
        at = np.searchsorted(there.times_ns, times_ns)
        found = at < len(there.times_ns)
        found[found] = there.times_ns[at[found]] == times_ns[found]
        equal = found.copy()
        equal[found] = logged.part(found).equals(there.part(at[found]))
        refused = ~equal & np.isin(times_ns, held.quarantined.get(series, []))
        given_up = ~equal & ~refused & np.isin(times_ns, held.dropped_by_hand.get(series, []))
        altered = ~equal & ~refused & ~given_up & found
        away = ~found & ~refused & ~given_up
        missing = away & logged.acked
        strange = ~np.isin(there.times_ns, times_ns)
        verdict.accepted += len(times_ns)
        verdict.delivered += _count(equal)
        verdict.quarantined += _count(refused)
        self._by_hand += _count(given_up)
        verdict.pending += _count(away & ~logged.acked)
        verdict.altered += _count(altered)
        verdict.missing += _count(missing)
        verdict.unknown += _count(strange)
        for index in np.flatnonzero(altered)[:NAMED_OF_A_PAGE]:
            self._name_altered(series, times_ns[index], logged.show(index), there.show(at[index]))
        for index in np.flatnonzero(missing)[:NAMED_OF_A_PAGE]:
            self._name_missing(series, times_ns[index], logged.show(index))
        for index in np.flatnonzero(strange)[-NAMED_OF_A_PAGE:]:
            self._name_stranger(series, there.times_ns[index], there.show(index))

    def _compare_lines(self, series: Series) -> None:
        """Point by point: for measurements of a few points."""
        verdict, held = self._verdict, self._held
        names = influxql.FIELDS.get(series[0], ())
        pages = list(self._server.pages(series))
        held.catch_up()
        there = {row[0]: stored_fields(dict(zip(names, row[1:], strict=True))) for rows, _ in pages for row in rows}
        logged = held.lines_of(series)
        verdict.accepted += len(logged)
        for time_ns, (fields, acked) in logged.items():
            stored = there.pop(time_ns, None)
            if stored == fields:
                verdict.delivered += 1
            elif time_ns in held.quarantined.get(series, ()):
                verdict.quarantined += 1
            elif time_ns in held.dropped_by_hand.get(series, ()):
                self._by_hand += 1
            elif stored is not None:
                verdict.altered += 1
                self._name_altered(series, time_ns, _show(fields), _show(stored))
            elif not acked:
                verdict.pending += 1
            else:
                verdict.missing += 1
                self._name_missing(series, time_ns, _show(fields))
        verdict.unknown += len(there)
        for time_ns, stored in list(there.items())[-NAMED_OF_A_PAGE:]:
            self._name_stranger(series, time_ns, _show(stored))

    def _account_for_deleted(self) -> None:
        """What was delivered and then deleted from the journal is on the server alone, or set aside: that many."""
        verdict, held = self._verdict, self._held
        refused, given_up = held.gone(held.quarantined), held.gone(held.dropped_by_hand)
        verdict.forgotten = held.forgotten
        verdict.accepted += held.forgotten + held.dropped
        verdict.quarantined += refused
        verdict.dropped += held.dropped + self._by_hand + given_up
        expected = max(0, held.forgotten - refused - given_up)
        explained = min(verdict.unknown, expected)
        verdict.delivered += explained
        verdict.unknown -= explained
        if explained < expected:
            verdict.missing += expected - explained
            verdict.name(f"missing on the server: {expected - explained} points that are in the journal no more")
        for stranger in self._strangers[: verdict.unknown]:
            verdict.name(stranger)

    def _name_altered(self, series: Series, time_ns: int, logged: str, there: str) -> None:
        self._verdict.name(f"altered: {_name(series)} at {time_ns}: logged {logged}; on the server {there}")

    def _name_missing(self, series: Series, time_ns: int, logged: str) -> None:
        self._verdict.name(f"missing on the server: {_name(series)} at {time_ns}: {logged}")

    def _name_stranger(self, series: Series, time_ns: int, there: str) -> None:
        if len(self._strangers) < MAX_NAMED:
            self._strangers.append(f"on the server, not in the journal: {_name(series)} at {time_ns}: {there}")


class _Server:
    """What a server holds of a run."""

    def __init__(self, server: Queryable, run: str, sleep: Callable[[float], None]) -> None:
        self._server, self._run, self._sleep = server, run, sleep
        self._tags: dict[Series, dict[str, str]] = {}  # with those that a series does not have, as ''

    def series(self) -> set[Series]:
        """Every series of the run that has a point now."""
        for measurement in influxql.FIELDS:
            for one in self._server.query(influxql.series_of_run(measurement, self._run)):
                self._tags[measurement, _tags(one["tags"])] = one["tags"]
        return set(self._tags)

    def pages(self, series: Series) -> Iterator[tuple[list[list[Any]], bool]]:
        """The rows of one series in the order of time, and whether these are the last ones. At least one page."""
        tags, after_ns = self._tags.get(series), -1
        while tags is not None:
            rows = self._page(series[0], tags, after_ns)
            if len(rows) < PAGE_POINTS:
                yield rows, True
                return
            yield rows, False
            after_ns = rows[-1][0]
        yield [], True

    def _page(self, measurement: str, tags: dict[str, str], after_ns: int) -> list[list[Any]]:
        """The rows after an instant. InfluxDB shows a point while it takes it in, with some of its fields: ask again.

        Until no point is torn, or the same ones as before still are: those are so for good.
        """
        before: set[int] | None = None
        for _ in range(TORN_READS):
            found = self._server.query(influxql.page_of_series(measurement, tags, after_ns, PAGE_POINTS))
            rows: list[list[Any]] = found[0]["values"] if found else []
            torn = {row[0] for row in rows if _is_torn(measurement, row)}
            if not torn or torn == before:
                break
            before = torn
            self._sleep(TORN_WAIT_S)
        return rows


def _is_torn(measurement: str, row: list[Any]) -> bool:
    """Whether fields are missing that metriclog writes with every point."""
    names = influxql.FIELDS[measurement]
    missing = {name for name, value in zip(names, row[1:], strict=True) if value is None}
    return not missing <= influxql.OPTIONAL.get(measurement, frozenset()) or missing >= {"value", "nonfinite"}


def _tags(tags: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in tags.items() if value))


def _name(series: Series) -> str:
    tags = dict(series[1])
    return f"{series[0]} {tags.get('metric') or tags}"


def _show(fields: Stored) -> str:
    values = ((name, struct.unpack("<d", bits)[0] if isinstance(bits, bytes) else bits) for name, bits in fields)
    return ", ".join(f"{name}={value}" for name, value in values)


def _count(mask: Any) -> int:
    return int(np.count_nonzero(mask))
