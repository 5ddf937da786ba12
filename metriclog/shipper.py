"""The delivery loop: batch, send, ack, retry, split, quarantine. Knows tenacity, order and counts.

The rules, for one process directory and one target:
- Batches are posted in journal order. The ack moves only after every line of a batch has its own 204 or is in
  quarantine. A crash before the ack sends the batch again: the same points with the same time stamps, no effect.
- Passing trouble is retried without limit. A configuration error (401, 404, …) keeps everything and retries slowly.
- Only what the server can never take leaves the line: into the quarantine file, with the server's reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import tenacity

from metriclog import acks, journal, segments
from metriclog.directory import read_meta
from metriclog.errors import (
    BadRequestError,
    JournalError,
    PartialWriteError,
    RejectedError,
    ServerError,
    TooLargeError,
    TransientError,
    UnparsableError,
)
from metriclog.journal import JournalReader, position_of
from metriclog.points import encode_rows, metric_prefixes
from metriclog.receipts import Delivery
from metriclog.segments import LINES, Damage, Entry, Text, Values

logger = logging.getLogger("metriclog")

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 60.0
FIRST_REJECTED_S, MAX_REJECTED_S = 30.0, 300.0
URGENT_BACKOFF_S = 0.5  # while somebody waits in flush() or finish()
WARN_EVERY_S = 60.0


class Target(Protocol):
    """What the shipper needs of a transport."""

    target: str

    @property
    def address(self) -> str:
        """Where it writes, for messages."""

    def write(self, lines: bytes) -> None:
        """Post lines or raise a `ServerError`."""

    def close(self) -> None:
        """Drop the connections."""


@dataclass(slots=True)
class Control:
    """Stop, wake and hurry, shared between a shipper and those who wait for it; clock and randomness to pass in."""

    stop: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    urgent_until_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)
    give_up_after_s: float | None = None  # without any success; None: never
    retried: int = 0
    last_error: str | None = None

    def hurry(self, seconds: float) -> None:
        """Somebody waits: try now, and again soon, for the next `seconds`."""
        self.urgent_until_s = self.clock() + seconds
        self.woken.set()

    def end(self) -> None:
        """Stop as soon as the request under way allows."""
        self.stop.set()
        self.woken.set()

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake at once when somebody waits or at the end."""
        if not self.stop.is_set():
            self.woken.wait(seconds)
        self.woken.clear()


class Sender:
    """Posts one body until the server has answered for good."""

    def __init__(self, target: Target, control: Control) -> None:
        self._target, self._control = target, control
        self.successes = 0
        self._last_yes_s = control.clock()
        self._warned_s = -WARN_EVERY_S
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((TransientError, RejectedError)),
            wait=self._backoff_s,
            stop=self._must_stop,
            sleep=control.sleep,
            before_sleep=self._say,
            reraise=True,
        )

    def send(self, body: bytes) -> None:
        """Return at the 204. Raises what cannot be retried, or the last trouble when told to stop."""
        self._retrying(self._target.write, body)
        self.successes += 1
        self._last_yes_s = self._control.clock()
        if self._control.last_error is not None:
            logger.warning("metriclog: %s takes points again", self._target.address)
            self._control.last_error = None

    def _must_stop(self, _state: tenacity.RetryCallState) -> bool:
        limit_s = self._control.give_up_after_s
        late = limit_s is not None and self._control.clock() - self._last_yes_s > limit_s
        return late or self._control.stop.is_set()

    def _backoff_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        attempt = min(state.attempt_number, 12)
        control = self._control
        wish_s = error.retry_after_s if isinstance(error, TransientError) else None
        if control.clock() < control.urgent_until_s:
            return max(URGENT_BACKOFF_S, min(wish_s or 0.0, control.urgent_until_s - control.clock()))
        if wish_s is not None:
            return wish_s
        if isinstance(error, RejectedError):
            return min(MAX_REJECTED_S, FIRST_REJECTED_S * 2.0 ** (attempt - 1)) * control.rng.uniform(0.5, 1.0)
        return max(0.05, control.rng.uniform(0.0, min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt)))

    def _say(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        control = self._control
        control.retried += 1
        control.last_error = str(error)
        if control.clock() - self._warned_s >= WARN_EVERY_S:
            self._warned_s = control.clock()
            logger.warning("metriclog: points wait in the journal; still trying. %s", error)


@dataclass(slots=True)
class Batch:
    """Entries of the journal as lines, and where each line comes from."""

    lines: list[bytes]
    entries: list[tuple[int, Entry]]
    end: int
    refused: list[tuple[bytes, str]] = field(default_factory=list)
    damaged: int = 0

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


class Shipper:
    """Ships one process directory to one target. Not for several threads; `ship_batch` until it returns False.

    `until` bounds reading to what the writer has finished (same process); without it the directory is another's.
    """

    def __init__(
        self,
        directory: Path,
        target: Target,
        control: Control,
        *,
        max_points: int,
        retain_bytes: int | None = None,
        until: Callable[[], int] | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        import orjson  # here, because `import metriclog` stays light

        self.directory = directory
        self.ack = acks.load_ack(directory, target.target)
        self._target, self._control = target, control
        self._max_points, self._retain_bytes, self._until = max_points, retain_bytes, until
        self._delivery = delivery or Delivery()
        self._reader = JournalReader(directory, self.ack.position)
        self._sender = Sender(target, control)
        self._dumps = orjson.dumps
        self._prefixes: dict[object, tuple[list[bytes], list[bytes]]] = {}
        self._started_ns: int | None = None

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def ship_batch(self) -> bool:
        """Ship the next batch; False if there is none. Raises the last `ServerError` when told to stop."""
        entries = self._reader.read(self._max_points, self._until() if self._until else None)
        if not entries:
            return False
        number, last = entries[-1]
        batch = Batch([], entries, position_of(number, last.end))
        for _, entry in entries:
            batch.lines += self._encode(entry, batch)
        try:
            if batch.lines:
                self._deliver(batch.lines, batch)
        except ServerError:
            self._reader.close()
            self._reader = JournalReader(self.directory, self.ack.position)
            raise
        self._acknowledge(batch)
        return True

    def _encode(self, entry: Entry, batch: Batch) -> list[bytes]:
        if isinstance(entry, Values):
            key = (entry.shape.metrics, entry.shape.tags)
            prefixes = self._prefixes.get(key)
            if prefixes is None:
                prefixes = self._prefixes[key] = metric_prefixes(entry.shape.tags, entry.shape.metrics)
            return encode_rows(prefixes, self._started(), entry.rows, self._dumps)
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
            path.write_bytes(file.read(damage.end - damage.start))
        if not damage.torn:
            size_bytes = damage.end - damage.start
            logger.warning("metriclog: %d bytes of the journal are damaged, kept in %s", size_bytes, path)
        return 1

    def _deliver(self, lines: Sequence[bytes], batch: Batch) -> None:
        """Return when each line has its own yes or is in `batch.refused`."""
        if not lines:
            return None
        before = self._sender.successes
        try:
            self._sender.send(b"".join(lines))
        except UnparsableError as error:
            bad = {line for line in lines if line.rstrip(b"\n") in error.reasons}
            if not bad:
                return self._halve(lines, batch, error)
            batch.refused += [(line, error.reasons[line.rstrip(b"\n")]) for line in lines if line in bad]
            self._deliver([line for line in lines if line not in bad], batch)
        except (TooLargeError, PartialWriteError) as error:
            self._halve(lines, batch, error)
        except BadRequestError as error:
            if len(lines) == 1 and before == 0:
                # Nothing has been accepted yet: it may be the request and not the line. Keep it, try later.
                self._control.last_error = str(error)
                self._control.sleep(FIRST_REJECTED_S)
                raise
            self._halve(lines, batch, error)

    def _halve(self, lines: Sequence[bytes], batch: Batch, error: ServerError) -> None:
        if len(lines) == 1:
            batch.refused.append((lines[0], str(error)))
            return
        middle = len(lines) // 2
        self._deliver(lines[:middle], batch)
        self._deliver(lines[middle:], batch)

    def _acknowledge(self, batch: Batch) -> None:
        """Quarantine first, then the ack, then whatever may be deleted: each durable before the next."""
        if batch.refused:
            self._quarantine(batch)
        delivered = len(batch.lines) - len(batch.refused)
        moved = self.ack.moved(batch.end, delivered=delivered, quarantined=len(batch.refused), damaged=batch.damaged)
        acks.save_ack(self.directory, self._target.target, moved)
        self.ack = moved
        self._delivery.advance(batch.end)
        if self._retain_bytes is not None:
            self._delete_old()

    def _quarantine(self, batch: Batch) -> None:
        reasons = dict(batch.refused)
        path = self.directory / f"quarantine-{self._target.target}.jsonl"
        with open(path, "ab") as file:
            for start, end, line in batch.records_of(set(reasons)):
                self._delivery.refuse(start, end, reasons[line])
                text = line.rstrip(b"\n").decode("utf-8", "backslashreplace")
                file.write(json.dumps({"line": text, "reason": reasons[line], "position": end}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        logger.warning(
            "metriclog: the server can never take %d points; kept with its reason in %s. First: %s",
            len(batch.refused), path, batch.refused[0][1],
        )  # fmt: skip

    def _delete_old(self) -> None:
        """Delete whole delivered segments beyond what is to be kept, oldest first."""
        current, _ = journal.split_position(self.ack.position)
        old = [number for number in segments.segment_numbers(self.directory) if number < current]
        paths = [self.directory / segments.segment_name(number) for number in old]
        sizes = [path.stat().st_size for path in paths]
        for path, size in zip(paths, sizes, strict=True):
            if sum(sizes) <= (self._retain_bytes or 0):
                break
            path.unlink(missing_ok=True)
            sizes.remove(size)


@contextlib.contextmanager
def shipping_lock(directory: Path, target: str) -> Iterator[bool]:
    """Whether this process may ship the directory now. A wrong yes costs duplicates only, and those have no effect."""
    fd = os.open(directory / f"ship-{target}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        os.close(fd)
