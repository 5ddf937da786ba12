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
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

from metriclog import segments
from metriclog.errors import JournalError, JournalFullError
from metriclog.segments import FIRST_SHAPE, HEADER, RECORD, Entry, SegmentReader

OFFSET_BITS = 40
SLOTS = 64  # the last 6 bits of a time stamp name the writing process, so that two never share a nanosecond
RETRY_FULL_S = 1.0  # after a full disk: how long to refuse at once before trying again
_STALE = 1 << 62


def position_of(number: int, offset: int) -> int:
    """The position of a byte in a segment."""
    return number << OFFSET_BITS | offset


def split_position(position: int) -> tuple[int, int]:
    """(segment number, offset)."""
    return position >> OFFSET_BITS, position & (1 << OFFSET_BITS) - 1


class WriterShape:
    """A shape declared in the segment being written. `total` is huge once that segment is full."""

    __slots__ = ("count", "id", "key", "metrics", "pack", "size", "tags", "total")

    def __init__(self, number: int, key: Any, metrics: tuple[str, ...], tags: tuple[tuple[str, str], ...]) -> None:
        layout = struct.Struct(f"<IIqq{len(metrics)}d")
        self.id, self.key, self.metrics, self.tags, self.count = number, key, metrics, tags, len(metrics)
        self.pack, self.size, self.total = layout.pack, layout.size, RECORD.size + layout.size


class Journal:
    """Appends records of this process. Several threads may append; a point is safe from kill -9 once append returns.

    `OSError` for want of space becomes `JournalFullError`; the caller counts what it could not keep with `lose`.
    """

    def __init__(
        self, directory: Path, meta: dict[str, Any], *, segment_bytes: int, slot: int = 0, clock: Callable[[], int]
    ) -> None:
        self.directory = directory
        self.shapes: dict[Any, WriterShape] = {}
        self.meta = meta
        self.points = 0
        self.dropped = 0
        self._dropped_unsaid = 0
        self._segment_bytes, self._slot, self._clock = segment_bytes, slot % SLOTS, clock
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
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
        except OSError as error:
            raise JournalError(f"cannot write a journal in {directory}: {error.strerror}") from error
        return journal

    @property
    def position(self) -> int:
        """End of the last record."""
        return self._base + self._end

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
            payload = shape.pack(shape.id, 1, now if time_ns is None else time_ns, step, *values)
            self._last_ns = now
            end = self._end
            stop = end + shape.total
            if stop > self._limit:
                shape, payload, end, stop = self._make_room(shape, payload)
            view = self._map
            view[end + 8 : stop] = payload  # type: ignore[index]
            RECORD.pack_into(view, end, shape.size, crc32(payload))  # type: ignore[arg-type]
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
        """Write the dirty pages to disk: what a power cut may cost is what came after."""
        with self._lock:
            if self._map is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._map.flush()

    def close(self) -> None:
        """Seal the segment, cut it to its length, let go of the directory. Appending afterwards raises."""
        with self._lock:
            if not self._closed:
                self._seal()
                self._closed = True
                self._release()

    def abandon(self) -> None:
        """In a forked child: forget the parent's journal without touching its bytes."""
        self._lock = threading.Lock()
        self._closed = True
        self._release()

    # -- below: with the lock held ------------------------------------------------------------------------------

    def _release(self) -> None:
        self._limit = 0
        self.shapes.clear()
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

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
        if shape.total != _STALE or self._map is None:
            self._roll(RECORD.size + shape.size)
        shape = self.shapes.get(shape.key) or self._declare(shape.key, shape.metrics, shape.tags)
        if self._end + shape.total > self._limit:
            self._roll(shape.total)
            shape = self._declare(shape.key, shape.metrics, shape.tags)
        payload = segments.KIND.pack(shape.id, 1) + payload[segments.KIND.size :]
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
        body = segments.dump_json({"id": shape.id, "metrics": metrics, "tags": tags})
        number = self._number
        for _ in range(2):  # twice: every values record hangs on it
            self._append(segments.SHAPE, 0, body)
        if self._number != number:  # rolled in between: the first copy is in the segment before
            return self._declare(key, metrics, tags)
        self.shapes[key] = shape
        return shape

    def _seal(self) -> None:
        if self._map is None:
            return
        room = self._map.size() - self._end
        counts = segments.dump_json({"points": self.points, "dropped": self.dropped})
        payload = segments.pack_payload(segments.SEAL, 0, counts)
        if room >= segments.padded(len(payload)):
            self._limit = self._map.size()
            self._append(segments.SEAL, 0, counts)
        self._map.flush()
        self._map.close()
        self._map = None
        with contextlib.suppress(OSError):
            os.truncate(self.directory / segments.segment_name(self._number), self._end)

    def _roll(self, size: int) -> None:
        """Seal the segment and open the next one, large enough for a record of `size` bytes."""
        if self._closed:
            raise JournalError("this journal is closed")
        if time.monotonic() < self._retry_at_s:
            raise JournalFullError(f"no room in {self.directory}")
        meta = segments.dump_json(self.meta)
        total = max(self._segment_bytes, HEADER.size + 4 * size + len(meta) + 4096)
        try:
            fresh = _allocate(self.directory / segments.segment_name(self._number + 1), total)
        except OSError as error:
            self._limit = 0
            self._retry_at_s = time.monotonic() + RETRY_FULL_S
            raise JournalFullError(f"cannot make a journal segment in {self.directory}: {error.strerror}") from error
        self._seal()
        for shape in self.shapes.values():
            shape.total = _STALE
        self.shapes.clear()
        self._number += 1
        self._map, self._base, self._end = fresh, position_of(self._number, 0), HEADER.size
        self._limit = total - 256  # room for the seal
        fresh[: HEADER.size] = HEADER.pack(segments.MAGIC, segments.VERSION, HEADER.size, self._number, self._clock())
        self._append(segments.META, 0, meta)
        if self._dropped_unsaid:
            self._append(segments.LOSS, 0, segments.dump_json({"dropped": self._dropped_unsaid}))
            self._dropped_unsaid = 0


def _allocate(path: Path, size: int) -> mmap.mmap:
    """A new file of zeros, its blocks reserved, so that a full disk is an OSError here and no SIGBUS later."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:  # macOS
            os.write(fd, bytes(size))
        return mmap.mmap(fd, size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def owner_is_alive(directory: Path) -> bool:
    """Whether the process that writes this directory still runs."""
    try:
        fd = os.open(directory / "owner.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no flock on this file system: taking it for dead costs duplicates only
        return False
    finally:
        os.close(fd)
    return False


class JournalReader:
    """Reads a process directory from a position on, segment after segment."""

    def __init__(self, directory: Path, position: int = 0) -> None:
        self.directory = directory
        self._start = position
        self._open: tuple[int, SegmentReader] | None = None

    @property
    def position(self) -> int:
        """Where the next read begins."""
        return position_of(self._open[0], self._open[1].offset) if self._open else self._start

    def close(self) -> None:
        """Close the open segment."""
        if self._open:
            self._start = self.position
            self._open[1].close()
            self._open = None

    def read(self, max_points: int, until: int | None = None) -> list[tuple[int, Entry]]:
        """Up to about `max_points` points as (segment number, entry); at most up to position `until`.

        Without `until` a record that cannot be read at the end of a live journal is taken as still being written.
        """
        entries: list[tuple[int, Entry]] = []
        while max_points > 0:
            found, more = self._read_segment(max_points, until)
            entries += found
            max_points -= sum(entry.points for _, entry in found)
            if not more:
                break
        return entries

    def _read_segment(self, max_points: int, until: int | None) -> tuple[list[tuple[int, Entry]], bool]:
        """Entries of the current segment, and whether to go on with the next."""
        alive = until is None and owner_is_alive(self.directory)  # before the listing, or the last roll is missed
        numbers = segments.segment_numbers(self.directory)
        current = self._current(numbers)
        if current is None:
            return [], False
        number, reader = current
        stop = reader.size()
        if until is not None:
            last, offset = split_position(until)
            stop = stop if number < last else min(stop, offset) if number == last else 0
        settled = until is not None or not alive or number < numbers[-1]
        found = [(number, entry) for entry in reader.read(stop, max_points, settled=settled)]
        done = reader.complete or (reader.offset >= stop and number < numbers[-1])
        if done and number < numbers[-1]:
            self._start = position_of(numbers[numbers.index(number) + 1], 0)
            reader.close()
            self._open = None
            return found, True
        return found, False

    def _current(self, numbers: list[int]) -> tuple[int, SegmentReader] | None:
        if self._open is None:
            number, offset = split_position(self._start)
            later = [candidate for candidate in numbers if candidate >= number]
            if not later:
                return None
            reader = SegmentReader(self.directory / segments.segment_name(later[0]))
            if later[0] == number:
                reader.skip_to(offset, reader.size())
            self._open = (later[0], reader)
        return self._open
