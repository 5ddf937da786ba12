"""Whether the roll-ups and summaries on a server are right: each says what a direct computation says.

A derived point is a function of its series' records up to the one whose time stamp it bears. So each that is found is
computed anew, in plain Python, from the records of the journals and of what was delivered and deleted there since. The
attempts of one rank go on from each other; what a forked child logs stands by itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metriclog import directory, standing, testing
from metriclog.levels import LEVELS, MEASUREMENTS
from metriclog.points import Field, Point
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import Values
from tests.direct_rollups import Record, bucket_fields, largest, summary_fields

SLOTS = 64  # the lowest bits of a time stamp name the process

Tags = tuple[tuple[str, str], ...]  # sorted, the metric among them
Stored = Mapping[tuple[str, Tags, int], Mapping[str, Field]]


@dataclass
class Stream:
    """The records of one series in the order in which they were derived from."""

    records: list[Record] = field(default_factory=list)
    started_ns: list[int] = field(default_factory=list)  # of the run, as the process of each record knew it
    finished: bool = True  # whether the ends of all its journals are said to be delivered

    def begins(self) -> list[Any]:
        """Level by level, of each record the first one of its run: those in one bucket that follow each other."""
        steps = np.array([step for _, step, _ in self.records], np.int64)
        found = []
        for size in LEVELS:
            buckets = steps // size
            new = np.append(True, buckets[1:] != buckets[:-1])
            found.append(np.maximum.accumulate(np.where(new, np.arange(len(new)), 0)))
        return found

    def wanted(self, measurement: str, index: int, begins: Sequence[Any]) -> tuple[dict[str, Any], float]:
        """The fields of the derived point at a record, and its largest value."""
        if measurement == "summary":
            records = self.records[: index + 1]
            return summary_fields(records), largest(records)
        level = MEASUREMENTS.index(measurement)
        records = self.records[int(begins[level][index]) : index + 1]
        return bucket_fields(records, LEVELS[level], self.started_ns[index]), largest(records)


def check_derived(paths: Sequence[Path], target: str, server: Stored, forgotten: Stored, *, complete: bool) -> None:
    """Assert that every derived point on the server is right; and that none is missing, once all is delivered.

    `forgotten`: points that are on the server and in the journals no more. `complete`: nothing that was logged is still
    to be delivered. Then the end of every journal whose owner has ended is to be there, if its standing says so.
    """
    found: dict[Tags, dict[str, list[int]]] = {}
    for measurement, tags, time_ns in server:
        if measurement in (*MEASUREMENTS, "summary"):
            found.setdefault(tags, {}).setdefault(measurement, []).append(time_ns)
    streams = _streams(paths, target, forgotten)
    invented = found.keys() - streams.keys()
    assert not invented, f"roll-ups of series that nobody logged: {sorted(invented)[:3]}"
    for tags, several in streams.items():
        begins = [stream.begins() for stream in several]
        at = {record[0]: (number, index) for number, stream in enumerate(several)
              for index, record in enumerate(stream.records)}  # fmt: skip
        for measurement, times_ns in found.get(tags, {}).items():
            for time_ns in times_ns:
                name = f"{measurement} of {dict(tags)} at {time_ns}"
                assert time_ns in at, f"there is no record for {name}: {server[measurement, tags, time_ns]}"
                number, index = at[time_ns]
                wanted, size = several[number].wanted(measurement, index, begins[number])
                _check_fields(name, server[measurement, tags, time_ns], wanted, size)
        for stream, firsts in zip(several, begins, strict=True):
            if complete and stream.finished:
                _check_complete(stream, firsts, tags, found.get(tags, {}))


def _check_fields(name: str, there: Mapping[str, Any], wanted: Mapping[str, Any], size: float) -> None:
    mean = "mean" if name.startswith("summary") else "value"
    same = there.keys() == wanted.keys() and all(
        math.isclose(value, wanted[key], rel_tol=0, abs_tol=size * 1e-12 + 1e-322)
        if key == mean
        else value == wanted[key]
        for key, value in there.items()
    )
    assert same, f"{name}: {dict(there)}, not {dict(wanted)}"


def _check_complete(stream: Stream, begins: Sequence[Any], tags: Tags, found: Mapping[str, list[int]]) -> None:
    last = len(stream.records) - 1
    for measurement, firsts in zip(MEASUREMENTS, begins, strict=True):
        ends = [*(np.flatnonzero(firsts[1:] != firsts[:-1]).tolist()), last]
        missing = {stream.records[end][0] for end in ends} - set(found.get(measurement, ()))
        assert not missing, f"{len(missing)} of {len(ends)} points of {measurement} are missing: {dict(tags)}"
    assert stream.records[last][0] in found.get("summary", ()), f"the newest summary is missing: {dict(tags)}"


def _streams(paths: Sequence[Path], target: str, forgotten: Stored) -> dict[Tags, list[Stream]]:
    """Each series' streams: one of the run's attempts, and one more for each forked child that logged it."""
    found: dict[tuple[Tags, Path | None], Stream] = {}
    for path in paths:
        meta = directory.read_meta(path) or {}
        child = path if meta.get("child") else None
        finished, started_ns = _is_finished(path, target), int(meta.get("started_ns", 0))
        for tags, record in (*_deleted(path, forgotten), *_logged(path)):
            stream = found.setdefault((tags, child), Stream())
            stream.records.append(record)
            stream.started_ns.append(started_ns)
            stream.finished &= finished
    streams: dict[Tags, list[Stream]] = {}
    for (tags, _), stream in found.items():
        streams.setdefault(tags, []).append(stream)
    return streams


def _is_finished(path: Path, target: str) -> bool:
    """Whether all roll-ups of a directory should be there: an empty state says that they were given up."""
    saved = standing.load(path, target)
    return saved is not None and saved.finished and bool(saved.state) and not owner_is_alive(path)


def _logged(path: Path) -> Iterator[tuple[Tags, Record]]:
    with contextlib.closing(JournalReader(path)) as reader:
        while read := reader.read(100_000):
            for _, entry in read:
                if isinstance(entry, Values):
                    yield from _records(entry)


def _records(entry: Values) -> Iterable[tuple[Tags, Record]]:
    keys = [tuple(sorted((*entry.shape.tags, ("metric", metric)))) for metric in entry.shape.metrics]
    for time_ns, step, *values in entry.rows:
        yield from ((key, (time_ns, step, value)) for key, value in zip(keys, values, strict=True))


def _deleted(path: Path, forgotten: Stored) -> list[tuple[Tags, Record]]:
    """What a process logged and its journal holds no more: the slot in a time stamp tells whose it is."""
    slot, run = int(path.name[:4]) % SLOTS, ("run", path.parent.name)
    chosen = [
        (tags, (time_ns, int(fields["step"]), testing.number_of(Point(measurement, {}, dict(fields), time_ns))))
        for (measurement, tags, time_ns), fields in forgotten.items()
        if measurement == "metrics" and time_ns % SLOTS == slot and run in tags
    ]
    return sorted(chosen, key=lambda one: one[1][0])
