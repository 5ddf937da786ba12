"""Journals for tests: written with a scripted clock, read back as plain values, owned by other processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metriclog.journal import Journal
from metriclog.points import Tags
from metriclog.replay import JournalReader
from metriclog.segments import LINES, LOSS, Damage, Entry, Text, Values, position_of
from tests.accepted import bits

ROOT = Path(__file__).resolve().parents[1]
START_NS = 1_795_000_000_000_000_000
META: dict[str, Any] = {
    "experiment": "digits",
    "run": "r",
    "rank": None,
    "mode": "offline",
    "attempt": 1,
    "started_ns": START_NS,
    "host": "h1",
    "pid": 17,
    "child": False,
}

# ("values", metrics, tags, time in ns, step, the bits of each value) or ("lines", lines)
Record = tuple[object, ...]


class Clock:
    """A wall clock that a test sets; it moves on by `tick_ns` at each look."""

    def __init__(self, now_ns: int = START_NS, tick_ns: int = 1000) -> None:
        self.now_ns, self.tick_ns = now_ns, tick_ns

    def __call__(self) -> int:
        self.now_ns += self.tick_ns
        return self.now_ns


def make_journal(directory: Path, *, segment_bytes: int = 4096, clock: Any = None, **options: Any) -> Journal:
    """A journal in this directory; segments are as small as a journal makes them, about 4.5 KB."""
    directory.mkdir(parents=True, exist_ok=True)
    return Journal.create(directory, META, segment_bytes=segment_bytes, clock=clock or Clock(), **options)


def log(journal: Journal, values: Mapping[str, float], step: int, tags: Tags = (), time_ns: int | None = None) -> int:
    """Append one record of values as a run does; returns its end position."""
    names = tuple(values)
    shape = journal.shape((names, tags), names, tags)
    return journal.append_values(shape, step, values.values(), time_ns)


@dataclass
class Contents:
    """What a journal directory holds from a position on."""

    entries: list[tuple[int, Entry]] = field(default_factory=list)  # as they were read: (segment number, entry)
    records: list[Record] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # of each record, as positions
    damage: list[Damage] = field(default_factory=list)
    lost: int = 0  # the sum of the LOSS records

    @property
    def steps(self) -> list[object]:
        """The step of each values record."""
        return [record[4] for record in self.records if record[0] == "values"]

    @property
    def times_ns(self) -> list[Any]:
        """The time stamp of each values record."""
        return [record[3] for record in self.records if record[0] == "values"]

    def texts(self, number: int) -> list[Text]:
        """The records of a segment that are not values."""
        return [entry for segment, entry in self.entries if segment == number and isinstance(entry, Text)]

    def add(self, number: int, entry: Entry) -> None:
        """Take in one entry of a segment."""
        self.entries.append((number, entry))
        if isinstance(entry, Damage):
            self.damage.append(entry)
        elif isinstance(entry, Values):
            size = (entry.end - entry.start) // len(entry.rows)
            for index, row in enumerate(entry.rows):
                self.records.append(values_record(entry.shape.metrics, entry.shape.tags, *row))
                self.ends.append(position_of(number, entry.start + (index + 1) * size))
        elif entry.kind == LINES:
            self.records.append(("lines", *entry.body.decode().split("\n")))
            self.ends.append(position_of(number, entry.end))
        elif entry.kind == LOSS:
            self.lost += entry.json()["dropped"]


def values_record(metrics: tuple[str, ...], tags: Tags, time_ns: int, step: int, *values: float) -> Record:
    """One record of values as `Contents` holds it: comparable, NaN and -0.0 too."""
    return ("values", metrics, tags, time_ns, step, *map(bits, values))


def read_back(directory: Path, position: int = 0, *, until: int | None = None, max_points: int = 1000) -> Contents:
    """Everything in a directory from `position` on, read in batches of about `max_points`."""
    contents = Contents()
    reader = JournalReader(directory, position)
    while found := reader.read(max_points, until):
        for number, entry in found:
            contents.add(number, entry)
    reader.close()
    return contents


def only_segment(directory: Path) -> Path:
    """The path of the one segment in a directory."""
    (path,) = directory.glob("*.seg")
    return path


@contextlib.contextmanager
def python(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs this script with metriclog and tests on its path; killed at the end."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[str], line: str) -> None:
    """Send a line to another process."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    """The next line from another process; empty at its end."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
