"""A run that Prometheus can watch live: it listens at a free port of this machine, and shows what a scrape sees.

Runs as it is, in about a second:    python examples/06_live_prometheus.py
For a job of your own the environment is enough; no line of the script changes:

    METRICLOG_PROMETHEUS_PORT=0                 any free port (a fixed number, if there is one job on the machine)
    METRICLOG_PROMETHEUS_SD_DIR=DIR             each job announces its port there, for Prometheus' file_sd_configs
    METRICLOG_PROMETHEUS_LINGER_S=20            the end of the process waits up to 20 s for a last scrape
"""

import random
import urllib.request

import metriclog
from metriclog import exposition

STEPS, LR, SEED = 500, 0.05, 0


def scrape(address: str) -> list[str]:
    """The samples that Prometheus gets, without the lines that describe them."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if not line.startswith("#")]


def main() -> None:
    """Fit a line to noisy points by stochastic gradient descent, and look at it as Prometheus does."""
    rng = random.Random(SEED)
    slope, offset, smooth = 0.0, 0.0, 1.0
    settings = metriclog.Settings.load(prometheus_port=0)

    with metriclog.init("live", name="line", params={"lr": LR, "seed": SEED}, model="line", settings=settings) as run:
        for step in range(1, STEPS + 1):
            x = rng.uniform(-1, 1)
            error = slope * x + offset - (2 * x - 1 + rng.gauss(0, 0.1))
            slope, offset = slope - LR * error * x, offset - LR * error
            smooth += 0.02 * (error**2 - smooth)
            run.log({"train/loss": smooth, "train/error": error}, step=step)

        exposed = exposition.expose(settings)  # init() has done it: the same again only tells where
        if exposed is None:
            print("no port could be opened")
            return
        print(f"http://{exposed.address}/metrics shows:")
        for line in scrape(exposed.address):
            if line.startswith(("metriclog_metric_", "metriclog_run_", "metriclog_points_")):
                print(f"  {line}")


if __name__ == "__main__":
    main()
