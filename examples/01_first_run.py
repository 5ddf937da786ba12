"""A first run: a small numpy network learns to tell two spirals apart, and its curves are logged by step.

Runs as it is, in about a second:    python examples/01_first_run.py
The curves go to the journal in `.metriclog/`; with METRICLOG_URL and METRICLOG_TOKEN set they go to InfluxDB as well.
"""

import numpy as np
from numpy.typing import NDArray

import metriclog

Array = NDArray[np.float64]

HIDDEN, LR, MOMENTUM, STEPS, EXAMPLES, SEED = 64, 0.1, 0.9, 800, 400, 0


def two_spirals(rng: np.random.Generator) -> tuple[Array, Array]:
    """Noisy points on two interleaved spirals, and for each the spiral it belongs to (0 or 1)."""
    labels = rng.integers(0, 2, EXAMPLES)
    turns = rng.uniform(0.3, 1.6, EXAMPLES)
    angle = 2 * np.pi * turns + np.pi * labels
    points = np.stack([turns * np.cos(angle), turns * np.sin(angle)], axis=1)
    return points + rng.normal(0, 0.06, points.shape), labels.astype(np.float64)


def forward(weights: list[Array], x: Array) -> tuple[Array, Array]:
    """The hidden activations and the probability of spiral 1."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1 + b1)
    return hidden, 1 / (1 + np.exp(-(hidden @ w2 + b2)))


def score(probability: Array, labels: Array) -> dict[str, float]:
    """Mean binary cross entropy (nats) and share of right answers."""
    right = np.where(labels == 1, probability, 1 - probability)
    return {"loss": float(-np.log(right).mean()), "accuracy": float((right > 0.5).mean())}


def gradients(weights: list[Array], x: Array, hidden: Array, error: Array) -> list[Array]:
    """Back-propagation through both layers, in the order of the weights."""
    delta = error / len(x)
    inner = np.outer(delta, weights[2]) * (1 - hidden**2)
    return [x.T @ inner, inner.sum(axis=0), hidden.T @ delta, delta.sum(keepdims=True)]


def main() -> None:
    """Train on all examples at once with momentum, log each step, validate every 20 steps."""
    rng = np.random.default_rng(SEED)
    train_x, train_y = two_spirals(rng)
    eval_x, eval_y = two_spirals(rng)
    weights = [rng.normal(0, 3, (2, HIDDEN)), rng.normal(0, 1, HIDDEN), np.zeros(HIDDEN), np.zeros(1)]
    speeds = [np.zeros_like(weight) for weight in weights]
    params = {"hidden": HIDDEN, "lr": LR, "momentum": MOMENTUM, "examples": EXAMPLES, "seed": SEED}

    with metriclog.init("first-run", name="spirals", params=params, model="mlp", dataset="two-spirals") as run:
        for step in range(1, STEPS + 1):
            hidden, probability = forward(weights, train_x)
            metrics = {"train": score(probability, train_y)}  # nested names are joined: train/loss, train/accuracy
            slopes = gradients(weights, train_x, hidden, probability - train_y)
            for weight, speed, slope in zip(weights, speeds, slopes, strict=True):
                speed *= MOMENTUM
                speed -= LR * slope
                weight += speed
            if step % 20 == 0:
                metrics["eval"] = score(forward(weights, eval_x)[1], eval_y)
            run.log(metrics, step=step)

    print(f"run {run.run_id}: {STEPS} steps, eval/accuracy {metrics['eval']['accuracy']:.3f}")
    print(f"curves: {run.url or 'in the journal, whose runs are listed by: metriclog runs'}")


if __name__ == "__main__":
    main()
