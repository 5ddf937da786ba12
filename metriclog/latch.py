"""Something that happens once, for which the end of a run waits."""

from __future__ import annotations

import threading


class Latch:
    """A plain lock, not `threading.Event`: a signal handler that raises in its wait, as Ctrl-C does, can leave a
    RuntimeError instead.
    """

    def __init__(self) -> None:
        self._happened = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def __bool__(self) -> bool:
        return self._happened

    def set(self) -> None:
        """It happens; to be called once."""
        self._happened = True
        self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has happened by then. One thread may wait."""
        return self._happened or self._lock.acquire(timeout=max(0.0, timeout_s))
