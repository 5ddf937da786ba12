"""Where the points of one process go: its journal, the threads behind it, and the account of what could not be kept."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from metriclog import directory
from metriclog.deferred import DeferredReads
from metriclog.errors import JournalError, JournalFullError, NotDeliveredError, RunFinishedError
from metriclog.identity import Identity
from metriclog.journal import Journal
from metriclog.keeper import Opened, open_journal
from metriclog.points import Tags
from metriclog.receipts import Delivery, Receipt
from metriclog.segments import position_of, split_position

if TYPE_CHECKING:
    from metriclog.background import Heart, Ship, Watch
    from metriclog.settings import Settings
    from metriclog.watcher import Watcher, Wish
    from metriclog.webhook import Hook

logger = logging.getLogger("metriclog")

WARN_EVERY_S = 60.0
BLOCK_LOOK_S = 1.0
MIN_CLOSE_S = 0.5  # for a disk to answer when the run ends, even if its time is up
LAST_LOOK_S, MIN_LOOK_S = 2.0, 0.2  # for the rules to see the last values: at most, and even if the time is up
STOP_S, STOP_LATE_S = 0.5, 0.1  # for the shipper to end: several runs must share the second after the deadline


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
        self._ends_s = math.inf  # when waiting for room must end
        self._deferred: DeferredReads | None = None
        self.closed = False
        self.should_stop = False  # a rule found something critical
        self.child = False
        self.journal: Journal | None = None
        self.delivery = Delivery(done=True)
        self.heart: Heart | None = None
        self.ship: Ship | None = None
        self.watcher: Watcher | None = None
        self._watch: Watch | None = None
        self._hook: Hook | None = None
        self._seen = False  # whether everything has been looked at, at the end
        self._wishes: list[Wish] = []
        if journal is not None:
            self._use(journal)

    def values(
        self, key: Any, names: Sequence[str], tags: Tags, step: int, values: Sequence[float], time_ns: int | None
    ) -> Receipt:
        """Append one values record; what finds no room is counted."""

        def append(own: Journal) -> int:
            return own.append_values(own.shape(key, tuple(names), tags), step, values, time_ns)

        return self._record(len(names), append)

    def lines(self, lines: Sequence[str], *, patient: bool = True) -> Receipt:
        """Append points in line protocol; what finds no room is counted, at once unless `patient`."""
        return self._record(len(lines), lambda own: own.append_lines(lines), patient=patient)

    def later(self, values: dict[str, Any], tags: Tags, step: int, time_ns: int) -> Receipt:
        """Append values that live on a device once they have been read."""

        def append(numbers: dict[str, float]) -> Receipt:
            names = tuple(numbers)
            return self.values((names, tags), names, tags, step, tuple(numbers.values()), time_ns)

        try:
            if self.open() is None:
                return Receipt(self.delivery, 0)
        except JournalError as error:
            return self._lost(None, len(values), error)
        with self._lock:
            if self._deferred is None:
                self._deferred = DeferredReads(self._count_lost)
        return self._deferred.put(values, append, self.delivery)

    def watch(self, wish: Wish) -> None:
        """Add or change rules, also for a journal that opens later; in mode "disabled" nobody watches."""
        with self._lock:
            self._wishes.append(wish)
            if self.watcher is not None:
                self.watcher.watch(wish)

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
        if own.buffered:  # the shipper reads what is in the file
            try:
                own.sync()
            except (OSError, JournalError) as error:
                self._warn(f"the journal in {own.directory} could not be saved: {error}")
        return self.delivery.wait(own.position, max(0.0, deadline_s - time.monotonic()))

    def close(self, timeout_s: float, last_words: Callable[[], None]) -> None:
        """Read what is still on a device, look at it, write the last words, seal; then wait for the server.

        A signal handler may end a wait by raising, as Ctrl-C does: then the rest is done without waiting.
        """
        self._ends_s = time.monotonic() + timeout_s
        try:
            if self.heart:
                self.heart.stop()
            self._read_deferred(timeout_s)
            self._look_once_more()
            with contextlib.suppress(JournalError):  # policy "raise"; counted
                last_words()
        except BaseException:
            self._ends_s = 0.0
            raise
        finally:
            self._seal_and_drain()

    def stats(self) -> dict[str, Any]:
        """Counts of this process, in points; see `Run.stats`."""
        own, ship = self.journal, self.ship
        dropped = (own.dropped if own else 0) + self._unkept
        accepted = (own.accepted if own else 0) + self._unkept
        delivered, quarantined = (ship.ack.delivered, ship.ack.quarantined) if ship else (0, 0)
        pending = max(0, accepted - dropped - delivered - quarantined)
        acked_ns = ship.acked_time_ns if ship else None
        lag_s = (time.time_ns() - (acked_ns or self._who.started_ns)) / 1e9 if ship and pending else 0.0
        return {
            "accepted": accepted,
            "delivered": delivered,
            "pending": pending,
            "quarantined": quarantined,
            "dropped": dropped,
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
        parents, self.journal = self.journal, None
        if self.watcher is not None:
            self.watcher.abandon()
        self.heart = self.ship = self.watcher = self._watch = self._hook = self._deferred = None
        self._unkept = 0  # the parent counts its own
        self.child = True
        self.delivery.orphan()
        if parents is not None:
            with contextlib.suppress(OSError):  # from closing a file on a network file system
                parents.abandon()

    def _use(self, opened: Opened) -> None:
        """Record into this journal from now on, and start the threads behind it."""
        assert self._settings is not None
        self.journal, self.delivery = opened.journal, opened.delivery
        self.journal.lose(self._unkept)
        self._unkept = 0
        self._opened(self)
        try:
            self._start_threads(opened, self._settings)
        except (RuntimeError, ImportError) as error:  # the interpreter shuts down, or there is no thread to be had
            self.delivery.end(NotDeliveredError(f"nothing ships: {error}. Use: metriclog sync {self._who.root}"))
            self._warn(f"{error}: what run {self._who.run_id} logs stays in {opened.journal.directory}")

    def _start_threads(self, opened: Opened, settings: Settings) -> None:
        from metriclog.background import Heart, Ship, Watch  # pulls in pydantic, tenacity: not for mode "disabled"
        from metriclog.watcher import Watcher

        if self._who.mode == "online":
            from metriclog.transport import Transport

            self.ship = Ship(opened, self._who.root, Transport(settings), settings)
        self.heart = Heart(self._beat, opened.journal, settings.heartbeat_s)
        if settings.alert_webhook is not None:
            from metriclog import webhook

            self._hook = webhook.start(opened.journal.directory, self._who.root, settings)
        watcher = Watcher(self._who, opened.journal, settings, self, self._hook)
        with self._lock:
            for wish in self._wishes:
                watcher.watch(wish)
            self.watcher = watcher
        self._watch = Watch(watcher.look, opened.journal, settings.flush_interval_s)

    def _look_once_more(self) -> None:
        """Let the rules see the last values, while it can still be journaled what they find."""
        if self._watch is not None:
            now_s = time.monotonic()
            self._seen = self._watch.end(min(max(self._ends_s, now_s + MIN_LOOK_S), now_s + LAST_LOOK_S))

    def _stop_watching(self) -> None:
        if self.watcher is not None:
            self.watcher.close()
        ends_s = max(self._ends_s, time.monotonic() + STOP_LATE_S)
        if self._hook is not None and not self._hook.end(ends_s, complete=self._seen):
            logger.warning(
                "metriclog: alerts of run %s have not been posted. The next run with the webhook in %s posts them, or: "
                "metriclog sync %s", self._who.run_id, self._who.root, self._who.root,
            )  # fmt: skip

    def _record(self, count: int, append: Callable[[Journal], int], *, patient: bool = True) -> Receipt:
        own, waited = None, False
        try:
            own = self.open()
            if own is None or not count:
                return Receipt(self.delivery, 0)
            while True:
                try:
                    return Receipt(self.delivery, append(own))
                except JournalFullError as error:
                    if not (patient and self._wait_for_room(own, error)):
                        raise
                    waited = True
        except JournalError as error:
            if self.closed and not waited:  # by another thread, since the caller has looked
                raise RunFinishedError(f"run {self._who.run_id} has been finished") from error
            return self._lost(own, count, error)

    def _wait_for_room(self, own: Journal, error: JournalFullError) -> bool:
        """Policy "block": whether it makes sense to try again, after the server has taken something or a second.

        Without the journal's lock, so that everybody else goes on; at the end of the run not beyond its deadline.
        """
        left_s = min(BLOCK_LOOK_S, self._ends_s - time.monotonic())
        if self._settings is None or self._settings.journal_policy != "block" or self.delivery.settled or left_s <= 0:
            return False
        self._warn(f"{error}; log() waits for the server")
        number, _ = split_position(self.delivery.acked)
        self.delivery.wait(position_of(number + 1, 0), left_s)
        own.retry()
        return True

    def _lost(self, own: Journal | None, count: int, error: JournalError) -> Receipt:
        """Count points that found no room; without a journal (a forked child, a full disk) until there is one."""
        self._count_lost(count)
        if self._settings is not None and self._settings.journal_policy == "raise":
            raise error
        self._warn(f"{error}; {own.dropped if own else self._unkept} points dropped so far. Free some space")
        return Receipt(Delivery(verdict=error), 1)

    def _count_lost(self, points: int) -> None:
        if self.journal is not None:
            self.journal.lose(points)
        else:
            self._unkept += points

    def _warn(self, words: str) -> None:
        if time.monotonic() - self._warned_s >= WARN_EVERY_S:
            self._warned_s = time.monotonic()
            logger.warning("metriclog: %s", words)

    def _read_deferred(self, timeout_s: float) -> None:
        if self._deferred is None:
            return
        try:
            self._deferred.drain(timeout_s)
        finally:
            left = self._deferred.give_up()
            if left:
                logger.warning("metriclog: %d values were still on their device at the end; they are dropped", left)

    def _seal_and_drain(self) -> None:
        self.closed = True
        try:
            self._seal(max(MIN_CLOSE_S, self._ends_s - time.monotonic()))
        except BaseException:
            self._ends_s = 0.0
            self._seal(MIN_CLOSE_S)
            raise
        finally:
            try:
                self._drain()
            finally:
                self._stop_watching()

    def _seal(self, timeout_s: float) -> None:
        unsaved = self.journal.close(timeout_s) if self.journal else 0
        if self.journal and unsaved:
            where = self.journal.directory
            logger.warning("metriclog: %d points could not be written to %s; they are dropped", unsaved, where)

    def _drain(self) -> None:
        ship, own = self.ship, self.journal
        if ship is None or own is None:
            return
        arrived = False
        try:
            arrived = self.delivery.wait(own.position, max(0.0, self._ends_s - time.monotonic()))
        finally:
            ship.stop(STOP_S if arrived else STOP_LATE_S)
            self.delivery.end(NotDeliveredError(f"the run has ended; ship it with: metriclog sync {self._who.root}"))
            self._say_left(own, ship)

    def _say_left(self, own: Journal, ship: Ship) -> None:
        left = self.stats()["pending"]
        if left > 0:
            why = f" ({ship.control.last_error})" if ship.control.last_error else ""
            logger.warning(
                "metriclog: %d points of run %s wait in %s%s. Ship them with: metriclog sync %s",
                left, self._who.run_id, own.directory, why, self._who.root,
            )  # fmt: skip
