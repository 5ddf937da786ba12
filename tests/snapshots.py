"""Runs that show themselves as a test says, and what a scrape sees of them; stands in for `Run.snapshot`."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from metriclog import exposition, live
from metriclog.divergence import Finding
from metriclog.live import Latest, Snapshot

LIMIT_S = 30.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
STATS = {
    "accepted": 17,
    "delivered": 10,
    "dropped": 1,
    "quarantined": 2,
    "pending": 4,
    "retried": 3,
    "lag_s": 1.5,
}
RUNNING = Snapshot(
    experiment="digits",
    run="r1",
    rank="",
    model="mlp",
    dataset="spirals@1f3a",
    host="h1",
    attempt=1,
    status="running",
    started_ns=1_700_000_000_000_000_000,
    now_ns=1_700_000_030_500_000_000,
    steps=9,
    last_log_ns=1_700_000_029_500_000_000,
    metrics={"train/loss": Latest(0.25, 9, 1_700_000_029_500_000_000, 2)},
    stats=STATS,
)
SPIKE = Finding("spike", "train/loss", "", "warning", 7, 9.5, 0.5, 50, "lower the learning rate")


class Scripted:
    """A run that shows what the test has put into `shows`."""

    def __init__(self, shows: Snapshot | Exception) -> None:
        self.shows = shows

    def snapshot(self) -> Snapshot:
        """What it is told to show."""
        if isinstance(self.shows, Exception):
            raise self.shows
        return self.shows

    def change(self, **changes: Any) -> None:
        """Go on from what it shows."""
        assert isinstance(self.shows, Snapshot)
        self.shows = replace(self.shows, **changes)


@contextmanager
def showing(*shows: Snapshot | Exception) -> Iterator[tuple[Scripted, ...]]:
    """These runs are there, and after the block nothing is exposed any more."""
    sources = tuple(map(Scripted, shows))
    for source in sources:
        live.add(source)
    try:
        yield sources
    finally:
        exposition.shut_down()
        exposition.after_fork()  # forgets also what was to linger
        for source in sources:
            live.remove(source)


def get(address: str, path: str = "/metrics") -> str:
    """One scrape as Prometheus makes it."""
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": OPENMETRICS})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LIMIT_S) as answer:
        return str(answer.read().decode())


def families(text: str) -> list[Metric]:
    """The families of a page in OpenMetrics format, by the reference parser."""
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def render(collector: exposition.Collector) -> str:
    """A page in OpenMetrics format."""
    body: bytes = generate_latest(collector)  # type: ignore[no-untyped-call]
    return body.decode()


def parse(text: str) -> list[Sample]:
    """The samples of a page in OpenMetrics format, which is checked; none may be there twice."""
    samples = [sample for family in families(text) for sample in family.samples]
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert len(set(keys)) == len(keys)
    return samples


def values(text: str, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """The samples of this name: the values of these labels → value."""
    return {tuple(it.labels[label] for label in labels): it.value for it in parse(text) if it.name == name}
