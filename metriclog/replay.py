"""Reading a process directory back, segment after segment, also while its process writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from metriclog import files, segments
from metriclog.segments import Entry, SegmentReader, Text, Values, position_of, split_position


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


@contextlib.contextmanager
def without_owner(directory: Path, *, surely: bool = False) -> Iterator[bool]:
    """Whether nobody writes this directory; inside the block nobody begins to. `OSError` passes through.

    `surely`: no where the file system cannot tell.
    """
    fd = files.open_lock(directory / "owner.lock")
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        dead = True
    except OSError as error:  # no flock on this file system: see above
        dead = not surely and not isinstance(error, BlockingIOError)
    try:
        yield dead
    finally:
        files.close_lock(fd)


def beyond(entry: Values | Text, number: int, position: int) -> Values | Text | None:
    """The part of an entry after a position, or None: rows read in one stretch may have been shipped in two."""
    if position_of(number, entry.end) <= position:
        return None
    if isinstance(entry, Text) or position <= position_of(number, entry.start):
        return entry
    size = (entry.end - entry.start) // len(entry.rows)
    done = (position - position_of(number, entry.start)) // size
    return Values(entry.shape, entry.rows[done:], entry.start + done * size, entry.end)


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
        later = [candidate for candidate in numbers if candidate > number]  # this one may have been deleted
        settled = (
            until is not None or bool(later) or not (alive or owner_is_alive(self.directory))
        )  # also one that has just come
        found = [(number, entry) for entry in reader.read(stop, max_points, settled=settled)]
        # Up to a position within it is not the whole of a segment, though by now there may be a later one.
        whole = until is None or number < split_position(until)[0]
        if later and (reader.complete or (whole and reader.offset >= stop)):
            self._start = position_of(later[0], 0)
            reader.close()
            self._open = None
            return found, True
        return found, False

    def _current(self, numbers: list[int]) -> tuple[int, SegmentReader] | None:
        if self._open and self._open[1].replaced():  # its directory was deleted, and written again
            self.close()
        if self._open is None:
            wanted, offset = split_position(self._start)
            for number in [candidate for candidate in numbers if candidate >= wanted]:
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    reader = SegmentReader(self.directory / segments.segment_name(number))
                    if number == wanted:
                        reader.skip_to(offset, reader.size())
                    self._open = (number, reader)
                    break
        return self._open
