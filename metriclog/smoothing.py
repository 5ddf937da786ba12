"""Levels of a noisy curve: block by block, without what sticks out, and how far it has come down since its start.

Everything is relative to the curve itself: a curve that is multiplied by a constant behaves the same. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SMALLEST_BLOCK: Final = 4
LARGEST_BLOCK: Final = 64
_BLOCKS_A_CURVE: Final = 32  # a block is at most this share of what has been seen: short runs are judged too
_TRIFLE: Final = 0.05  # share of the start
_FIRST_LEVELS: Final = 4
_LONG: Final = 16  # levels in a row below half of the way are no luck even where noise is large
_LUCK, _SMALL_BLOCKS = 4, 48  # x the noise: so far up two small blocks may be by luck
_MATURE: Final = 8  # blocks after which their noise is known well enough to disbelieve a jump


def block_size(seen: int) -> int:
    """How many samples make the next block after `seen` of them: a power of two."""
    size = SMALLEST_BLOCK
    while size < LARGEST_BLOCK and size * 2 * _BLOCKS_A_CURVE <= seen:
        size *= 2
    return size


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: neither a spike nor a heavy tail moves it, and two humps do not make it jump."""
    ranked = sorted(values)
    cut = len(ranked) // 4
    middle = ranked[cut : len(ranked) - cut]
    return sum(middle) / len(middle)


def centre_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The median, and a robust standard deviation of what lies above it.

    That is 1.48 x the median deviation, or what the upper 5 % say if it is more: many losses have a long upper tail.
    """
    ranked = sorted(values)
    centre = ranked[len(ranked) // 2]
    deviations = sorted([abs(value - centre) for value in ranked])
    tail = (ranked[len(ranked) - 1 - len(ranked) // 20] - centre) / 1.645
    return centre, max(1.4826 * deviations[len(deviations) // 2], tail)


class Progress:
    """What the levels of a curve that should fall have come to: where it began, its best, the noise between levels.

    `low` and `high` are the lower and the higher one of the last two levels: luck does not make two in a row.
    """

    __slots__ = (
        "_change",
        "_crest",
        "_held",
        "_last",
        "_sum",
        "_summit",
        "best",
        "best_noise",
        "blocks",
        "first",
        "first_noise",
        "high",
        "longest",
        "low",
        "noise",
        "start",
        "steady",
        "survived",
    )

    def __init__(self) -> None:
        self.blocks = 0
        self.first = self.start = self.best = self._last = self._summit = self._sum = 0.0
        self.low = self.high = self._change = 0.0
        self._held = self.longest = 0  # levels in a row below half of the way
        self._crest = self.survived = 0.0  # the highest since the best; the highest rise that a new best followed
        self.steady = 0  # levels near the start or below
        self.noise = self.best_noise = self.first_noise = 0.0  # now, when the best was reached, of the first blocks

    def note(self, level: float) -> None:
        """Take the next level."""
        last, self._last = self._last, level
        self.blocks += 1
        if self.blocks == 1:
            self.first = self.start = self.best = self._summit = self._crest = self.low = self.high = self._sum = level
            return
        self.low, self.high = (level, last) if level < last else (last, level)
        self._hear(level - last)
        if self.blocks <= _FIRST_LEVELS:
            self._begin(level)
        self._summit = max(self._summit, self.low - self.noise)
        self._crest = max(self._crest, self.low)
        self.steady += self.high < 1.3 * self.start
        self._held = self._held + 1 if 2 * level < self.start + self.best else 0
        self.longest = max(self.longest, self._held)
        if self.high < self.best:
            luck = _LUCK * self.noise if self.blocks <= _SMALL_BLOCKS else 0.0
            self.survived = max(self.survived, self._crest - self.best - luck)
            self.best = self._crest = self.high
            self.best_noise = self.noise
            self._remember_the_way()

    def _begin(self, level: float) -> None:
        """The first level is a small sample: the mean of the first four counts if it is higher."""
        self._sum += level
        if self.blocks == _FIRST_LEVELS:
            self.first = max(self.first, self._sum / _FIRST_LEVELS)
            self.start = max(self.start, self.first)

    def _hear(self, change: float) -> None:
        """Of two falls in a row the smaller one is noise at most, and half of the second one."""
        before, self._change = self._change, change
        change = max(min(-change, -before), -change / 2) if change < 0 >= before else abs(change)
        if self.blocks > _MATURE:
            change = min(change, 4 * self.noise)
        elif self.blocks > _FIRST_LEVELS:
            change = min(change, 2 * self.noise)  # what falls or breaks early is no noise
        self.noise += (change - self.noise) / min(self.blocks - 1, 16)
        if self.blocks <= _MATURE:
            self.first_noise = self.noise

    def _remember_the_way(self) -> None:
        """A height from which the curve came down to a new best is part of its way, up to a bound."""
        bound = self.first + max(abs(self.first), self.first - self.best)
        self.start = max(self.start, min(self._summit, bound))

    @property
    def improvement(self) -> float:
        """From the start to the best level; at least a trifle of the start, below which nothing was won."""
        return max(self.start - self.best, _TRIFLE * abs(self.start))

    def improved(self) -> bool:
        """Whether the curve has really come down: more than noise, and more than a trifle of where it began."""
        gain, scale = self.first - self.best, abs(self.first)
        clear, first = (5, 2) if self.longest >= _LONG else (7, 3)
        if gain < first * self.first_noise:
            return False
        large = gain >= 0.25 * scale and gain >= clear * self.best_noise
        return gain > 0 and (large or (gain >= _TRIFLE * scale and gain >= 30 * self.best_noise))

    def breaks_out(self) -> bool:
        """Whether the last levels are four times the start of a curve that had stayed near it for most of its way."""
        steady = self.blocks > _LONG and self.steady > 0.6 * self.blocks and self.start > 4 * self.first_noise
        return steady and self.low > 4 * self.start

    def given_back(self, level: float) -> float:
        """The share of the improvement that a level has given back: 0 at the best, 1 at the start. 0 without any."""
        gain = self.improvement
        return (level - self.best) / gain if gain > 0 else 0.0


class Standstill:
    """Since when a raised level has not come down: each 15 % of its height that it falls starts the count anew.

    Two levels in a row must be higher, or lower, to count.
    """

    __slots__ = ("_floor", "_last", "_line", "height", "samples")

    def __init__(self, level: float) -> None:
        self.height = self._last = self._floor = level
        self._line = [0.0] * 5
        self.samples = 0

    def note(self, level: float, floor: float, samples: int) -> None:
        """A level of so many samples, above `floor`."""
        last, self._last = self._last, level
        self._floor = floor
        if max(level, last) < self.height - 0.15 * (self.height - floor):
            self.height = max(level, last)
            self.samples = 0
            self._line = [0.0] * 5
            return
        self.height = max(self.height, min(level, last))
        self.samples += samples
        count, *sums = self._line
        parts = (count, level - floor, count * (level - floor), (level - floor) ** 2)
        self._line = [count + 1, *(old + part for old, part in zip(sums, parts, strict=True))]

    def falls(self) -> bool:
        """Whether a straight line through the levels falls clearly, though by less than 15 %."""
        count, places, levels, products, squares = self._line
        if count < 8:
            return False
        spread = count * (count * count - 1) / 12  # of the places 0, 1, 2 ...
        slope = (products - places * levels / count) / spread
        rest = max(squares - levels * levels / count - slope * slope * spread, 0.0)
        error = (rest / (count - 2) / spread) ** 0.5
        return slope < -5 * error and -slope * count > 0.005 * (self.height - self._floor)
