"""How good the default rules are, on curves whose truth is known, and what they cost.

    python benchmarks/detection.py [--seed 0] [--seeds 1] [--curves]

Per rule: false alarms in 10^6 values (critical ones on curves that are good, or still are; warnings where nothing is to
be said), how many of the troubles that are meant for it were found, by whichever rule, and how many values after the
onset the first critical finding came. For rules that only warn: the warning. --seeds N: other curves of the same
families, N times. --curves: a line for each curve.

Target: nothing critical on a good curve, every divergence found. Exit code 1 if it is missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from detection_draw import Curve
from detection_hard import corpus

from metriclog.divergence import Detector

RULES = ("nonfinite", "spike", "explosion", "slow_divergence", "plateau", "gradient_explosion", "rank_spread")
TARGET_US = 2.0


@dataclass(frozen=True)
class Alarm:
    """A state that began, or got worse: after how many values of a rank."""

    rule: str
    level: str
    place: int


@dataclass
class Verdict:
    """What the rules said of one curve."""

    curve: Curve
    alarms: list[Alarm]

    @property
    def false_critical(self) -> list[Alarm]:
        """On a good curve, or before it went bad."""
        early = self.curve.onset if self.curve.truth == "critical" else self.curve.length
        return [alarm for alarm in self.alarms if alarm.level == "critical" and alarm.place < early]

    @property
    def false_warnings(self) -> list[Alarm]:
        """Where nothing is to be said."""
        if self.curve.truth == "critical":
            return [alarm for alarm in self.alarms if alarm.level == "warning" and alarm.place < self.curve.onset]
        return [alarm for alarm in self.alarms if alarm.level == "warning" and alarm.rule != self.curve.rule]

    @property
    def delay(self) -> int | None:
        """Values from the onset to the first finding that tells the truth; None without one, and for good curves."""
        curve = self.curve
        true = [
            alarm.place - curve.onset
            for alarm in self.alarms
            if alarm.place >= curve.onset and alarm.level == curve.truth
            if curve.truth == "critical" or alarm.rule == curve.rule
        ]
        return min(true, default=None)

    @property
    def missed(self) -> bool:
        """There was something to be found, and it was not."""
        return self.curve.truth != "good" and self.delay is None


def judge(curve: Curve) -> Verdict:
    """Show a curve to the default rules, value by value."""
    detector, level_of, alarms, seen = Detector(), dict[tuple[str, str], str](), list[Alarm](), dict[str, int]()
    for rank, step, value in curve.points():
        place = seen[rank] = seen.get(rank, -1) + 1
        for finding in detector.add(curve.metric, rank, step, value):
            key = finding.rule, finding.rank
            if finding.recovered:
                level_of.pop(key, None)
            elif level_of.get(key) != finding.level:
                level_of[key] = finding.level
                alarms.append(Alarm(finding.rule, finding.level, place))
    return Verdict(curve, alarms)


@dataclass
class Row:
    """One rule over all curves."""

    rule: str
    verdicts: list[Verdict]
    million: float
    delays: list[int] = field(default_factory=list)

    def text(self) -> str:
        """A line of the table."""
        critical = sum(alarm.rule == self.rule for verdict in self.verdicts for alarm in verdict.false_critical)
        warnings = sum(alarm.rule == self.rule for verdict in self.verdicts for alarm in verdict.false_warnings)
        meant = [verdict for verdict in self.verdicts if verdict.curve.rule == self.rule]
        delays = sorted(verdict.delay for verdict in meant if verdict.delay is not None)
        found = f"{len(delays)} of {len(meant)}" if meant else "-"
        middle, worst = (f"{statistics.median(delays):.0f}", f"{delays[-1]}") if delays else ("-", "-")
        return (
            f"{self.rule:<20}{critical / self.million:>14.2f}{warnings / self.million:>14.2f}"
            f"{found:>14}{middle:>14}{worst:>14}"
        )


def table(verdicts: list[Verdict]) -> str:
    """Rule by rule."""
    million = sum(verdict.curve.length * len(verdict.curve.ranks) for verdict in verdicts) / 1e6
    head = f"{'rule':<20}{'false crit.':>14}{'false warn.':>14}{'found':>14}{'median delay':>14}{'worst delay':>14}"
    unit = f"{'':<20}{'in 10^6':>14}{'in 10^6':>14}{'':>14}{'values':>14}{'values':>14}"
    return "\n".join([head, unit, *(Row(rule, verdicts, million).text() for rule in RULES)])


def line(verdict: Verdict) -> str:
    """One curve."""
    curve = verdict.curve
    mark = "FALSE CRITICAL" if verdict.false_critical else "MISSED" if verdict.missed else "ok"
    said = ", ".join(f"{alarm.rule}:{alarm.level[0]}@{alarm.place}" for alarm in verdict.alarms[:6])
    return f"{curve.family:<20}{curve.metric:<22}{curve.length:>7} {curve.truth:<9}@{curve.onset:<7}{mark:<15}{said}"


def cost_us() -> float:
    """CPU time a value of a loss under all default rules, in µs; the best of some rounds."""
    rng = random.Random(0)
    values = [2 * (1 + index / 100) ** -0.5 + 0.5 + rng.gauss(0, 0.05) for index in range(30_000)]
    rounds = []
    for _ in range(5):
        detector, start_s = Detector(), time.thread_time()
        for step, value in enumerate(values):
            detector.add("train/loss", "", step, value)
        rounds.append((time.thread_time() - start_s) / len(values) * 1e6)
    return min(rounds)


def summary(verdicts: Iterable[Verdict]) -> tuple[str, bool]:
    """The last lines, and whether the target is met."""
    verdicts = list(verdicts)
    bad = [verdict for verdict in verdicts if verdict.curve.truth == "critical"]
    wrong = sum(bool(verdict.false_critical) for verdict in verdicts)
    missed = sum(verdict.missed for verdict in bad)
    text = f"{len(verdicts)} curves: {wrong} with a false critical; of {len(bad)} divergences {missed} missed"
    return text, not wrong and not missed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0, help="of the curves")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--curves", action="store_true", help="a line for each curve")
    given = parser.parse_args()
    verdicts = []
    for seed in range(given.seed, given.seed + given.seeds):
        for verdict in map(judge, corpus(seed)):
            verdicts.append(verdict)
            failed = verdict.false_critical or (verdict.missed and verdict.curve.truth == "critical")
            if given.curves or failed:
                print(f"seed {seed} {line(verdict)}")
    text, met = summary(verdicts)
    print(f"\n{table(verdicts)}\n\n{text}")
    print(f"a loss under all default rules: {cost_us():.2f} µs a value (target <= {TARGET_US:g})")
    print("all targets met" if met else "a target was MISSED")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
