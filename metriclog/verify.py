"""The proof: journal and server compared point by point, every point in exactly one state.

    accepted = on the server + pending + quarantined + dropped        (and nothing else is on the server)

Reads everything a run has on both sides. Memory: about 40 bytes a point.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from metriclog import influxql, quarantine
from metriclog.acks import load_ack
from metriclog.directory import process_directories, read_meta
from metriclog.errors import RunNotFoundError
from metriclog.points import Point, nonfinite_code, parse_line
from metriclog.replay import JournalReader, beyond, owner_is_alive
from metriclog.segments import LINES, LOSS, Damage, Entry, Text, Values, segment_name

WINDOW_POINTS = 200_000  # of one series in one query
MAX_NAMED = 20  # differences named one by one; the rest is counted

Series = tuple[str, tuple[tuple[str, str], ...]]  # measurement, sorted tags
Stored = tuple[tuple[str, Any], ...]  # fields, sorted by name, floats as their bits


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
    dropped_by_hand: int = 0  # of the dropped, those that are still in the journal
    strangers: list[str] = field(default_factory=list)  # on the server, perhaps deleted from the journal

    @property
    def holds(self) -> bool:
        """Whether every accepted point is where the counts say, and nothing else is on the server."""
        sums = self.accepted == self.delivered + self.pending + self.quarantined + self.dropped
        return sums and not (self.missing or self.altered or self.unknown or self.damaged)

    def name(self, difference: str) -> None:
        """Put a difference on record."""
        if len(self.differences) < MAX_NAMED:
            self.differences.append(difference)


class _Directory:
    """Reads one process directory: what is there at first, and what a live process adds meanwhile."""

    def __init__(self, path: Path, target: str, journal: _Journal) -> None:
        self._path, self._journal = path, journal
        self._acked = load_ack(
            path, target
        ).position  # before anything else: what is shipped meanwhile is on the server
        self._alive = owner_is_alive(path)
        meta = read_meta(path)
        self._started_ns = int(meta["started_ns"]) if meta else 0
        self._reader = JournalReader(path)

    def read(self, verdict: Verdict) -> None:
        """Read what is there, with what is lost and damaged."""
        for number, entry in self._entries():
            if isinstance(entry, Damage) and not entry.torn:
                verdict.damaged += 1
                where = f"{self._path / segment_name(number)}, bytes {entry.start} to {entry.end}"
                verdict.name(f"damaged record: {where}")
            elif isinstance(entry, Text) and entry.kind == LOSS:
                verdict.dropped += int(entry.json()["dropped"])
                verdict.forgotten += int(entry.json().get("gone", 0))
            self._take(number, entry)

    def catch_up(self) -> None:
        """Read what has been logged since: it may be on the server already."""
        if self._alive:
            for number, entry in self._entries():
                self._take(number, entry)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def _entries(self) -> Iterator[tuple[int, Entry]]:
        while found := self._reader.read(100_000):
            yield from found

    def _take(self, number: int, entry: Entry) -> None:
        if isinstance(entry, Damage):
            return
        left = beyond(entry, number, self._acked)
        acked = entry.points - (left.points if left else 0)
        for index, point in enumerate(_points_of(entry, self._started_ns)):
            stamps = self._journal.points.setdefault(_series_of(point), {})
            stamps[point.time_ns] = (_stored(point.fields), index < acked)


class _Journal:
    """What the journal holds of a run: per series and time stamp the fields, and whether it is acknowledged."""

    def __init__(self, paths: Sequence[Path], target: str) -> None:
        self.points: dict[Series, dict[int, tuple[Stored, bool]]] = {}
        self._directories = [_Directory(path, target, self) for path in paths]
        self._paths, self._target = paths, target

    def read(self, verdict: Verdict) -> None:
        """Read everything."""
        for folder in self._directories:
            folder.read(verdict)
        self.quarantined = self._set_aside("quarantine")
        self.dropped = self._set_aside("dropped")  # by hand, out of the quarantine

    def catch_up(self) -> None:
        """Read what live processes have added."""
        for folder in self._directories:
            folder.catch_up()

    def close(self) -> None:
        """Close the files."""
        for folder in self._directories:
            folder.close()

    def _set_aside(self, kind: str) -> set[tuple[Series, int]]:
        lines = (one.line for path in self._paths for one in quarantine.load(path, self._target, kind))
        return {(_series_of(point), point.time_ns) for point in map(_parse, lines)}

    def gone(self, points: set[tuple[Series, int]]) -> int:
        """How many of these are in the journal no more."""
        return sum(time_ns not in self.points.get(series, ()) for series, time_ns in points)


def verify(root: Path, run: str, server: Queryable) -> Verdict:
    """Compare one run, dead or alive. Raises `RunNotFoundError`, and what the transport raises."""
    paths = process_directories(root, run)
    if not paths:
        raise RunNotFoundError(f"run {run!r} is not in {root}")
    verdict, journal, on_server = Verdict(run), _Journal(paths, server.target), _Server(server, run)
    try:
        journal.read(verdict)
        for series in sorted(journal.points.keys() | on_server.series()):
            stored = on_server.points(series, sorted(journal.points.get(series, {})))
            journal.catch_up()
            _compare(series, journal, stored, verdict)
    finally:
        journal.close()
    _account_for_deleted(journal, verdict)
    return verdict


def _account_for_deleted(journal: _Journal, verdict: Verdict) -> None:
    """What was delivered and then deleted from the journal is on the server alone, or set aside: up to the count."""
    refused, given_up = journal.gone(journal.quarantined), journal.gone(journal.dropped)
    verdict.accepted += verdict.forgotten + verdict.dropped - verdict.dropped_by_hand
    verdict.quarantined += refused
    verdict.dropped += given_up
    expected = max(0, verdict.forgotten - refused - given_up)
    explained = min(verdict.unknown, expected)
    verdict.delivered += explained
    verdict.unknown -= explained
    if explained < expected:
        verdict.missing += expected - explained
        verdict.name(f"missing on the server: {expected - explained} points that are in the journal no more")
    for difference in verdict.strangers[: verdict.unknown]:
        verdict.name(difference)


def _parse(line: str) -> Point:
    """A line; one that is no line protocol becomes a point that no server has."""
    try:
        return parse_line(line)
    except ValueError:
        return Point("", {"line": line}, {}, 0)


def _points_of(entry: Values | Text, started_ns: int) -> Iterator[Point]:
    if isinstance(entry, Text):
        yield from (_parse(line) for line in entry.body.decode().split("\n") if entry.kind == LINES)
        return
    tags = dict(entry.shape.tags)
    for time_ns, step, *values in entry.rows:
        for metric, value in zip(entry.shape.metrics, values, strict=True):
            code = nonfinite_code(value)
            number: dict[str, Any] = {"nonfinite": code} if code else {"value": value}
            elapsed_ms = (time_ns - started_ns) // 1_000_000
            yield Point("metrics", {**tags, "metric": metric}, {**number, "step": step, "elapsed": elapsed_ms}, time_ns)


def _series_of(point: Point) -> Series:
    return point.measurement, tuple(sorted(point.tags.items()))


def _stored(fields: dict[str, Any]) -> Stored:
    return tuple(sorted((name, _bits(value)) for name, value in fields.items() if value is not None))


def _bits(value: Any) -> Any:
    """Floats by their bits: 0.0 and -0.0 differ. Whole floats come back from JSON as ints, so ints are floats too.

    But for those that a float cannot tell apart: of these, floats are ints.
    """
    if isinstance(value, str):
        return value
    return int(value) if abs(value) >= 2**53 else struct.pack("<d", value)


def _compare(series: Series, journal: _Journal, stored: dict[int, Stored], verdict: Verdict) -> None:
    logged = journal.points.get(series, {})
    verdict.accepted += len(logged)
    where = f"{series[0]} {dict(series[1]).get('metric') or dict(series[1])}"
    for time_ns, (fields, acked) in logged.items():
        there = stored.pop(time_ns, None)
        if there == fields:
            verdict.delivered += 1
        elif (series, time_ns) in journal.quarantined:
            verdict.quarantined += 1
        elif (series, time_ns) in journal.dropped:
            verdict.dropped += 1
            verdict.dropped_by_hand += 1
        elif there is not None:
            verdict.altered += 1
            verdict.name(f"altered: {where} at {time_ns}: logged {_show(fields)}, on the server {_show(there)}")
        elif not acked:
            verdict.pending += 1
        else:
            verdict.missing += 1
            verdict.name(f"missing on the server: {where} at {time_ns}: {_show(fields)}")
    verdict.unknown += len(stored)
    for time_ns, there in list(stored.items())[-3:]:
        verdict.strangers.append(f"on the server, not in the journal: {where} at {time_ns}: {_show(there)}")


def _show(fields: Stored) -> str:
    values = ((name, struct.unpack("<d", bits)[0] if isinstance(bits, bytes) else bits) for name, bits in fields)
    return ", ".join(f"{name}={value}" for name, value in values)


class _Server:
    """What a server holds of a run."""

    def __init__(self, server: Queryable, run: str) -> None:
        self._server, self._run = server, run

    def series(self) -> set[Series]:
        """Every series of the run."""
        return {
            (measurement, _tags(one["tags"]))
            for measurement in influxql.FIELDS
            for one in self._server.query(influxql.series_of_run(measurement, self._run))
        }

    def points(self, series: Series, times_ns: Sequence[int]) -> dict[int, Stored]:
        """Time stamp → fields of one series, read in windows of about WINDOW_POINTS."""
        measurement, tags = series
        names = influxql.FIELDS.get(measurement)
        found: dict[int, Stored] = {}
        if names is None:
            return found
        edges = [None, *times_ns[WINDOW_POINTS::WINDOW_POINTS], None]
        for since_ns, until_ns in pairwise(edges):
            for one in self._server.query(influxql.points_of_series(measurement, dict(tags), since_ns, until_ns)):
                if _tags(one["tags"]) == tags:
                    for time_ns, *values in one["values"]:
                        found[time_ns] = _stored(dict(zip(names, values, strict=True)))
        return found


def _tags(tags: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in tags.items() if value))
