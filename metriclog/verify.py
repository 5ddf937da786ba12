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
from metriclog.replay import JournalReader
from metriclog.segments import LINES, LOSS, Damage, Text, Values, position_of

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

    @property
    def holds(self) -> bool:
        """Whether every accepted point is where the counts say, and nothing else is on the server."""
        sums = self.accepted == self.delivered + self.pending + self.quarantined + self.dropped
        return sums and not (self.missing or self.altered or self.unknown or self.damaged)

    def name(self, difference: str) -> None:
        """Put a difference on record."""
        if len(self.differences) < MAX_NAMED:
            self.differences.append(difference)


@dataclass(slots=True)
class _Journal:
    """What the journal holds of a run: per series and time stamp the fields, and whether it is acknowledged."""

    points: dict[Series, dict[int, tuple[Stored, bool]]] = field(default_factory=dict)
    quarantined: set[tuple[Series, int]] = field(default_factory=set)
    dropped: set[tuple[Series, int]] = field(default_factory=set)  # by hand, out of the quarantine


def verify(root: Path, run: str, server: Queryable) -> Verdict:
    """Compare one run. Raises `RunNotFoundError`, and what the transport raises."""
    paths = process_directories(root, run)
    if not paths:
        raise RunNotFoundError(f"run {run!r} is not in {root}")
    verdict, journal = Verdict(run), _Journal()
    for path in paths:
        _read_directory(path, server.target, journal, verdict)
    present = sum(len(stamps) for stamps in journal.points.values())
    verdict.accepted += present + verdict.forgotten + verdict.dropped
    on_server = _Server(server, run)
    for series in sorted(journal.points.keys() | on_server.series()):
        _compare(series, journal, on_server.points(series, sorted(journal.points.get(series, {}))), verdict)
    # What was delivered and then deleted from the journal is on the server and nowhere else: expected, up to the count.
    explained = min(verdict.unknown, verdict.forgotten)
    verdict.unknown -= explained
    verdict.delivered += explained
    return verdict


def _read_directory(path: Path, target: str, journal: _Journal, verdict: Verdict) -> None:
    ack = load_ack(path, target)
    meta = read_meta(path)
    started_ns = int(meta["started_ns"]) if meta else 0
    reader = JournalReader(path)
    while found := reader.read(100_000):
        for number, entry in found:
            done = position_of(number, entry.end) <= ack.position
            if isinstance(entry, Damage):
                verdict.damaged += not entry.torn
                if not entry.torn:
                    verdict.name(f"damaged record: {path.name}/{number:08d}.seg, bytes {entry.start} to {entry.end}")
            elif isinstance(entry, Text) and entry.kind == LOSS:
                verdict.dropped += int(entry.json()["dropped"])
                verdict.forgotten += int(entry.json().get("gone", 0))
            else:
                for point in _points_of(entry, started_ns):
                    stamps = journal.points.setdefault(_series_of(point), {})
                    stamps[point.time_ns] = (_stored(point.fields), done)
    reader.close()
    for kind, lines in (("quarantine", journal.quarantined), ("dropped", journal.dropped)):
        for refused in quarantine.load(path, target, kind):
            point = parse_line(refused.line)
            lines.add((_series_of(point), point.time_ns))


def _points_of(entry: Values | Text, started_ns: int) -> Iterator[Point]:
    if isinstance(entry, Text):
        yield from (parse_line(line) for line in entry.body.decode().split("\n") if entry.kind == LINES)
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
    """Floats by their bits: 0.0 and -0.0 differ. Whole floats come back from JSON as ints, so ints are floats too."""
    return struct.pack("<d", value) if isinstance(value, (int, float)) else value


def _compare(series: Series, journal: _Journal, stored: dict[int, Stored], verdict: Verdict) -> None:
    logged = journal.points.get(series, {})
    where = f"{series[0]} {dict(series[1]).get('metric') or dict(series[1])}"
    for time_ns, (fields, acked) in logged.items():
        there = stored.pop(time_ns, None)
        if there == fields:
            verdict.delivered += 1
        elif (series, time_ns) in journal.quarantined:
            verdict.quarantined += 1
        elif (series, time_ns) in journal.dropped:
            verdict.dropped += 1
        elif there is not None:
            verdict.altered += 1
            verdict.name(f"altered: {where} at {time_ns}: logged {_show(fields)}, on the server {_show(there)}")
        elif not acked:
            verdict.pending += 1
        else:
            verdict.missing += 1
            verdict.name(f"missing on the server: {where} at {time_ns}: {_show(fields)}")
    verdict.unknown += len(stored)
    for time_ns, there in list(stored.items())[:3]:
        verdict.name(f"on the server, not in the journal: {where} at {time_ns}: {_show(there)}")


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
        names = influxql.FIELDS[measurement]
        found: dict[int, Stored] = {}
        edges = [None, *times_ns[WINDOW_POINTS::WINDOW_POINTS], None]
        for since_ns, until_ns in pairwise(edges):
            for one in self._server.query(influxql.points_of_series(measurement, dict(tags), since_ns, until_ns)):
                if _tags(one["tags"]) == tags:
                    for time_ns, *values in one["values"]:
                        found[time_ns] = _stored(dict(zip(names, values, strict=True)))
        return found


def _tags(tags: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in tags.items() if value))
