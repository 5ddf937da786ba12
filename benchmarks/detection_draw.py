"""What the curves of the detection benchmark are made of: values with a known truth, and random pieces of curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Truth = Literal["good", "warning", "critical"]


@dataclass(frozen=True)
class Curve:
    """Values of one metric on some ranks. `onset` is where trouble begins, `rule` the one that is meant to see it."""

    family: str
    metric: str
    ranks: dict[str, Floats]
    truth: Truth = "good"
    rule: str = ""
    onset: int = 0
    cadence: int = 1
    steps: Any = field(default=None, repr=False)

    @property
    def length(self) -> int:
        """Values a rank."""
        return len(next(iter(self.ranks.values())))

    def points(self) -> Iterator[tuple[str, int, float]]:
        """(rank, step, value) in the order of logging."""
        steps = range(0, self.length * self.cadence, self.cadence) if self.steps is None else self.steps
        columns = {rank: values.tolist() for rank, values in self.ranks.items()}
        for index, step in enumerate(steps):
            for rank, values in columns.items():
                yield rank, step, values[index]


class Draw:
    """Random pieces of curves."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def between(self, low: float, high: float) -> float:
        """Uniform."""
        return float(self.rng.uniform(low, high))

    def decades(self, low: float, high: float) -> float:
        """Uniform in the logarithm."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def length(self, low: int = 200, high: int = 20_000) -> int:
        """Of a curve."""
        return int(self.decades(low, high))

    def fall(self, n: int, ratio: tuple[float, float] = (1.5, 100.0)) -> Floats:
        """From 1 down towards a floor, without noise."""
        floor = 1 / self.decades(*ratio)
        x = np.arange(n) / n
        shape = self.rng.integers(4)
        if shape == 0:
            curve = np.exp(-x * self.decades(3, 40))
        elif shape == 1:
            curve = (1 + np.arange(n) / self.decades(2, 0.05 * n + 3)) ** -self.between(0.2, 0.9)
        elif shape == 2:
            curve = 0.6 * np.exp(-x * self.decades(20, 100)) + 0.4 * np.exp(-x * self.decades(2, 6))
        else:  # first nothing, then it falls: an induction bump
            curve = 1 / (1 + np.exp((x - self.between(0.1, 0.4)) * self.decades(20, 60)))
            curve = 0.7 * curve / curve[0] + 0.3 * np.exp(-10 * x)
        return np.asarray(floor + (1 - floor) * curve)

    def noise(self, n: int, level: Floats | float = 1.0) -> Floats:
        """Noise of one of many kinds, of the size of `level` x a share drawn between 0.2 % and 25 %."""
        share, kind = self.decades(0.002, 0.25), self.rng.integers(5)
        unit = self.rng.standard_normal(n)
        if kind == 1:  # heavy tails on both sides
            unit = self.rng.standard_t(3, n)
        elif kind == 2:  # a long upper tail
            unit = self.rng.exponential(1, n) - 1
        elif kind == 3:  # neighbours are alike
            unit = autoregression(unit, self.between(0.3, 0.95))
        elif kind == 4:
            unit = np.exp(0.7 * unit) - 1.28
        return np.asarray(unit * share * level)

    def noisy(self, curve: Floats) -> Floats:
        """A curve with noise that scales with the curve, with its start, or with both; never below a trifle."""
        mix = self.rng.integers(3)
        level = curve if mix == 0 else 0.3 * np.full_like(curve, curve.min()) + 0.3 * curve
        low = curve.min() * 0.02
        return np.asarray(np.maximum(curve + self.noise(len(curve), level), low))

    def scale(self) -> float:
        """Of a loss."""
        return self.decades(1e-6, 1e6) if self.rng.random() < 0.5 else self.decades(0.1, 12)

    def loss_name(self) -> str:
        """One of the usual."""
        return str(self.rng.choice(["loss", "train/loss", "train_loss", "nll", "train/nll", "Loss/train"]))

    def cadence(self) -> int:
        """Steps from one value to the next."""
        return int(self.rng.choice([1, 1, 1, 10, 50, 500]))


def autoregression(values: Floats, keep: float) -> Floats:
    """First-order autoregression with the variance of its input."""
    out, state, gain = np.empty_like(values), 0.0, (1 - keep**2) ** 0.5
    for index, value in enumerate(values.tolist()):
        state = keep * state + gain * value
        out[index] = state
    return out
