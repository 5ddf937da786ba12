"""Rules that watch the level of one metric: what was won is given back, or nothing is won any more. O(1) a value. Pure.

Levels are midmeans of blocks of samples, which grow with the curve from 4 to 64: single values move nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from metriclog.signs import Level, Sign, check, number, over
from metriclog.smoothing import Progress, Standstill, block_size, midmean

# How long a raised level may stand: a share of the curve, with bounds in samples. A restart of the learning rate, which
# lifts the loss almost to its start, takes a quarter of its cycle to come down; nothing good is worse than its start.
_HIGH: Final = (1 / 4, 48, 1500)
_FALLING: Final = 2  # x as long for a level that falls slowly
_WORSE: Final = (1 / 16, 256, 500)
_SHORT, _HELD = 256, 4  # before so many samples so many levels must have been low: more than a lucky beginning
_LEAST: Final = 48  # for what did not leap up
_EARLY: Final = 1.0  # x what came before, if that is less than the bound: a block of other data passes again
_SWING, _TOO_FAR = 2.25, 1.5  # a curve that once rose by so much and came back may swing twice as far, but not beyond
_WORSE_SHARE: Final = 0.95
_NEAR_ZERO: Final = 0.8  # x the best is a new one, though near 0 it adds little to what was won
_MANY, _BLOCKS = 10, 16  # x the start: a loss of validation may be four times as large before it falls
_SMOOTH: Final = 128  # samples


@dataclass(frozen=True, slots=True)
class SlowDivergence:
    """The share of the improvement that was given back: (level - best) / (first - best).

    fires: begins above this share, as a warning; it is critical when the level then climbs on, or does not come down.
    clears: over below this one. warmup: samples before the rule is active. A curve that never improved has nothing to
    give back, and one that came back from further up before must climb higher to count.
    """

    name: ClassVar[str] = "slow_divergence"
    fires: float = 0.65
    clears: float = 0.3
    warmup: int = 16

    def __post_init__(self) -> None:
        check("SlowDivergence", "clears", self.clears, 0)
        check("SlowDivergence", "fires", self.fires, self.clears)
        check("SlowDivergence", "warmup", self.warmup, 8, whole=True)

    def start(self) -> SlowState:
        """For one series."""
        return SlowState(self)


class SlowState:
    """The progress of the levels, and the raised level that is going on."""

    __slots__ = (
        "_block",
        "_climb",
        "_onset",
        "_open",
        "_origin",
        "_peak",
        "_progress",
        "_rule",
        "_seen",
        "_size",
        "_smooth",
        "_still",
        "_survived",
    )

    def __init__(self, rule: SlowDivergence) -> None:
        self._rule = rule
        self._block: list[float] = []
        self._seen, self._size = 0, block_size(0)
        self._progress = Progress()
        self._origin = 0.0  # where the curve began: the second lowest of the first values
        self._smooth = 0  # samples in a row without bursts: losses of reinforcement learning grow with the returns
        self._open: Sign | None = None
        self._still: Standstill | None = None
        self._onset = 0
        self._climb = 0  # samples since the share was below `clears`
        self._peak = 0.0  # the highest share of the state that is going on
        self._survived = 0.0  # the highest share from which the curve came back

    def add(self, value: float) -> Sign | None:
        """Take the next value."""
        block = self._block
        block.append(value)
        if len(block) < self._size:
            return None
        return self._close()

    def _close(self) -> Sign | None:
        level, samples = midmean(self._block), self._size
        self._smooth = self._smooth + samples if min(self._block) > 0.5 * level else 0
        if not self._seen:
            self._origin = sorted(self._block)[1]
        self._block.clear()
        self._seen += samples
        self._size = block_size(self._seen)
        progress = self._progress
        progress.note(level)
        low = progress.low
        share = progress.given_back(low - progress.best_noise)
        self._climb = self._climb + samples if progress.given_back(level) > self._rule.clears else 0
        if self._open is not None:
            return self._go_on(level, share, samples)
        held = self._seen >= _SHORT or progress.longest >= _HELD
        if self._seen < self._rule.warmup or not held or not (self._gives_back(share) or self._grows()):
            return None
        self._still, self._peak, self._onset = Standstill(low), share, self._seen
        return self._say("warning", level, share)

    def _grows(self) -> bool:
        """It breaks out of where it always was, or only grew since its first values; clearly, not in bursts."""
        progress = self._progress
        if progress.breaks_out():
            return self._smooth >= 16
        if progress.blocks <= _BLOCKS or self._smooth < _SMOOTH or progress.best < 0.7 * self._origin:
            return False
        return progress.low > _MANY * self._origin > 0

    def _gives_back(self, share: float) -> bool:
        """More than the share that fires, than what the curve came back from before, and than noise."""
        progress = self._progress
        swing = min(_SWING * progress.survived / progress.improvement, _TOO_FAR) if progress.improvement else 0.0
        if share <= max(self._rule.fires, 1.25 * self._survived, swing) or not progress.improved():
            return False
        return progress.low - progress.best >= 6 * progress.best_noise

    def _go_on(self, level: float, share: float, samples: int) -> Sign | None:
        assert self._open is not None and self._still is not None
        self._peak = max(self._peak, share)
        now = self._progress.given_back(level)
        if self._progress.given_back(self._progress.high) < self._rule.clears:
            sign, self._open, self._still = self._open, None, None
            self._survived = max(self._survived, self._peak)
            return over(sign, f"back at {number(level)}: {now:.0%} of the improvement is missing")
        self._still.note(level, self._progress.best, samples)
        if self._open.level == "warning" and self._is_lost(level, samples):
            return self._say("critical", level, now)
        return self._open

    def _is_lost(self, level: float, samples: int) -> bool:
        """Whether it climbs on, or stands still for too long."""
        assert self._still is not None
        if self._progress.given_back(level) <= self._rule.fires:
            return False
        worse = self._progress.given_back(level) > _WORSE_SHARE
        share, least, most = _WORSE if worse else _HIGH
        slow_climb = self._climb - self._still.samples
        leapt = slow_climb < 4 * samples
        if not leapt:
            least = _LEAST
        needed = min(max(share * self._onset, min(least, max(_EARLY * self._onset, 16))), most)
        if self._still.height <= self._progress.high and not leapt:  # it climbs on
            needed = min(needed, max(32, 2 * samples, slow_climb // 4, self._onset // 32))
        if not worse and self._still.falls():
            needed *= _FALLING
        return self._still.samples >= needed

    def _say(self, level: Level, value: float, share: float) -> Sign:
        first, best = number(self._progress.start), number(self._progress.best)
        what = "it does not come down by itself: stop, go back to the best checkpoint, lower the learning rate"
        what = what if level == "critical" else "normal after a restart of the learning rate, else watch it"
        text = f"{share:.0%} of the improvement from {first} to {best} is lost, the level is {number(value)}: {what}"
        self._open = Sign(level, self._progress.best, self._size, text)
        return self._open


@dataclass(frozen=True, slots=True)
class Plateau:
    """No new best level for a long time. Only ever a warning: it is also how a good run ends.

    patience: samples without one, and at least half of the curve. min_delta: share of the improvement so far that a
    new best must add to it.
    """

    name: ClassVar[str] = "plateau"
    patience: int = 500
    min_delta: float = 0.01

    def __post_init__(self) -> None:
        check("Plateau", "patience", self.patience, 8, whole=True)
        check("Plateau", "min_delta", self.min_delta, 0)

    def start(self) -> PlateauState:
        """For one series."""
        return PlateauState(self)


class PlateauState:
    """The best level that counted, and when that was."""

    __slots__ = ("_best", "_block", "_counted", "_open", "_progress", "_rule", "_seen", "_size")

    def __init__(self, rule: Plateau) -> None:
        self._rule = rule
        self._block: list[float] = []
        self._seen, self._size = 0, block_size(0)
        self._progress = Progress()
        self._best = float("inf")
        self._counted = 0
        self._open: Sign | None = None

    def add(self, value: float) -> Sign | None:
        """Take the next value."""
        block = self._block
        block.append(value)
        if len(block) < self._size:
            return None
        return self._close()

    def _close(self) -> Sign | None:
        self._progress.note(midmean(self._block))
        self._block.clear()
        self._seen += self._size
        self._size = block_size(self._seen)
        progress = self._progress
        enough = max(self._rule.min_delta * progress.improvement, progress.noise)
        fifth = 0 < progress.best < min(_NEAR_ZERO * self._best, self._best - progress.noise)
        if progress.best < self._best - enough or fifth:
            self._best, self._counted = progress.best, self._seen
            sign, self._open = self._open, None
            return None if sign is None else over(sign, f"a new best level: {number(self._best)}")
        long = self._seen - self._counted >= max(self._rule.patience, self._seen // 2)
        if self._open is None and long:
            since = self._seen - self._counted
            text = (
                f"no level below {number(self._best)} for {since} values, {since / self._seen:.0%} of the run: lower "
                "the learning rate or end the run here"
            )
            self._open = Sign("warning", self._best, since, text)
        return self._open
