"""The journal of one process: append, roll, seal. Knows records, not metrics.

    DIR/<run>/<0001-host>/  owner.lock          held with flock while the process lives; the kernel lets go at kill -9
                            00000001.seg …      segments, see segments.py
                            ack-<target>.json, quarantine-<target>.jsonl   what this target said, see acks.py

A *position* is `segment number << 40 | offset`: one int that grows with every record. Signal handlers may log, and
raise: Python runs them between two calls. So each step that must not be torn apart is a row of plain stores, and the
lock may be taken again by the thread that holds it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from metriclog import segments
from metriclog.backing import Backing, Place
from metriclog.errors import JournalError, JournalFullError
from metriclog.ledger import Doomed, Kept, Ledger, Room
from metriclog.segments import FIRST_SHAPE, HEADER, RECORD, STALE, WriterShape, position_of, split_position

SLOTS = 64  # the last 6 bits of a time stamp name the writing process, so that two never share a nanosecond
JITTER_NS = 10**9  # a clock that goes back by less goes to and fro: the same stretch counts once, or it adds up
RETRY_FULL_S = 1.0  # after a full disk: how long to refuse at once before trying again
MAX_UNSAVED = 3  # full segments in memory, if buffered: a disk that does not come back must not fill it
# At the end of a segment, kept free of points: LOSS records while there is no room for another segment, then the SEAL.
LOSS_BYTES, SEAL_BYTES = 1024, 256
_head = RECORD.pack


class Journal:
    """Appends records of this process. Several threads may append; a point is safe from kill -9 once append returns.

    Want of space is `JournalFullError`; the caller counts with `lose` what it could not keep.
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
        self.directory, self.buffered, self.meta = directory, buffered, meta
        self.rolled: Callable[[], None] = lambda: None  # called after a roll: there is something to save
        self.shapes: dict[Any, WriterShape] = {}
        self.ledger = Ledger()
        self.points = 0
        self._segment_bytes, self._slot, self._clock = segment_bytes, slot % SLOTS, clock
        self._room, self._place = room, Place(directory, segment_bytes, buffered=buffered)
        self._lock, self._save_lock = threading.RLock(), threading.Lock()
        self._current: Backing | None = None
        self._map: Any = None  # the current segment's bytes
        self._full: list[tuple[int, Backing, int, int]] = []  # (number, backing, end, points up to there), to be saved
        self._points_before = self._points_saved = self._saved = 0
        self._number = self._end = self._limit = self._size = self._base = self._last_ns = 0
        self._next_shape, self._back = FIRST_SHAPE, (0, 0)  # _back: the latest of a clock set back, and the last given
        self._retry_at_s, self._refusal, self._rolling, self.closed = 0.0, "", False, False

    @classmethod
    def create(cls, directory: Path, meta: dict[str, Any], **options: Any) -> Journal:
        """Take the (empty, existing) directory for this process and open its first segment."""
        journal = cls(directory, meta, **options)
        try:
            journal._place.lock()
            with journal._lock:
                journal._roll(0)
            if journal.buffered:
                journal.sync()  # a directory that cannot be written shows here
        except JournalError:
            journal.abandon()
            raise
        except OSError as error:
            journal.abandon()
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

    @property
    def accepted(self) -> int:
        """Points that came to be appended, whatever became of them."""
        return self.points + self.ledger.refused

    @property
    def dropped(self) -> int:
        """Points that could not be kept, or were given up."""
        return self.ledger.dropped

    def bytes_after(self, position: int) -> int:
        """About how many bytes of records come after a position."""
        number, offset = split_position(max(position, position_of(1, HEADER.size)))
        return (self._number - number) * self._segment_bytes + self._end - offset

    def now_ns(self) -> int:
        """The next time stamp of this process: wall clock, strictly increasing, in this process' slot."""
        with self._lock:
            now = self._clock() & -SLOTS | self._slot
            while now <= self._last_ns:
                now = self._clock_back(now)
            self._last_ns = now
            return now

    def append_values(self, shape: WriterShape, step: int, values: Iterable[float], time_ns: int | None = None) -> int:
        """Append one values record and return its end position. `struct.error` if a value does not pack.

        The hot path: everything that can be decided elsewhere is.
        """
        with self._lock:
            now = self._clock() & -SLOTS | self._slot
            while now <= self._last_ns:
                now = self._clock_back(now)
            self._last_ns = now
            payload = shape.pack(shape.id, shape.count, now if time_ns is None else time_ns, step, *values)
            head = _head(shape.size, crc32(payload))
            end = self._end
            stop = end + shape.total
            while stop > self._limit:
                shape, payload = self._make_room(shape, payload)
                head = _head(shape.size, crc32(payload))
                end = self._end
                stop = end + shape.total
            view = self._map
            view[end + 8 : stop] = payload
            view[end : end + 8] = head
            self._end = stop
            self.points += shape.count
            return self._base + stop

    def append_lines(self, lines: Collection[str]) -> int:
        """Append points already in line protocol; they become one record. Returns its end position."""
        with self._lock:
            return self._append(segments.LINES, len(lines), "\n".join(lines).encode())

    def shape(self, key: Any, metrics: tuple[str, ...], tags: tuple[tuple[str, str], ...]) -> WriterShape:
        """The shape under `key`, declared in the current segment if it is not yet."""
        with self._lock:
            return self.shapes.get(key) or self._declare(key, metrics, tags)

    def lose(self, points: int) -> None:
        """Count points that could not be kept; the count is journaled as soon as there is room again."""
        with self._lock:
            self.ledger.lose(points)

    def retry(self) -> None:
        """Something has changed: try at once for another segment."""
        self._retry_at_s = 0.0

    def sync(self) -> None:
        """Save full segments and what is new in the current one, and lay a spare segment by; for background threads.

        Against a power cut; on a network file system also against kill -9. `OSError` and `JournalError` pass through.
        """
        with self._save_lock:
            if not self.closed and self._place.vanished():
                self._begin_again()
            self._save_full()
            with self._lock:
                backing, number, end, points = self._current, self._number, self._end, self.points
                if self._full:  # rolled since: what is older is to be saved first
                    backing = None
                elif self.ledger.unsaid > self.ledger.dropped // 2:  # now and then, for readers after a kill -9
                    self._say((), LOSS_BYTES // 2)
            if backing is not None:
                backing.save(end)
                self._saved, self._points_saved = position_of(number, end), points
            if self.closed:  # `close` has not waited for us
                self._place.let_go()
            elif self._limit:
                self._place.lay_by()

    def close(self, timeout_s: float = 10.0) -> int:
        """Seal, save, let go of the directory. Appending afterwards raises. Returns points that could not be saved.

        Waits at most about `timeout_s` seconds for a disk that does not answer somebody else.
        """
        saving = self._save_lock.acquire(timeout=timeout_s)
        try:
            with contextlib.suppress(OSError, JournalError):
                if saving and not self.closed and self._place.vanished():
                    self._begin_again()
            if self._lock.acquire(timeout=timeout_s):
                try:
                    self._end_for_good()
                finally:
                    self._lock.release()
            with contextlib.suppress(OSError):
                if saving:
                    self._save_full()
            return self._unsaved()
        finally:
            if saving:
                self._place.let_go()
                self._save_lock.release()

    def abandon(self) -> None:
        """In a forked child: forget the parent's journal without touching its bytes."""
        self._lock, self._save_lock = threading.RLock(), threading.Lock()
        self.closed, self._limit, self._size = True, 0, 0
        self.shapes.clear()
        for backing in (self._current, *(backing for _, backing, _, _ in self._full)):
            if backing is not None:
                backing.forget()
        self._map, self._current, self._full = None, None, []
        self._place.forget()

    def _save_full(self) -> None:
        """Save and close the full segments, oldest first."""
        while self._full:
            try:
                self._full[0][1].close(self._full[0][2])
            finally:
                self._forget_saved()

    def _forget_saved(self) -> None:
        number, backing, end, points = self._full[0]
        if not backing.closed:
            return
        with self._lock:
            self._full = self._full[1:]
            if number in self.ledger.kept:
                self.ledger.kept[number].size_bytes = end
        self._saved, self._points_saved = position_of(number, end), points

    def _unsaved(self) -> int:
        """If buffered: count what is in memory only as dropped."""
        left = self.points - self._points_saved if self.buffered else 0
        self.points -= left
        self.ledger.lose(left)
        return left

    def _begin_again(self) -> None:
        """Somebody deleted the directory: make it again, and write what is still in memory; the rest is lost."""
        with self._lock:
            self._place.make_again()
            self._retry_at_s = 0.0
            held = {number: (backing, end) for number, backing, end, _ in self._full}
            held |= {self._number: (self._current, self._end)} if self._current else {}
            for backing, end in held.values():  # before there is a later one: a reader would pass over what is missing
                backing.rewrite(end)
            self._roll(0, rescue=True)
            self._full[-1][1].rewrite(self._full[-1][2])
            self._place.lock()
            lost = self.ledger.kept.keys() - held.keys() - {self._number}
            if self._room is not None and lost:
                self._give_up(self._room.write_off(self.ledger.kept, sorted(lost)))

    def _clock_back(self, raw_ns: int) -> int:
        """After the last one although the clock is not: half speed until it has caught up, never bunched."""
        is_set = self._back[1] != self._last_ns or raw_ns < self._back[0] - JITTER_NS
        seen_ns = raw_ns if is_set else self._back[0]
        self._back = max(raw_ns, seen_ns), self._last_ns + max((raw_ns - seen_ns) // 2, SLOTS) & -SLOTS | self._slot
        return self._back[1]

    def _make_room(self, shape: WriterShape, payload: bytes) -> tuple[WriterShape, bytes]:
        """Room for this record, and the record as the segment that it will go into wants it."""
        declared = None
        if shape.total == STALE and self._map is not None:
            declared = self.shapes.get(shape.key) or self._declare(shape.key, shape.metrics, shape.tags)
        if declared is None or self._end + declared.total > self._limit:
            self._roll(RECORD.size + shape.size + 2 * segments.padded(segments.KIND.size + len(shape.declaration())))
            declared = self._declare(shape.key, shape.metrics, shape.tags)
        return declared, segments.KIND.pack(declared.id, declared.count) + payload[segments.KIND.size :]

    def _append(self, kind: int, points: int, body: bytes) -> int:
        payload = segments.pack_payload(kind, points, body)
        while not self._put(payload, points):
            self._roll(segments.padded(len(payload)))
        return self._base + self._end

    def _put(self, payload: bytes, points: int = 0, reserve: int | None = None) -> bool:
        """Append a record if it fits: where points may be, or `reserve` bytes before the end of the segment."""
        size, used, head = segments.padded(len(payload)), 8 + len(payload), _head(len(payload), crc32(payload))
        end = self._end
        if end + size > (self._limit if reserve is None else self._size - reserve):
            return False
        view = self._map
        view[end + 8 : end + used] = payload
        view[end : end + 8] = head
        self._end = end + size
        self.points += points
        return True

    def _declare(self, key: Any, metrics: tuple[str, ...], tags: tuple[tuple[str, str], ...]) -> WriterShape:
        number, next_shape = self._number, self._next_shape
        self._next_shape = next_shape + 1
        shape = WriterShape(next_shape, key, metrics, tags)
        body = shape.declaration()
        for _ in range(2):  # twice: every values record hangs on it
            self._append(segments.SHAPE, 0, body)
        if self._number != number:  # rolled in between: the first copy is in the segment before
            return self._declare(key, metrics, tags)
        self.shapes[key] = shape
        return shape

    def _roll(self, size: int, *, rescue: bool = False) -> None:
        """Seal the segment and open the next one, large enough for a record of `size` bytes."""
        if self.closed:
            raise JournalError("this journal is closed")
        if self._rolling:
            raise JournalFullError("a signal handler came while the journal made room")
        if time.monotonic() < self._retry_at_s:
            raise JournalFullError(self._refusal)
        self._rolling = True
        try:
            meta = segments.pack_record(segments.META, segments.dump_json(self.meta))  # twice: it says whose points
            total = max(self._segment_bytes, HEADER.size + 4 * size + 2 * len(meta) + 4096)
            if self._number and not rescue:
                self._make_space(total + self._place.ahead_bytes)
            self._limit = 0  # who sees the next file takes this one for complete
            fresh = self._place.fresh(segments.segment_name(self._number + 1), total)
            self._switch(fresh, segments.pack_header(self._number + 1, self._clock()) + 2 * meta)
        except (OSError, MemoryError, JournalFullError) as error:
            self._limit = 0
            self._retry_at_s = time.monotonic() + RETRY_FULL_S
            why = error.strerror if isinstance(error, OSError) else error
            self._refusal = f"cannot make a journal segment in {self.directory}: {why}"
            raise JournalFullError(self._refusal) from error
        finally:
            self._rolling = False
        self.rolled()

    def _switch(self, fresh: Backing, start: bytes) -> None:
        """Go on in a fresh segment that starts like this."""
        view, size, end, number = fresh.view, fresh.size, len(start), self._number + 1
        view[:end] = start
        full, kept, base = self._full, Kept(size), position_of(number, 0)
        if self._current is not None:
            self._seal()
            full = [*full, (self._number, self._current, self._end, self.points)]
        # The end before the base: a reader of `position` may see an old one, never one too far.
        self._end, self._full, self._current, self._map, self._number = end, full, fresh, view, number
        self._base, self._size, self._limit, self._next_shape = base, size, size - LOSS_BYTES, FIRST_SHAPE
        self._place.next = None
        self.ledger.kept[number] = kept

    def _seal(self, *, last: bool = False) -> None:
        """End the current segment; it is saved and closed by a background thread, or by `close`."""
        self._limit, self.closed = 0, last  # before the SEAL: who reads the last one knows that nothing follows
        for shape in self.shapes.values():
            shape.total = STALE
        self.shapes.clear()
        if self.ledger.unsaid:
            self._say((), SEAL_BYTES // 2)
        points = self.points - self._points_before
        self._put(segments.pack_payload(segments.SEAL, 0, segments.dump_json({"points": points})), reserve=0)
        self.ledger.kept[self._number].points = points
        self._points_before = self.points

    def _end_for_good(self) -> None:
        if self._current is not None:
            self._seal(last=True)
            self._full = [*self._full, (self._number, self._current, self._end, self.points)]
        self.closed, self._map, self._current, self._limit, self._size = True, None, None, 0, 0

    def _make_space(self, size_bytes: int) -> None:
        """Keep the bounds; `JournalFullError` if that cannot be done."""
        if self.buffered and len(self._full) >= MAX_UNSAVED:
            raise JournalFullError("what is in memory cannot be written to the disk")
        if self._room is None:
            return
        doomed, why = self._room.choose(self.ledger.kept, self._number, size_bytes)
        if doomed:
            self._give_up(doomed)
        if why:
            raise JournalFullError(why)

    def _give_up(self, doomed: Sequence[Doomed]) -> None:
        """Journal what is lost with these segments, then delete them. Both before there is need of their space."""
        if not self._say(doomed, SEAL_BYTES):
            assert self._room is not None
            self._room.put_back(doomed)
            raise JournalFullError("too many losses for one segment")
        self.ledger.deleted(lambda number: self._place.delete(segments.gone_name(number)))

    def _say(self, doomed: Sequence[Doomed], reserve: int) -> bool:
        """Journal what could not be kept, if that fits with `reserve` bytes to spare."""
        loss = self.ledger.loss(doomed)
        if not self._put(segments.pack_payload(segments.LOSS, 0, segments.dump_json(loss)), reserve=reserve):
            return False
        self.ledger.said(loss, doomed, self._number)
        return True
