"""The bounds of a journal on disk: which segments may go when it grows too large, and what that costs.

In this order, until the next segment fits: segments that are delivered, oldest first (they were kept for reading);
then, by policy, the oldest that are not: "drop_oldest" gives them up and counts every point, "block" makes `log()` wait
for the server, "raise" makes it raise.

Exact also when killed in between: a segment is renamed to `.gone` first, then the journal says what is lost with it,
then it is deleted. `recover` finishes or undoes that for a dead process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metriclog import segments, volumes
from metriclog.errors import JournalFullError
from metriclog.journal import Journal
from metriclog.receipts import Delivery
from metriclog.segments import LOSS, SegmentReader, Text, position_of, segment_name, split_position

if TYPE_CHECKING:
    from metriclog.settings import Settings

Policy = Literal["drop_oldest", "block", "raise"]
BLOCK_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one process' journal, in bytes; `retain_bytes` is for what has been delivered."""

    max_bytes: int
    retain_bytes: int
    free_floor_bytes: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Doomed:
    """A segment that goes: its points that were delivered before, and those that never will be."""

    number: int
    gone: int
    dropped: int


class Keeper:
    """Makes room in one process directory. The shipper reads under `lock`, so that nothing goes while it is read."""

    def __init__(self, directory: Path, bounds: Bounds, delivery: Delivery) -> None:
        self.lock = threading.Lock()
        self.reading: Callable[[], int] = lambda: 0  # the position up to which the shipper has read
        self._directory, self._bounds, self._delivery = directory, bounds, delivery

    def choose(self, current: int, size_bytes: int) -> list[Doomed]:
        """Set aside what must go for another segment of `size_bytes`; `JournalFullError` if that is not allowed."""
        doomed: list[Doomed] = []
        while True:
            with self.lock:
                over = self._over(current, size_bytes, doomed)
            if not over:
                return doomed
            if self._bounds.policy == "block" and not self._delivery.settled:
                oldest = min(segments.segment_numbers(self._directory), default=current)
                self._delivery.wait(position_of(oldest + 1, 0), BLOCK_LOOK_S)
                continue
            raise JournalFullError(f"the journal is at its limit ({over}) and METRICLOG_JOURNAL_POLICY allows no drop")

    def _over(self, current: int, size_bytes: int, doomed: list[Doomed]) -> str | None:
        """Set aside segments until `size_bytes` fit; why they do not, if nothing more may go."""
        delivered, _ = split_position(self._delivery.acked)
        under_way, _ = split_position(self.reading())
        for number in segments.segment_numbers(self._directory):
            why = self._why(size_bytes, delivered)
            if why is None:
                return None
            if number < min(delivered, current):
                doomed.append(self._set_aside(number, delivered=True))
            elif under_way < number < current and self._bounds.policy == "drop_oldest":
                doomed.append(self._set_aside(number, delivered=False))
                self._delivery.drop(position_of(number, 0), position_of(number + 1, 0), JournalFullError("dropped"))
        return self._why(size_bytes, 0)

    def _why(self, size_bytes: int, delivered: int) -> str | None:
        sizes = {number: self._size(number) for number in segments.segment_numbers(self._directory)}
        kept = sum(size for number, size in sizes.items() if number < delivered)
        if sum(sizes.values()) + size_bytes > self._bounds.max_bytes:
            return f"METRICLOG_JOURNAL_MAX_BYTES={self._bounds.max_bytes}"
        if volumes.free_bytes(self._directory) - size_bytes < self._bounds.free_floor_bytes:
            return f"less than METRICLOG_FREE_FLOOR_BYTES={self._bounds.free_floor_bytes} would be free"
        return "METRICLOG_RETAIN_BYTES" if kept > self._bounds.retain_bytes else None

    def _size(self, number: int) -> int:
        try:
            return (self._directory / segment_name(number)).stat().st_size
        except FileNotFoundError:
            return 0

    def _set_aside(self, number: int, *, delivered: bool) -> Doomed:
        path = self._directory / segment_name(number)
        points = count_points(path)
        path.rename(path.with_suffix(".gone"))
        return Doomed(number, points, 0) if delivered else Doomed(number, 0, points)


@dataclass(frozen=True, slots=True)
class Opened:
    """The journal of this process with what belongs to it."""

    journal: Journal
    keeper: Keeper
    delivery: Delivery


def open_journal(path: Path, meta: dict[str, Any], settings: Settings, slot: int, delivery: Delivery) -> Opened:
    """Open the journal of this process in a directory just claimed. Raises `JournalError`."""
    bounds = Bounds(
        max_bytes=settings.journal_max_bytes,
        retain_bytes=settings.retain_bytes,
        free_floor_bytes=settings.free_floor_bytes,
        policy=settings.journal_policy,
    )
    keeper = Keeper(path, bounds, delivery)
    network = volumes.is_network(volumes.file_system_type(path))
    buffered = network if settings.journal_io == "auto" else settings.journal_io == "buffered"
    journal = Journal.create(
        path,
        meta | {"journal_io": "buffered" if buffered else "mmap"},
        segment_bytes=min(settings.segment_bytes, max(settings.journal_max_bytes // 8, 1 << 16)),
        slot=slot,
        clock=time.time_ns,
        buffered=buffered,
        room=keeper,
    )
    return Opened(journal, keeper, delivery)


def count_points(path: Path) -> int:
    """How many points are in a segment."""
    reader = SegmentReader(path)
    try:
        return sum(entry.points for entry in reader.read(reader.size(), 1 << 62, settled=True))
    finally:
        reader.close()


def recover(directory: Path) -> None:
    """After a kill between setting aside and deleting: delete what the journal has given up, put back the rest."""
    set_aside = list(directory.glob("*.gone"))
    if not set_aside:
        return
    given_up: set[int] = set()
    for number in segments.segment_numbers(directory):
        reader = SegmentReader(directory / segment_name(number))
        for entry in reader.read(reader.size(), 1 << 62, settled=True):
            if isinstance(entry, Text) and entry.kind == LOSS:
                given_up.update(entry.json().get("segments", []))
        reader.close()
    for path in set_aside:
        if int(path.stem) in given_up:
            path.unlink(missing_ok=True)
        else:
            path.rename(path.with_suffix(".seg"))
