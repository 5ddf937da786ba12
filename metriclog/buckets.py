"""What the open step buckets of all series hold, level by level, and what a batch of records makes of them. Pure numpy.

A *run* is a stretch of consecutive records of one series in one bucket. A run of a level lies within one run of the
next, so each level is computed from the runs of the one below; the summary is one more level with a single bucket.

What comes out must not depend on where batches are cut. Counts, minima and maxima are the same in whatever order they
are joined; sums of floats are not, so they have one order: a run's sum is the sum of the complete runs within it, one
after the other, plus that of the last one. Hence each level keeps its sum without the open run of the level below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metriclog.levels import LEVELS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.int8]
# The real part sums the values up to HUGE, the imaginary part the larger ones, scaled down: neither can overflow.
Sums = NDArray[np.complex128]

SUMMARY = len(LEVELS)
HUGE, SCALE = 2.0**960, 2.0**-64
_SHORT = 32  # elements of a run that are added with those of all other runs at once

_CONSTANT, _AS_BEFORE, _EACH = b"c", b"b", b"e"  # how a row is dumped

# Every array that a series has a place in: its type, what stands there at first, whether once a level.
LAYOUT: dict[str, tuple[str, Any, bool]] = {
    "sums": ("<c16", 0, True),  # without the open run of the level below
    "count": ("<i8", 0, True),  # finite values
    "nonfinite": ("<i8", 0, True),
    "low": ("<f8", np.inf, True),
    "high": ("<f8", -np.inf, True),
    "fresh": ("|b1", False, True),  # has records that no emitted point holds
    "step": ("<i8", 0, False),  # of the newest record, which is the last one of the open bucket of every level
    "time_ns": ("<i8", 0, False),
    "elapsed_ms": ("<i8", 0, False),
    "last": ("<f8", 0.0, False),  # the last finite value
    "low_step": ("<i8", 0, False),
    "high_step": ("<i8", 0, False),
}


@dataclass(slots=True)
class Records:
    """Records of several series: those of one series follow each other, in the order of the stream."""

    ids: Ints  # of the series, each once
    first: Ints  # where the records of each begin in what follows
    times_ns: Ints
    steps: Ints
    values: Floats

    @property
    def last(self) -> Ints:
        """Where the records of each series end."""
        return ends_of(self.first, len(self.values)) - 1


@dataclass(slots=True)
class Runs:
    """Runs of several series, those of one series one after the other."""

    first: Ints  # the first run of each series
    bucket: Ints
    end: Ints  # the index of a run's last record
    sums: Sums
    count: Ints
    nonfinite: Ints
    low: Floats
    high: Floats

    @property
    def last(self) -> Ints:
        """The last run of each series."""
        return ends_of(self.first, len(self.bucket)) - 1


@dataclass(slots=True)
class Filled:
    """Buckets to be written, of one level or several."""

    level: Ints
    ids: Ints
    step: Ints  # of the last record
    time_ns: Ints
    elapsed_ms: Ints
    sums: Sums
    count: Ints
    nonfinite: Ints
    low: Floats
    high: Floats

    def mean(self) -> Floats:
        """Of the finite values: never beyond the smallest and the largest, never infinite. Without any: whatever."""
        count = np.maximum(self.count, 1)
        with np.errstate(over="ignore"):
            mean = self.sums.real / count + self.sums.imag / count / SCALE
        return np.asarray(np.minimum(np.maximum(mean, self.low), self.high), np.float64)


def joined(parts: Iterable[Filled]) -> Filled:
    """Several as one."""
    listed = list(parts)
    return Filled(*(np.concatenate([getattr(part, name) for part in listed]) for name in Filled.__slots__))


class OpenBuckets:
    """The open bucket of each series at each level. A series without a record holds nothing, which joins anything."""

    sums: Sums
    count: Ints
    nonfinite: Ints
    low: Floats
    high: Floats
    fresh: Bools
    step: Ints
    time_ns: Ints
    elapsed_ms: Ints
    last: Floats
    low_step: Ints
    high_step: Ints

    def __init__(self, started_ns: int) -> None:
        self.size = 0
        self._started_ns = started_ns
        self._room(0)

    def grow(self, size: int) -> None:
        """Make place for this many series."""
        if size > len(self.step):
            self._room(max(size, 2 * len(self.step)))
        self.size = size

    def _room(self, room: int) -> None:
        for name, (kind, initial, by_level) in LAYOUT.items():
            array = np.full((SUMMARY + 1, room) if by_level else room, initial, kind)
            if self.size:
                array[..., : self.size] = getattr(self, name)[..., : self.size]
            setattr(self, name, array)

    def dump(self) -> list[bytes]:
        """All that is held. Much of it is the same in all series or on two levels, and then takes no room."""
        parts: list[bytes] = []
        before: Ints | Bytes = np.empty(0, np.int64)
        for row in self._rows():
            if bool(np.all(row == row[0])):
                parts += [_CONSTANT, row[:1].tobytes()]
            else:
                parts += [_AS_BEFORE] if np.array_equal(row, before) else [_EACH, row.tobytes()]
            before = row
        return parts

    def load(self, dumped: bytes) -> None:
        """Take over what `dump` made of as many series as there are."""
        at = 0
        before: Ints | Bytes = np.empty(0, np.int64)
        for row in self._rows():
            way, at = dumped[at : at + 1], at + 1
            if way == _AS_BEFORE:
                row[:] = before
            else:
                count = 1 if way == _CONSTANT else self.size
                row[:] = np.frombuffer(dumped, row.dtype, count, at)
                at += count * row.itemsize
            before = row

    def _rows(self) -> Iterator[Ints | Bytes]:
        """Every array row by row, as bits: where one is written to, it is the array that changes."""
        for name, (kind, _, by_level) in LAYOUT.items():
            whole = getattr(self, name)[..., : self.size]
            for row in whole if by_level else [whole]:
                for part in (row.real, row.imag) if kind == "<c16" else (row,):
                    if self.size:
                        yield part.view("<i8" if part.itemsize == 8 else "|i1")

    def take(self, records: Records) -> list[Filled]:
        """Take in a batch and return what it closed. Afterwards every bucket with a record of it is fresh."""
        ids = records.ids
        filled: list[Filled] = []
        runs = _single(records)
        # What was open on the level below, if the batch does not go on with it: it is complete and counts here now.
        below, goes_on = np.zeros(len(ids), np.complex128), np.zeros(len(ids), np.bool_)
        for level in range(SUMMARY + 1):
            held = self.sums[level, ids]
            held = np.where(goes_on, held, held + below)
            goes_on = bucket_of(self.step[ids], level) == _coarser(runs.bucket[runs.first], level)
            closing = np.flatnonzero(~goes_on & self.fresh[level, ids])
            if len(closing):
                filled.append(self._filled(np.full(len(closing), level), ids[closing], held[closing]))
            runs, self.sums[level, ids] = _within(runs, level, np.where(goes_on, held, 0))
            if level == SUMMARY:
                self._note_extremes(records, runs)
            below = held
            filled += self._join(level, records, runs, goes_on)
        self._note_newest(records, runs)
        return filled

    def _join(self, level: int, records: Records, runs: Runs, goes_on: Bools) -> list[Filled]:
        """Add what is held to the first run of each series, hold the last one, and return the others."""
        ids, first, last = records.ids, runs.first, runs.last
        count, nonfinite, low, high = runs.count.copy(), runs.nonfinite.copy(), runs.low.copy(), runs.high.copy()
        count[first] += np.where(goes_on, self.count[level, ids], 0)
        nonfinite[first] += np.where(goes_on, self.nonfinite[level, ids], 0)
        low[first] = np.minimum(low[first], np.where(goes_on, self.low[level, ids], np.inf))
        high[first] = np.maximum(high[first], np.where(goes_on, self.high[level, ids], -np.inf))
        self.count[level, ids], self.nonfinite[level, ids] = count[last], nonfinite[last]
        self.low[level, ids], self.high[level, ids] = low[last], high[last]
        self.fresh[level, ids] = True
        if len(runs.bucket) == len(ids):
            return []
        complete = np.ones(len(runs.bucket), np.bool_)
        complete[last] = False
        owners, ends = np.repeat(ids, last - first + 1)[complete], runs.end[complete]
        times_ns = records.times_ns[ends]
        newest = (records.steps[ends], times_ns, self._elapsed_ms(times_ns))
        counts, extremes = (count[complete], nonfinite[complete]), (low[complete], high[complete])
        return [Filled(np.full(len(owners), level), owners, *newest, runs.sums[complete], *counts, *extremes)]

    def _elapsed_ms(self, times_ns: Ints) -> Ints:
        return (times_ns - self._started_ns) // 1_000_000

    def _note_extremes(self, records: Records, runs: Runs) -> None:
        """At which steps a series' smallest and largest values were first reached; called before these are held."""
        ids, first = records.ids, records.first
        for values, new, held, steps in (
            (records.values, runs.low, self.low[SUMMARY, ids], self.low_step),
            (-records.values, -runs.high, -self.high[SUMMARY, ids], self.high_step),
        ):
            better = np.flatnonzero(new < held)
            if len(better):
                hits = np.flatnonzero(values == np.repeat(new, records.last - first + 1))
                steps[ids[better]] = records.steps[hits[np.searchsorted(hits, first[better])]]

    def _note_newest(self, records: Records, runs: Runs) -> None:
        ids, last = records.ids, records.last
        self.step[ids] = records.steps[last]
        self.time_ns[ids] = times_ns = records.times_ns[last]
        self.elapsed_ms[ids] = self._elapsed_ms(times_ns)
        if not runs.nonfinite.any():
            self.last[ids] = records.values[last]
            return
        some = runs.count > 0
        finite = np.flatnonzero(np.isfinite(records.values))
        self.last[ids[some]] = records.values[finite[np.searchsorted(finite, last[some], "right") - 1]]

    def passed(self, newest_step: int) -> Filled | None:
        """The fresh buckets that end at or before this step, which are fresh no longer; None without any."""
        steps = self.step[: self.size]
        over = [bucket_of(steps, level) < newest_step // LEVELS[level] for level in range(SUMMARY)]
        return self._publish(*np.nonzero(np.array(over) & self.fresh[:SUMMARY, : self.size]))

    def doubt(self) -> None:
        """Make everything fresh that has a record."""
        self.fresh[:, : self.size] = (self.count + self.nonfinite)[:, : self.size] > 0

    def rest(self) -> Filled | None:
        """All fresh buckets, which are fresh no longer; None without any."""
        return self._publish(*np.nonzero(self.fresh[:SUMMARY, : self.size]))

    def summaries(self) -> Filled | None:
        """All fresh summaries, which are fresh no longer; None without any."""
        (ids,) = np.nonzero(self.fresh[SUMMARY, : self.size])
        return self._publish(np.full(len(ids), SUMMARY), ids)

    def _publish(self, level: Ints, ids: Ints) -> Filled | None:
        if not len(ids):
            return None
        self.fresh[level, ids] = False
        # A level's sum is what it holds itself plus that of the level below, and so on down.
        whole = np.add.accumulate(self.sums[:, ids])
        return self._filled(level, ids, whole[level, np.arange(len(ids))])

    def _filled(self, level: Ints, ids: Ints, sums: Sums) -> Filled:
        """What is held, as it is to be written."""
        of_series = (self.step[ids], self.time_ns[ids], self.elapsed_ms[ids])
        counts = (self.count[level, ids], self.nonfinite[level, ids])
        return Filled(level, ids, *of_series, sums, *counts, self.low[level, ids], self.high[level, ids])


def ends_of(starts: Ints, size: int) -> Ints:
    """Where stretches end that begin at `starts` and fill an array of this size; `np.diff` takes far longer."""
    ends = np.empty_like(starts)
    ends[:-1] = starts[1:]
    ends[-1:] = size
    return ends


def bucket_of(steps: Ints, level: int) -> Ints:
    """The bucket that a step lies in; the summary has only one."""
    return steps // LEVELS[level] if level < SUMMARY else np.zeros_like(steps)


def _single(records: Records) -> Runs:
    """Each record as a run of its own, its step as the bucket."""
    values = records.values
    ones, zeros = np.ones(len(values), np.int64), np.zeros(len(values), np.int64)
    sums = np.zeros(len(values), np.complex128)
    indexes = np.arange(len(values))
    size = np.abs(values)
    if bool(np.all(size < HUGE)):  # NaN is not
        sums.real = values
        return Runs(records.first, records.steps, indexes, sums, ones, zeros, values, values)
    finite = np.isfinite(values)
    ordinary = size < HUGE
    sums.real[ordinary] = values[ordinary]
    sums.imag[finite & ~ordinary] = values[finite & ~ordinary] * SCALE
    count = finite.astype(np.int64)
    low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    return Runs(records.first, records.steps, indexes, sums, count, ones - count, low, high)


def _coarser(bucket: Ints, level: int) -> Ints:
    """The buckets of a level from those of the level below; below the first are steps."""
    return bucket // 10 if level < SUMMARY else np.zeros_like(bucket)


def _within(runs: Runs, level: int, begin: Sums) -> tuple[Runs, Sums]:
    """The runs of a level from those of the level below; the sum of each series' first one starts from `begin`.

    Beside them what the last run of each series sums up to without the open run of the level below.
    """
    bucket = _coarser(runs.bucket, level)
    begins = np.empty(len(bucket), np.bool_)
    begins[1:] = bucket[1:] != bucket[:-1]
    begins[runs.first] = True
    starts = begins.nonzero()[0]
    ends = ends_of(starts, len(bucket))
    first = np.searchsorted(starts, runs.first)
    last = ends_of(first, len(starts)) - 1
    sums = np.zeros(len(starts), np.complex128)
    sums[first] = begin
    lengths = ends - starts
    lengths[last] -= level > 0  # single records are never open
    _fold(sums, runs.sums, starts, lengths)
    kept = sums[last]
    if level:
        sums[last] += runs.sums[runs.last]
    count, nonfinite = np.add.reduceat(runs.count, starts), np.add.reduceat(runs.nonfinite, starts)
    low, high = np.minimum.reduceat(runs.low, starts), np.maximum.reduceat(runs.high, starts)
    return Runs(first, bucket[starts], runs.end[ends - 1], sums, count, nonfinite, low, high), kept


def _fold(sums: Sums, elements: Sums, starts: Ints, lengths: Ints) -> None:
    """Add to each sum its elements strictly one after the other: numpy's own sums have an order of their own."""
    for offset in range(min(int(lengths.max()), _SHORT)):
        adding = np.flatnonzero(lengths > offset)
        sums[adding] += elements[starts[adding] + offset]
    for run in np.flatnonzero(lengths > _SHORT):
        rest = elements[starts[run] + _SHORT : starts[run] + lengths[run]]
        sums[run] = np.add.accumulate(np.concatenate([sums[run : run + 1], rest]))[-1]
