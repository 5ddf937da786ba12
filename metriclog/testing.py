"""For tests of code that logs: capture what it logs without a server, or answer the shipper by a script. Public.

from metriclog.testing import capture
with capture() as captured:
    train_one_epoch()
assert captured.values("train/loss")[-1] < 1.0
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from metriclog import directory, points
from metriclog.errors import ServerError
from metriclog.levels import MEASUREMENTS
from metriclog.points import Field, Point
from metriclog.replay import JournalReader
from metriclog.segments import LINES, Text, Values


class Captured:
    """What runs logged into a directory; read anew at each question until `keep` is called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[Point] | None = None

    def keep(self) -> None:
        """Remember what is there now: the directory is about to go."""
        self._kept = self.points()

    def points(self) -> list[Point]:
        """Every point, metrics included, in the order it was logged within each process."""
        if self._kept is not None:
            return list(self._kept)
        return [point for path in directory.process_directories(self.path) for point in read_points(path)]

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric over all runs; NaN and infinities as they were."""
        chosen = [point for point in self.points() if point.tags.get("metric") == metric]
        return [(int(point.fields["step"]), number_of(point)) for point in chosen if point.measurement == "metrics"]

    def values(self, metric: str) -> list[float]:
        """Values of a metric in the order they were logged."""
        return [value for _, value in self.curve(metric)]

    def params(self) -> dict[str, Field]:
        """Parameters of all runs, the newest value each."""
        chosen = [point for point in self.points() if point.measurement == "params"]
        return {point.tags["param"]: next(iter(point.fields.values())) for point in chosen}

    def events(self, kind: str | None = None) -> list[Point]:
        """Events, of one kind or all."""
        chosen = [point for point in self.points() if point.measurement == "events"]
        return [point for point in chosen if kind in (None, point.tags["kind"])]


@contextlib.contextmanager
def capture() -> Iterator[Captured]:
    """Send every run that starts inside the block to a temporary journal: no server, no files left behind.

    What was logged inside the block can still be asked for after it.
    """
    with tempfile.TemporaryDirectory(prefix="metriclog-") as folder:
        wanted = {"METRICLOG_DIR": folder, "METRICLOG_MODE": "offline"}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        captured = Captured(Path(folder))
        try:
            yield captured
        finally:
            captured.keep()
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class ScriptedTarget:
    """A target that answers each write by a script, then says yes to everything. Keeps the lines it said yes to."""

    def __init__(self, answers: Iterable[ServerError | None] = ()) -> None:
        self.target = "scripted"
        self.address = "a scripted target"
        self.lines: list[bytes] = []
        self.writes = 0
        self._answers = iter(answers)

    @property
    def logged(self) -> list[bytes]:
        """Of the lines those that somebody logged: no roll-ups, no summaries."""
        derived = tuple(f"{name}{end}".encode() for name in (*MEASUREMENTS, "summary") for end in ", ")
        return [line for line in self.lines if not line.startswith(derived)]

    def write(self, lines: bytes) -> None:
        """Raise the next answer of the script, or keep the lines."""
        self.writes += 1
        answer = next(self._answers, None)
        if answer is not None:
            raise answer
        self.lines += lines.splitlines()

    def healthy(self) -> bool:
        """Always."""
        return True

    def another(self) -> ScriptedTarget:
        """The same: the script is one."""
        return self

    def close(self) -> None:
        """Nothing to close."""


def read_points(path: Path, position: int = 0) -> Iterator[Point]:
    """Every point in one process directory, from a journal position on: that of an ack leaves what is pending."""
    meta = directory.read_meta(path)
    with contextlib.closing(JournalReader(path, position)) as source:
        while found := source.read(100_000):
            for _, entry in found:
                if isinstance(entry, Values):
                    yield from _metric_points(entry, int(meta["started_ns"]) if meta else 0)
                elif isinstance(entry, Text) and entry.kind == LINES:
                    yield from map(points.parse_line, entry.body.decode().split("\n"))


def number_of(point: Point) -> float:
    """The value of a point of `metrics`."""
    if "value" in point.fields:
        return float(point.fields["value"])
    return points.from_nonfinite_code(int(point.fields["nonfinite"]))


def _metric_points(entry: Values, started_ns: int) -> Iterator[Point]:
    for time_ns, step, *values in entry.rows:
        for metric, value in zip(entry.shape.metrics, values, strict=True):
            code = points.nonfinite_code(value)
            fields: dict[str, Field] = {"nonfinite": code} if code else {"value": value}
            fields |= {"step": step, "elapsed": (time_ns - started_ns) // 1_000_000}
            yield Point("metrics", {**dict(entry.shape.tags), "metric": metric}, fields, time_ns)
