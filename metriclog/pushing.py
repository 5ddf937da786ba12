"""Pushes the state of runs to a Pushgateway, for jobs that are too short to be scraped or cannot be reached.

Each run is a group of its own there, replaced as a whole: when it begins, every few seconds while it runs, and when
it has ended. At the end of the process the groups are deleted, because a Pushgateway forgets nothing by itself. With
METRICLOG_PROMETHEUS_LINGER_S the process waits so long before, and Prometheus sees how each run ended; without it the
final state goes with its group. A killed process leaves its group: `metriclog_heartbeat_timestamp_seconds` stands
still in it, and the next attempt of the run takes it over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from metriclog.errors import ServerError
from metriclog.live import Snapshot
from metriclog.seldom import Seldom

logger = logging.getLogger("metriclog")

PUSH_EVERY_S = 5.0

Key = tuple[str, str, str]  # experiment, run, rank


class Gateway(Protocol):
    """A Pushgateway. What goes wrong is a `ServerError`, with the status None if there was no answer."""

    def put(self, snapshot: Snapshot) -> None:
        """Replace the group of this run by its state."""

    def delete(self, key: Key) -> None:
        """Remove the group of a run."""


class Pusher:
    """Pushes from a thread of its own until it is closed. `shown` gives the newest state of each run."""

    def __init__(
        self, gateway: Gateway, shown: Callable[[], Iterable[Snapshot]], every_s: float = PUSH_EVERY_S
    ) -> None:
        self._gateway, self._shown, self._every_s = gateway, shown, every_s
        self._groups: set[Key] = set()
        self._ends: set[tuple[Key, int]] = set()  # of which attempts the final state has been pushed
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._failed = False
        self._warned = Seldom()
        self._stop, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="metriclog-push", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Push now. Returns at once."""
        self._woken.set()

    def settle(self, deadline_s: float) -> bool:
        """Push now and wait for it until the deadline (of `time.monotonic`); whether the gateway has everything."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._woken.set()
            left_s = max(0.0, deadline_s - time.monotonic())
            return self._changed.wait_for(lambda: self._done >= asked, left_s) and not self._failed

    def close(self, timeout_s: float) -> bool:
        """Delete what was pushed, end the thread; False if that takes longer than `timeout_s`."""
        self._stop.set()
        self._woken.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while not self._stop.is_set():
            asked = self._asked
            try:
                self._push()
            except Exception as error:  # noqa: BLE001 - the outer loop of a background thread
                self._fail(error)
            with self._changed:
                self._done = asked
                self._changed.notify_all()
            self._woken.wait(self._every_s)
            self._woken.clear()
        self._delete()

    def _push(self) -> None:
        self._failed = False
        for snapshot in self._shown():
            key = snapshot.experiment, snapshot.run, snapshot.rank
            running = snapshot.status == "running"
            if self._stop.is_set() or (not running and (key, snapshot.attempt) in self._ends):
                continue
            try:
                self._groups.add(key)  # first: a push without an answer may have arrived
                self._gateway.put(snapshot)
            except ServerError as error:
                self._fail(error)
                if error.status is None:
                    return  # the others would wait for nothing, too
                continue
            if not running:
                self._ends.add((key, snapshot.attempt))

    def _delete(self) -> None:
        for key in sorted(self._groups):
            try:
                self._gateway.delete(key)
            except ServerError as error:
                self._fail(error)
                if error.status is None:
                    return

    def _fail(self, error: Exception) -> None:
        self._failed = True
        if self._warned.now():
            logger.warning("metriclog: %s. Nothing is lost in InfluxDB; training goes on", error)
