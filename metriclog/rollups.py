"""Step buckets and summaries from a stream of records, as lines for the wire. Pure: no clock, no files, no threads.

A chart of `metrics_1000` costs a thousandth of one of `metrics`, and its `min` and `max` still show a spike of one
step. Every point that comes out is a function of its series' records up to the one whose time stamp it bears, however
the stream was cut into batches: to be computed again after a crash changes nothing on the server.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from metriclog.batches import Register, gather
from metriclog.buckets import Filled, Floats, Ints, OpenBuckets, joined
from metriclog.levels import LEVELS, MEASUREMENTS
from metriclog.points import series_key
from metriclog.segments import Values

_NAMES = [name.encode() for name in MEASUREMENTS]
SUMMARY_EVERY_NS = 10 * 10**9

_STATE = struct.Struct("<8sII")  # magic, version, crc of the rest
_MAGIC, _VERSION = b"MLROLLUP", 1


class Rollups:
    """Roll-ups and summaries of one stream: `add` every batch in the order of the journal, `finish` at its end."""

    def __init__(self, started_ns: int) -> None:
        self._register = Register()
        self._keys: list[bytes] = []  # of each series what follows the measurement's name
        self._open = OpenBuckets(started_ns)
        self._summary_ns: int | None = None  # the stream's time when summaries were last written

    def add(self, entries: Iterable[Values]) -> list[bytes]:
        """The lines that are due after these entries; each ends in a line break."""
        records = gather(entries, self._register)
        if records is None:
            return []
        self._learn()
        filled = self._open.take(records)
        passed = self._open.passed(int(records.steps.max()))
        lines = self._bucket_lines(joined([*filled, passed] if passed else filled)) if filled or passed else []
        newest_ns = int(records.times_ns.max())
        if self._summary_ns is None or abs(newest_ns - self._summary_ns) >= SUMMARY_EVERY_NS:
            self._summary_ns = newest_ns
            lines += self._summary_lines()
        return lines

    def finish(self) -> list[bytes]:
        """The lines of everything that no line says yet."""
        rest = self._open.rest()
        return (self._bucket_lines(rest) if rest else []) + self._summary_lines()

    def doubt(self) -> None:
        """Take what is open for not written: after an `add` whose lines were thrown away, who knows what was."""
        self._open.doubt()

    def state(self) -> bytes:
        """All that is needed to go on in another process, checked by `restore`."""
        series: list[tuple[Any, list[str]]] = []
        for tags, metric in self._register.series:
            if not series or series[-1][0] != tags:
                series.append((tags, []))
            series[-1][1].append(metric)
        head = orjson.dumps({"series": series, "summary_ns": self._summary_ns})
        body = b"".join([struct.pack("<I", len(head)), head, *self._open.dump()])
        return _STATE.pack(_MAGIC, _VERSION, crc32(body)) + body

    @classmethod
    def restore(cls, state: bytes, started_ns: int) -> Rollups:
        """Go on from a state. Raises `ValueError` for one that is damaged or of another version."""
        body = _checked(state)
        head_size = struct.unpack_from("<I", body)[0]
        head = orjson.loads(body[4 : 4 + head_size])
        rollups = cls(started_ns)
        for tags, metrics in head["series"]:
            pairs = tuple((key, value) for key, value in tags)
            for metric in metrics:
                rollups._register.number(pairs, metric)
        rollups._learn()
        rollups._open.load(body[4 + head_size :])
        rollups._summary_ns = head["summary_ns"]
        return rollups

    def _learn(self) -> None:
        """Make place for the series that are new."""
        for tags, metric in self._register.series[len(self._keys) :]:
            self._keys.append(series_key("", (*tags, ("metric", metric))).encode())
        self._open.grow(len(self._keys))

    def _bucket_lines(self, filled: Filled) -> list[bytes]:
        floats = (_plain(filled.mean()), _plain(filled.low), _plain(filled.high))
        numbers = zip(*(_tokens(some) for some in floats), strict=True)
        fields = [b"value=%b,min=%b,max=%b," % three for three in numbers]
        for index in np.flatnonzero(filled.nonfinite).tolist():
            some = fields[index] if filled.count[index] else b""
            fields[index] = b"%bnonfinite=%di," % (some, filled.nonfinite[index])
        names = [_NAMES[level] for level in filled.level.tolist()]
        keys = [self._keys[series] for series in filled.ids.tolist()]
        ends = (_middles(filled).tolist(), filled.elapsed_ms.tolist(), filled.time_ns.tolist())
        return [b"%b%b %bstep=%di,elapsed=%di %d\n" % parts for parts in zip(names, keys, fields, *ends, strict=True)]

    def _summary_lines(self) -> list[bytes]:
        filled = self._open.summaries()
        if filled is None:
            return []
        steps = (self._open.low_step[filled.ids].tolist(), self._open.high_step[filled.ids].tolist())
        low, high, mean = _plain(filled.low), _plain(filled.high), _plain(filled.mean())
        floats = (self._open.last[filled.ids], low, high, mean)
        numbers = zip(*(_tokens(one) for one in floats), filled.step.tolist(), *steps, strict=True)
        fields = [b"last=%b,min=%b,max=%b,mean=%b,last_step=%di,min_step=%di,max_step=%di" % some for some in numbers]
        for index in np.flatnonzero(filled.count == 0).tolist():
            fields[index] = b"last_step=%di" % filled.step[index]
        keys = [self._keys[series] for series in filled.ids.tolist()]
        nonfinite = filled.nonfinite.tolist()
        counts = (filled.count + filled.nonfinite).tolist()
        ends = zip(keys, fields, counts, nonfinite, filled.time_ns.tolist(), strict=True)
        return [b"summary%b %b,count=%di,nonfinite=%di %d\n" % parts for parts in ends]


def _plain(floats: Floats) -> Floats:
    """0.0 for -0.0: which of the two numpy calls the smaller depends on where in an array they stand."""
    return floats + 0.0


def _tokens(floats: Floats) -> list[bytes]:
    """The digits of each float; `null` for what is not finite."""
    tokens: list[bytes] = orjson.dumps(floats, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return tokens


def _middles(filled: Filled) -> Ints:
    """The middle steps of the buckets, as far as 64 bits reach."""
    size = np.array(LEVELS, np.int64)[filled.level]
    bucket = filled.step // size
    middle = bucket * size + size // 2
    # Beyond the ends the sum has wrapped around: its sign is not the bucket's.
    limit = np.where(bucket < 0, -(2**63), 2**63 - 1)
    return np.where((middle < 0) == (bucket < 0), middle, limit)


def _checked(state: bytes) -> bytes:
    """The inside of a state. Raises `ValueError`."""
    magic, version, crc = _STATE.unpack_from(state) if len(state) >= _STATE.size else (b"", 0, 0)
    if magic != _MAGIC:
        raise ValueError(f"these {len(state):,} bytes are no state of roll-ups")
    if version != _VERSION:
        raise ValueError(f"this state of roll-ups has format {version}, not {_VERSION}; make it again from the journal")
    if crc32(state[_STATE.size :]) != crc:
        raise ValueError("this state of roll-ups is damaged; make it again from the journal")
    return state[_STATE.size :]
