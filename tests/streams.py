"""Processes that log streams of their own, shipped in the test's own thread; what arrives is checked by derivation."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metriclog import testing
from metriclog.acks import load_ack
from metriclog.background import is_pending
from metriclog.journal import Journal
from metriclog.keeper import Bounds, Keeper, Opened
from metriclog.points import Tags, parse_line
from metriclog.receipts import Delivery
from metriclog.segments import segment_name, segment_numbers
from metriclog.shipper import Shipper
from metriclog.testing import ScriptedTarget
from tests.faults.derivation import check_derived
from tests.journals import META, START_NS, Clock
from tests.test_sender import VirtualControl

TAGS: Tags = (("experiment", "digits"), ("run", "r"))
SMALL = 4096  # a segment holds about 60 records
STANDING = "derived-scripted.bin"


class Logged:
    """A process that logs a stream of its own: sparse metrics, NaN, steps that go back now and then."""

    def __init__(self, root: Path, number: int = 1, *, seed: int = 1, segment_bytes: int = SMALL, **meta: Any) -> None:
        self.path = root / "r" / f"{number:04d}-h1"
        self.path.mkdir(parents=True)
        clock = Clock(START_NS + number * 10**12, tick_ns=10**8)
        self.journal = Journal.create(self.path, META | meta, segment_bytes=segment_bytes, slot=number, clock=clock)
        self._rng, self._step = random.Random(seed), 0

    def log(self, count: int, step: int | None = None) -> Logged:
        """Log calls from a step on, or from where it is."""
        rng = self._rng
        self._step = self._step if step is None else step
        for _ in range(count):
            values = {"loss": rng.choice([1.5, rng.random(), float("nan")])}
            values |= {"eval": rng.random()} if rng.random() < 0.1 else {}
            shape = self.journal.shape(tuple(values), tuple(values), TAGS)
            self.journal.append_values(shape, self._step, values.values())
            self._step += rng.choice([1, 1, 1, 1, 7, -3])
        return self

    def ended(self, *, killed: bool = False) -> Path:
        """End it, and where it logged."""
        if killed:
            self.journal.abandon()
        else:
            self.journal.close()
        return self.path


def ship(path: Path, target: ScriptedTarget, *, points: int = 50, connections: int = 1, batches: int = 10**6) -> None:
    """Ship a directory by a shipper of its own, or its first batches only."""
    control = VirtualControl()
    with contextlib.closing(Shipper(path, target, control, max_points=points, connections=connections)) as shipper:
        for _ in range(batches):
            if not shipper.ship_batch():
                return


Stored = dict[tuple[str, Tags, int], dict[str, Any]]


def stored(target: ScriptedTarget) -> Stored:
    """What a server makes of the lines: a later one at the same place wins. And none may say anything else there."""
    found: Stored = {}
    for line in target.lines:
        point = parse_line(line.decode())
        key = point.measurement, tuple(sorted(point.tags.items())), point.time_ns
        assert found.setdefault(key, point.fields) == point.fields, f"{point} was {found[key]}"
    return found


def check(target: ScriptedTarget, *paths: Path, forgotten: Mapping[Any, Any] | None = None) -> Stored:
    """All that was logged is there, and all roll-ups of it, right and complete."""
    found = stored(target)
    logged = [point for path in paths for point in testing.read_points(path)]
    for point in logged:
        assert found[point.measurement, tuple(sorted(point.tags.items())), point.time_ns] == point.fields
    assert not [path for path in paths if is_pending(path, target.target)]
    check_derived(paths, target.target, found, forgotten or {}, complete=True)
    return found


def summary_of(found: Stored, metric: str = "loss") -> dict[str, Any]:
    """The newest summary of a metric."""
    times = [key for key in found if key[0] == "summary" and ("metric", metric) in key[1]]
    return found[max(times, key=lambda key: key[2])]


def delete_delivered(path: Path, target: ScriptedTarget) -> Stored:
    """Delete the segments that are delivered, as a live process does; the points that are now on the server alone."""
    number = load_ack(path, target.target).position >> 40
    before = {(p.measurement, tuple(sorted(p.tags.items())), p.time_ns): p.fields for p in testing.read_points(path)}
    for each in segment_numbers(path):
        if each < number:
            (path / segment_name(each)).unlink()
    left = {(p.measurement, tuple(sorted(p.tags.items())), p.time_ns) for p in testing.read_points(path)}
    return {key: fields for key, fields in before.items() if key not in left}


class Kept:
    """A journal with bounds, and a shipper in the test's own thread."""

    def __init__(self, root: Path, *, policy: Any = "block", max_bytes: int = 1 << 40, retain_bytes: int = 1 << 40):
        self.path = root / "r" / "0001-h1"
        self.path.mkdir(parents=True)
        delivery = Delivery()
        bounds = Bounds(max_bytes=max_bytes, retain_bytes=retain_bytes, free_floor_bytes=0, policy=policy)
        keeper = Keeper(self.path, bounds, delivery)
        own = Journal.create(self.path, META, segment_bytes=SMALL, clock=Clock(tick_ns=10**8), room=keeper)
        self.opened = Opened(own, keeper, delivery)
        self.shipper: Shipper | None = None
        self._step = 0

    def log(self, count: int) -> None:
        own = self.opened.journal
        for _ in range(count):
            own.append_values(own.shape("loss", ("loss",), TAGS), self._step, (self._step / 7,))
            self._step += 1

    def ship(self, target: ScriptedTarget) -> None:
        if self.shipper is None:
            self.shipper = Shipper(self.path, target, VirtualControl(), max_points=50, own=self.opened)
        while self.shipper.ship_batch():
            pass

    def close(self) -> None:
        self.opened.journal.close()
        if self.shipper:
            self.shipper.close()
