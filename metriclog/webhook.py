"""Posts critical events to METRICLOG_ALERT_WEBHOOK: Slack, Discord, or anything that takes JSON. No server needed.

The journal has an event first; a file beside it (`alerts.json`) says up to where events have been posted. So what a
killed process or an unreachable webhook left is posted by the next run in the same directory, or by `metriclog sync`,
unless it is older than an hour. At least once: a process that dies between a yes and the file posts again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from metriclog.errors import ServerError
from metriclog.follower import Event
from metriclog.latch import Latch
from metriclog.leftover_alerts import post_leftovers
from metriclog.posting import LOCK, Cursor, Poster, Webhook, is_critical, save_cursor
from metriclog.segments import split_position
from metriclog.sender import Control
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock

logger = logging.getLogger("metriclog")

MOST_WAITING = 1_000  # events; what comes beyond stays in the journal
LEFTOVER_EVERY_S = 30.0
STOP_S = 0.1  # for the thread to end, unless a request is under way


class Hook:
    """Posts the events of this process from a thread of its own, after what others left."""

    def __init__(self, directory: Path, root: Path, hook: Webhook, settings: Settings) -> None:
        self._control = Control()
        self._directory, self._root, self._hook, self._settings = directory, root, hook, settings
        self._waiting: deque[Event] = deque()
        self._read = 0  # up to here the journal was read, and what is critical waits or has been posted
        self._behind = False  # whether the journal holds events that found no place
        self._ends, self._done = threading.Event(), Latch()
        save_cursor(directory, Cursor(watch=settings.watch))  # others know now that there is something to post
        self._thread = threading.Thread(target=self._loop, name="metriclog-alerts", daemon=True)
        self._thread.start()

    def put(self, events: Sequence[Event], position: int) -> None:
        """Post these; the journal has been read up to `position`. Returns at once."""
        critical = [event for event in events if is_critical(event.line)]
        self._behind = self._behind or len(self._waiting) + len(critical) > MOST_WAITING
        if not self._behind:
            self._waiting.extend(critical)
            self._read = position
        if critical:
            self._control.woken.set()

    def end(self, ends_s: float, *, complete: bool) -> bool:
        """Post what waits, at the longest until `ends_s` of `time.monotonic`, then end; whether all was posted.

        `complete`: the journal has been read to its end. If not, whoever comes next reads the rest.
        """
        left_s = max(0.0, ends_s - time.monotonic())
        self._behind = self._behind or not complete
        self._ends.set()
        self._control.hurry(left_s)
        done = self._done.wait(left_s)
        self._control.end()
        self._thread.join(STOP_S)
        return done and not self._behind

    def _loop(self) -> None:
        try:
            with shipping_lock(self._directory, LOCK):  # also while the journal is closed and something waits still
                self._post_all(Poster(self._directory, self._hook, self._control, self._settings))
        except ServerError:
            pass  # told to stop
        except Exception:
            logger.warning("metriclog: alerts are not posted any more", exc_info=True)

    def _post_all(self, poster: Poster) -> None:
        look_s = 0.0
        while not self._control.stop.is_set():
            ending = self._ends.is_set()
            if time.monotonic() >= look_s:
                look_s = time.monotonic() + LEFTOVER_EVERY_S
                post_leftovers(self._root, self._hook, self._control, self._settings)
            self._post_waiting(poster)
            if ending:
                poster.move(self._read, done=not self._behind)
                self._done.set()
                return
            self._control.sleep(self._settings.flush_interval_s)

    def _post_waiting(self, poster: Poster) -> None:
        read = self._read
        while self._waiting:
            poster.post(self._waiting[0])
            self._waiting.popleft()
        # At each segment: whoever comes after a kill need not read the whole journal.
        if split_position(read)[0] > split_position(poster.position)[0]:
            poster.move(read)


def start(directory: Path, root: Path, settings: Settings) -> Hook | None:
    """Post what is critical in this process' journal from now on; None where no webhook is set, or none can be."""
    hook = Webhook.of(settings)
    try:
        return None if hook is None else Hook(directory, root, hook, settings)
    except (OSError, RuntimeError) as error:  # no disk, no thread
        logger.warning("metriclog: alerts are not posted: %s", error)
        return None
