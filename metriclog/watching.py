"""What is said of what the rules found: once, again after a while, at once if it gets worse, and when it is over. Pure.

A broken run must flood nobody: at most so many alerts a process, then one that says that there are more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from metriclog.divergence import Finding
from metriclog.points import Field

MOST_REMEMBERED = 10_000  # troubles that are not forgotten before their cooldown is over
WORDS = {
    "nonfinite": "Not finite",
    "spike": "Spike",
    "explosion": "Explosion",
    "slow_divergence": "Slow divergence",
    "plateau": "Plateau",
    "gradient_explosion": "Gradient explosion",
    "rank_spread": "Ranks apart",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """An event to be written, and the finding behind it."""

    kind: str
    metric: str | None
    step: int
    fields: dict[str, Field]


@dataclass(slots=True)
class _Trouble:
    """What was said of one rule in one metric."""

    level: str
    said_s: float
    goes_on: bool = True
    nonfinite: int = 0  # how many values had not been finite by then


class Teller:
    """Decides for one process of a run. `clock` counts seconds."""

    def __init__(self, cooldown_s: float, most: int, clock: Callable[[], float]) -> None:
        self.suppressed = 0
        self._cooldown_s, self._most, self._clock = cooldown_s, most, clock
        self._troubles: dict[tuple[str, str, str], _Trouble] = {}
        self._said = 0

    def is_news(self, finding: Finding, nonfinite: int = 0) -> int:
        """0 if this need not be said now, else how much there is to say: values that were not finite since, or 1."""
        key = finding.metric, finding.rank, finding.rule
        known, now_s = self._troubles.get(key), self._clock()
        if finding.recovered:
            news = known is not None and known.goes_on
            if known is not None:
                known.goes_on = False
            return int(news)
        late = known is None or now_s - known.said_s >= self._cooldown_s
        worse = known is not None and (known.level, finding.level) == ("warning", "critical")
        if not (late or worse):
            return 0
        self._forget(now_s)
        self._troubles[key] = _Trouble(finding.level, now_s, nonfinite=nonfinite)
        return max(1, nonfinite - known.nonfinite) if known else max(1, nonfinite)

    def notices(self, finding: Finding, count: int) -> list[Notice]:
        """The events for news: one, or none where enough has been said."""
        if finding.recovered:
            return [_recovery(finding)]
        if self._said >= self._most:
            self.suppressed += 1
            return [self._enough(finding.step)] if self.suppressed == 1 else []
        self._said += 1
        return [_alert(finding, count)]

    def last_words(self, step: int) -> list[Notice]:
        """At the end of the run: how many alerts were not written."""
        if self.suppressed <= 1:
            return []
        title = f"{self.suppressed} alerts were not written"
        text = f"METRICLOG_ALERT_MAX={self._most} had been"
        fields: dict[str, Field] = {"title": title, "text": text, "level": "info", "count": self.suppressed}
        return [Notice("alert", None, step, fields)]

    def _enough(self, step: int) -> Notice:
        title = f"More alerts are suppressed: {self._most} have been written"
        text = "Look at the run. METRICLOG_ALERT_MAX is the limit; the end of the run says how many there were"
        return Notice("alert", None, step, {"title": title, "text": text, "level": "warning"})

    def _forget(self, now_s: float) -> None:
        if len(self._troubles) >= MOST_REMEMBERED:
            late = {key for key, it in self._troubles.items() if now_s - it.said_s >= self._cooldown_s}
            for key in late or list(self._troubles)[: MOST_REMEMBERED // 2]:
                del self._troubles[key]


def _alert(finding: Finding, count: int) -> Notice:
    kind = "nonfinite" if finding.rule == "nonfinite" else "divergence"
    fields = _fields(finding, _title(finding), finding.level)
    return Notice(kind, finding.metric, finding.step, {**fields, "count": count})


def _recovery(finding: Finding) -> Notice:
    title = f"Over: {_title(finding)}" if finding.rule != "nonfinite" else f"{finding.metric} is finite again"
    return Notice("recovery", finding.metric, finding.step, _fields(finding, title, "info"))


def _title(finding: Finding) -> str:
    """Without numbers and ranks: what is the same trouble has the same title."""
    if finding.rule == "nonfinite" and not math.isfinite(finding.value):
        return f"{finding.metric} is {shown(finding.value)}"
    words = WORDS.get(finding.rule) or finding.rule.replace("_", " ").capitalize()
    return f"{words}: {finding.metric}"


def _fields(finding: Finding, title: str, level: str) -> dict[str, Field]:
    fields: dict[str, Field] = {"title": title, "text": _text(finding), "level": level, "rule": finding.rule}
    fields |= {"value": float(finding.value)} if math.isfinite(finding.value) else {}
    if finding.baseline is not None and math.isfinite(finding.baseline):
        fields["baseline"] = float(finding.baseline)
    return fields | {"window": finding.window}


def _text(finding: Finding) -> str:
    parts = [f"step {finding.step}", f"value {shown(finding.value)}"]
    parts += [] if finding.baseline is None else [f"baseline {shown(finding.baseline)}"]
    parts += [f"window {finding.window}"] if finding.window else []
    parts += [f"rank {finding.rank}"] if finding.rank else []
    return f"{', '.join(parts)}. {finding.advice}".rstrip(". ")


def shown(value: float) -> str:
    """A number for people: six digits, NaN and infinities by name."""
    if math.isfinite(value):
        return f"{value:.6g}"
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
