"""What a rule hands back for a value: that something began, goes on, got worse or is over. And checks of parameters."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

from metriclog.errors import UsageError

Level = Literal["warning", "critical"]

REPEAT: Final = 16  # while a state goes on it is said again each so many samples; the caller decides who hears of it


class Sign(NamedTuple):
    """A state of one rule in one series."""

    level: Level
    baseline: float | None
    window: int
    advice: str
    recovered: bool = False


def over(sign: Sign, advice: str) -> Sign:
    """The end of a state."""
    return sign._replace(advice=advice, recovered=True)


def number(value: float) -> str:
    """A number in a sentence."""
    return f"{value:.4g}"


def check(rule: str, parameter: str, value: object, at_least: float, *, whole: bool = False) -> None:
    """Raise `UsageError` unless a parameter is a number (`whole`: an integer) of at least so much."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < at_least:
        kind = "an integer" if whole else "a number"
        raise UsageError(f"{rule}({parameter}={value!r}): must be {kind} of at least {at_least:g}")
