"""The threads behind a run: one beats (run state, sync to disk), one ships, one watches. Daemons: a process may end."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - influxdb_client needs it and can import it no more at the end
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from metriclog import standing
from metriclog.acks import Ack, load_ack
from metriclog.directory import process_directories, read_meta
from metriclog.errors import JournalError, MetriclogError, ServerError
from metriclog.journal import Journal
from metriclog.keeper import Opened, recover
from metriclog.latch import Latch
from metriclog.replay import JournalReader, owner_is_alive
from metriclog.seldom import Seldom
from metriclog.sender import Control, Target
from metriclog.settings import Settings
from metriclog.shipper import Shipper, shipping_lock
from metriclog.status import save_trouble

logger = logging.getLogger("metriclog")

LEFTOVER_EVERY_S = 30.0
MOST_LOOK_S = 0.25  # at a stretch: whoever asks for the newest values need not wait longer
SAVE_BUFFERED_S = 0.25  # what kill -9 may cost on a network file system


class Heart:
    """Beats every `every_s` seconds, and saves the journal: at each beat, after a roll, and often if it is buffered."""

    def __init__(self, beat: Callable[[], None], journal: Journal, every_s: float) -> None:
        self._stop, self._woken = threading.Event(), threading.Event()
        self._beat, self._journal, self._every_s = beat, journal, every_s
        self._save_every_s = SAVE_BUFFERED_S if journal.buffered else every_s
        self._warned = Seldom()
        journal.rolled = self._woken.set
        self._thread = threading.Thread(target=self._loop, name="metriclog-heart", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        beat_s = time.monotonic() + self._every_s
        while not self._stop.is_set():
            self._woken.wait(min(self._save_every_s, max(0.0, beat_s - time.monotonic())))
            self._woken.clear()
            if self._stop.is_set():
                return
            try:
                if time.monotonic() >= beat_s:
                    beat_s = time.monotonic() + self._every_s
                    self._beat()
                self._journal.sync()
            except Exception as error:  # noqa: BLE001 - the outer loop of a background thread
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        if self._warned.now():
            logger.warning("metriclog: the journal in %s could not be saved: %s", self._journal.directory, error)

    def stop(self) -> None:
        """End the thread; returns at once."""
        self._stop.set()
        self._woken.set()


class Watch:
    """Looks at what has been logged, every `every_s` seconds and once more at the end. No post keeps it waiting."""

    def __init__(self, look: Callable[[float], bool], journal: Journal, every_s: float) -> None:
        self._look, self._journal, self._every_s = look, journal, every_s
        self._ends, self._woken, self._done = threading.Event(), threading.Event(), Latch()
        self._thread = threading.Thread(target=self._loop, name="metriclog-watch", daemon=True)
        self._thread.start()

    def end(self, ends_s: float) -> bool:
        """Look once more, at the longest until `ends_s` of `time.monotonic`, and end; whether all was seen."""
        self._ends.set()
        self._woken.set()
        if threading.current_thread() is self._thread:  # what is called when a rule fires may finish the run
            return not self._look(ends_s)
        return self._done.wait(ends_s - time.monotonic())

    def _loop(self) -> None:
        behind = False
        while not self._done:
            if not behind:
                self._woken.wait(self._every_s)
            self._woken.clear()
            ending = self._ends.is_set()
            if ending and (self._journal.buffered or not self._journal.directory.exists()):  # it reads files
                with contextlib.suppress(OSError, JournalError):
                    self._journal.sync()
            behind = self._look(time.monotonic() + MOST_LOOK_S)
            if ending and not behind:
                self._done.set()


class Ship:
    """Ships the journal of this process, and between batches what dead processes left in the same directory."""

    def __init__(self, opened: Opened, root: Path, target: Target, settings: Settings) -> None:
        self.control = Control()
        self.delivery = delivery = opened.delivery
        self._opened, self._own = opened, opened.journal
        self._root, self._target, self._settings = root, target, settings
        self._shipper: Shipper | None = None
        self._leftovers: list[Path] = []
        self._looked_s = -LEFTOVER_EVERY_S
        self.control.trouble = self._leave_word
        delivery.wake = lambda: self.control.hurry(1.0)
        self._thread = threading.Thread(target=self._loop, name="metriclog-ship", daemon=True)
        self._thread.start()

    @property
    def ack(self) -> Ack:
        """Counts of the own journal."""
        return self._shipper.ack if self._shipper else Ack()

    @property
    def acked_time_ns(self) -> int | None:
        """Time stamp of the newest metric that is delivered, None before the first."""
        return self._shipper.acked_time_ns if self._shipper else None

    def _leave_word(self, words: str | None) -> None:
        with contextlib.suppress(OSError):
            save_trouble(self._own.directory, self._target.target, words)

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread after the request under way, waiting at most `timeout_s`."""
        self.control.end()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self.control.stop.is_set():
            with shipping_lock(self._own.directory, self._target.target) as mine:
                if not mine:  # a `sync` is at it: it ships for us
                    self.control.sleep(self._settings.flush_interval_s)
                    continue
                self._ship()
        if self._shipper:
            self._shipper.close()
        self._target.close()

    def _ship(self) -> None:
        while not self.control.stop.is_set():
            try:
                if not (self._step() and self._is_behind()):  # a post for every few points would cost the training
                    self.control.sleep(self._settings.flush_interval_s)
            except ServerError:
                continue  # told to stop
            except Exception:
                logger.warning("metriclog: shipping failed; points wait in the journal", exc_info=True)
                self.control.sleep(LEFTOVER_EVERY_S)

    def _step(self) -> bool:
        """Ship something; False if there was nothing to ship."""
        if self._shipper is None:
            self._shipper = Shipper(
                self._own.directory,
                self._target,
                self.control,
                max_points=self._settings.batch_max_points,
                connections=self._settings.connections,
                own=self._opened,
            )
        return self._shipper.ship_batch() or self._ship_leftover()

    def _is_behind(self) -> bool:
        """Whether more is waiting than what came in while the last batch was under way."""
        return bool(self._leftovers) or self._shipper is None or self._shipper.behind

    def _ship_leftover(self) -> bool:
        if not self._leftovers and self.control.clock() - self._looked_s >= LEFTOVER_EVERY_S:
            self._looked_s = self.control.clock()
            self._leftovers = leftovers(self._root, self._target.target)
        if not self._leftovers:
            return False
        path = self._leftovers.pop(0)
        try:
            ship_directory(path, self._target, self.control, self._settings, pause=self._own_has_more)
        except (MetriclogError, OSError) as error:
            if isinstance(error, ServerError):
                raise
            logger.warning("metriclog: what is left in %s cannot be shipped: %s", path, error)
        return True

    def _own_has_more(self) -> bool:
        return self._own.position > self.ack.position or self.control.stop.is_set()


def leftovers(root: Path, target: str) -> list[Path]:
    """Directories of dead processes that meant to ship and have something the target has not acknowledged."""
    found = []
    for path in process_directories(root):
        if owner_is_alive(path):
            continue
        with contextlib.suppress(OSError, JournalError):
            recover(path)
        meta = read_meta(path)
        if meta is not None and meta.get("mode") == "online" and is_pending(path, target):
            found.append(path)
    return found


def is_pending(path: Path, target: str) -> bool:
    """Whether a directory holds records beyond its ack, or the roll-ups of its end are still to be sent."""
    acked = load_ack(path, target).position
    with contextlib.closing(JournalReader(path, acked)) as reader:
        if reader.read(1):
            return True
    ended = not owner_is_alive(path) and read_meta(path) is not None
    return ended and not standing.is_finished(path, target, acked)


def ship_directory(
    path: Path,
    target: Target,
    control: Control,
    settings: Settings,
    *,
    pause: Callable[[], bool] = lambda: False,
) -> bool:
    """Ship one directory of another process. False if somebody else is at it, or `pause` said to stop early."""
    with shipping_lock(path, target.target) as mine:
        if not mine:
            return False
        if not owner_is_alive(path):
            recover(path)
        most, lanes = settings.batch_max_points, settings.connections
        shipper = Shipper(path, target, control, max_points=most, connections=lanes)
        try:
            more = shipper.ship_batch()
            while more and not pause():
                more = shipper.ship_batch()
            return not more
        finally:
            shipper.close()
