"""More of both kinds, which rules of thumb get wrong: warm-ups, phases, short runs, ranks. And the whole corpus."""

from __future__ import annotations

import numpy as np
from detection_curves import GOOD, Family, good
from detection_draw import Curve, Draw, Floats
from detection_troubles import BAD, bad, start

# -- good ones ---------------------------------------------------------------------------------------------------


def _norms(draw: Draw, family: str, curve: Floats, share: float = 0.2) -> Curve:
    values = curve * draw.rng.lognormal(0, share, len(curve)) * draw.scale()
    return Curve(family, str(draw.rng.choice(["grad_norm", "train/grad_norm"])), {"": values})


def norm_warms_up(draw: Draw) -> Curve:
    """Layers that begin at zero: norms rise by orders of magnitude in the warm-up, and stay there."""
    n, warmup = draw.length(600, 10_000), draw.decades(20, 400)
    rise = np.log(draw.decades(1e-4, 1e-1)) * np.maximum(0, 1 - np.arange(n) / warmup)
    return _norms(draw, "norm warms up", np.exp(rise))


def norm_in_a_phase(draw: Draw) -> Curve:
    """Small on a plateau, hundreds of times as large while something is learned, and small again."""
    n, width = draw.length(2_000, 15_000), draw.decades(40, 400)
    place = (np.arange(n) - n * draw.between(0.2, 0.6)) / width
    return _norms(draw, "norm in a phase", 1 + draw.decades(30, 800) * np.exp(-(place**2)))


def norm_spikes(draw: Draw) -> Curve:
    """Up by a factor of up to some thousands, and back within tens of steps."""
    n = draw.length(1_000, 20_000)
    curve = np.ones(n)
    for onset in draw.rng.integers(100, n, 3).tolist():
        curve[onset:] += draw.decades(50, 5_000) * np.exp(-np.arange(n - onset) / draw.decades(5, 40))
    return _norms(draw, "norm spikes", curve)


def norm_rises(draw: Draw) -> Curve:
    """A likelihood that sharpens: norms rise for the whole run, by up to a hundred."""
    n = draw.length(1_000, 20_000)
    return _norms(draw, "norm rises", draw.decades(3, 100) ** (np.arange(n) / n), draw.between(0.1, 1.0))


def short_spikes(draw: Draw) -> Curve:
    """A hundred times as much for some steps."""
    n = draw.length(800, 20_000)
    curve = draw.fall(n, (3, 30))
    for onset in draw.rng.integers(n // 20, n, int(draw.rng.integers(1, 6))).tolist():
        curve[onset:] += draw.decades(5, 100) * curve[onset] * np.exp(-np.arange(n - onset) / draw.decades(1, 8))
    return good(draw, "short spikes", curve * (1 + 0.06 * draw.rng.standard_normal(n)))


def early_chaos(draw: Draw) -> Curve:
    """Many times the first loss within the first steps, gone soon after."""
    n, onset = draw.length(300, 5_000), int(draw.rng.integers(3, 60))
    curve = draw.fall(n, (3, 30))
    curve[onset:] += draw.decades(2, 20) * np.exp(-np.arange(n - onset) / draw.between(2, 15))
    return good(draw, "early chaos", curve * (1 + 0.1 * draw.rng.standard_normal(n)))


def few_epochs(draw: Draw) -> Curve:
    """A value an epoch, with single bad ones."""
    n = int(draw.rng.integers(8, 150))
    curve = draw.fall(n, (2, 10)) * (1 + 0.05 * draw.rng.standard_normal(n))
    curve[draw.rng.random(n) < 0.1] *= draw.between(1.5, 5)
    return good(draw, "few epochs", curve, "val_loss")


def mostly_zero(draw: Draw) -> Curve:
    """Solved: zero, but for some examples."""
    n = draw.length(500, 20_000)
    hard = draw.rng.random(n) < draw.fall(n, (10, 300))
    return good(draw, "mostly zero", np.where(hard, draw.rng.exponential(0.3, n), 0.0))


def ranks_of_other_data(draw: Draw) -> Curve:
    """Ranks with harder data, for ever or for some hundred steps at a time."""
    n = draw.length(800, 3_000)
    curve = 2 + 6 * draw.fall(n, (30, 100))
    values = {str(rank): curve * (1 + 0.05 * draw.rng.standard_normal(n)) for rank in range(8)}
    values["3"] *= draw.between(1.1, 1.6)
    for onset in draw.rng.integers(400, n, 4).tolist():
        values[str(draw.rng.integers(8))][onset : onset + int(draw.rng.integers(50, 300))] *= draw.between(1.1, 1.5)
    return Curve("ranks of other data", "train/loss", values, "warning", "rank_spread")


# -- bad ones ----------------------------------------------------------------------------------------------------


def norm_grows_from_the_start(draw: Draw) -> Curve:
    """By some percent a step, from the first one on."""
    rate = draw.decades(0.01, 1)
    curve = _norms(draw, "norm, from the start", np.exp(rate * np.arange(int(60 / rate))))
    return Curve(curve.family, curve.metric, curve.ranks, "critical", "gradient_explosion")


def stays_after_a_spike(draw: Draw) -> Curve:
    """As of a language model: a spike back to the start, from which only a part is made good."""
    n, onset = draw.length(4_000, 40_000), 0
    curve, onset = 2.2 + 8.5 * (1 + np.arange(n) / draw.decades(2, 60)) ** -0.6, int(n * draw.between(0.3, 0.5))
    level = draw.between(6.8, 7.8)
    curve[onset:] = level + (10 - level) * np.exp(-np.arange(n - onset) / 40)
    return bad(draw, "stays after a spike", curve + 0.05 * draw.rng.standard_normal(n), "spike", onset)


def noisy_collapse(draw: Draw) -> Curve:
    """To the level of chance, with the noise of small batches."""
    n = draw.length(6_000, 30_000)
    onset = n // 2
    curve = 1 / draw.between(4, 20) + np.exp(-np.arange(n) / (0.05 * n))
    curve[onset:] = 1
    return bad(
        draw, "noisy collapse", curve * draw.rng.lognormal(0, draw.between(0.2, 0.4), n), "slow_divergence", onset
    )


def epochs_explode(draw: Draw) -> Curve:
    """A value an epoch; then each is tens of times the first, or more."""
    onset = int(draw.rng.integers(8, 60))
    curve = np.concatenate([draw.fall(onset, (2, 6)), np.full(20, draw.decades(20, 1e6))])
    return bad(draw, "epochs explode", curve * draw.rng.lognormal(0, 0.1, onset + 20), "explosion", onset)


def epochs_collapse(draw: Draw) -> Curve:
    """A value an epoch; then all is as in the beginning."""
    onset = int(draw.rng.integers(32, 80))
    fall = 0.1 + np.exp(-np.arange(onset) / (0.12 * onset))
    curve = np.concatenate([fall, np.ones(2 * onset)]) * (1 + 0.02 * draw.rng.standard_normal(3 * onset))
    return bad(draw, "epochs collapse", curve, "slow_divergence", onset)


def only_grows(draw: Draw) -> Curve:
    """In a straight line from the first step on."""
    n = draw.length(800, 8_000)
    curve = (1 + draw.decades(25, 300) * np.arange(n) / n) * (1 + 0.1 * draw.rng.standard_normal(n))
    return bad(draw, "only grows", curve, "slow_divergence", 0)


def rank_never_learns(draw: Draw) -> Curve:
    """One of eight ranks has other weights: it stays where it began."""
    n = draw.length(1_500, 3_000)
    curve = 0.8 + 4.2 * np.exp(-np.arange(n) / (0.08 * n))
    values = {str(rank): curve * (1 + 0.08 * draw.rng.standard_normal(n)) for rank in range(8)}
    values[str(draw.rng.integers(8))] = 5 + 0.2 * draw.rng.standard_normal(n)
    return Curve("rank never learns", "train/loss", values, "critical", "rank_spread", n // 10)


def breaks_when_warm(draw: Draw) -> Curve:
    """The learning rate reaches its height, and what was won is lost for good."""
    curve, onset = start(draw, (2, 4), 1_500)
    curve[onset:] = 1.2 - (1.2 - curve[onset]) * np.exp(-np.arange(len(curve) - onset) / 100)
    return bad(draw, "breaks when warm", curve * (1 + 0.03 * draw.rng.standard_normal(len(curve))), "spike", onset)


HARD: tuple[tuple[Family, int], ...] = (
    *((norm_warms_up, 2), (norm_in_a_phase, 2), (norm_spikes, 2), (norm_rises, 2), (short_spikes, 2)),
    *((early_chaos, 2), (few_epochs, 3), (mostly_zero, 1), (ranks_of_other_data, 1)),
    *((norm_grows_from_the_start, 2), (stays_after_a_spike, 2), (noisy_collapse, 2), (epochs_explode, 3)),
    *((epochs_collapse, 2), (only_grows, 2), (rank_never_learns, 1), (breaks_when_warm, 1)),
)


def corpus(seed: int) -> list[Curve]:
    """All families, each as often as it says; a curve does not depend on how many others there are."""
    made = []
    for place, (family, times) in enumerate(GOOD + BAD + HARD):
        made += [family(Draw(seed * 1_000_003 + place * 1_009 + time)) for time in range(times)]
    return made
