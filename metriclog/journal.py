"""The journal of one process: append, roll, seal, read. Knows records, not metrics.

    DIR/<run>/<0001-host>/  owner.lock          held with flock while the process lives; the kernel lets go at kill -9
                            00000001.seg …      segments, see segments.py
                            ack-<target>.json   how far this target said yes, see acks.py
                            quarantine-<target>.jsonl

A *position* is `segment number << 40 | offset`: one int that grows with every record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from metriclog import segments
from metriclog.backing import Backing, Buffered, Mapped
from metriclog.errors import JournalError, JournalFullError
from metriclog.segments import (
    FIRST_SHAPE,
    HEADER,
    RECORD,
    STALE,
    WriterShape,
    position_of,
    split_position,
)

SLOTS = 64  # the last 6 bits of a time stamp name the writing process, so that two never share a nanosecond
RETRY_FULL_S = 1.0  # after a full disk: how long to refuse at once before trying again
SPARE = "next.spare"  # the segment to come, laid by in the background


class Room(Protocol):
    """Decides what may be given up when the journal grows beyond its bounds."""

    def choose(self, current: int, size_bytes: int) -> Sequence[Doomed]:
        """Set aside what must go for a segment of `size_bytes`; raises `JournalFullError` if nothing may go."""


class Doomed(Protocol):
    """A segment that goes, renamed to `.gone`: points delivered before, and points that never will be."""

    @property
    def number(self) -> int: ...
    @property
    def gone(self) -> int: ...
    @property
    def dropped(self) -> int: ...


class Journal:
    """Appends records of this process. Several threads may append; a point is safe from kill -9 once append returns.

    `OSError` for want of space becomes `JournalFullError`; the caller counts what it could not keep with `lose`.
    """

    def __init__(
        self,
        directory: Path,
        meta: dict[str, Any],
        *,
        segment_bytes: int,
        slot: int = 0,
        clock: Callable[[], int],
        buffered: bool = False,
        room: Room | None = None,
    ) -> None:
        self.directory = directory
        self.buffered = buffered
        self.rolled: Callable[[], None] = lambda: None  # called after a roll: there is something to save
        self.shapes: dict[Any, WriterShape] = {}
        self.meta = meta
        self.points = 0
        self.dropped = 0
        self._dropped_unsaid = 0
        self._segment_bytes, self._slot, self._clock = segment_bytes, slot % SLOTS, clock
        self._room = room
        self._lock = threading.Lock()
        self._save_lock = threading.Lock()
        self._current: Backing | None = None
        self._map: Any = None  # the current segment's bytes
        self._full: list[tuple[int, Backing, int]] = []  # segments written to the end, still to be saved and closed
        self._spare: Backing | None = None
        self._points_before = self._saved = 0
        self._lock_fd = -1
        self._number = self._end = self._limit = self._base = 0
        self._last_ns = 0
        self._back = (0, 0)  # (what the clock said, what was given) at the last step of a clock set back
        self._retry_at_s = 0.0
        self._closed = False

    @classmethod
    def create(cls, directory: Path, meta: dict[str, Any], **options: Any) -> Journal:
        """Take the (empty, existing) directory for this process and open its first segment."""
        journal = cls(directory, meta, **options)
        try:
            journal._lock_fd = os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(OSError):  # no flock here: the owner counts as dead, which costs duplicates only
                fcntl.flock(journal._lock_fd, fcntl.LOCK_EX)
            with journal._lock:
                journal._roll(0)
        except (OSError, JournalError) as error:
            journal.abandon()
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"cannot write a journal in {directory}: {error.strerror}") from error
        return journal

    @property
    def position(self) -> int:
        """End of the last record."""
        return self._base + self._end

    @property
    def readable(self) -> int:
        """How far a reader of the files can read: `position`, or where the last save ended if buffered."""
        return self._saved if self.buffered else self.position

    def bytes_after(self, position: int) -> int:
        """About how many bytes of records come after a position."""
        number, offset = split_position(max(position, position_of(1, HEADER.size)))
        return (self._number - number) * self._segment_bytes + self._end - offset

    def now_ns(self) -> int:
        """The next time stamp of this process: wall clock, strictly increasing, in this process' slot."""
        with self._lock:
            now = self._clock() & -SLOTS | self._slot
            self._last_ns = now = now if now > self._last_ns else self._clock_back(now)
            return now

    def append_values(self, shape: WriterShape, step: int, values: Iterable[float], time_ns: int | None = None) -> int:
        """Append one values record and return its end position. `struct.error` if a value does not pack.

        The hot path: everything that can be decided elsewhere is.
        """
        with self._lock:
            now = self._clock() & -SLOTS | self._slot
            if now <= self._last_ns:
                now = self._clock_back(now)
            payload = shape.pack(shape.id, shape.count, now if time_ns is None else time_ns, step, *values)
            self._last_ns = now
            end = self._end
            stop = end + shape.total
            if stop > self._limit:
                shape, payload, end, stop = self._make_room(shape, payload)
            view = self._map
            view[end + 8 : stop] = payload
            RECORD.pack_into(view, end, shape.size, crc32(payload))
            self._end = stop
            self.points += shape.count
            return self._base + stop

    def append_lines(self, lines: Collection[str]) -> int:
        """Append points already in line protocol; they become one record. Returns its end position."""
        with self._lock:
            position = self._append(segments.LINES, len(lines), "\n".join(lines).encode())
            self.points += len(lines)
            return position

    def shape(self, key: Any, metrics: tuple[str, ...], tags: tuple[tuple[str, str], ...]) -> WriterShape:
        """The shape under `key`, declared in the current segment if it is not yet."""
        with self._lock:
            return self.shapes.get(key) or self._declare(key, metrics, tags)

    def lose(self, points: int) -> None:
        """Count points that could not be kept; the count is journaled as soon as there is room again."""
        with self._lock:
            self.dropped += points
            self._dropped_unsaid += points

    def sync(self) -> None:
        """Save full segments and what is new in the current one, and lay a spare segment by; for background threads.

        Against a power cut; on a network file system also against kill -9. `OSError` passes through: call again.
        """
        with self._save_lock:
            self._save_full()
            with self._lock:
                backing, number, end = self._current, self._number, self._end
            if backing is not None:
                backing.save(end)
                self._saved = position_of(number, end)
            if self._spare is None and not self._closed and not self.buffered:
                with contextlib.suppress(OSError):
                    self._spare = Mapped(self.directory / SPARE, self._segment_bytes)

    def close(self) -> None:
        """Seal the segment, cut it to its length, let go of the directory. Appending afterwards raises."""
        with self._save_lock:
            with self._lock:
                if self._closed:
                    return
                self._seal()
                self._closed = True
                self._map = self._current = None
                self._limit = 0
                self.shapes.clear()
            with contextlib.suppress(OSError):
                self._save_full()
            self._let_go()

    def abandon(self) -> None:
        """In a forked child: forget the parent's journal without touching its bytes."""
        self._lock, self._save_lock = threading.Lock(), threading.Lock()
        self._closed = True
        self._limit = 0
        self.shapes.clear()
        for backing in (self._current, self._spare, *(backing for _, backing, _ in self._full)):
            if backing is not None:
                backing.forget()
        self._map = self._current = self._spare = None
        self._full.clear()
        self._let_go()

    def _save_full(self) -> None:
        """Save and close the full segments, oldest first. With the save lock held."""
        while self._full:
            number, backing, end = self._full[0]
            backing.close(end)
            self._saved = position_of(number, end)
            with self._lock:
                self._full.pop(0)

    def _let_go(self) -> None:
        if self._spare is not None:
            self._spare.forget()
            self._spare.path.unlink(missing_ok=True)
            self._spare = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # -- below: with the lock held ------------------------------------------------------------------------------

    def _clock_back(self, raw_ns: int) -> int:
        """A time stamp after the last one although the clock is not: run at half speed until it has caught up.

        Stepping by one nanosecond instead would bunch an hour of points on one instant.
        """
        before_ns, given_ns = self._back
        passed_ns = max(raw_ns - before_ns, 0) if given_ns == self._last_ns else 0
        slowed_ns = (self._last_ns + max(passed_ns // 2, SLOTS)) & -SLOTS | self._slot
        self._back = (raw_ns, slowed_ns)
        return slowed_ns

    def _make_room(self, shape: WriterShape, payload: bytes) -> tuple[WriterShape, bytes, int, int]:
        declared = None
        if shape.total == STALE and self._map is not None:
            declared = self.shapes.get(shape.key) or self._declare(shape.key, shape.metrics, shape.tags)
        if declared is None or self._end + declared.total > self._limit:
            self._roll(RECORD.size + shape.size + 2 * segments.padded(segments.KIND.size + len(shape.declaration())))
            declared = self._declare(shape.key, shape.metrics, shape.tags)
        shape = declared
        payload = segments.KIND.pack(shape.id, shape.count) + payload[segments.KIND.size :]
        return shape, payload, self._end, self._end + shape.total

    def _append(self, kind: int, points: int, body: bytes) -> int:
        payload = segments.pack_payload(kind, points, body)
        size = segments.padded(len(payload))
        if self._end + size > self._limit:
            self._roll(size)
        assert self._map is not None
        self._map[self._end + 8 : self._end + 8 + len(payload)] = payload
        RECORD.pack_into(self._map, self._end, len(payload), crc32(payload))
        self._end += size
        return self._base + self._end

    def _declare(self, key: Any, metrics: tuple[str, ...], tags: tuple[tuple[str, str], ...]) -> WriterShape:
        shape = WriterShape(FIRST_SHAPE + len(self.shapes), key, metrics, tags)
        body = shape.declaration()
        number = self._number
        for _ in range(2):  # twice: every values record hangs on it
            self._append(segments.SHAPE, 0, body)
        if self._number != number:  # rolled in between: the first copy is in the segment before
            return self._declare(key, metrics, tags)
        self.shapes[key] = shape
        return shape

    def _seal(self) -> None:
        """End the current segment; it is saved and closed by a background thread, or by `close`."""
        if self._current is None:
            return
        self._limit = self._current.size
        self._append(segments.SEAL, 0, segments.dump_json({"points": self.points - self._points_before}))
        self._points_before = self.points
        self._full.append((self._number, self._current, self._end))

    def _roll(self, size: int) -> None:
        """Seal the segment and open the next one, large enough for a record of `size` bytes."""
        if self._closed:
            raise JournalError("this journal is closed")
        if time.monotonic() < self._retry_at_s:
            raise JournalFullError(f"no room in {self.directory}")
        meta = segments.dump_json(self.meta)
        total = max(self._segment_bytes, HEADER.size + 4 * size + 2 * len(meta) + 4096)
        try:
            doomed = self._room.choose(self._number, total) if self._room and self._number else []
            fresh = self._fresh(total)
        except (OSError, JournalFullError) as error:
            self._limit = 0
            self._retry_at_s = time.monotonic() + RETRY_FULL_S
            why = error.strerror if isinstance(error, OSError) else error
            raise JournalFullError(f"cannot make a journal segment in {self.directory}: {why}") from error
        self._seal()
        for shape in self.shapes.values():
            shape.total = STALE
        self.shapes.clear()
        self._number += 1
        header = segments.pack_header(self._number, self._clock())
        self._current, self._map = fresh, fresh.view
        self._map[: HEADER.size] = header
        self._end = HEADER.size  # before the base: a reader of `position` may see an old one, never one too far
        self._base = position_of(self._number, 0)
        self._limit = fresh.size - 256  # room for the seal
        for _ in range(2):  # twice: without it nobody knows whose the points are
            self._append(segments.META, 0, meta)
        self._say_lost(doomed)
        self.rolled()

    def _fresh(self, size: int) -> Backing:
        path = self.directory / segments.segment_name(self._number + 1)
        spare, self._spare = self._spare, None
        if spare is not None and spare.size >= size:
            spare.path.rename(path)
            spare.path = path
            return spare
        if spare is not None:
            spare.forget()
            spare.path.unlink(missing_ok=True)
        return Buffered(path, size) if self.buffered else Mapped(path, size)

    def _say_lost(self, doomed: Sequence[Doomed]) -> None:
        """Journal what could not be kept, then delete the segments that had to make room."""
        self.dropped += sum(segment.dropped for segment in doomed)
        lost = {
            "dropped": self._dropped_unsaid + sum(segment.dropped for segment in doomed),
            "gone": sum(segment.gone for segment in doomed),
            "segments": [segment.number for segment in doomed],
        }
        self._dropped_unsaid = 0
        if any(lost.values()):
            self._append(segments.LOSS, 0, segments.dump_json(lost))
        for segment in doomed:
            (self.directory / segments.segment_name(segment.number)).with_suffix(".gone").unlink(missing_ok=True)
