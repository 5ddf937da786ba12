"""The delivery loop of one process directory to one target: batch, send, ack, quarantine. Knows order and counts.

The ack moves in journal order, and only after every line up to there has its own yes or is in quarantine. A crash
before the ack sends a batch again: the same points with the same time stamps, which changes nothing on the server.
Where there is a backlog, several batches are under way at once, each on a connection (a *lane*) of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from metriclog import acks, files, quarantine, segments, standing
from metriclog.directory import read_meta
from metriclog.errors import JournalError, TransientError
from metriclog.importing import importing
from metriclog.keeper import Opened
from metriclog.points import encode_rows, metric_prefixes
from metriclog.receipts import Delivery
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.segments import LINES, Damage, Entry, Text, Values, position_of
from metriclog.sender import Control, Refused, Sender, Target
from metriclog.standing import Standing

if TYPE_CHECKING:
    from metriclog.derived import Derived

logger = logging.getLogger("metriclog")

MOST_LINES = 20_000  # of a post, roll-ups included, where the lines of a batch are fewer


@dataclass(slots=True)
class Batch:
    """Entries of the journal as lines, and where each line comes from."""

    lines: list[bytes]
    entries: list[tuple[int, Entry]]
    end: int
    refused: Refused = field(default_factory=list)
    damaged: int = 0
    derived: list[bytes] | None = None  # lines of roll-ups: sent with the others, counted nowhere; None: not made yet
    standing: Standing | None = None  # to be saved before the ack
    at_end: bool = False

    def deliver(self, sender: Sender) -> None:
        """Return when each line has its own yes or is refused. Raises as `Sender.deliver`.

        At its end a run of many metrics has far more roll-ups than a post should hold.
        """
        body = self.lines + (self.derived or [])
        most = max(2 * len(self.lines), MOST_LINES)
        pieces = [body[start : start + most] for start in range(0, len(body), most)]
        self.refused = [one for piece in pieces for one in sender.deliver(piece)]

    def records_of(self, refused: set[bytes]) -> Iterator[tuple[int, int, bytes]]:
        """(start, end, line) positions of the records that hold these lines."""
        index = 0
        for number, entry in self.entries:
            rows = len(entry.rows) if isinstance(entry, Values) else 1
            width = entry.points // rows if rows else 0
            size = (entry.end - entry.start) // max(rows, 1)
            for row in range(rows):
                start = position_of(number, entry.start + row * size)
                for line in self.lines[index : index + width]:
                    if line in refused:
                        yield start, start + size, line
                index += width


class Lane:
    """A connection with a thread of its own, for one batch at a time. The thread starts here and ends with `close`."""

    def __init__(self, target: Target, control: Control) -> None:
        self._control = control
        self._todo: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, args=(target,), name="metriclog-lane", daemon=True).start()

    def submit(self, batch: Batch) -> None:
        """Begin to deliver."""
        self._todo.put(batch)

    def wait(self) -> None:
        """Return when the batch is delivered. Raises what its delivery raised, or `TransientError` at the end."""
        while True:
            try:
                error = self._done.get(timeout=0.5)
            except queue.Empty:
                if self._control.stop.is_set():
                    raise TransientError("told to stop while a request was under way") from None
                continue
            if error is not None:
                raise error
            return

    def close(self) -> None:
        """End the thread after the request under way."""
        self._todo.put(None)

    def _loop(self, target: Target) -> None:
        sender = Sender(target, self._control)
        while (batch := self._todo.get()) is not None:
            try:
                batch.deliver(sender)
                self._done.put(None)
            except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
                self._done.put(error)
        target.close()


class Shipper:
    """Ships one process directory to one target. Not for several threads; `ship_batch` until it returns False.

    `own` is given where this process writes the directory itself: then reading ends where its writer has come to.
    """

    def __init__(
        self,
        directory: Path,
        target: Target,
        control: Control,
        *,
        max_points: int,
        connections: int = 1,
        own: Opened | None = None,
    ) -> None:
        self.directory = directory
        self.ack = acks.load_ack(directory, target.target)
        self.acked_time_ns: int | None = None
        self.behind = False  # whether the batch read last was full: there is more to come
        self._target, self._control = target, control
        self._max_points, self._own = max_points, own
        self._delivery = own.delivery if own else Delivery()
        self._delivery.advance(self.ack.position)  # what another process shipped
        self._reader = JournalReader(directory, self.ack.position)
        self._reading = own.keeper.lock if own else contextlib.nullcontext()
        if own:
            own.keeper.reading = lambda: self._reader.position
        self._sender = Sender(target, control)
        self._connections = connections
        self._free: list[Lane] = []
        self._under_way: deque[tuple[Batch, Lane]] = deque()
        self._held: Batch | None = None  # read, but not on its way
        self._end = self.ack.position  # of what has been read
        self._prefixes: dict[object, tuple[list[bytes], list[bytes]]] = {}
        self._started_ns: int | None = None
        self._derived: Derived | None = None
        self._derives = True

    def close(self) -> None:
        """Close the files, let the lanes end."""
        self._reader.close()
        for lane in (*self._free, *(lane for _, lane in self._under_way)):
            lane.close()
        self._free.clear()
        self._under_way.clear()
        self._held = self._derived = None

    def ship_batch(self) -> bool:
        """Ship the next batch; False if there is none. Raises the last `ServerError` when told to stop."""
        try:
            batch = self._next_delivered()
            if batch is not None:
                self._acknowledge(batch)
        except Exception:
            self.close()  # whatever it was: go on from the ack, or what was read would be passed over
            self._reader = JournalReader(self.directory, self.ack.position)
            self._end = self.ack.position
            raise
        return batch is not None

    def _next_delivered(self) -> Batch | None:
        """The next batch in the order of the journal, once delivered."""
        while len(self._under_way) < self._connections and not (self._under_way and self._control.stop.is_set()):
            batch = self._read_batch()
            if batch is None:
                break
            alone = not self._under_way and (len(batch.lines) < self._max_points or self._connections == 1)
            lane = None if alone else self._take_lane()
            if lane is None and not self._under_way:  # the usual case of a live run: no second thread
                batch.deliver(self._sender)
                return batch
            if lane is None:
                self._held = batch
                break
            lane.submit(batch)
            self._under_way.append((batch, lane))
        if not self._under_way:
            return None
        batch, lane = self._under_way[0]
        lane.wait()
        self._under_way.popleft()
        self._free.append(lane)
        return batch

    def _take_lane(self) -> Lane | None:
        """A free lane or a new one; None while the interpreter shuts down, when no thread can be started."""
        try:
            return self._free.pop() if self._free else Lane(self._target.another(), self._control)
        except RuntimeError:
            return None

    def _read_batch(self) -> Batch | None:
        batch, self._held = self._held or self._read_entries(), None
        if batch is None or batch.derived is not None:
            return batch
        derived = self._deriving()
        if derived is None:
            batch.derived = []
            return batch
        late, standing_then = derived.catch_up()
        if late:
            self._held = batch
            return Batch([], [], self.ack.position, derived=late, standing=standing_then)
        batch.derived, batch.standing = derived.feed(batch.entries), derived.standing(batch.end)
        if batch.at_end:
            lines, batch.standing = derived.finish(batch.end)
            batch.derived += lines
        return batch

    def _read_entries(self) -> Batch | None:
        ended = not self._own and not owner_is_alive(self.directory)
        with self._reading:
            entries = self._reader.read(self._max_points, self._own.journal.readable if self._own else None)
        full = sum(entry.points for _, entry in entries) >= self._max_points
        if self._own:
            at_end = self._own.journal.closed and self._reader.position >= self._own.journal.position
        else:
            at_end = ended and not full
        if not entries and not (at_end and self._is_unfinished()):
            return None
        self.behind = full
        if entries:
            self._end = position_of(entries[-1][0], entries[-1][1].end)
        batch = Batch([], entries, self._end, at_end=at_end)
        for _, entry in entries:
            batch.lines += self._encode(entry, batch)
        return batch

    def _is_unfinished(self) -> bool:
        """Whether the roll-ups of the journal's end are still to be sent."""
        if self._derived is not None:
            return not self._derived.finished
        done = standing.is_finished(self.directory, self._target.target, self.ack.position)
        return self._derives and not done and read_meta(self.directory) is not None

    def _deriving(self) -> Derived | None:
        """What makes the roll-ups; None where nothing can."""
        if self._derived is None and self._derives:
            try:
                with importing:
                    from metriclog.derived import Derived  # numpy: not for a run that ships nothing
            except ImportError as error:
                self._control.warn("no roll-ups: metriclog backfill. %s", error)
                self._derives = False
                return None
            self._derives = read_meta(self.directory) is not None
            if self._derives:
                self._derived = Derived(self.directory, self._target.target, self._started(), self.ack.position)
        return self._derived

    def _encode(self, entry: Entry, batch: Batch) -> list[bytes]:
        if isinstance(entry, Values):
            key = (entry.shape.metrics, entry.shape.tags)
            prefixes = self._prefixes.get(key)
            if prefixes is None:
                prefixes = self._prefixes[key] = metric_prefixes(entry.shape.tags, entry.shape.metrics)
            return encode_rows(prefixes, self._started(), entry.rows, orjson.dumps)
        if isinstance(entry, Text):
            return [line + b"\n" for line in entry.body.split(b"\n")] if entry.kind == LINES else []
        batch.damaged += self._set_aside(entry, batch)
        return []

    def _started(self) -> int:
        if self._started_ns is None:
            meta = read_meta(self.directory)
            if meta is None:
                raise JournalError(f"{self.directory} does not say which run it belongs to; it cannot be shipped")
            self._started_ns = int(meta["started_ns"])
        return self._started_ns

    def _set_aside(self, damage: Damage, batch: Batch) -> int:
        """Keep bytes that are no record in a file beside the segment; a torn tail is normal after kill -9."""
        number = batch.entries[[entry for _, entry in batch.entries].index(damage)][0]
        path = self.directory / f"damaged-{number:08d}-{damage.start}.bin"
        with open(self.directory / segments.segment_name(number), "rb") as file:
            file.seek(damage.start)
            files.replace(path, file.read(damage.end - damage.start))
        if not damage.torn:
            size_bytes = damage.end - damage.start
            logger.warning("metriclog: %d bytes of the journal are damaged, kept in %s", size_bytes, path)
        return 1

    def _acknowledge(self, batch: Batch) -> None:
        """Quarantine first, then the ack: each durable before the next."""
        self._pass_over_derived(batch)
        if batch.refused:
            self._quarantine(batch)
        if batch.standing is not None:
            standing.save(self.directory, self._target.target, batch.standing)
        delivered = len(batch.lines) - len(batch.refused)
        moved = self.ack.moved(batch.end, delivered=delivered, quarantined=len(batch.refused), damaged=batch.damaged)
        acks.save_ack(self.directory, self._target.target, moved)
        self.ack = moved
        newest = [entry.rows[-1][0] for _, entry in batch.entries if isinstance(entry, Values)]
        self.acked_time_ns = newest[-1] if newest else self.acked_time_ns
        self._delivery.advance(batch.end)

    def _pass_over_derived(self, batch: Batch) -> None:
        """Of refused lines only those that somebody logged are kept: roll-ups can be made again."""
        derived = set(batch.derived or ()) if batch.refused else set()
        lost = [why for line, why in batch.refused if line in derived]
        batch.refused = [(line, why) for line, why in batch.refused if line not in derived]
        if lost:
            self._control.warn("the server refused %d points of roll-ups: metriclog backfill. %s", len(lost), lost[0])

    def _quarantine(self, batch: Batch) -> None:
        reasons = dict(batch.refused)
        refused = []
        for start, end, line in batch.records_of(set(reasons)):
            self._delivery.refuse(start, end, reasons[line])
            text = line.rstrip(b"\n").decode("utf-8", "backslashreplace")
            refused.append(quarantine.Refused(text, reasons[line], end))
        path = quarantine.add(self.directory, self._target.target, refused)
        logger.warning(
            "metriclog: the server can never take %d points; kept with its reason in %s. First: %s",
            len(batch.refused), path, batch.refused[0][1],
        )  # fmt: skip


@contextlib.contextmanager
def shipping_lock(directory: Path, target: str) -> Iterator[bool]:
    """Whether this process may ship the directory now. A wrong yes costs duplicates only, and those have no effect."""
    fd = files.open_lock(directory / f"ship-{target}.lock")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = True
    except BlockingIOError:
        mine = False
    except OSError:
        mine = True
    try:
        yield mine
    finally:
        files.close_lock(fd)
