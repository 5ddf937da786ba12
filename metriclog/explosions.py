"""The rule that watches one metric for values that are many times as large as all before. O(1) a value. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Final

from metriclog.signs import REPEAT, Level, Sign, check, number, over

_FIRST: Final = 8
_FAR: Final = 1000.0  # x the first values at the end of the warm-up, without a way back: lost from the start
_AT_ONCE: Final = 100.0  # x the limit: no spike that passes in some steps goes so far
_BACK: Final = 16  # samples in a row at the old level after which an explosion is over
_HELD: Final = 0.5  # of the highest value: what is below comes down
_NOISY: Final = 3  # times as many values if single ones are below
_EARLY: Final = 128  # values among which the first ones are compared with
_STILL_UP: Final = 0.85


@dataclass(frozen=True, slots=True)
class Explosion:
    """Values above `ratio` x the largest absolute value seen after warm-up, and above 3 x what was seen before it.

    confirm: how many of them, more than there were values below in between, make a warning. stays: how many more make
    it critical unless they come down; at a hundred times the limit it is critical at once. warmup: samples. What "seen"
    means lags: it is the first half of the curve or more, so that a curve which grows without end does not hide itself.
    Among the first 128 values some in a row above `ratio` x the first five are critical if they do not come down.
    """

    name: ClassVar[str] = "explosion"
    ratio: float = 10.0
    confirm: int = 3
    stays: int = 16
    warmup: int = 64

    def __post_init__(self) -> None:
        check("Explosion", "ratio", self.ratio, 1.5)
        check("Explosion", "confirm", self.confirm, 1, whole=True)
        check("Explosion", "stays", self.stays, 1, whole=True)
        check("Explosion", "warmup", self.warmup, 3 * _FIRST, whole=True)

    def start(self) -> ExplosionState:
        """For one series."""
        return ExplosionState(self)


class _Start:
    """The first five values, and the newest ones in a row that are far above them."""

    __slots__ = ("first", "left", "newest", "ratio")

    def __init__(self, ratio: float) -> None:
        self.ratio, self.left = ratio, _EARLY
        self.first: list[float] = []
        self.newest: deque[float] = deque(maxlen=12)

    @property
    def usual(self) -> float:
        """The middle one of the first absolute values."""
        return sorted(self.first)[len(self.first) // 2]

    def explodes(self, value: float) -> bool:
        """Whether with this value there are enough far above, and they do not come down."""
        self.left -= 1
        if len(self.first) < 5:
            self.first.append(abs(value))
            return False
        usual = self.usual
        if not value > max(self.ratio * usual, 2 * max(self.first)) or not usual:
            self.newest.clear()
            return False
        self.newest.append(value)
        times = value / usual / self.ratio
        needed = 12 if times < 10 else 7 if times < 100 else 5
        if len(self.newest) < needed:
            return False
        values = list(self.newest)[-needed:]
        half = needed // 2
        before, after = sorted(values[:half]), sorted(values[-half:])
        return after[half // 2] >= _STILL_UP * before[half // 2]


class ExplosionState:
    """The range of the values, the limit that was set when half as many had been seen, and how many were above it."""

    __slots__ = (
        *("_above", "_calm", "_open", "_peak", "_rule", "_start"),
        *("_early", "_high", "_left", "_limit", "_low", "_reference", "_seen"),
    )

    def __init__(self, rule: Explosion) -> None:
        self._rule = rule
        self._seen, self._left = 0, _FIRST
        self._high, self._low = -math.inf, math.inf
        self._early = self._reference = 0.0
        self._limit = self._peak = math.inf
        self._above = self._calm = 0
        self._open: Sign | None = None
        self._start: _Start | None = _Start(rule.ratio)

    def add(self, value: float) -> Sign | None:
        """Take the next value."""
        if self._start is not None and self._begin(self._start, value):
            return self._say("critical", value)
        if value > self._limit:
            return self._beyond(value)
        if value > self._high:
            self._high = value
        if value < self._low:
            self._low = value
        self._left -= 1
        if not self._left:
            return self._set_limit(value)
        return self._below() if self._above else None

    def _begin(self, start: _Start, value: float) -> bool:
        """Whether a run is lost among its first values. Then what came first is the reference."""
        lost = start.explodes(value) and (self._open is None or self._open.level == "warning")
        if lost:
            self._reference = start.usual
            self._limit = self._rule.ratio * self._reference
            self._seen = self._left = _EARLY
            self._above, self._calm, self._peak = self._rule.confirm, 0, value
        if lost or not start.left:
            self._start = None
        return lost

    def _set_limit(self, value: float) -> Sign | None:
        """When twice as many have been seen as at the last time."""
        largest = max(self._high, -self._low)
        if self._seen < self._rule.warmup:
            return self._warm_up(value, largest)
        if self._open is None:
            self._reference = max(largest, 3 * self._early / self._rule.ratio)
        self._seen *= 2
        self._left = self._seen
        self._limit = self._rule.ratio * self._reference or math.inf
        return None

    def _warm_up(self, value: float, largest: float) -> Sign | None:
        """After the first values, before the last ones of the warm-up, and after those: a run may be lost by then."""
        low, warmup = self._low, self._rule.warmup
        self._high, self._low = -math.inf, math.inf
        self._early = max(self._early, largest)
        self._reference = self._reference or largest  # of the first values, until the warm-up is over
        if self._seen < warmup - _FIRST:
            self._left = _FIRST if self._seen else warmup - 2 * _FIRST
            self._seen = warmup - _FIRST if self._seen else _FIRST
            return None
        self._seen = self._left = warmup
        if 0 < _FAR * self._reference < low:
            self._early, self._limit = 0.0, _FAR * self._reference
            self._above, self._peak = self._rule.stays, value
            return self._say("critical", value)
        self._reference = self._early
        self._limit = self._rule.ratio * self._early or math.inf
        return None

    def _beyond(self, value: float) -> Sign | None:
        self._peak = max(self._peak, value) if self._above else value
        self._calm = 0
        self._above += 1
        known = self._open
        if (known is None or known.level == "warning") and self._is_lost(value):
            return self._say("critical", value)
        if known is None and self._above >= self._rule.confirm:
            return self._say("warning", value)
        return known if self._above % REPEAT == 0 else None

    def _is_lost(self, value: float) -> bool:
        """Too far for a spike, or for so long that it would have come down."""
        if self._above >= self._rule.confirm and value > _AT_ONCE * self._limit:
            return True
        needed = self._rule.stays if value > _HELD * self._peak else _NOISY * self._rule.stays
        return self._above >= needed

    def _say(self, level: Level, value: float) -> Sign:
        what = "mostly passes, else" if level == "warning" else "stop,"
        text = (
            f"{number(value)} is {number(value / self._reference)} x the largest usual value until then "
            f"({number(self._reference)}): {what} go back to a checkpoint, lower the learning rate, clip gradients"
        )
        self._open = Sign(level, self._reference, self._above, text)
        return self._open

    def _below(self) -> Sign | None:
        if self._open is None:
            self._above -= 1
            return None
        self._calm += 1
        if self._calm < _BACK:
            return None
        sign, self._open = self._open, None
        self._above = self._calm = 0
        return over(sign, f"below {number(self._limit)} for {_BACK} values")
