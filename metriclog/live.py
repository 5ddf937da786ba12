"""What a process of a run shows of itself while it lives: the newest values, and where to ask for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from metriclog.divergence import Finding


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest value of a metric. NaN and infinities are as they are."""

    value: float
    step: int
    time_ns: int
    nonfinite: int
    """How many values of this metric were not finite so far, in this process."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One process of a run at one instant."""

    experiment: str
    run: str
    rank: str
    """The process' number, "" where there are no ranks."""
    model: str
    dataset: str
    host: str
    attempt: int
    status: str
    """running, finished, failed or killed."""
    started_ns: int
    now_ns: int
    """When this was taken: as long as the process lives it can answer."""
    steps: int
    """The highest step logged."""
    last_log_ns: int | None
    """Time stamp of the newest metric, None before the first."""
    metrics: Mapping[str, Latest] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    """As `Run.stats()`."""
    firing: tuple[Finding, ...] = ()
    """What the rules found and what has not recovered."""


class Source(Protocol):
    """Something that shows itself: a run of this process."""

    def snapshot(self) -> Snapshot:
        """Its newest state. Never raises, never waits for the network."""


_lock = threading.Lock()
_sources: list[Source] = []


def add(source: Source) -> None:
    """Show this run from now on, also after its end."""
    with _lock:
        _sources.append(source)


def remove(source: Source) -> None:
    """Show it no more; nothing happens if it is not shown."""
    with _lock:
        _sources[:] = [other for other in _sources if other is not source]


def sources() -> list[Source]:
    """Everything that shows itself in this process."""
    with _lock:
        return list(_sources)


def _after_fork() -> None:
    """A forked child shows nothing until it logs: what was shown is its parent's."""
    global _lock
    _lock = threading.Lock()
    _sources.clear()


os.register_at_fork(after_in_child=_after_fork)
