"""Where the points of one process go: its journal, the threads behind it, and the account of what could not be kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from metriclog import directory
from metriclog.deferred import DeferredReads
from metriclog.errors import JournalError, NotDeliveredError
from metriclog.identity import Identity
from metriclog.journal import Journal
from metriclog.keeper import Opened, open_journal
from metriclog.points import Tags
from metriclog.receipts import Delivery, Receipt

if TYPE_CHECKING:
    from metriclog.background import Heart, Ship
    from metriclog.settings import Settings

logger = logging.getLogger("metriclog")

WARN_EVERY_S = 60.0


def new_delivery(who: Identity) -> Delivery:
    """What the receipts of a process look at; offline, they say so at once."""
    if who.mode == "online":
        return Delivery()
    return Delivery(verdict=NotDeliveredError(f"this run is offline; ship it with: metriclog sync {who.root}"))


class Recorder:
    """One process' way to the journal. In mode "disabled" there is none, and every call is accepted and forgotten.

    `opened` is told of each journal that opens: one at the start, another in a forked child.
    """

    def __init__(
        self,
        who: Identity,
        settings: Settings | None,
        journal: Opened | None,
        beat: Callable[[], None],
        opened: Callable[[Recorder], None],
    ) -> None:
        self._who, self._settings = who, settings
        self._beat, self._opened = beat, opened
        self._lock = threading.RLock()
        self._warned_s = -WARN_EVERY_S
        self._unkept = 0
        self._deferred: DeferredReads | None = None
        self.closed = False
        self.child = False
        self.journal: Journal | None = None
        self.delivery = Delivery(done=True)
        self.heart: Heart | None = None
        self.ship: Ship | None = None
        if journal is not None:
            self._use(journal)

    def values(
        self, key: Any, names: Sequence[str], tags: Tags, step: int, values: Sequence[float], time_ns: int | None
    ) -> Receipt:
        """Append one values record; what finds no room is counted."""
        own = None
        try:
            own = self.open()
            if own is None or not names:
                return Receipt(self.delivery, 0)
            shape = own.shape(key, tuple(names), tags)
            return Receipt(self.delivery, own.append_values(shape, step, values, time_ns))
        except JournalError as error:
            return self._lost(own, len(names), error)

    def lines(self, lines: Sequence[str]) -> Receipt:
        """Append points in line protocol; what finds no room is counted."""
        own = None
        try:
            own = self.open()
            if own is None or not lines:
                return Receipt(self.delivery, 0)
            return Receipt(self.delivery, own.append_lines(lines))
        except JournalError as error:
            return self._lost(own, len(lines), error)

    def later(self, values: dict[str, Any], tags: Tags, step: int, time_ns: int | None) -> Receipt:
        """Append values that live on a device once they have been read; time stamp and step are of now."""
        own = self.open()
        if own is None:
            return Receipt(self.delivery, 0)
        with self._lock:
            if self._deferred is None:
                self._deferred = DeferredReads(own.lose)
        journal = own

        def append(numbers: dict[str, float], at_step: int, at_ns: int) -> int:
            names = tuple(numbers)
            shape = journal.shape((names, tags), names, tags)
            return journal.append_values(shape, at_step, numbers.values(), at_ns)

        stamp_ns = own.now_ns() if time_ns is None else time_ns
        return self._deferred.put(values, step, stamp_ns, append, self.delivery)

    def now_ns(self) -> int:
        """A time stamp of this process' clock."""
        return self.journal.now_ns() if self.journal else time.time_ns()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything recorded so far is delivered; False at the deadline or if nothing ships."""
        deadline_s = time.monotonic() + timeout_s
        if self._deferred is not None and not self._deferred.drain(timeout_s):
            return False
        own = self.journal
        if own is None or self.delivery.done:
            return True
        own.sync()
        return self.delivery.wait(own.position, max(0.0, deadline_s - time.monotonic()))

    def close(self, timeout_s: float, last_words: Callable[[], None]) -> None:
        """Read what is still on a device, write the last words, seal; then wait for the server until the deadline."""
        deadline_s = time.monotonic() + timeout_s
        if self.heart:
            self.heart.stop()
        if self._deferred is not None:
            self._deferred.drain(timeout_s)
            left = self._deferred.give_up()
            if left:
                logger.warning("metriclog: %d values were still on their device at the end; they are dropped", left)
        last_words()
        self.closed = True
        if self.journal is not None:
            self.journal.close()
        self._drain(max(0.0, deadline_s - time.monotonic()))

    def stats(self) -> dict[str, Any]:
        """Counts of this process, in points; see `Run.stats`."""
        own, ship = self.journal, self.ship
        accepted = (own.points + own.dropped) if own else 0
        dropped = own.dropped if own else 0
        delivered, quarantined = (ship.ack.delivered, ship.ack.quarantined) if ship else (0, 0)
        pending = max(0, accepted - dropped - delivered - quarantined)
        acked_ns = ship.acked_time_ns if ship else None
        lag_s = (time.time_ns() - (acked_ns or self._who.started_ns)) / 1e9 if ship and pending else 0.0
        return {
            "accepted": accepted,
            "delivered": delivered,
            "pending": pending,
            "quarantined": quarantined,
            "dropped": dropped + self._unkept,
            "retried": ship.control.retried if ship else 0,
            "lag_s": max(0.0, lag_s),
            "pending_bytes": own.bytes_after(self.delivery.acked) if own and ship and pending else 0,
            "journal_io": "none" if own is None else "buffered" if own.buffered else "mmap",
            "last_error": ship.control.last_error if ship else None,
        }

    def open(self) -> Journal | None:
        """The journal of this process; a forked child opens its own at its first point."""
        if self.journal is None and self.child and self._settings is not None and not self.closed:
            with self._lock:
                if self.journal is None:
                    path, slot = directory.child_directory(self._who.root, self._who.run_id)
                    meta = self._who.meta(child=True)
                    self._use(open_journal(path, meta, self._settings, slot, new_delivery(self._who)))
        return self.journal

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's journal and threads, which do not exist here."""
        self._lock = threading.RLock()
        if self.journal is not None:
            self.journal.abandon()
        self.delivery.orphan()
        self.journal = self.heart = self.ship = self._deferred = None
        self.child = True

    def _use(self, opened: Opened) -> None:
        """Record into this journal from now on, and start the threads behind it."""
        from metriclog.background import Heart, Ship  # pulls in pydantic and tenacity: not for mode "disabled"

        assert self._settings is not None
        self.journal, self.delivery = opened.journal, opened.delivery
        self.journal.lose(self._unkept)
        self._unkept = 0
        self._opened(self)
        if self._who.mode == "online":
            from metriclog.transport import Transport

            self.ship = Ship(opened, self._who.root, Transport(self._settings), self._settings)
        self.heart = Heart(self._beat, opened.journal, self._settings.heartbeat_s)

    def _lost(self, own: Journal | None, count: int, error: JournalError) -> Receipt:
        """Count points that found no room; without a journal (a forked child, a full disk) until there is one."""
        self._unkept += 0 if own else count
        if own is not None:
            own.lose(count)
        if self._settings is not None and self._settings.journal_policy == "raise":
            raise error
        if time.monotonic() - self._warned_s >= WARN_EVERY_S:
            self._warned_s = time.monotonic()
            dropped = own.dropped if own else self._unkept
            logger.warning("metriclog: %s; %d points dropped so far. Free some space", error, dropped)
        return Receipt(Delivery(verdict=error), 1)

    def _drain(self, timeout_s: float) -> None:
        ship, own = self.ship, self.journal
        if ship is None or own is None:
            return
        self.delivery.wait(own.position, timeout_s)
        ship.stop()
        self.delivery.end(NotDeliveredError(f"the run has ended; ship it with: metriclog sync {self._who.root}"))
        left = self.stats()["pending"]
        if left > 0:
            why = f" ({ship.control.last_error})" if ship.control.last_error else ""
            logger.warning(
                "metriclog: %d points of run %s wait in %s%s. Ship them with: metriclog sync %s",
                left, self._who.run_id, own.directory, why, self._who.root,
            )  # fmt: skip
