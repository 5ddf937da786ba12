"""A run that stops itself: its learning rate grows until training breaks, and metriclog notices while it runs.

Runs as it is, in about a second:    python examples/05_watch_divergence.py
Losses and gradient norms are watched without being asked, at each step, in the background and without a server. With
METRICLOG_ALERT_WEBHOOK set to a webhook of Slack, Discord or your own, what is critical is posted there as well.
"""

import time

import numpy as np
from numpy.typing import NDArray

import metriclog

Array = NDArray[np.float64]

HIDDEN, FIRST_LR, GROWTH, MOST_STEPS, EXAMPLES, SEED = 32, 0.02, 1.004, 20_000, 256, 0


def gradients(weights: list[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    """The mean squared error of a small network on noisy samples of a curve, and its slopes."""
    w1, b1, w2 = weights
    hidden = np.tanh(np.outer(x, w1) + b1)
    error = hidden @ w2 - y
    inner = np.outer(error, w2) * (1 - hidden**2)
    slopes = [x @ inner, inner.sum(axis=0), hidden.T @ error]
    return float(np.mean(error**2)), [2 / len(x) * slope for slope in slopes]


def main() -> None:
    """Train until the run says that it should stop."""
    rng = np.random.default_rng(SEED)
    weights = [rng.normal(0, 2, HIDDEN), rng.normal(0, 1, HIDDEN), rng.normal(0, 0.3, HIDDEN)]
    findings: list[metriclog.Finding] = []
    lr = FIRST_LR
    # Steps of this script are short. By default what was logged is looked at once a second.
    settings = metriclog.Settings.load(flush_interval_s=0.1)

    with metriclog.init("watch-divergence", name="growing-lr", params={"lr": lr}, settings=settings) as run:
        run.watch("train/loss", on_fire=findings.append)
        for step in range(1, MOST_STEPS + 1):
            x = rng.uniform(-2, 2, EXAMPLES)
            y = np.sin(3 * x) + rng.normal(0, 0.1, EXAMPLES)
            with np.errstate(all="ignore"):
                loss, slopes = gradients(weights, x, y)
                norm = float(np.sqrt(sum(np.sum(slope**2) for slope in slopes)))
                weights = [weight - lr * slope for weight, slope in zip(weights, slopes, strict=True)]
            run.log({"train/loss": loss, "grad_norm": norm, "lr": lr}, step=step)
            lr *= GROWTH
            time.sleep(0.0005)  # as if a step took a little longer
            if run.should_stop:
                break
        run.finish("failed" if run.should_stop else "finished")

    for found in findings:
        print(f"step {found.step}: {found.level} {found.rule} in {found.metric}, {found.value:.3g}: {found.advice}")
    print(f"stopped itself at step {step}: {run.should_stop}")
    print(f"where: {run.url or 'in the journal, whose runs are listed by: metriclog runs'}")


if __name__ == "__main__":
    main()
