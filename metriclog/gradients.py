"""The rule that watches norms of gradients, which run over orders of magnitude: it compares their logarithms. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

from metriclog.signs import REPEAT, Level, Sign, check, number, over
from metriclog.smoothing import centre_and_spread

_BLOCK: Final = 8  # values that make a level, their median
_RISING: Final = math.log(1.25)  # between the halves of what was seen last: a norm that warms up still
_FROM_THE_START: Final = math.log(15_000)  # x the first level: no warm-up goes so far
_BEYOND: Final = math.log(10)  # x the highest level that was there before
_STANDS: Final = math.log(0.7)  # of the highest level: below it a norm comes down
_GROWS: Final = math.log(1.5)
_LEAP, _THIRD = math.log(100), math.log(0.33)
_LEAP_BLOCKS: Final = 3  # within which a norm is up there: a phase of training that passes begins more slowly


@dataclass(frozen=True, slots=True)
class GradientExplosion:
    """Norms of gradients above a baseline that is frozen when they have stopped rising, at 256 values or later.

    sigmas: robust standard deviations of their logarithms. At least `warn` x the baseline is a warning, however long.
    It is critical at `ratio` x the baseline and 10 x all levels before, for `blocks` levels of 8 values which do not
    come down (one less if each is half as large again); or after a leap to 100 x that stays. confirm: how many more
    values must have been above than below. warmup: samples until the first baseline.
    """

    name: ClassVar[str] = "gradient_explosion"
    sigmas: float = 3.0
    warn: float = 3.0
    ratio: float = 2000.0
    confirm: int = 8
    blocks: int = 4
    warmup: int = 64

    def __post_init__(self) -> None:
        check("GradientExplosion", "sigmas", self.sigmas, 1)
        check("GradientExplosion", "warn", self.warn, 1)
        check("GradientExplosion", "ratio", self.ratio, self.warn)
        for parameter in ("confirm", "blocks"):
            check("GradientExplosion", parameter, getattr(self, parameter), 1, whole=True)
        check("GradientExplosion", "warmup", self.warmup, 16, whole=True)

    def start(self) -> GradientState:
        """For one series."""
        return GradientState(self)


class GradientState:
    """The baseline and its limit, a score (+1 for a value above, -1 for one below, down to 0), the climb of levels."""

    __slots__ = (
        *("_baseline", "_block", "_first", "_limit", "_next", "_open", "_recent", "_rule", "_score", "_seen"),
        *("_above", "_climb", "_grown", "_leapt", "_peak", "_stood", "_top"),
    )

    def __init__(self, rule: GradientExplosion) -> None:
        self._rule = rule
        self._block: list[float] = []
        self._recent: list[float] = []  # logarithms since half of the values until the next look; empty when frozen
        self._first = math.inf  # the first level
        self._seen, self._next = 0, rule.warmup
        self._baseline, self._limit = 0.0, math.inf
        self._score = 0
        self._open: Sign | None = None
        self._top = -math.inf  # the highest level from which the norm came down again
        self._climb = 0  # blocks since the levels are above the limit
        self._grown = 0  # blocks in a row of which each is half as large again
        self._peak, self._above, self._stood, self._leapt = -math.inf, 0, 0, False

    def add(self, value: float) -> Sign | None:
        """Take the next value."""
        sign = None
        if value > self._limit:
            sign = self._beyond(value)
        elif self._score:
            sign = self._below()
        self._block.append(value)
        if len(self._block) < _BLOCK:
            return sign
        return self._close(value) or sign

    def _close(self, value: float) -> Sign | None:
        """After each block."""
        logs = sorted([math.log(norm) for norm in self._block if norm > 0])
        self._block.clear()
        self._seen += _BLOCK
        if self._next:
            self._recent += logs
            if self._seen >= self._next:
                self._calibrate()
        if 2 * len(logs) <= _BLOCK:
            return None
        level = logs[len(logs) // 2]
        if math.isinf(self._first):
            self._first = level
        return self._judge(level, value)

    def _calibrate(self) -> None:
        """At twice as many values each time, until the norm has stopped rising."""
        rule, logs = self._rule, self._recent
        half = len(logs) // 2
        if not half:  # zeros so far
            self._next = self._seen + rule.warmup
            return
        kept = logs[len(logs) // 4 :] if self._seen <= rule.warmup else logs  # what comes first is often far too large
        old, new = centre_and_spread(logs[:half])[0], centre_and_spread(logs[half:])[0]
        rising = new - old > _RISING
        centre, spread = centre_and_spread(logs[half:] if rising else kept)
        self._baseline = math.exp(centre)
        self._limit = self._baseline * max(rule.warn, math.exp(min(rule.sigmas * spread, 300.0)))
        done = self._seen >= 4 * rule.warmup and not rising
        self._recent = []
        self._next = 0 if done else 2 * self._seen

    def _judge(self, level: float, value: float) -> Sign | None:
        """Whether it climbs beyond all bounds, or has leapt and stays."""
        base = math.log(self._baseline) if self._baseline else math.inf
        grown = self._next > 0 and level > self._first + _FROM_THE_START
        if level <= (math.log(self._limit) if self._baseline else math.inf) and not grown:
            if not self._next:
                self._top = max(self._top, self._peak, level)
            self._climb, self._peak, self._above, self._stood, self._leapt = 0, -math.inf, 0, 0, False
            self._grown = 0
            return None
        self._climb += 1
        self._grown = self._grown + 1 if level > self._peak + _GROWS else 0
        self._peak = max(self._peak, level)
        self._leapt = self._leapt or (self._climb <= _LEAP_BLOCKS and level > base + _LEAP)
        self._stood = self._stood + _BLOCK if level > max(self._peak + _THIRD, base + _LEAP) else 0
        far = level > max(base + math.log(self._rule.ratio), self._top + _BEYOND)
        self._above = self._above + 1 if (far or grown) and level > self._peak + _STANDS else 0
        stays = self._leapt and self._stood >= max(128, min(1000, self._seen // 3)) and level > self._top
        lost = self._above >= self._rule.blocks - (self._grown >= self._above)
        if not (lost or stays) or (self._open and self._open.level == "critical"):
            return None
        self._next = 0  # what is lost makes no baseline
        if not self._baseline:
            self._baseline = math.exp(self._first)
            self._limit = self._baseline * self._rule.warn
        return self._say("critical", value)

    def _beyond(self, value: float) -> Sign | None:
        rule = self._rule
        self._score = min(self._score + 1, 6 * rule.confirm)
        if self._open is None and self._score >= rule.confirm:
            return self._say("warning", value)
        return self._open if self._score % REPEAT == 0 else None

    def _say(self, level: Level, value: float) -> Sign:
        baseline = self._baseline
        what = "stop or go back to a checkpoint" if level == "critical" else "watch the loss"
        text = (
            f"{number(value)} is {number(value / baseline)} x the baseline {number(baseline)}, again and again: "
            f"{what}; clip gradients, lower the learning rate or warm up longer"
        )
        self._score = max(self._score, self._rule.confirm)
        self._open = Sign(level, baseline, self._score, text)
        return self._open

    def _below(self) -> Sign | None:
        self._score -= 1
        if self._score or self._open is None:
            return None
        sign, self._open = self._open, None
        return over(sign, f"back below {number(self._limit)}")
