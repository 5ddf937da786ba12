"""Small seeded curves for the rules' tests, and what a detector or one rule says of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from metriclog.divergence import Detector, Finding, Rule

RNG_SEED = 7


def noise(count: int, size: float, seed: int = RNG_SEED) -> list[float]:
    """Gaussian."""
    rng = random.Random(seed)
    return [rng.gauss(0, size) for _ in range(count)]


def falling(count: int, start: float = 2.3, floor: float = 0.3, size: float = 0.02) -> list[float]:
    """A loss that converges, with noise."""
    return [
        floor + (start - floor) * (1 + index / 20) ** -0.7 + error for index, error in enumerate(noise(count, size))
    ]


def flat(count: int, level: float = 1.0, size: float = 0.02) -> list[float]:
    """A level with noise."""
    return [level + error for error in noise(count, size, seed=RNG_SEED + 1)]


def line(count: int, start: float, end: float, size: float = 0.02) -> list[float]:
    """From here to there, with noise."""
    return [start + (end - start) * index / count + error for index, error in enumerate(noise(count, size))]


def found_by(
    values: Iterable[float], *rules: Rule, metric: str = "train/loss", steps: Sequence[int] | None = None
) -> list[Finding]:
    """All findings of these rules (without any: of the default ones), goings-on included."""
    detector = Detector()
    if rules:
        detector.watch(metric, *rules)
    return [
        finding
        for index, value in enumerate(values)
        for finding in detector.add(metric, "", index if steps is None else steps[index], value)
    ]


def turns(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """(rule, level) where a state began or got worse, (rule, "over") where it ended; without goings-on."""
    level: dict[tuple[str, str], str] = {}
    told: list[tuple[str, str]] = []
    for finding in findings:
        key = finding.rule, finding.rank
        now = "over" if finding.recovered else finding.level
        if level.get(key) != now:
            told.append((finding.rule, now))
        level[key] = now
    return told


def critical(findings: Iterable[Finding]) -> list[Finding]:
    """Those that say: this run should stop."""
    return [finding for finding in findings if finding.level == "critical" and not finding.recovered]
