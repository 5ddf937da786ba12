"""The roll-ups and summaries of one process directory, derived from its journal while that is shipped.

To derive a point again changes nothing on the server: the same records make the same point. Where a run was resumed,
its open buckets and its summaries go on from those of the attempt before. What a forked child logs makes roll-ups of
its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from metriclog import standing
from metriclog.directory import predecessor, read_meta
from metriclog.errors import JournalError
from metriclog.keeper import recover
from metriclog.replay import JournalReader, beyond
from metriclog.rollups import Rollups
from metriclog.segments import LOSS, Entry, Text, Values, position_of, segment_numbers, split_position
from metriclog.standing import Standing

logger = logging.getLogger("metriclog")

READ_POINTS = 100_000
END = 1 << 62  # after every position
Numbered = tuple[int, Entry]  # with the number of its segment


class Derived:
    """First `catch_up` until it returns nothing; then `feed` every entry in the order of the journal, and `finish`.

    `since` is the ack: where the shipper begins to read. If there is a standing to go on from, the lines of what comes
    between the two were sent with it; if there is none, `catch_up` has them.
    """

    def __init__(self, directory: Path, target: str, started_ns: int, since: int) -> None:
        self.finished = False
        self._rollups: Rollups | None = None
        self._position, self._segment = 0, 0  # of the newest standing
        self._behind: Iterator[list[Numbered]] = iter(())
        try:
            self._begin(directory, target, started_ns, since)
        except (JournalError, OSError) as error:  # what was logged is delivered all the same
            self._rollups, self._behind = None, iter(())
            logger.warning("metriclog: no roll-ups of %s: %s. See metriclog backfill", directory, error)

    def _begin(self, directory: Path, target: str, started_ns: int, since: int) -> None:
        # Without an ack everything is sent again, roll-ups too, if the journal still has its beginning.
        again = not since and segment_numbers(directory)[:1] == [1]
        saved = None if again else _saved(directory, target, started_ns)
        if saved is None:
            self._rollups = _at_the_beginning(directory, target, started_ns)
        else:
            self._rollups, self._position, behind = saved
        self._behind = _read(directory, self._position, since)
        if saved is not None and not behind:
            self._segment, _ = split_position(self._position)
            for found in self._behind:
                self._add(found)
            if self._position < since or not since:
                self._rollups.doubt()  # batches ended elsewhere when this was sent, or it is to be sent again

    def catch_up(self) -> tuple[list[bytes], Standing | None]:
        """The next lines of what has been acknowledged without them, and what to save once they are delivered."""
        for found in self._behind:
            lines = self._add(found)
            if lines and self._rollups:
                end = position_of(found[-1][0], found[-1][1].end)
                return lines, Standing(end, self._rollups.state(), behind=True)
        return [], None

    def feed(self, entries: Iterable[Numbered]) -> list[bytes]:
        """The lines that are due after these entries."""
        self.finished = False
        return self._add(entries)

    def finish(self, end: int) -> tuple[list[bytes], Standing | None]:
        """The lines that are due at the end of the journal, and what to save once they are delivered."""
        self.finished = True
        lines = self._rollups.finish() if self._rollups else []
        state = self._rollups.state() if self._rollups else b""
        return lines, Standing(end, state, finished=True)

    def standing(self, end: int) -> Standing | None:
        """What to save before the ack of `end`: once at first, and once for each segment that is begun."""
        number, _ = split_position(end)
        if self._rollups is None or number <= self._segment or end < self._position:
            return None
        self._segment = number
        return Standing(end, self._rollups.state())

    def _add(self, entries: Iterable[Numbered]) -> list[bytes]:
        """Take in what is after the standing from which this went on: that may be ahead of the ack."""
        return self._rollups.add(_values_after(self._position, entries)) if self._rollups else []


def streams(paths: Iterable[Path]) -> list[list[Path]]:
    """The process directories of a run whose roll-ups go on from one to the next: the attempts of each rank.

    Raises `JournalError` if one is missing in between, or has lost its beginning.
    """
    found: dict[Path, list[Path]] = {}
    for path in paths:
        _check_whole(path)
        earlier = predecessor(path)
        stream = found.pop(earlier) if earlier is not None else []
        found[path] = [*stream, path]
    return list(found.values())


def whole(stream: Sequence[Path]) -> Iterator[list[bytes]]:
    """Every line that these directories make, whatever has been delivered."""
    rollups = Rollups(0)
    for path in stream:
        meta = read_meta(path) or {"started_ns": 0}
        rollups = Rollups.restore(rollups.state(), int(meta["started_ns"]))
        for found in _read(path, 0, END):
            yield rollups.add(_values_after(0, found))
        yield rollups.finish()


def _at_the_beginning(directory: Path, target: str, started_ns: int) -> Rollups:
    """The roll-ups from which a directory goes on: those of the attempt before, whatever of that is delivered."""
    _check_whole(directory)
    rollups, replayed = None, []
    earlier = predecessor(directory)
    while earlier is not None:
        with contextlib.suppress(OSError):
            recover(earlier)
        saved = _saved(earlier, target, started_ns)
        if saved is None:
            _check_whole(earlier)
        rollups, position, _ = saved or (None, 0, False)
        replayed.append((earlier, position))
        earlier = predecessor(earlier) if saved is None else None
    rollups = rollups or Rollups(started_ns)
    for path, position in reversed(replayed):
        for found in _read(path, position, END):
            rollups.add(_values_after(position, found))
    return rollups


def _saved(directory: Path, target: str, started_ns: int) -> tuple[Rollups, int, bool] | None:
    """The roll-ups of the newest standing, if what follows it is in the journal; its position; whether it is behind."""
    saved = standing.load(directory, target)
    if saved is not None and split_position(saved.position)[0] in segment_numbers(directory):
        with contextlib.suppress(ValueError):
            return Rollups.restore(saved.state, started_ns), saved.position, saved.behind
    return None


def _check_whole(directory: Path) -> None:
    if not _is_whole(directory):
        raise JournalError("its journal has lost its beginning")


def _is_whole(directory: Path) -> bool:
    """Whether everything is there that was ever delivered; what was given up before that is no matter."""
    if segment_numbers(directory)[:1] == [1]:
        return True
    losses = (entry for found in _read(directory, 0, END) for _, entry in found if isinstance(entry, Text))
    return not any(entry.json().get("gone") for entry in losses if entry.kind == LOSS)


def _read(directory: Path, position: int, until: int) -> Iterator[list[Numbered]]:
    """The entries from one position to another."""
    with contextlib.closing(JournalReader(directory, position)) as reader:
        while found := reader.read(READ_POINTS, until):
            yield found


def _values_after(position: int, entries: Iterable[Numbered]) -> Iterator[Values]:
    for number, entry in entries:
        left = beyond(entry, number, position) if isinstance(entry, Values) else None
        if isinstance(left, Values):
            yield left
