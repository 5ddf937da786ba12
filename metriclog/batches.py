"""Entries of a journal as arrays, series by series. Knows shapes and rows, not what becomes of them. Pure numpy."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from metriclog.buckets import Ints, Records
from metriclog.points import Tags
from metriclog.segments import Row, Shape, Values

_MAX_SHAPES = 4096  # remembered: a program that logs ever other sets of metrics must not fill the memory


class Register:
    """Numbers the series in the order in which they are first seen."""

    def __init__(self) -> None:
        self.series: list[tuple[Tags, str]] = []
        self._ids: dict[tuple[Tags, str], int] = {}
        self._shapes: dict[tuple[Tags, tuple[str, ...]], Ints] = {}

    def number(self, tags: Tags, metric: str) -> int:
        """The number of a series, a new one if it has none. `tags` sorted."""
        found = self._ids.setdefault((tags, metric), len(self.series))
        if found == len(self.series):
            self.series.append((tags, metric))
        return found

    def ids_of(self, shape: Shape) -> Ints:
        """The numbers of a shape's series, one a metric."""
        key = shape.tags, shape.metrics
        if key not in self._shapes:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            tags = tuple(sorted(shape.tags))
            self._shapes[key] = np.array([self.number(tags, metric) for metric in shape.metrics], np.int64)
        return self._shapes[key]


@dataclass(slots=True)
class _Group:
    """The rows of one shape, and where in the stream each stretch of them stood."""

    shape: Shape
    rows: list[Row] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def places(self) -> Ints:
        """Of each row its place in the stream."""
        lengths = np.array(self.lengths, np.int64)
        skipped = np.array(self.begins, np.int64) - (np.cumsum(lengths) - lengths)
        return np.repeat(skipped, lengths) + np.arange(len(self.rows))

    def table(self) -> Ints:
        """One line a row: time, step, and the bits of the values."""
        pack = struct.Struct(f"=qq{len(self.shape.metrics)}d").pack
        packed = b"".join([pack(*row) for row in self.rows])
        return np.frombuffer(packed, np.int64).reshape(len(self.rows), -1)


def gather(entries: Iterable[Values], register: Register) -> Records | None:
    """The records of these entries, which follow each other in the stream; None if there are none."""
    groups = _grouped(entries)
    if not groups:
        return None
    parts = [_records(group.table(), register.ids_of(group.shape)) for group in groups]
    if len(parts) > 1:
        offsets = np.cumsum([0, *(len(part.values) for part in parts)])
        whole = _joined(parts, offsets)
    else:
        whole = parts[0]
    if len(np.unique(whole.ids)) == len(whole.ids):
        return whole
    places = np.concatenate([np.tile(group.places(), len(group.shape.metrics)) for group in groups])
    return _sorted(whole, places)


def _grouped(entries: Iterable[Values]) -> list[_Group]:
    """By shape object: two that are equal make two groups, which share their series."""
    groups: dict[int, _Group] = {}
    place = 0
    for entry in entries:
        if not entry.rows or not entry.shape.metrics:
            continue
        group = groups.get(id(entry.shape))
        if group is None:
            group = groups[id(entry.shape)] = _Group(entry.shape)
        group.rows += entry.rows
        group.begins.append(place)
        group.lengths.append(len(entry.rows))
        place += len(entry.rows)
    return list(groups.values())


def _records(table: Ints, ids: Ints) -> Records:
    rows, series = len(table), len(ids)
    repeated = np.empty((2, series, rows), np.int64)  # by hand: `np.tile` takes ten times as long for a single row
    repeated[0], repeated[1] = table[:, 0], table[:, 1]
    times_ns, steps = repeated.reshape(2, -1)
    values = np.ascontiguousarray(table[:, 2:].T).reshape(-1).view(np.float64)
    return Records(ids, np.arange(0, rows * series, rows), times_ns, steps, values)


def _joined(parts: list[Records], offsets: Ints) -> Records:
    return Records(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.first + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part.times_ns for part in parts]),
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _sorted(records: Records, places: Ints) -> Records:
    """Where series come in several groups: their records in one stretch each, by their places in the stream."""
    owners = np.repeat(records.ids, records.last - records.first + 1)
    order = np.lexsort((places, owners))
    ids, first = np.unique(owners[order], return_index=True)
    return Records(ids, first, records.times_ns[order], records.steps[order], records.values[order])
