"""Rules that look at each value of a metric as it is logged, and say when training goes wrong. O(1) a value. Pure.

The detector says what is: a state began, goes on, got worse or is over. What is made of it is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from typing import Final, TypeAlias

from metriclog.errors import UsageError
from metriclog.explosions import Explosion, ExplosionState
from metriclog.gradients import GradientExplosion, GradientState
from metriclog.metric_names import Kind, is_like_a_loss, kind_of
from metriclog.ranks import RankSpread, RankState
from metriclog.rules import NonFinite, NonFiniteState, Spike, SpikeState
from metriclog.signs import Level, Sign, over
from metriclog.trends import Plateau, PlateauState, SlowDivergence, SlowState

__all__ = [
    "GRADIENT_RULES",
    "LOSS_RULES",
    "Detector",
    "Explosion",
    "Finding",
    "GradientExplosion",
    "Level",
    "NonFinite",
    "Plateau",
    "RankSpread",
    "Rule",
    "SlowDivergence",
    "Spike",
]

Rule: TypeAlias = NonFinite | Spike | Explosion | SlowDivergence | Plateau | GradientExplosion | RankSpread
_State: TypeAlias = SpikeState | ExplosionState | SlowState | PlateauState | GradientState

LOSS_RULES: Final[tuple[Rule, ...]] = (NonFinite(), Spike(), Explosion(), SlowDivergence(), Plateau(), RankSpread())
# A loss scaler finds its scale by overflows of the gradients, many at the start and one now and then.
GRADIENT_RULES: Final[tuple[Rule, ...]] = (NonFinite(after=3, after_first=32), GradientExplosion(), RankSpread())
# A score that is 0 / 0 stops no run.
OTHER_RULES: Final[tuple[Rule, ...]] = (NonFinite(after=1_000, after_first=1_000),)
_DEFAULTS: Final[dict[Kind, tuple[Rule, ...]]] = {"loss": LOSS_RULES, "gradient_norm": GRADIENT_RULES}
_FEW_STEPS: Final = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule saw in one metric, at one step."""

    rule: str
    metric: str
    rank: str
    level: Level
    step: int
    value: float
    baseline: float | None
    window: int
    advice: str
    recovered: bool = False


class _Series:
    """The states of all rules for one metric of one rank."""

    __slots__ = (
        "_adds",
        "_between",
        "_ended",
        "_furthest",
        "_idle",
        "_metric",
        "_nonfinite",
        "_open",
        "_rank",
        "_rules",
    )

    def __init__(self, metric: str, rank: str) -> None:
        self._metric, self._rank = metric, rank
        self._open: dict[str, Sign] = {}
        self._ended: list[tuple[str, Sign]] = []
        self.change((), None)

    def change(self, rules: tuple[Rule, ...], between: RankState | None) -> None:
        """Other rules from now on, which know nothing of what was."""
        self._rules, self._between = rules, between
        self._start("other rules watch it now")

    def _start(self, reason: str) -> None:
        self._ended += [(name, over(sign, reason)) for name, sign in self._open.items()]
        self._open.clear()
        own = next((rule for rule in self._rules if isinstance(rule, NonFinite)), NonFinite())
        self._nonfinite: NonFiniteState = own.start()
        self._idle = False
        states: list[tuple[str, _State]] = [
            (rule.name, rule.start()) for rule in self._rules if not isinstance(rule, NonFinite | RankSpread)
        ]
        self._adds = tuple((state.add, name) for name, state in states)
        self._furthest = 0

    def add(self, step: int, value: float) -> list[Finding]:
        """What the rules find in the next value."""
        found: list[Finding] = []
        if step > self._furthest:
            self._furthest = step
        elif 2 * step < self._furthest and self._furthest > _FEW_STEPS:  # the next fold, a second fit
            self._start(f"the curve begins anew at step {step}")
        if value - value != 0.0 or not self._idle:
            found += self._farewells(step, value)
            sign = self._nonfinite.add(value)
            self._idle = self._nonfinite.idle
            if sign is not None:
                found.append(self._finding("nonfinite", step, value, sign))
            if value - value != 0.0:
                return found
        for add, name in self._adds:
            sign = add(value)
            if sign is not None:
                found.append(self._finding(name, step, value, sign))
        if self._between is not None:
            found += self._compare(step, value)
        return found

    def _finding(self, name: str, step: int, value: float, sign: Sign) -> Finding:
        if sign.recovered:
            self._open.pop(name, None)
        else:
            self._open[name] = sign
        return _finding(name, (self._metric, self._rank), (step, value), sign)

    def _farewells(self, step: int, value: float) -> Iterator[Finding]:
        """What went on when the rules were changed or the curve began anew is over."""
        ended, self._ended = self._ended, []
        for name, sign in ended:
            yield _finding(name, (self._metric, self._rank), (step, value), sign)

    def _compare(self, step: int, value: float) -> Iterator[Finding]:
        assert self._between is not None
        for rank, at, other, sign in self._between.add(self._rank, step, value):
            yield _finding("rank_spread", (self._metric, rank), (at, other), sign)


def _finding(name: str, series: tuple[str, str], point: tuple[int, float], sign: Sign) -> Finding:
    level, baseline, window, advice, recovered = sign
    return Finding(name, *series, level, *point, baseline, window, advice, recovered)


class Detector:
    """All series of a process. Not for several threads.

    Every metric is watched for values that are not finite: critical for what is like a loss, else a warning.
    With `default`, metrics named like losses and gradient norms have more rules, until `watch` gives them others.
    Memory grows with the number of series, not with their length.
    """

    def __init__(self, default: bool = True) -> None:
        self._default = default
        self._wishes: list[tuple[re.Pattern[str], tuple[Rule, ...]]] = []  # the last one that fits wins
        self._rules: dict[str, tuple[Rule, ...]] = {}
        self._series: dict[tuple[str, str], _Series] = {}
        self._between: dict[str, RankState] = {}

    def watch(self, metric: str, *rules: Rule) -> None:
        """From now on these rules instead of the default ones for a metric, or for all that match ("train/*loss").

        Without rules only values that are not finite are found. Raises `UsageError` for what is no rule.
        """
        if not isinstance(metric, str) or not metric:
            raise UsageError(f"watch({metric!r}): name a metric, or many by a pattern like 'train/*loss'")
        for rule in rules:
            if not isinstance(rule, Rule):
                raise UsageError(f"watch({metric!r}): {rule!r} is no rule; give for example metriclog.Spike(sigmas=8)")
        if len({rule.name for rule in rules}) < len(rules):
            raise UsageError(f"watch({metric!r}): the same rule twice")
        pattern = re.compile(rf"{re.escape(metric)}\Z|{translate(metric)}")  # a name may hold a bracket
        self._wishes.append((pattern, rules))
        self._rules.clear()
        changed = [key for key in self._series if pattern.match(key[0])]
        for name, _ in changed:
            self._between.pop(name, None)
        for name, rank in changed:
            self._series[name, rank].change(rules, self._between_of(name, rank))

    def watches(self, metric: str) -> bool:
        """Whether rules look at finite values of a metric. If not, only those that are not finite need to be added."""
        return any(not isinstance(rule, NonFinite) for rule in self._rules_of(metric))

    def add(self, metric: str, rank: str, step: int, value: float) -> list[Finding]:
        """Take the next value of a metric of a rank ("" without ranks). Returns what the rules find."""
        series = self._series.get((metric, rank))
        if series is None:
            series = self._make(metric, rank)
        return series.add(step, value)

    def _make(self, metric: str, rank: str) -> _Series:
        made = self._series[metric, rank] = _Series(metric, rank)
        made.change(self._rules_of(metric), self._between_of(metric, rank))
        return made

    def _between_of(self, metric: str, rank: str) -> RankState | None:
        spread = next((rule for rule in self._rules_of(metric) if isinstance(rule, RankSpread)), None)
        if spread is None or not rank:
            return None
        return self._between.setdefault(metric, spread.start())

    def _rules_of(self, metric: str) -> tuple[Rule, ...]:
        if metric not in self._rules:
            wish = next((rules for pattern, rules in reversed(self._wishes) if pattern.match(metric)), None)
            self._rules[metric] = self._by_name(metric) if wish is None else wish
        return self._rules[metric]

    def _by_name(self, metric: str) -> tuple[Rule, ...]:
        kind = kind_of(metric)
        if self._default and kind != "other":
            return _DEFAULTS[kind]
        if is_like_a_loss(metric):
            return ()
        return GRADIENT_RULES[:1] if kind == "gradient_norm" else OTHER_RULES
