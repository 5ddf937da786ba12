"""Warnings that would come again and again: when to say them."""

from __future__ import annotations

import math
import time

WARN_EVERY_S = 60.0


class Seldom:
    """Whether it is time to warn again: at most once in WARN_EVERY_S."""

    def __init__(self) -> None:
        self._said_s = -math.inf

    def now(self) -> bool:
        """Yes means that it is said now."""
        late = time.monotonic() - self._said_s >= WARN_EVERY_S
        if late:
            self._said_s = time.monotonic()
        return late
