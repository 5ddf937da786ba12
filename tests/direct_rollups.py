"""Roll-ups and summaries computed directly, record by record in plain Python, and random streams to compute them of."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any

from hypothesis import strategies as st

from metriclog.levels import LEVELS
from metriclog.points import Point, Tags, parse_line
from metriclog.rollups import Rollups
from metriclog.segments import Row, Shape, Values
from tests import accepted

START_NS = 1_700_000_000 * 10**9
BASE: Tags = (("experiment", "e"), ("run", "r"))
SHAPES = (
    Shape(16, ("a", "b", "c"), BASE),
    Shape(17, ("b",), BASE),
    Shape(18, ("c", "a"), (("run", "r"), ("experiment", "e"))),  # the same series, whatever the order
    Shape(19, ("a", "late"), (*BASE, ("model", "m 2"))),
    Shape(20, ("a",), (*BASE, ("rank", "1"))),
)
SUMMARY_NS = 10 * 10**9

Logged = tuple[Shape, Row]
Series = tuple[Tags, str]
Record = tuple[int, int, float]  # time_ns, step, value
Name = tuple[str, Tags, int]  # measurement, tags, time_ns


# -- streams ----------------------------------------------------------------------------------------------------

SIGNALLING_NAN = struct.unpack("<d", b"\x01\0\0\0\0\0\xf0\x7f")[0]
TOP = 1.7976931348623157e308
VALUES = st.sampled_from([math.nan, SIGNALLING_NAN, math.inf, -math.inf, 0.0, -0.0, TOP, -1e308, 1e308, 0.1, 0.7])
SEVENTHS = st.integers(-(10**6), 10**6).map(lambda number: number / 7)  # whose sums have to be rounded
MOVES = st.sampled_from([1, 1, 1, 1, 0, 2, 7, 10, 93, 1000, 123_456, -1, -9, -10, -300])
JUMPS = st.sampled_from([-(2**63), 2**63 - 1, 0, -1, -11, 10**6, 999_999]) | accepted.INT64
GAPS_NS = st.sampled_from([1, 64, 10**6, 10**9, 4 * 10**9, 10**10, 3 * 10**10])


@st.composite
def streams(draw: st.DrawFn, max_size: int = 30) -> list[Logged]:
    """Rows of several shapes in the order in which they were logged."""
    time_ns, step, rows = START_NS - draw(st.sampled_from([0, 1, 10**12])), draw(st.integers(-30, 30)), []
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    values = draw(
        st.sampled_from([VALUES, accepted.FLOATS, SEVENTHS, st.integers(-9, 9).map(float), VALUES | SEVENTHS])
    )
    for _ in range(draw(st.integers(1, max_size))):
        step = draw(JUMPS) if draw(st.integers(0, 19)) == 0 else max(-(2**63), min(step + draw(MOVES), 2**63 - 1))
        time_ns += draw(GAPS_NS)
        shape = draw(st.sampled_from(shapes))
        rows.append((shape, (time_ns, step, *[draw(values) for _ in shape.metrics])))
    return rows


def entries_of(rows: Sequence[Logged]) -> list[Values]:
    """As a journal is read: rows of one shape that follow each other come in one entry."""
    return [Values(shape, [row for _, row in same], 0, 0) for shape, same in groupby(rows, lambda logged: logged[0])]


def cut(rows: Sequence[Logged], places: Sequence[int]) -> list[list[Logged]]:
    """The stream in batches; some are empty."""
    bounds = [0, *sorted(place % (len(rows) + 1) for place in places), len(rows)]
    return [list(rows[begin:end]) for begin, end in pairwise(bounds)]


CUTS = st.lists(st.integers(0, 10**6), max_size=12)


def rolled(batches: Sequence[Sequence[Logged]]) -> list[bytes]:
    """All lines of a stream in these batches."""
    rollups = Rollups(START_NS)
    lines = [line for batch in batches for line in rollups.add(entries_of(batch))]
    return lines + rollups.finish()


def named(lines: Sequence[bytes]) -> dict[Name, Point]:
    """Lines as points, by what InfluxDB tells points apart."""
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    points = [parse_line(line[:-1].decode()) for line in lines]
    found = {(point.measurement, tuple(sorted(point.tags.items())), point.time_ns): point for point in points}
    assert len(found) == len(lines), "a point was written twice without a new record in it"
    return found


# -- the direct computation -------------------------------------------------------------------------------------


def by_series(rows: Sequence[Logged]) -> dict[Series, list[Record]]:
    """The records of each series, in order."""
    records: dict[Series, list[Record]] = {}
    for shape, (time_ns, step, *values) in rows:
        for metric, value in zip(shape.metrics, values, strict=True):
            records.setdefault((tuple(sorted(shape.tags)), metric), []).append((time_ns, step, value))
    return records


def mean(values: Sequence[float]) -> float:
    """Rounded once or twice."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return float(sum(map(Fraction, values)) / len(values))


def bucket_fields(run: Sequence[Record], size: int, started_ns: int = START_NS) -> dict[str, Any]:
    """The fields of a bucket point over these records."""
    time_ns, step, _ = run[-1]
    finite = [value for _, _, value in run if math.isfinite(value)]
    middle = step // size * size + size // 2
    fields: dict[str, Any] = {
        "step": max(-(2**63), min(middle, 2**63 - 1)),
        "elapsed": (time_ns - started_ns) // 1_000_000,
    }
    if finite:
        fields |= {"value": mean(finite), "min": min(finite), "max": max(finite)}
    if len(finite) < len(run):
        fields["nonfinite"] = len(run) - len(finite)
    return fields


def summary_fields(records: Sequence[Record]) -> dict[str, Any]:
    """The fields of a summary over all these records."""
    finite = [(value, step) for _, step, value in records if math.isfinite(value)]
    values = [value for value, _ in finite]
    fields: dict[str, Any] = {
        "last_step": records[-1][1],
        "count": len(records),
        "nonfinite": len(records) - len(finite),
    }
    if finite:
        low, high = min(values), max(values)
        fields |= {"last": values[-1], "min": low, "max": high, "mean": mean(values)}
        fields |= {"min_step": finite[values.index(low)][1], "max_step": finite[values.index(high)][1]}
    return fields


def assert_fields(point: Point, wanted: dict[str, Any], size: float) -> None:
    """Exactly these fields; but a mean that was summed up in floats may differ from the exact one by its roundings."""
    key = "mean" if point.measurement == "summary" else "value"
    assert point.fields.keys() == wanted.keys()
    for name, value in point.fields.items():
        assert type(value) is type(wanted[name])
        if name == key:
            assert isinstance(value, float)
            assert math.isclose(value, wanted[name], rel_tol=0, abs_tol=size * 1e-12 + 1e-322)
            assert wanted["min"] <= value <= wanted["max"]
        else:
            assert value == wanted[name], name
    if "last" in wanted:
        assert accepted.bits(float(point.fields["last"])) == accepted.bits(wanted["last"])


def largest(records: Sequence[Record]) -> float:
    return max((abs(value) for _, _, value in records if math.isfinite(value)), default=0.0)


@dataclass
class Direct:
    """What is to be written after each batch, by the book: a list of records for every open bucket."""

    seen: dict[Series, list[Record]] = field(default_factory=dict)
    open: dict[tuple[Series, int], list[Record]] = field(default_factory=dict)
    fresh: set[tuple[Series, int]] = field(default_factory=set)
    changed: set[Series] = field(default_factory=set)
    summary_ns: int | None = None

    def add(self, rows: Sequence[Logged]) -> Iterator[tuple[Name, dict[str, Any]]]:
        """What is due after these rows."""
        for logged in rows:
            for series, (record,) in by_series([logged]).items():
                self.seen.setdefault(series, []).append(record)
                self.changed.add(series)
                for size in LEVELS:
                    run = self.open.setdefault((series, size), [])
                    if run and run[-1][1] // size != record[1] // size:
                        yield from self.write(series, size)
                        run.clear()
                    run.append(record)
                    self.fresh.add((series, size))
        newest = max((row[1] for _, row in rows), default=-(2**63))
        for (series, size), run in self.open.items():
            if (run[-1][1] // size + 1) * size <= newest:
                yield from self.write(series, size)
        if rows and (self.summary_ns is None or rows[-1][1][0] - self.summary_ns >= SUMMARY_NS):
            self.summary_ns = rows[-1][1][0]
            yield from self.summaries()

    def finish(self) -> Iterator[tuple[Name, dict[str, Any]]]:
        """What is due at the end."""
        for series, size in list(self.open):
            yield from self.write(series, size)
        yield from self.summaries()

    def write(self, series: Series, size: int) -> Iterator[tuple[Name, dict[str, Any]]]:
        if (series, size) in self.fresh:
            run = self.open[series, size]
            self.fresh.discard((series, size))
            yield self.name(f"metrics_{size}", series, run), bucket_fields(run, size)

    def summaries(self) -> Iterator[tuple[Name, dict[str, Any]]]:
        for series in self.changed:
            yield self.name("summary", series, self.seen[series]), summary_fields(self.seen[series])
        self.changed.clear()

    @staticmethod
    def name(measurement: str, series: Series, records: Sequence[Record]) -> Name:
        return measurement, tuple(sorted((*series[0], ("metric", series[1])))), records[-1][0]


def assert_due(lines: Sequence[bytes], due: dict[Name, dict[str, Any]], size: float) -> None:
    """These lines say what is due, no more and no less."""
    points = named(lines)
    assert points.keys() == due.keys()
    for name, point in points.items():
        assert_fields(point, due[name], size)
