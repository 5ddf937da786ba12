"""The rule that watches one metric over the ranks of a run: one that stands apart again and again. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar, Final

from metriclog.signs import REPEAT, Sign, check, number, over

MOST_STEPS: Final = 32  # for which values of some ranks are waited for
MOST_RANKS: Final = 4096
_TRIFLE: Final = 0.01  # share of the median below which a distance is none


@dataclass(frozen=True, slots=True)
class RankSpread:
    """A rank whose value is far from the median of the others at the same step: a warning, critical if it stays.

    factor: how many times the usual distance of a rank from the median is far. persist: for how many steps more than
    it was near. stays: as many steps, and more than `times` as large as the others, is critical. min_ranks: fewer
    cannot outvote one.
    """

    name: ClassVar[str] = "rank_spread"
    factor: float = 6.0
    persist: int = 16
    stays: int = 500
    times: float = 2.75
    min_ranks: int = 3

    def __post_init__(self) -> None:
        check("RankSpread", "factor", self.factor, 1)
        check("RankSpread", "persist", self.persist, 1, whole=True)
        check("RankSpread", "stays", self.stays, 1, whole=True)
        check("RankSpread", "times", self.times, 1)
        check("RankSpread", "min_ranks", self.min_ranks, 3, whole=True)

    def start(self) -> RankState:
        """For all ranks of one metric."""
        return RankState(self)


class RankState:
    """Values of the newest steps that wait for other ranks, the usual distance, and a score for each rank.

    A step is judged when every known rank has reported it, or when too many newer ones wait.
    """

    __slots__ = ("_apart", "_open", "_rule", "_scores", "_usual", "_waiting")

    def __init__(self, rule: RankSpread) -> None:
        self._rule = rule
        self._waiting: dict[int, dict[str, float]] = {}
        self._scores: dict[str, int] = {}
        self._apart: dict[str, int] = {}  # ranks that are many times as large as the others, and for how long
        self._usual = -1.0
        self._open: dict[str, Sign] = {}

    def add(self, rank: str, step: int, value: float) -> list[tuple[str, int, float, Sign]]:
        """Take a finite value of a rank; (rank, step, value, sign) of each rank there is something to say of."""
        if rank not in self._scores:
            if len(self._scores) >= MOST_RANKS:
                return []
            self._scores[rank] = 0
        waiting = self._waiting
        values = waiting.get(step)
        if values is None:
            values = waiting[step] = {}
        values[rank] = value
        if len(values) == len(self._scores) > 1:
            return self._judge(step, waiting.pop(step))
        if len(waiting) > MOST_STEPS:
            oldest = next(iter(waiting))
            return self._judge(oldest, waiting.pop(oldest))
        return []

    def _judge(self, step: int, values: dict[str, float]) -> list[tuple[str, int, float, Sign]]:
        if len(values) < self._rule.min_ranks:
            return []
        ranked = sorted(values.values())
        middle = ranked[len(ranked) // 2]
        distances = sorted([abs(value - middle) for value in ranked])
        usual = distances[len(distances) // 2]
        known = self._usual if self._usual >= 0 else usual
        self._usual = known + (min(usual, 4 * known or usual) - known) / 16
        limit = self._rule.factor * max(self._usual, usual)
        found = []
        for rank, value in values.items():
            others = _median_without(ranked, value)
            far = abs(value - others) > max(limit, _TRIFLE * max(abs(others), abs(value)))
            score = self._scores[rank]
            self._scores[rank] = min(score + 1, 2 * self._rule.persist) if far else max(score - 1, 0)
            sign = self._stay(rank, value, others) if far or rank in self._apart else None
            sign = sign or (self._change(rank, value, others) if far or score else None)
            if sign is not None:
                found.append((rank, step, value, sign))
        return found

    def _stay(self, rank: str, value: float, others: float) -> Sign | None:
        """Whether a rank is so far away that it does not learn, for long; harder data are less or pass."""
        far = value - others > (self._rule.times - 1) * abs(others)
        steps = self._apart[rank] = max(self._apart.get(rank, 0) + (1 if far else -4), 0)
        if not steps:
            del self._apart[rank]
        sign = self._open.get(rank)
        if steps < self._rule.stays or sign is None or sign.level == "critical":
            return None
        text = (
            f"rank {rank} is at {number(value)}, the others at {number(others)}, for {steps} steps: it does not train "
            "with them; stop, and compare its weights and its data shard with theirs"
        )
        self._open[rank] = sign._replace(level="critical", baseline=others, window=steps, advice=text)
        return self._open[rank]

    def _change(self, rank: str, value: float, others: float) -> Sign | None:
        score, sign = self._scores[rank], self._open.get(rank)
        if sign is None and score >= self._rule.persist:
            text = (
                f"rank {rank} is at {number(value)}, the median of {len(self._scores) - 1} others at {number(others)}, "
                "again and again: compare its data shard, its seed and its weights with theirs, and its hardware"
            )
            self._open[rank] = Sign("warning", others if math.isfinite(others) else None, score, text)
            return self._open[rank]
        if sign is not None and score == 0:
            del self._open[rank]
            return over(sign, f"rank {rank} is with the others again")
        return sign if sign is not None and score % REPEAT == 0 else None


def _median_without(ranked: list[float], value: float) -> float:
    """The median of the others: lower or upper middle, whichever is nearer to the value."""
    place = bisect_left(ranked, value)
    others = len(ranked) - 1
    low, high = (others - 1) // 2, others // 2
    left = ranked[low + (place <= low)]
    right = ranked[high + (place <= high)]
    return left if abs(left - value) < abs(right - value) else right
