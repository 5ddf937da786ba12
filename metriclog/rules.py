"""Rules that watch single values of one metric: not finite, and spikes. O(1) a value. Pure.

Each rule is a frozen set of parameters; `start()` makes the state for one series. All counts are in samples, that is
in logged values, because steps may repeat, jump or go back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Final

from metriclog.signs import REPEAT, Sign, check, number, over
from metriclog.smoothing import Progress, Standstill, centre_and_spread, midmean

_LOOK_EACH: Final = 32  # samples between two looks at the window, which share the cost of one
_TRIFLE: Final = 0.005  # share of the largest value in the window below which no spread is believed
_SMALL: Final = 0.005  # share of the largest level so far below which a rise is not worth a word
_LOST_SHARE: Final = 0.49
_HIGH_PEAK, _KEPT_SHARE = 0.75, 0.35  # after a peak so high less may be lost: it was no step of the data
_SHARE, _PATIENCE = 0.3, 1400
_SOON: Final = 160  # for a level thrice as high as all before
_FALLING: Final = 4  # x as long for a level that falls: a cosine that restarts is slow at first
_PEAKS, _PEAK_AGE = 8, 4096  # single values that passed, which raise the limit for so many samples
_BACK: Final = 16  # samples in a row at the old level after which a spike is over


@dataclass(frozen=True, slots=True)
class NonFinite:
    """NaN, +Inf or -Inf, said at once.

    after: critical from so many in a row on, a warning before; `after_first` where no value has been finite yet.
    recover: over after so many finite values in a row.
    """

    name: ClassVar[str] = "nonfinite"
    after: int = 1
    after_first: int = 1
    recover: int = 16

    def __post_init__(self) -> None:
        for parameter in ("after", "after_first", "recover"):
            check("NonFinite", parameter, getattr(self, parameter), 1, whole=True)

    def start(self) -> NonFiniteState:
        """For one series."""
        return NonFiniteState(self)


class NonFiniteState:
    """How many were not finite in a row, and how many were finite since."""

    __slots__ = ("_bad", "_finite", "_rule", "_seen_finite", "_sign")

    def __init__(self, rule: NonFinite) -> None:
        self._rule = rule
        self._bad = self._finite = 0
        self._seen_finite = False
        self._sign: Sign | None = None

    @property
    def idle(self) -> bool:
        """Finite values need not be shown to it."""
        return self._seen_finite and self._sign is None and not self._bad

    def add(self, value: float) -> Sign | None:
        """Take the next value."""
        if value - value == 0.0:
            return self._fine()
        self._bad += 1
        self._finite = 0
        enough = self._bad >= (self._rule.after if self._seen_finite else self._rule.after_first)
        critical = enough or (self._sign is not None and self._sign.level == "critical")
        kind = "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
        self._sign = Sign("critical" if critical else "warning", None, 1, _nonfinite_advice(kind, self._bad, critical))
        return self._sign

    def _fine(self) -> Sign | None:
        self._seen_finite, self._bad = True, 0
        self._finite += 1
        sign = self._sign
        if sign is None or self._finite < self._rule.recover:
            return None
        self._sign = None
        return over(sign, f"finite again for {self._finite} values; compare with before: the weights may be damaged")


def _nonfinite_advice(kind: str, count: int, critical: bool) -> str:
    if not critical:
        return (
            f"{kind}, {count} in a row: a loss scaler that skips a step does this now and then, or a score that is "
            "0 / 0; look whether the losses are finite"
        )
    return (
        f"{kind}, {count} in a row: stop and go back to the last checkpoint; look for log(0), a division by 0, a bad "
        "batch or an overflow in half precision; lower the learning rate or clip gradients"
    )


@dataclass(frozen=True, slots=True)
class Spike:
    """A value far above the newest ones: above their median + `sigmas` robust standard deviations.

    One value alone must be twice as far above, or a second one follow at once: single batches may be hard.

    window: samples that make the median and the deviation, the newest one not among them. warmup: samples before the
    rule is active. persist: a spike is a warning; it is critical when it has stood without coming down for so many
    samples and 30 % of the curve before it (1,400 at most; 5,600 while it falls), and has cost more than half of what
    training had won, or is twice as high as all that was seen before; sooner if it is thrice as high.
    """

    name: ClassVar[str] = "spike"
    sigmas: float = 6.0
    window: int = 128
    warmup: int = 64
    persist: int = 320

    def __post_init__(self) -> None:
        check("Spike", "sigmas", self.sigmas, 1)
        check("Spike", "window", self.window, 16, whole=True)
        check("Spike", "warmup", self.warmup, 16, whole=True)
        check("Spike", "persist", self.persist, _LOOK_EACH, whole=True)

    def start(self) -> SpikeState:
        """For one series."""
        return SpikeState(self)


class SpikeState:
    """The window, the limit that follows from it, and the spike that is going on."""

    __slots__ = (
        "_calm",
        "_doubt",
        "_due",
        "_limit",
        "_onset",
        "_open",
        "_peak",
        "_peaks",
        "_progress",
        "_rule",
        "_seen",
        "_since",
        "_still",
        "_top",
        "_window",
    )

    def __init__(self, rule: Spike) -> None:
        self._rule = rule
        self._window: deque[float] = deque(maxlen=rule.window)
        self._seen = self._onset = 0
        self._due = rule.warmup
        self._doubt = 0  # `_due` when a single value was beyond the limit: the next one has the same
        self._limit = math.inf
        self._progress = Progress()
        self._top = 0.0  # the largest absolute value of the windows' upper ends
        self._open: Sign | None = None
        self._since: list[float] = []  # samples of the spike since the last look
        self._still: Standstill | None = None
        self._calm = 0
        self._peak = 0.0  # the highest level of the spike
        self._peaks: deque[tuple[int, float]] = deque(maxlen=_PEAKS)

    def add(self, value: float) -> Sign | None:
        """Take the next value."""
        if value > self._limit or self._open is not None:
            return self._beyond(value)
        self._window.append(value)
        self._due -= 1
        if not self._due:
            self._due, self._doubt = _LOOK_EACH, 0
            if not self._seen:
                self._start()
            self._seen += _LOOK_EACH
            self._progress.note(self._look())
        return None

    def _start(self) -> None:
        """Before the first look: the curve may have fallen most of its way since its first values."""
        first = midmean([value for value, _ in zip(self._window, range(4), strict=False)])
        self._progress.note(first)
        self._top = abs(first)

    def _look(self) -> float:
        """Set the limit anew. Returns the median."""
        window = self._window
        centre, spread = centre_and_spread(window)
        ranked = sorted(window)
        self._top = max(self._top, abs(ranked[-1 - len(ranked) // 20]))
        spread = max(spread, _TRIFLE * max(abs(centre), ranked[-1], -ranked[0], 1e-3 * self._top))
        # What the window has seen thrice is the curve's way, however long its tail.
        self._limit = centre + max(self._rule.sigmas * spread, 2 * (ranked[-3] - centre), _SMALL * self._top)
        peaks = sorted([peak for seen, peak in self._peaks if self._seen - seen < _PEAK_AGE])
        if len(peaks) >= _PEAKS // 2:
            self._limit = max(self._limit, peaks[-2])
        return centre

    def _beyond(self, value: float) -> Sign | None:
        if self._open is not None:
            return self._go_on(value)
        centre = self._look()  # the limit may be up to 32 samples old
        if value <= self._limit:
            self._window.append(value)
            return None
        previous, self._doubt = self._doubt, self._due
        if value - centre < 2 * (self._limit - centre) and self._due != previous:
            self._window.append(value)
            return None  # one batch that is harder than others; another one at once would be a spike
        self._calm, self._still, self._since, self._onset, self._peak = 0, None, [value], self._seen, value
        text = (
            f"{number(value)} after a median of {number(centre)} over {len(self._window)} values (limit "
            f"{number(self._limit)}): mostly passes; if spikes return, skip these batches or lower the learning rate"
        )
        self._open = Sign("warning", centre, len(self._window), text)
        return self._open

    def _go_on(self, value: float) -> Sign | None:
        sign = self._open
        assert sign is not None and sign.baseline is not None
        self._since.append(value)
        if value > self._limit:
            self._calm = 0
            self._peak = max(self._peak, min(self._since[-2:]))
        else:
            self._calm += 1
            if self._calm >= _BACK:
                if self._still is None and len(self._since) <= _BACK + 2:
                    self._peaks.append((self._seen, self._peak))
                return self._end(sign, self._since[-_BACK:], f"back below {number(self._limit)}")
        if len(self._since) % REPEAT:
            return None
        if len(self._since) == _LOOK_EACH:
            return self._judge(sign, sign.baseline)
        return sign

    def _judge(self, sign: Sign, baseline: float) -> Sign | None:
        """Each 32 samples of a spike: does it come down, has it become the new level, or is the run lost?"""
        since, self._since = self._since, []
        self._seen += len(since)
        level = midmean(since)
        if level <= self._limit:  # single values that stick out are no raised level
            self._still = None
            return sign
        if self._still is None:
            self._still = Standstill(level)
        self._still.note(level, baseline, len(since))
        waited, needed = self._still.samples, self._needed(level)
        if sign.level == "critical":
            return sign
        if waited >= needed and not (self._still.falls() and waited < _FALLING * needed):
            return self._lost(sign, level)
        if waited >= self._settled() and needed == math.inf and self._is_new_level(level, waited):
            return self._end(sign, since, f"{number(level)} is the new level, {number(baseline)} was the old one")
        return sign

    def _lost(self, sign: Sign, level: float) -> Sign:
        assert self._still is not None
        text = (
            f"at {number(level)} for {self._still.samples} values without coming down, after "
            f"{number(sign.baseline or 0.0)}: go back to a checkpoint from before the spike, and skip its batches or "
            "lower the learning rate"
        )
        self._open = sign._replace(level="critical", advice=text)
        return self._open

    def _is_new_level(self, level: float, waited: float) -> bool:
        """Not far from the old one; or further but for very long, as with harder data."""
        kept = not self._progress.improved() or self._progress.given_back(level) < _KEPT_SHARE
        return kept or waited >= _FALLING * self._settled()

    def _early(self) -> float:
        """A block of other data, as long as what came before, is no trouble yet."""
        return min(self._rule.persist, max(2 * _LOOK_EACH, 1.25 * self._onset))

    def _settled(self) -> float:
        least = self._early()
        return max(least, min(_SHARE * self._onset, _PATIENCE))

    def _needed(self, level: float) -> float:
        """For how many samples a level must have stood still to be critical."""
        if level > 3 * self._top:
            return min(self._early(), _SOON)
        share, peak = self._progress.given_back(level), self._progress.given_back(self._peak)
        lost = share > _LOST_SHARE or (peak > _HIGH_PEAK and share > _KEPT_SHARE)
        return self._settled() if (lost and self._progress.improved()) or level > 2 * self._top else math.inf

    def _end(self, sign: Sign, newest: list[float], text: str) -> Sign:
        self._open, self._still = None, None
        self._window.extend(newest)
        if len(newest) > _BACK:  # a new level: the old one says nothing any more
            self._window.clear()
            self._window.extend(newest)
        self._since = []
        self._look()
        self._due = _LOOK_EACH
        return over(sign, text)
