"""The bounds of a journal on disk: which segments may go when it grows too large, and what that costs.

In this order, until the next segment fits: segments that are delivered, oldest first (they were kept for reading);
then, by policy, the oldest that are not: "drop_oldest" gives them up and counts every point, "block" makes `log()` wait
for the server, "raise" makes it raise. Where even that would not do, what is in the journal stays.

Exact also when killed in between: a segment is renamed to `.gone` first, then the journal says what is lost with it,
then it is deleted. `recover` finishes or undoes that for a dead process.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metriclog import acks, volumes
from metriclog.backing import NEXT, SPARE
from metriclog.errors import JournalFullError
from metriclog.journal import Journal
from metriclog.ledger import Doomed, Kept, in_ranges
from metriclog.receipts import Delivery
from metriclog.replay import without_owner
from metriclog.segments import (
    HEADER,
    LOSS,
    SegmentReader,
    Text,
    gone_name,
    position_of,
    segment_name,
    segment_numbers,
    split_position,
)

if TYPE_CHECKING:
    from metriclog.settings import Settings

Policy = Literal["drop_oldest", "block", "raise"]
MOST_AT_ONCE = 8  # segments deleted at one roll where it is not pressing: the caller of log() waits for it
MIN_REST_BYTES = 16 << 10  # less than this at the end of a dead process' segment is not worth the cutting
BUFFERED_BYTES = 4 << 20  # of a segment that is held in memory


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one process' journal, in bytes; `retain_bytes` is for what has been delivered."""

    max_bytes: int
    retain_bytes: int
    free_floor_bytes: int
    policy: Policy


class Keeper:
    """Makes room in one process directory. The shipper reads under `lock`, so that nothing goes while it is read."""

    def __init__(self, directory: Path, bounds: Bounds, delivery: Delivery) -> None:
        self.lock = threading.Lock()
        self.reading: Callable[[], int] = lambda: 0  # the position up to which the shipper has read
        self._directory, self._bounds, self._delivery = directory, bounds, delivery

    def choose(self, kept: Mapping[int, Kept], current: int, size_bytes: int) -> tuple[list[Doomed], str | None]:
        """Set aside what must go for another `size_bytes`; and why that does not do, or None."""
        with self.lock:
            acked = max(self._delivery.acked, acks.least_position(self._directory))  # a `sync` may ship for us
            delivered, _ = split_position(acked)
            under_way, _ = split_position(max(acked, self.reading()))
            use = _Use(self._bounds, kept, volumes.free_bytes(self._directory) - size_bytes, size_bytes, delivered)
            doomed: list[Doomed] = []
            for number in [number for number in sorted(kept) if number < min(delivered, current)]:
                if not (use.too_much() or (use.too_much_delivered() and len(doomed) < MOST_AT_ONCE)):
                    break
                doomed.append(self._set_aside(number, kept[number], delivered=True))
                use.without(number)
            open_ = [number for number in sorted(kept) if under_way < number < current]
            if use.too_much() and self._bounds.policy == "drop_oldest" and use.would_do(open_):
                while use.too_much():
                    doomed.append(self._set_aside(open_[0], kept[open_[0]], delivered=False))
                    use.without(open_.pop(0))
            return doomed, use.too_much()

    def write_off(self, kept: Mapping[int, Kept], numbers: Sequence[int]) -> list[Doomed]:
        """What is lost with segments that somebody else deleted."""
        delivered, _ = split_position(self._delivery.acked)
        return [self._set_aside(number, kept[number], delivered=number < delivered) for number in numbers]

    def put_back(self, doomed: Sequence[Doomed]) -> None:
        """Undo `choose`."""
        for segment in doomed:
            with contextlib.suppress(OSError):
                (self._directory / gone_name(segment.number)).rename(self._directory / segment_name(segment.number))

    def _set_aside(self, number: int, kept: Kept, *, delivered: bool) -> Doomed:
        with contextlib.suppress(FileNotFoundError):  # somebody else deleted it
            (self._directory / segment_name(number)).rename(self._directory / gone_name(number))
        if not delivered:
            self._delivery.drop(position_of(number, 0), position_of(number + 1, 0), JournalFullError("dropped"))
        return Doomed.of(number, kept, delivered=delivered)


class _Use:
    """What a journal and the rest of the disk would take, as segments go."""

    def __init__(
        self, bounds: Bounds, kept: Mapping[int, Kept], free_bytes: int, more_bytes: int, delivered: int
    ) -> None:
        self._bounds, self._kept, self._delivered = bounds, kept, delivered
        self._free_bytes = free_bytes
        self._bytes = more_bytes + sum(segment.size_bytes for segment in kept.values())
        self._delivered_bytes = sum(segment.size_bytes for number, segment in kept.items() if number < delivered)

    def without(self, number: int) -> None:
        """Reckon without this segment."""
        size_bytes = self._kept[number].size_bytes
        self._bytes -= size_bytes
        self._free_bytes += size_bytes
        self._delivered_bytes -= size_bytes if number < self._delivered else 0

    def would_do(self, numbers: Sequence[int]) -> bool:
        """Whether it would be enough to delete these."""
        size_bytes = sum(self._kept[number].size_bytes for number in numbers)
        bounds = self._bounds
        fits = self._bytes - size_bytes <= bounds.max_bytes
        return fits and self._free_bytes + size_bytes >= bounds.free_floor_bytes

    def too_much(self) -> str | None:
        """The limit that is crossed, if one is."""
        if self._bytes > self._bounds.max_bytes:
            return f"the journal is at its limit, METRICLOG_JOURNAL_MAX_BYTES={self._bounds.max_bytes}"
        if self._free_bytes < self._bounds.free_floor_bytes:
            return f"less than METRICLOG_FREE_FLOOR_BYTES={self._bounds.free_floor_bytes} would be free on the disk"
        return None

    def too_much_delivered(self) -> bool:
        """Whether more is kept for reading than is to be."""
        return self._delivered_bytes > self._bounds.retain_bytes


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
    segment_bytes = min(settings.segment_bytes, max(settings.journal_max_bytes // 8, 1 << 16))
    journal = Journal.create(
        path,
        meta | {"journal_io": "buffered" if buffered else "mmap"},
        segment_bytes=min(segment_bytes, BUFFERED_BYTES) if buffered else segment_bytes,
        slot=slot,
        clock=time.time_ns,
        buffered=buffered,
        room=keeper,
    )
    return Opened(journal, keeper, delivery)


def recover(directory: Path) -> None:
    """After a kill -9: finish what was under way. What the journal has given up is deleted, the rest put back.

    A directory whose process lives, or is about to begin, is left alone. `OSError` and `JournalError` (a segment of a
    newer format) pass through.
    """
    with without_owner(directory) as dead:
        if dead:
            _finish_for_the_dead(directory)
    with without_owner(directory, surely=True) as dead:
        if dead:
            _give_back_the_rest(directory)


def _give_back_the_rest(directory: Path) -> None:
    """Cut the zeros off the last segment, which was laid out in advance: many workers may have been killed here."""
    path = directory / segment_name(max(segment_numbers(directory), default=0))
    with contextlib.suppress(FileNotFoundError), contextlib.closing(SegmentReader(path)) as reader:
        if reader.size() < MIN_REST_BYTES or not reader.is_blank(reader.size() - MIN_REST_BYTES):
            return
        size_bytes = HEADER.size
        for entry in reader.read(reader.size(), 1 << 62, settled=True):
            size_bytes = entry.end
        os.truncate(path, size_bytes + 7 & ~7)


def _finish_for_the_dead(directory: Path) -> None:
    for name in (SPARE, NEXT):
        (directory / name).unlink(missing_ok=True)
    set_aside = list(directory.glob("*.gone"))
    if not set_aside:
        return
    given_up: set[int] = set()
    for path in (*directory.glob("*.seg"), *set_aside):
        reader = SegmentReader(path)
        for entry in reader.read(reader.size(), 1 << 62, settled=True):
            if isinstance(entry, Text) and entry.kind == LOSS:
                given_up |= in_ranges(entry.json().get("segments", []))
        reader.close()
    for path in set_aside:
        with contextlib.suppress(FileNotFoundError):  # somebody else recovers too
            if int(path.stem) in given_up:
                path.unlink()
            else:
                path.rename(path.with_suffix(".seg"))
