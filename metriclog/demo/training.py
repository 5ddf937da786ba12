"""The demo's real training: small numpy classifiers on scikit-learn's bundled digits. Knows no run, no screen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

Array: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]

PIXELS, CLASSES = 64, 10
PIXEL_MAX = 16.0  # the pictures are 8×8, from 0 to 16
EVAL_SHARE = 0.2
EVAL_EVERY_STEPS = 20
WARMUP_SHARE = 0.3
FINAL_LR_SHARE = 0.05
# Under a too high learning rate a plain ReLU dies and the loss goes flat; with a leak the weights really explode.
LEAK = np.float32(0.1)


@dataclass(frozen=True)
class Digits:
    """The digits, shuffled and split; `digest` names the bytes as scikit-learn ships them, whatever the split."""

    train_x: Array
    train_y: Labels
    eval_x: Array
    eval_y: Labels
    digest: str


def load_split(seed: int) -> Digits:
    """The 1,797 pictures that come with scikit-learn: four fifths to train on, one fifth to validate."""
    bunch = load_digits()
    x = (bunch.data / PIXEL_MAX).astype(np.float32)
    y = bunch.target.astype(np.int64)
    digest = hashlib.sha256(bunch.data.tobytes() + bunch.target.tobytes()).hexdigest()[:12]
    order = np.random.default_rng(seed).permutation(len(x))
    cut = int(len(x) * (1 - EVAL_SHARE))
    train, held_out = order[:cut], order[cut:]
    return Digits(x[train], y[train], x[held_out], y[held_out], digest)


@dataclass(frozen=True)
class Recipe:
    """One model and how it is trained. `hidden` 0: softmax regression; `train_examples` None: the whole split."""

    name: str
    hidden: int
    peak_lr: float
    train_examples: int | None = None
    batch_size: int = 32
    momentum: float = 0.9

    @property
    def model(self) -> str:
        """The kind of model, as stored in the `model` tag."""
        return "mlp" if self.hidden else "softmax"

    @property
    def layer_sizes(self) -> list[int]:
        """Widths from the pixels to the classes."""
        return [PIXELS, *([self.hidden] if self.hidden else []), CLASSES]


RECIPES = (
    Recipe("softmax", hidden=0, peak_lr=0.1),
    Recipe("mlp", hidden=128, peak_lr=0.05),
    Recipe("overfit", hidden=128, peak_lr=0.02, train_examples=100),  # learns its 100 pictures by heart
    Recipe("high-lr", hidden=128, peak_lr=1.0),  # its weights outgrow float32 before the warm-up is over
)


@dataclass(frozen=True)
class Step:
    """What one optimiser step gave; the eval metrics are there at every EVAL_EVERY_STEPS-th step and at the last.

    `phase` says what begins or ends with this step, mostly nothing.
    """

    number: int
    metrics: dict[str, float]
    phase: str = ""


def train(recipe: Recipe, digits: Digits, *, steps: int, seed: int) -> Iterator[Step]:
    """Train with momentum SGD and yield each of `steps` steps, counted from 1; the same seed gives the same numbers.

    Nothing here guards against overflow and nothing stops at a NaN: whoever reads the steps decides.
    """
    rng = np.random.default_rng(seed)
    network = Network(recipe.layer_sizes, rng)
    x, y = digits.train_x[: recipe.train_examples], digits.train_y[: recipe.train_examples]
    for number in range(1, steps + 1):
        lr = scheduled_lr(recipe.peak_lr, number, steps)
        batch = rng.integers(0, len(x), recipe.batch_size)
        with np.errstate(all="ignore"):
            metrics = network.step(x[batch], y[batch], lr, recipe.momentum)
            metrics["lr"] = lr
            if number % EVAL_EVERY_STEPS == 0 or number == steps:
                loss, accuracy = network.score(digits.eval_x, digits.eval_y)
                metrics |= {"eval/loss": loss, "eval/accuracy": accuracy}
        yield Step(number, metrics, "warm-up over" if number == round(steps * WARMUP_SHARE) else "")


def scheduled_lr(peak: float, number: int, steps: int) -> float:
    """Linear warm-up to `peak` over WARMUP_SHARE of the steps, then half a cosine down to FINAL_LR_SHARE of it."""
    done = number / steps
    if done <= WARMUP_SHARE:
        return peak * done / WARMUP_SHARE
    cosine = 0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE)))
    return peak * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * cosine)


class Network:
    """Fully connected layers in float32 with leaky ReLU between them and a softmax at the end."""

    def __init__(self, sizes: list[int], rng: np.random.Generator) -> None:
        pairs = list(pairwise(sizes))
        self._weights: list[Array] = [
            (rng.standard_normal((fan_in, fan_out)) * math.sqrt(2 / fan_in)).astype(np.float32)
            for fan_in, fan_out in pairs
        ]
        self._biases: list[Array] = [np.zeros(fan_out, np.float32) for _, fan_out in pairs]
        self._velocity: list[Array] = [np.zeros_like(parameter) for parameter in self._parameters()]

    def step(self, x: Array, y: Labels, lr: float, momentum: float) -> dict[str, float]:
        """One SGD step on one batch; the metrics are those of the batch before the step."""
        activations = self._forward(x)
        probabilities = softmax(activations[-1])
        gradients = self._gradients(activations, probabilities, y)
        for parameter, velocity, gradient in zip(self._parameters(), self._velocity, gradients, strict=True):
            velocity *= np.float32(momentum)
            velocity -= np.float32(lr) * gradient
            parameter += velocity
        loss, accuracy = cross_entropy(probabilities, y)
        norm = math.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients))
        return {"train/loss": loss, "train/accuracy": accuracy, "grad_norm": norm}

    def score(self, x: Array, y: Labels) -> tuple[float, float]:
        """Mean cross entropy (nats) and share of right answers, without learning from them."""
        return cross_entropy(softmax(self._forward(x)[-1]), y)

    def _parameters(self) -> list[Array]:
        return [*self._weights, *self._biases]

    def _forward(self, x: Array) -> list[Array]:
        """The input and every layer's output; the last one is the logits."""
        activations = [x]
        last = len(self._weights) - 1
        for layer, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            z = activations[-1] @ weight + bias
            activations.append(z if layer == last else np.where(z > 0, z, LEAK * z))
        return activations

    def _gradients(self, activations: list[Array], probabilities: Array, y: Labels) -> list[Array]:
        """Back-propagation; in the order of `_parameters`."""
        delta = probabilities.copy()
        delta[np.arange(len(y)), y] -= 1
        delta /= np.float32(len(y))
        of_weights: list[Array] = []
        of_biases: list[Array] = []
        for layer in reversed(range(len(self._weights))):
            of_weights.insert(0, activations[layer].T @ delta)
            of_biases.insert(0, delta.sum(axis=0))
            if layer:
                slope = np.where(activations[layer] > 0, np.float32(1), LEAK)
                delta = (delta @ self._weights[layer].T) * slope
        return [*of_weights, *of_biases]


def softmax(logits: Array) -> Array:
    """The textbook formula, without subtracting the largest logit first: beyond 88 a float32 overflows."""
    exponentials = np.exp(logits)
    shares: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def cross_entropy(probabilities: Array, y: Labels) -> tuple[float, float]:
    """Mean cross entropy (nats) and accuracy. A right class of probability 0 gives infinity."""
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
    accuracy = (probabilities.argmax(axis=1) == y).mean()
    return float(loss), float(accuracy)
