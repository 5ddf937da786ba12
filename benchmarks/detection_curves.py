"""Good curves as training makes them, and what some of them must be warned of. `detection_troubles` has the bad ones,
`detection_hard` more of both.

Seeded; no two seeds give the same. Each family draws its scale (1e-6 to 1e6), length (200 to 100,000 values), step
cadence, shape and noise at random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from detection_draw import Curve, Draw, Floats, autoregression

Family = Callable[[Draw], Curve]


def good(draw: Draw, family: str, curve: Floats, metric: str = "", **more: Any) -> Curve:
    values = curve * draw.scale()
    return Curve(family, metric or draw.loss_name(), {"": values}, cadence=draw.cadence(), **more)


# -- good ones ---------------------------------------------------------------------------------------------------


def convergence(draw: Draw) -> Curve:
    """Noise of several kinds around a falling curve."""
    return good(draw, "convergence", draw.noisy(draw.fall(draw.length())))


def long_convergence(draw: Draw) -> Curve:
    """The same, long."""
    return good(draw, "long convergence", draw.noisy(draw.fall(draw.length(40_000, 100_000))))


def batch_of_one(draw: Draw) -> Curve:
    """Each value is the loss of one example: mostly small, sometimes as large as at the start."""
    n = draw.length(500, 20_000)
    curve = draw.fall(n, (3, 50))
    return good(draw, "batch of one", curve * draw.rng.lognormal(0, draw.between(0.6, 1.6), n))


def right_or_wrong(draw: Draw) -> Curve:
    """Two humps: an example is known, or it is not."""
    n = draw.length(500, 20_000)
    wrong = draw.rng.random(n) < draw.fall(n, (3, 30))
    return good(draw, "right or wrong", np.where(wrong, draw.rng.gamma(3, 0.4, n), draw.rng.gamma(1, 0.02, n)))


def near_zero(draw: Draw) -> Curve:
    """Learned by heart: down by many orders of magnitude, with noise in the logarithm."""
    n = draw.length(500, 20_000)
    logs = -draw.between(6, 16) * (np.arange(n) / n) ** draw.between(0.3, 1)
    return good(draw, "near zero", np.exp(logs + draw.between(0.05, 0.8) * draw.rng.standard_normal(n)))


def restarts(draw: Draw) -> Curve:
    """Warm restarts of the learning rate: each lifts the loss at once by up to 45 % of what was won, then it falls."""
    n = draw.length(1_000, 50_000)
    curve, cycles = draw.fall(n, (3, 50)), int(draw.rng.integers(2, 7))
    place = (np.arange(n) * cycles / n) % 1
    lift = draw.between(0.1, 0.45) * (1 - curve) * np.exp(-place * draw.between(3, 8))
    lift[: n // cycles] = 0
    return good(draw, "restarts", draw.noisy(curve + lift))


def hot_restarts(draw: Draw) -> Curve:
    """The same, but each lifts the loss almost to its start."""
    n = draw.length(2_000, 50_000)
    curve, cycles = draw.fall(n, (3, 50)), int(draw.rng.integers(2, 5))
    place = (np.arange(n) * cycles / n) % 1
    lift = draw.between(0.6, 0.9) * (1 - curve) * np.exp(-place * draw.between(5, 10))
    lift[: n // cycles] = 0
    return good(draw, "hot restarts", draw.noisy(curve + lift))


def cosine_restarts(draw: Draw) -> Curve:
    """The same after the cosine of the schedule: it stays up for long before it comes down."""
    n = draw.length(1_000, 50_000)
    curve, cycles = draw.fall(n, (3, 50)), int(draw.rng.integers(2, 7))
    place = (np.arange(n) * cycles / n) % 1
    most = 0.6
    if draw.rng.random() < 0.4:  # each cycle twice as long as the one before
        most = 0.5
        place = (np.log2(1 + np.arange(n) * (2**cycles - 1) / n)) % 1
        place = 2**place - 1
    lift = draw.between(0.1, most) * (1 - curve) * (0.5 + 0.5 * np.cos(np.pi * place))
    lift[: int(np.argmax(np.diff(place) < 0)) + 1] = 0
    return good(draw, "cosine restarts", draw.noisy(curve + lift))


def passing_spikes(draw: Draw) -> Curve:
    """As PaLM's: the loss leaps to a multiple and is back after some hundred steps; nothing was lost."""
    n = draw.length(2_000, 50_000)
    curve = draw.fall(n, (3, 6))
    height, onset = draw.between(0.5, 2.5), 0
    for onset in sorted(draw.rng.integers(n // 3, n - 400, int(draw.rng.integers(1, 5))).tolist(), reverse=True):
        after = np.arange(n - onset)
        curve[onset:] += height * curve[onset] * np.exp(-after / draw.decades(3, 120))
    values = curve + 0.03 * curve * draw.rng.standard_normal(n)
    return good(draw, "passing spikes", values, truth="warning", rule="spike", onset=onset)


def flat_spikes(draw: Draw) -> Curve:
    """Up within some steps, up there for some hundred, and back: worse than at the start, but it passed."""
    n = draw.length(2_000, 50_000)
    curve, long = draw.fall(n, (3, 6)), int(draw.decades(20, min(0.03 * n, 500)))
    onset = int(draw.rng.integers(n // 3, n - 3 * long - 50))
    lift = np.minimum(np.minimum(np.arange(3 * long) / (0.2 * long), 1), np.exp(1 - np.arange(3 * long) / long))
    curve[onset : onset + 3 * long] += draw.between(0.2, 1.2) * (1 - curve[onset]) * lift
    values = curve + 0.03 * curve * draw.rng.standard_normal(n)
    return good(draw, "flat spikes", values)


def batch_ramp(draw: Draw) -> Curve:
    """The batch grows, the noise falls; or the other way round."""
    n = draw.length(1_000, 50_000)
    ramp = np.repeat(2.0 ** -np.arange(4), -(-n // 4))[:n]
    ramp = ramp[::-1] if draw.rng.random() < 0.3 else ramp
    curve = draw.fall(n, (2, 8))
    return good(draw, "batch ramp", curve + 0.15 * curve.min() * ramp * draw.rng.standard_normal(n))


def fine_tuning(draw: Draw) -> Curve:
    """Starts low, improves a little or not at all, and wanders."""
    n = draw.length(200, 10_000)
    curve = 1 - draw.between(0, 0.3) * (1 - np.exp(-np.arange(n) / (n * draw.between(0.02, 0.5))))
    wander = draw.between(0, 0.04) * autoregression(draw.rng.standard_normal(n), 0.995)
    return good(draw, "fine-tuning", np.maximum(curve + wander + draw.noise(n), 0.05))


def warmup_bump(draw: Draw) -> Curve:
    """The loss rises while the learning rate warms up, from its start or after a first fall, and then falls."""
    n = draw.length(500, 20_000)
    x, curve = np.arange(n) / n, draw.fall(n)
    middle, width = draw.between(0.02, 0.12), draw.between(0.01, 0.05)
    bump = np.exp(-(((x - middle) / width) ** 2))
    if draw.rng.random() < 0.5:
        curve[: int(middle * n)] = 1
        return good(draw, "warm-up bump", draw.noisy(np.maximum(curve, 1 + draw.between(0.2, 3.0) * bump)))
    return good(draw, "warm-up bump", draw.noisy(curve + draw.between(0.1, 0.6) * (1 - curve) * bump))


def curriculum(draw: Draw) -> Curve:
    """Harder data from some places on: the level shifts up at once and falls again, or stays."""
    n = draw.length(1_000, 50_000)
    curve = draw.fall(n, (2, 10))
    places = draw.rng.integers(n // 4, n, int(draw.rng.integers(1, 4))).tolist()
    for place in places:
        after = np.arange(n - place)
        size = draw.between(0.1, 0.45) / len(places) * (1 - curve[place])
        curve[place:] += size * (1 + np.exp(-after / (0.1 * n)) * draw.between(0, 0.5))
    return good(draw, "curriculum", draw.noisy(np.minimum(curve, 1.2)))


def overfitting(draw: Draw) -> Curve:
    """An eval loss that rises slowly after its best, by up to half of what was won."""
    n = draw.length(200, 3_000)
    curve, best = draw.fall(n, (2, 10)), int(n * draw.between(0.2, 0.5))
    curve[best:] = curve[best] + draw.between(0.1, 0.5) * (1 - curve[best]) * np.linspace(0, 1, n - best)
    return good(draw, "over-fitting", curve + 0.02 * draw.rng.standard_normal(n), "eval/loss")


def grokking(draw: Draw) -> Curve:
    """An eval loss that first rises above its start, stays there long, and then falls to nothing."""
    n = draw.length(2_000, 50_000)
    x = np.arange(n) / n
    rise = 1 + draw.between(0.5, 3) * (1 - np.exp(-x * 30))
    curve = rise / (1 + np.exp((x - draw.between(0.4, 0.8)) * 40)) + 0.001
    return good(draw, "grokking", draw.noisy(curve), "eval/loss")


def sawtooth(draw: Draw) -> Curve:
    """The loss steps at each epoch and drifts in between."""
    n = draw.length(500, 50_000)
    epoch = (np.arange(n) * int(draw.rng.integers(3, 40)) / n) % 1
    curve = draw.fall(n, (2, 20))
    return good(draw, "saw-tooth", draw.noisy(curve + draw.between(0.05, 0.3) * curve * (epoch - 0.5)))


def resumed(draw: Draw) -> Curve:
    """Steps go back to a checkpoint once or twice, values repeat and then go on."""
    n = draw.length(500, 20_000)
    steps = np.arange(n)
    for place in draw.rng.integers(n // 4, n, 2).tolist():
        steps[place:] -= int(draw.between(10, n / 5))
    curve = draw.noisy(draw.fall(n))[np.maximum(steps, 0)] * (1 + 0.01 * draw.rng.standard_normal(n))
    return good(draw, "resumed", curve, steps=np.maximum(steps, 0).tolist())


def folds(draw: Draw) -> Curve:
    """Cross validation: the same metric is trained anew, from step 0."""
    n, times = draw.length(200, 3_000), int(draw.rng.integers(2, 6))
    curve = np.concatenate([draw.noisy(draw.fall(n)) for _ in range(times)])
    return good(draw, "folds", curve, steps=list(range(n)) * times)


def adversaries(draw: Draw) -> Curve:
    """Two networks against each other: their losses swing and drift."""
    n = draw.length(1_000, 20_000)
    swing = np.sin(np.arange(n) * 2 * np.pi / draw.decades(20, n / 3)) * draw.between(0.1, 0.4)
    drift = 0.3 * autoregression(draw.rng.standard_normal(n), 0.999)
    name = str(draw.rng.choice(["g_loss", "d_loss", "loss/generator"]))
    return good(draw, "adversaries", np.abs(1 + swing + drift + draw.noise(n)), name)


def swinging(draw: Draw) -> Curve:
    """A plain loss that swings around a falling level."""
    n = draw.length(1_000, 20_000)
    swing = np.sin(np.arange(n) * 2 * np.pi / draw.decades(20, n / 3)) * draw.between(0.02, 0.2)
    return good(draw, "swinging", draw.noisy(np.abs(draw.fall(n, (2, 10)) + 0.25 + swing)))


def negative(draw: Draw) -> Curve:
    """A negative log-likelihood of densities or an ELBO with its sign changed: falls through 0, or far below it."""
    n = draw.length()
    offset = draw.between(-1.5, 3)
    return good(draw, "negative", draw.fall(n) - offset + 0.3 * draw.noise(n))


def offset(draw: Draw) -> Curve:
    """A large constant part that nobody can learn away."""
    n = draw.length()
    return good(draw, "offset", draw.fall(n) + draw.decades(5, 100) + 0.3 * draw.noise(n))


def stuck(draw: Draw) -> Curve:
    """Never learns anything: noise around a level."""
    n = draw.length(1_500, 50_000)
    return good(draw, "stuck", np.maximum(1 + draw.noise(n), 0.01), truth="warning", rule="plateau")


def plateau(draw: Draw) -> Curve:
    """Falls, and then falls no more, long before the end."""
    n = draw.length(3_000, 50_000)
    floor = 1 / draw.decades(2, 50)
    curve = floor + (1 - floor) * np.exp(-np.arange(n) / (0.03 * n))
    values = curve * (1 + draw.between(0.01, 0.1) * draw.rng.standard_normal(n))
    return good(draw, "plateau", values, truth="warning", rule="plateau", onset=int(0.15 * n))


def accuracy(draw: Draw) -> Curve:
    """Rises; with a collapse, which is nobody's business by default."""
    n = draw.length()
    curve = 1 - draw.noisy(draw.fall(n))
    curve[n * 2 // 3 :] *= draw.between(0.2, 1)
    return Curve("accuracy", str(draw.rng.choice(["accuracy", "eval/acc", "f1"])), {"": curve}, cadence=draw.cadence())


def reward(draw: Draw) -> Curve:
    """Returns of episodes: wander, leap, go down."""
    n = draw.length()
    walk = np.cumsum(draw.rng.standard_t(2, n)) + 50 * draw.rng.standard_normal(n)
    return good(draw, "reward", walk, str(draw.rng.choice(["reward", "rollout/ep_rew_mean", "episode_return"])))


def actor_critic(draw: Draw) -> Curve:
    """Losses of reinforcement learning: grow with the returns, change their sign."""
    n = draw.length()
    growth = np.exp(draw.between(0, 8) * np.arange(n) / n)
    name = str(draw.rng.choice(["train/value_loss", "policy_loss", "critic_loss", "losses/qf1_loss"]))
    return good(draw, "actor and critic", growth * draw.rng.standard_normal(n), name)


def q_learning(draw: Draw) -> Curve:
    """A loss of reinforcement learning under a plain name: begins near 0 and grows with the returns, with bursts."""
    n = draw.length(1_000, 50_000)
    level = 0.02 + (np.arange(n) / n) ** draw.between(0.3, 1.5)
    return good(draw, "q-learning", level * draw.rng.gamma(2, 0.5, n), "train/loss")


def policy(draw: Draw) -> Curve:
    """A surrogate loss under a plain name: around 0, of either sign."""
    n = draw.length()
    return good(draw, "surrogate", -draw.between(0, 0.3) + draw.rng.standard_t(3, n), "loss")


def gradient_norm(draw: Draw) -> Curve:
    """Falls after warm-up, creeps up to four times as high, single values far out."""
    n = draw.length(500, 50_000)
    drift = draw.between(0.5, 4) ** (np.arange(n) / n) * (1 + 8 * np.exp(-np.arange(n) / 30))
    values = drift * draw.rng.lognormal(0, draw.between(0.05, 0.6), n)
    values[draw.rng.random(n) < 0.002] *= draw.between(5, 200)
    name = str(draw.rng.choice(["grad_norm", "train/grad_norm", "gradient_norm", "grad/norm"]))
    return good(draw, "gradient norm", values, name)


def scaled_gradient_norm(draw: Draw) -> Curve:
    """The same under a loss scaler: infinite at first while it looks for its scale, and now and then."""
    curve = gradient_norm(draw)
    values = curve.ranks[""]
    values[: int(draw.rng.integers(2, 12))] = np.inf
    values[500::2000] = np.inf
    return Curve("loss scaler", curve.metric, {"": values})


def ranks(draw: Draw) -> Curve:
    """Eight ranks with noise of their own."""
    n = draw.length(200, 3_000)
    curve, share = draw.fall(n), draw.between(0.02, 0.3)
    values = {str(rank): curve * (1 + share * draw.rng.standard_normal(n)) for rank in range(8)}
    return Curve("ranks", "train/loss", values)


GOOD: tuple[tuple[Family, int], ...] = (
    *((convergence, 5), (long_convergence, 2), (batch_of_one, 2), (right_or_wrong, 2), (near_zero, 2), (restarts, 2)),
    *(
        (hot_restarts, 1),
        (cosine_restarts, 2),
        (passing_spikes, 3),
        (flat_spikes, 2),
        (batch_ramp, 2),
        (fine_tuning, 3),
        (warmup_bump, 2),
        (curriculum, 2),
    ),
    *((overfitting, 2), (grokking, 1), (sawtooth, 2), (resumed, 2), (folds, 1), (adversaries, 1), (swinging, 2)),
    *((negative, 2), (offset, 1), (stuck, 1), (plateau, 2), (accuracy, 1), (reward, 2), (actor_critic, 2)),
    *((q_learning, 1), (policy, 1), (gradient_norm, 2), (scaled_gradient_norm, 1), (ranks, 1)),
)
