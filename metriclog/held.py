"""What the journals of one run hold, for the proof: every point with its state, also while a process writes on."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metriclog import quarantine
from metriclog.acks import load_ack
from metriclog.columns import Columns, Series
from metriclog.directory import read_meta
from metriclog.points import Point, nonfinite_code, parse_line
from metriclog.replay import JournalReader, beyond, owner_is_alive
from metriclog.segments import LINES, LOSS, Damage, Entry, Text, Values, segment_name

Stored = tuple[tuple[str, Any], ...]  # fields, sorted by name, floats as their bits
READ_POINTS = 100_000


class Held:
    """The points of a run: metrics in columns, the others line by line."""

    def __init__(self, paths: Sequence[Path], target: str) -> None:
        self.columns = Columns()
        self.lines: dict[Series, dict[int, tuple[Stored, bool]]] = {}  # (fields, acknowledged) by time stamp
        self.damage: list[str] = []
        self.dropped = self.forgotten = 0  # never kept or given up; delivered and then deleted
        self.quarantined: dict[Series, list[int]] = {}
        self.dropped_by_hand: dict[Series, list[int]] = {}
        self._target, self._paths = target, paths
        self._directories = [_Directory(path, target, self) for path in paths]

    def read(self) -> None:
        """Read everything."""
        for folder in self._directories:
            folder.read()
        self._load("quarantine", self.quarantined)
        self._load("dropped", self.dropped_by_hand)

    def catch_up(self) -> bool:
        """Read what live processes have added; whether there was anything."""
        return sum(folder.catch_up() for folder in self._directories) > 0

    def close(self) -> None:
        """Close the files."""
        for folder in self._directories:
            folder.close()

    def series(self) -> set[Series]:
        """Every series of the journals."""
        return self.columns.series() | self.lines.keys()

    def lines_of(self, series: Series) -> dict[int, tuple[Stored, bool]]:
        """The points of a series one by one."""
        block = self.columns.block(series)
        arrays = (block.times_ns, block.bits.view(np.float64), block.steps, block.elapsed_ms, block.acked)
        rows = zip(*(array.tolist() for array in arrays), strict=True)
        metrics = {time_ns: (_metric_fields(*fields), acked) for time_ns, *fields, acked in rows}
        return metrics | self.lines.get(series, {})

    def gone(self, set_aside: dict[Series, list[int]]) -> int:
        """How many of these points are in the journal no more."""
        count = 0
        for series, times_ns in set_aside.items():
            there = {*self.columns.block(series).times_ns.tolist(), *self.lines.get(series, ())}
            count += len(set(times_ns) - there)
        return count

    def _load(self, kind: str, into: dict[Series, list[int]]) -> None:
        for path in self._paths:
            for refused in quarantine.load(path, self._target, kind):
                point = _parse(refused.line)
                into.setdefault(_series_of(point), []).append(point.time_ns)


class _Directory:
    """Reads one process directory: what is there at first, and what a live process adds meanwhile."""

    def __init__(self, path: Path, target: str, held: Held) -> None:
        self._path, self._held = path, held
        self._acked = load_ack(path, target).position  # first of all: what is shipped from now on is on the server
        self._alive = owner_is_alive(path)
        meta = read_meta(path)
        self._started_ns = int(meta["started_ns"]) if meta else 0
        self._reader = JournalReader(path)

    def read(self) -> None:
        """Read what is there, with what is lost and damaged."""
        for number, entry in self._entries():
            if isinstance(entry, Damage) and not entry.torn:
                self._held.damage.append(f"{self._path / segment_name(number)}, bytes {entry.start} to {entry.end}")
            elif isinstance(entry, Text) and entry.kind == LOSS:
                lost = entry.json()
                self._held.dropped += int(lost["dropped"])
                self._held.forgotten += int(lost.get("gone", 0))
            self._take(number, entry)

    def catch_up(self) -> bool:
        """Read what has been logged since; whether there was anything."""
        before = self._reader.position
        if self._alive:
            for number, entry in self._entries():
                self._take(number, entry)
        return self._reader.position != before

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def _entries(self) -> Iterator[tuple[int, Entry]]:
        while found := self._reader.read(READ_POINTS):
            yield from found

    def _take(self, number: int, entry: Entry) -> None:
        if isinstance(entry, Damage):
            return
        left = beyond(entry, number, self._acked)
        if isinstance(entry, Values):
            fresh = len(left.rows) if isinstance(left, Values) else 0
            self._held.columns.add(entry.shape, entry.rows, len(entry.rows) - fresh, self._started_ns)
        elif entry.kind == LINES:
            for line in entry.body.decode().split("\n"):
                point = _parse(line)
                stamps = self._held.lines.setdefault(_series_of(point), {})
                stamps[point.time_ns] = (stored_fields(point.fields), left is None)


def stored_fields(fields: dict[str, Any]) -> Stored:
    """Fields as they are compared."""
    return tuple(sorted((name, _bits(value)) for name, value in fields.items() if value is not None))


def _parse(line: str) -> Point:
    """A line as a point; one that is no line protocol becomes a point that no server has."""
    try:
        return parse_line(line)
    except ValueError:
        return Point("", {"line": line}, {}, 0)


def _series_of(point: Point) -> Series:
    return point.measurement, tuple(sorted(point.tags.items()))


def _metric_fields(value: float, step: int, elapsed_ms: int) -> Stored:
    code = nonfinite_code(value)
    number: dict[str, Any] = {"nonfinite": code} if code else {"value": value}
    return stored_fields({**number, "step": step, "elapsed": elapsed_ms})


def _bits(value: Any) -> Any:
    """Floats by their bits: 0.0 and -0.0 differ. Whole floats come back from JSON as ints, so ints are floats too.

    But for those that a float cannot tell apart: of these, floats are ints.
    """
    if isinstance(value, str):
        return value
    return int(value) if abs(value) >= 2**53 else struct.pack("<d", value)
