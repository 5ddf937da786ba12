"""What a Prometheus holds in the pictures of the dashboard Live: fifteen minutes of four runs, one of which diverges.

Written into its storage as it is after such a time, so that no picture needs to wait for scrapes.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metriclog.divergence import Finding
from metriclog.live import Latest, Snapshot
from metriclog.samples import INFO, SHOWN, WHOSE, samples
from tests.servers.prometheus import Programs

END_S = 1_795_176_000
LENGTH_S, SCRAPE_S = 900, 15
FROM_MS, TO_MS = (END_S - LENGTH_S) * 1000, END_S * 1000
DIVERGED = "vit-sgd-lr0.3"
EXPERIMENT = 'cifar10 "v2"'
_LABELS = {shown.name: (*WHOSE, *shown.labels) for shown in SHOWN}
_SUFFIXES = {"counter": "_total", "info": "_info", "gauge": ""}
_NAMES = {shown.name: shown.name + _SUFFIXES[shown.kind] for shown in SHOWN}


@dataclass(frozen=True)
class Job:
    """A run, or one rank of it; `ends_s` and `breaks_s` after the beginning."""

    run: str
    rank: str = ""
    pace: float = 10.0
    ends_s: float = math.inf
    breaks_s: float = math.inf

    def at(self, after_s: float) -> Snapshot:
        """What it shows then."""
        trained_s = min(after_s, self.ends_s)
        step, now_ns = int(trained_s * self.pace), (END_S - LENGTH_S + int(after_s)) * 10**9
        broken = max(0, step - int(self.breaks_s * self.pace)) if self.breaks_s < math.inf else 0
        stats = dict.fromkeys(("dropped", "quarantined", "retried"), 0)
        stats |= {"accepted": step * 4, "delivered": step * 4 - step % 50, "pending": step % 50, "lag_s": 0}
        last_ns = now_ns - int((after_s - trained_s) * 1e9)
        return Snapshot(
            EXPERIMENT, self.run, self.rank, "resnet18", "cifar10", "h1", 1,
            status="finished" if after_s > self.ends_s else "running",
            started_ns=(END_S - LENGTH_S) * 10**9, now_ns=now_ns, steps=step, last_log_ns=last_ns,
            metrics={
                name: Latest(value, step, last_ns, broken if name == "train/loss" else 0)
                for name, value in self._metrics(step, broken).items()
            },
            stats=stats, firing=self._firing(step) if broken else (),
        )  # fmt: skip

    def _metrics(self, step: int, broken: int) -> dict[str, float]:
        noise = 1 + 0.05 * np.random.default_rng(step).standard_normal()
        fallen = math.exp(-step / 1500)
        loss = math.nan if broken else (0.3 + 2 * fallen) * noise
        return {"train/loss": loss, "eval/acc. (top-5)": 1 - 0.6 * fallen, "lr": 0.1 * (1 - step / 10**4)}

    def _firing(self, step: int) -> tuple[Finding, ...]:
        return (Finding("nonfinite", "train/loss", self.rank, "critical", step, math.nan, None, 1, ""),)


JOBS = (
    Job("resnet18-sgd-lr0.1"),
    Job("vit-adamw-lr0.003", pace=4, ends_s=500),
    Job(DIVERGED, pace=8, breaks_s=600),
    *(Job("wide-ranks", str(rank)) for rank in range(3)),
)


def fill(programs: Programs, folder: Path) -> None:
    """Writes all of it as blocks of Prometheus' into this folder."""
    text = folder.with_suffix(".txt")
    text.write_text("".join(f"{line}\n" for line in _lines()) + "# EOF\n")
    command = [programs.promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _lines() -> Iterator[str]:
    """Every sample, family by family."""
    found: dict[str, list[str]] = {}
    for after_s in range(0, LENGTH_S + 1, SCRAPE_S):
        for number, job in enumerate(JOBS):
            for (name, values), value in samples(job.at(after_s), 1000):
                labels = dict(zip(_LABELS[name], values, strict=True)) | {
                    "job": "metriclog",
                    "instance": f"h1:{number}",
                }
                line = _sample(_NAMES[name], labels, 1 if name == INFO else value, after_s)
                found.setdefault(name, []).append(line)
            if job.breaks_s < after_s:
                said = {"alertname": "MetriclogNonFinite", "alertstate": "firing", "severity": "critical"}
                said |= {"experiment": EXPERIMENT, "run": job.run, "metric": "train/loss"}
                found.setdefault("ALERTS", []).append(_sample("ALERTS", said, 1, after_s))
    for lines in found.values():
        yield from lines


def _sample(name: str, labels: dict[str, str], value: float, after_s: int) -> str:
    said = ",".join(f"{key}={json.dumps(text)}" for key, text in labels.items())
    shown = "NaN" if math.isnan(value) else repr(float(value))
    return f"{name}{{{said}}} {shown} {END_S - LENGTH_S + after_s}"
