"""Points of metrics as arrays in the order of time: 10 to 30 bytes a point. Knows numpy."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metriclog.points import Tags, from_nonfinite_code
from metriclog.segments import Row, Shape

CHUNK_ROWS = 4096
# What metriclog never writes: neither a value nor a code for none, or both. A NaN unlike all others.
_BROKEN_BITS = 0x7FF8_0000_0BAD_0BAD
_BROKEN = struct.unpack("<d", struct.pack("<q", _BROKEN_BITS))[0]
_NO_INT = -(2**63)  # where a whole number is missing

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Series = tuple[str, Tags]  # measurement, tags sorted
_Key = tuple[Tags, tuple[str, ...]]  # of a shape


@dataclass(slots=True)
class Block:
    """Points of one series in the order of time. `bits` of the value: so -0.0 is not 0.0, and NaN is NaN."""

    times_ns: Ints
    bits: Ints
    steps: Ints
    elapsed_ms: Ints
    acked: Bools

    def part(self, chosen: Any) -> Block:
        """The points that a slice, a mask or indexes choose."""
        times_ns, bits, steps = self.times_ns[chosen], self.bits[chosen], self.steps[chosen]
        return Block(times_ns, bits, steps, self.elapsed_ms[chosen], self.acked[chosen])

    def equals(self, other: Block) -> Bools:
        """Point by point whether two blocks of the same length hold the same fields."""
        same = (self.bits == other.bits) & (self.steps == other.steps) & (self.elapsed_ms == other.elapsed_ms)
        return np.asarray(same, np.bool_)

    def show(self, index: int) -> str:
        """The fields of one point in words."""
        value = float(self.bits[index : index + 1].view(np.float64)[0])
        shown = "none, or more than that" if self.bits[index] == _BROKEN_BITS else repr(value)
        whole = {"step": int(self.steps[index]), "elapsed": int(self.elapsed_ms[index])}
        return ", ".join(
            [f"value={shown}", *(f"{name}={number}" for name, number in whole.items() if number != _NO_INT)]
        )


def of_answer(rows: Sequence[Sequence[Any]]) -> Block:
    """What a server answered: rows of (time, value, step, elapsed, nonfinite)."""
    values = np.fromiter((_number(row[1], row[4]) for row in rows), np.float64, len(rows))
    times, steps, elapsed = (
        np.fromiter((_NO_INT if row[index] is None else row[index] for row in rows), np.int64, len(rows))
        for index in (0, 2, 3)
    )
    return Block(times, _bits(values), steps, elapsed, np.ones(len(rows), np.bool_))


def _number(value: float | None, code: int | None) -> float:
    if code is None:
        return _BROKEN if value is None else value
    return from_nonfinite_code(code) if value is None and code in (1, 2, 3) else _BROKEN


def _bits(values: NDArray[np.float64]) -> Ints:
    """The bits of floats; all NaNs get the same ones."""
    nan = np.isnan(values) & (values.view(np.int64) != _BROKEN_BITS)
    return np.where(nan, math.nan, values).view(np.int64)


@dataclass(slots=True)
class _Chunk:
    """Rows of one shape: all but the values is shared by its metrics."""

    times_ns: Ints
    steps: Ints
    elapsed_ms: Ints
    acked: Bools
    bits: Ints  # one column a metric

    def column(self, index: int) -> Block:
        return Block(self.times_ns, self.bits[:, index], self.steps, self.elapsed_ms, self.acked)


class Columns:
    """What journals hold of metrics, by series."""

    def __init__(self) -> None:
        self._rows: dict[_Key, list[tuple[Row, int, bool]]] = {}  # not yet packed: (row, start of the run, acked)
        self._chunks: dict[_Key, list[_Chunk]] = {}
        self._places: dict[Series, list[tuple[_Key, int]]] = {}

    def add(self, shape: Shape, rows: Sequence[Row], acked: int, started_ns: int) -> None:
        """Take in rows of one shape, of which the first `acked` are acknowledged."""
        key = shape.tags, shape.metrics
        if key not in self._rows:
            self._rows[key], self._chunks[key] = [], []
            for index, metric in enumerate(shape.metrics):
                series = "metrics", tuple(sorted((*shape.tags, ("metric", metric))))
                self._places.setdefault(series, []).append((key, index))
        self._rows[key] += [(row, started_ns, index < acked) for index, row in enumerate(rows)]
        if len(self._rows[key]) >= CHUNK_ROWS:
            self._pack(key)

    def series(self) -> set[Series]:
        """Every series."""
        return set(self._places)

    def block(self, series: Series) -> Block:
        """All points of a series."""
        found = [of_answer([])]
        for key, index in self._places.get(series, []):
            self._pack(key)
            found += [chunk.column(index) for chunk in self._chunks[key]]
        times = np.concatenate([one.times_ns for one in found])
        whole = Block(
            times,
            np.concatenate([one.bits for one in found]),
            np.concatenate([one.steps for one in found]),
            np.concatenate([one.elapsed_ms for one in found]),
            np.concatenate([one.acked for one in found]),
        )
        return whole if bool(np.all(times[1:] >= times[:-1])) else whole.part(np.argsort(times, kind="stable"))

    def _pack(self, key: _Key) -> None:
        rows, self._rows[key] = self._rows[key], []
        if rows:
            times = np.array([row[0] for row, _, _ in rows], np.int64)
            started = np.array([started_ns for _, started_ns, _ in rows], np.int64)
            values = np.array([row[2:] for row, _, _ in rows], np.float64).reshape(len(rows), len(key[1]))
            steps = np.array([row[1] for row, _, _ in rows], np.int64)
            acked = np.array([is_acked for _, _, is_acked in rows], np.bool_)
            self._chunks[key].append(_Chunk(times, steps, (times - started) // 1_000_000, acked, _bits(values)))
