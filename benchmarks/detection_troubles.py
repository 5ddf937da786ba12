"""The bad ones among the curves: from a known place on they diverge. With what is true of each; seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
from detection_curves import Family
from detection_draw import Curve, Draw, Floats


def bad(draw: Draw, family: str, curve: Floats, rule: str, onset: int, **more: Any) -> Curve:
    values = curve * draw.scale()
    return Curve(family, draw.loss_name(), {"": values}, "critical", rule, onset, cadence=draw.cadence(), **more)


def start(draw: Draw, ratio: tuple[float, float] = (2.0, 30.0), least: int = 400) -> tuple[Floats, int]:
    """A falling curve and a place in its middle, where it has won something that can be lost."""
    while True:
        n = draw.length(least, 30_000)
        curve, onset = draw.fall(n, ratio), int(n * draw.between(0.35, 0.65))
        if curve[onset] < 0.65:
            return curve, onset


def slow_linear(draw: Draw) -> Curve:
    """What was won is given back little by little, and more."""
    curve, onset = start(draw)
    end = draw.between(1.2, 3)
    curve[onset:] = curve[onset] + end * (1 - curve[onset]) * np.linspace(0, 1, len(curve) - onset)
    return bad(draw, "slow, linear", draw.noisy(curve), "slow_divergence", onset)


def slow_to_the_start(draw: Draw) -> Curve:
    """What was won is given back in a straight line until the end of the run."""
    curve, onset = start(draw)
    end = draw.between(1.05, 1.2)
    curve[onset:] = curve[onset] + end * (1 - curve[onset]) * np.linspace(0, 1, len(curve) - onset)
    return bad(
        draw, "slow, to the start", curve * (1 + 0.03 * draw.rng.standard_normal(len(curve))), "slow_divergence", onset
    )


def never_fell(draw: Draw) -> Curve:
    """A level that is as good as it gets from the start on, then several times as much."""
    n = draw.length(400, 10_000)
    onset = int(n * draw.between(0.3, 0.6))
    curve = np.ones(n)
    curve[onset:] = draw.between(4.5, 9)
    return bad(draw, "never fell, breaks", curve * (1 + 0.05 * draw.rng.standard_normal(n)), "spike", onset)


def slow_saturating(draw: Draw) -> Curve:
    """Back to where it began, and there it stays."""
    curve, onset = start(draw)
    after = np.linspace(0, draw.between(4, 10), len(curve) - onset)
    curve[onset:] = curve[onset] + draw.between(0.85, 1.1) * (1 - curve[onset]) * (1 - np.exp(-after))
    return bad(draw, "slow, saturating", draw.noisy(curve), "slow_divergence", onset)


def slow_exponential(draw: Draw) -> Curve:
    """Faster and faster, over much of the run."""
    curve, onset = start(draw)
    rise = np.expm1(np.minimum(np.linspace(0, 1.15, len(curve) - onset), 1) * draw.between(3, 6))
    curve[onset:] += draw.between(1.2, 4) * rise / rise[-1]
    return bad(draw, "slow, exponential", draw.noisy(curve), "slow_divergence", onset)


def explosion(draw: Draw) -> Curve:
    """Grows by some percent a step until it is huge."""
    curve, onset = start(draw)
    after = np.arange(len(curve) - onset)
    curve[onset:] += 0.02 * curve[onset] * np.exp(np.minimum(after * draw.decades(0.08, 0.5), np.log(1e7)))
    return bad(draw, "explosion", draw.noisy(curve), "explosion", onset)


def leap(draw: Draw) -> Curve:
    """At once to a thousand times as much."""
    curve, onset = start(draw)
    curve[onset:] = draw.decades(20, 1e5) * draw.rng.lognormal(0, 0.3, len(curve) - onset)
    return bad(draw, "leap", curve, "explosion", onset)


def explosion_to_inf(draw: Draw) -> Curve:
    """Grows until the numbers end."""
    curve, onset = start(draw)
    after = np.arange(len(curve) - onset)
    with np.errstate(over="ignore"):
        curve[onset:] += np.exp(after * draw.decades(0.3, 3))
    curve[curve > 3e38] = np.inf
    curve[onset:][np.cumsum(np.isinf(curve[onset:])) > 1] = np.nan
    return bad(draw, "explosion to Inf", curve, "explosion", onset)


def from_the_start(draw: Draw) -> Curve:
    """A learning rate that is far too high: up from the first steps on."""
    n = draw.length(400, 10_000)
    curve = 1 + 0.01 * np.exp(np.minimum(np.arange(n) * draw.decades(0.02, 0.3), np.log(1e8)))
    return bad(draw, "from the start", draw.noisy(curve), "explosion", 0)


def swings_up(draw: Draw) -> Curve:
    """Beyond the edge of stability: swings grow until nothing is left."""
    curve, onset = start(draw)
    after = np.arange(len(curve) - onset)
    size = 0.01 * np.exp(np.minimum(after * draw.decades(0.03, 0.2), np.log(1e6)))
    curve[onset:] += size * (1 + np.sin(after * draw.between(0.3, 3)))
    return bad(draw, "swings up", draw.noisy(curve), "explosion", onset)


def collapse(draw: Draw) -> Curve:
    """At once to where it began, and there it stays: dead units, a lost optimiser state."""
    curve, onset = start(draw, (2, 100), 1_000)
    curve[onset:] = draw.between(0.95, 1.3) + 0.02 * draw.rng.standard_normal(len(curve) - onset)
    return bad(draw, "collapse", draw.noisy(curve), "slow_divergence", onset)


def half_collapse(draw: Draw) -> Curve:
    """A spike that costs two thirds of what was won, and stays."""
    curve, onset = start(draw, (3, 20), 3_000)
    curve[onset:] = curve[onset] + draw.between(0.65, 0.75) * (1 - curve[onset])
    return bad(draw, "spike that stays", curve * (1 + 0.02 * draw.rng.standard_normal(len(curve))), "spike", onset)


def fine_tuning_breaks(draw: Draw) -> Curve:
    """Starts low, wins little, then leaps to several times its start and stays."""
    n = draw.length(1_500, 10_000)
    onset = int(n * draw.between(0.3, 0.6))
    curve = 1 - 0.2 * np.arange(n) / n
    curve[onset:] = draw.between(3.5, 9)
    return bad(draw, "fine-tuning breaks", curve * (1 + 0.05 * draw.rng.standard_normal(n)), "spike", onset)


def negative_diverges(draw: Draw) -> Curve:
    """A loss below 0 that comes back up."""
    curve, onset = start(draw)
    curve -= draw.between(0.5, 3)
    rise = np.linspace(0, draw.between(1.3, 4), len(curve) - onset)
    curve[onset:] = curve[onset] + (curve[0] - curve[onset]) * rise
    return bad(draw, "negative, diverges", curve + 0.3 * draw.noise(len(curve), 0.3), "slow_divergence", onset)


def not_a_number(draw: Draw) -> Curve:
    """NaN from some place on."""
    curve, onset = start(draw)
    curve = draw.noisy(curve)
    curve[onset:] = draw.rng.choice([np.nan, np.inf, -np.inf])
    return bad(draw, "not a number", curve, "nonfinite", onset)


def one_nan(draw: Draw) -> Curve:
    """One NaN, and on it goes."""
    curve, onset = start(draw)
    curve = draw.noisy(curve)
    curve[onset] = np.nan
    return bad(draw, "one NaN", curve, "nonfinite", onset)


def nan_on_a_rank(draw: Draw) -> Curve:
    """One of eight ranks is NaN."""
    n = draw.length(200, 3_000)
    curve, onset = draw.fall(n), int(n * draw.between(0.3, 0.8))
    values = {str(rank): draw.noisy(curve) for rank in range(8)}
    values[str(draw.rng.integers(8))][onset:] = np.nan
    return Curve("NaN on a rank", "train/loss", values, "critical", "nonfinite", onset)


def rank_apart(draw: Draw) -> Curve:
    """One of eight ranks stays behind."""
    n = draw.length(400, 3_000)
    curve, onset = 0.3 + 0.7 * np.exp(-10 * np.arange(n) / n), int(n * draw.between(0.3, 0.6))
    values = {str(rank): curve * (1 + 0.03 * draw.rng.standard_normal(n)) for rank in range(8)}
    values["5"][onset:] *= draw.between(1.25, 1.4)
    return Curve("rank apart", "train/loss", values, "warning", "rank_spread", onset)


def gradients_explode(draw: Draw) -> Curve:
    """Norms grow by some percent a step until they are huge."""
    n = draw.length(1_500, 30_000)
    onset = int(n * draw.between(0.35, 0.65))
    values = draw.rng.lognormal(0, draw.between(0.05, 0.6), n)
    values[onset:] *= np.exp(np.minimum(np.arange(n - onset) * draw.decades(0.04, 0.5), draw.between(9, 25)))
    return Curve(
        "gradients explode", "train/grad_norm", {"": values * draw.scale()}, "critical", "gradient_explosion", onset
    )


def gradients_leap(draw: Draw) -> Curve:
    """Norms at once hundreds of times as large, or more."""
    n = draw.length(1_500, 30_000)
    onset = int(n * draw.between(0.35, 0.65))
    values = draw.rng.lognormal(0, draw.between(0.05, 0.5), n) * (1 + 5 * np.exp(-np.arange(n) / 20))
    values[onset:] *= draw.decades(200, 1e6)
    return Curve("gradients leap", "grad_norm", {"": values * draw.scale()}, "critical", "gradient_explosion", onset)


BAD: tuple[tuple[Family, int], ...] = (
    *(
        (slow_linear, 3),
        (slow_saturating, 3),
        (slow_to_the_start, 2),
        (never_fell, 1),
        (slow_exponential, 2),
        (explosion, 3),
        (leap, 2),
        (explosion_to_inf, 1),
    ),
    *((from_the_start, 2), (swings_up, 2), (collapse, 2), (half_collapse, 1), (fine_tuning_breaks, 2)),
    *((negative_diverges, 2), (not_a_number, 2), (one_nan, 1), (nan_on_a_rank, 1), (rank_apart, 1)),
    *((gradients_explode, 2), (gradients_leap, 2)),
)
