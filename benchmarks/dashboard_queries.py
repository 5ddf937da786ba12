"""What each query of each dashboard costs on a full InfluxDB, and what the queries that they replace would cost.

    python benchmarks/dashboard_queries.py [--quick]

On one InfluxDB that the benchmark starts (as the tests do), filled by metriclog's own shipping:
- sweep: 20 runs x 100,000 steps x 5 metrics, 10 million points;
- long: one run of 10 million steps of one metric, with a spike of one step, and one run of 10,000 steps;
- many: 200 runs x 40 metrics.

Every target of every panel is asked as Grafana asks it, with the values that the menus have when the page has loaded; a
panel costs what its targets cost together. Beside the panels that read roll-ups and summaries stand, in the same run,
the same panel on raw points, and a server-side `GROUP BY time` with as many buckets.

Targets: a Compare panel of 20 runs <= 100 ms and <= 3 MB; the chart of 10 million steps within 2 x of that of 10,000;
the Runs table of 200 runs x 40 metrics <= 300 ms. Exit code 1 if one is missed. --quick: a tenth of the steps.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import metriclog
from metriclog import directory
from metriclog.background import ship_directory
from metriclog.grafana.dashboards import all_dashboards
from metriclog.identity import Identity
from metriclog.journal import Journal
from metriclog.points import encode_line
from metriclog.sender import Control
from metriclog.transport import Transport

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.grafana_variables import Menus
from tests.servers import influxdb
from tests.servers.api import Influx, Server

DAYS = 7
INTERVAL_MS = DAYS * 86_400  # a thousandth of the range, as Grafana asks where a panel is 1,000 pixels wide
REPEATS, PATIENCE_S = 15, 4.0  # of one query: as often as that, but no longer
COMPARE_MS, COMPARE_BYTES, TABLE_MS, LONG_RATIO = 100.0, 3_000_000, 300.0, 2.0
FIVE = ("train/loss", "train/accuracy", "eval/loss", "lr", "grad_norm")
SPIKE = 1e6


@dataclass(frozen=True)
class Plan:
    """A run to be written: its metrics at each step, `step_ns` apart."""

    experiment: str
    run: str
    metrics: tuple[str, ...]
    steps: int
    step_ns: int
    params: Mapping[str, float]
    spike_at: int = -1


def plans(scale: int) -> Iterator[Plan]:
    """The three experiments; `scale` divides the steps of the first two."""
    for index in range(20):
        yield Plan("sweep", f"mlp-{index:02}", FIVE, 100_000 // scale, 100_000_000, {"lr": 10 ** (-index / 5)})
    long = 10_000_000 // scale
    yield Plan("long", "pretrain", ("train/loss",), long, 10_000_000, {"lr": 1e-4}, spike_at=long * 7 // 10 + 3)
    yield Plan("short", "finetune", ("train/loss",), 10_000, 10_000_000, {"lr": 1e-5})
    names = tuple(f"group{index // 8}/metric_{index}" for index in range(40))
    for index in range(200):
        params = {f"p{number}": float(index % (number + 2)) for number in range(15)}
        yield Plan("many", f"run-{index:03}", names, 20, 1_000_000_000, params)


def write(plan: Plan, root: Path) -> None:
    """Write the journal of a run that has ended just now."""
    started_ns = time.time_ns() - plan.steps * plan.step_ns - 60_000_000_000
    tags = (("experiment", plan.experiment), ("run", plan.run))
    who = Identity(plan.experiment, plan.run, None, tags, "offline", root, 1, started_ns)
    rng = random.Random(plan.run)
    rows = [[rng.random() for _ in plan.metrics] for _ in range(1000)]
    with directory.claim(root, plan.run, plan.experiment, None, "never") as place:
        journal = Journal.create(
            place.path, who.meta(child=False), segment_bytes=16 << 20, slot=place.slot, clock=time.time_ns
        )
    journal.append_lines([who.run_line(started_ns, "running", 0)])
    journal.append_lines(
        [
            encode_line("params", (*tags, ("param", name)), {"number": value}, started_ns)
            for name, value in plan.params.items()
        ]
    )
    for step in range(plan.steps):
        values = rows[step % 1000] if step != plan.spike_at else [SPIKE] * len(plan.metrics)
        shape = journal.shapes.get(plan.metrics) or journal.shape(plan.metrics, plan.metrics, tags)
        journal.append_values(shape, step, values, started_ns + step * plan.step_ns)
    journal.append_lines([who.run_line(started_ns + plan.steps * plan.step_ns, "finished", plan.steps - 1)])
    journal.close()


def fill(server: Server, scale: int) -> Influx:
    """A bucket that holds all plans, shipped as `metriclog sync` does."""
    bucket = Influx(server, "dashboards")
    bucket.create_bucket()
    with tempfile.TemporaryDirectory() as folder:
        settings = metriclog.Settings.load(
            dir=folder, url=server.url, token=server.token, org=server.org, bucket=bucket.bucket
        )
        points, begun_s = 0, time.perf_counter()
        for plan in plans(scale):
            write(plan, settings.dir)
            points += plan.steps * len(plan.metrics)
        written_s = time.perf_counter()
        for path in directory.process_directories(settings.dir):
            ship_directory(path, Transport(settings), Control(), settings)
        shipped_s = time.perf_counter()
    print(f"{points:,} points written in {written_s - begun_s:.0f} s, shipped in {shipped_s - written_s:.0f} s\n")
    return bucket


@dataclass(frozen=True)
class Cost:
    """Of a panel: milliseconds, and bytes of the answers."""

    p50_ms: float
    p95_ms: float
    size_bytes: int

    def show(self) -> str:
        """As cells of a table."""
        return f"{self.p50_ms:>9.1f} {self.p95_ms:>9.1f} {self.size_bytes / 1e3:>10,.1f}"


class Asker:
    """Asks one bucket as Grafana's back end does."""

    def __init__(self, server: Server, bucket: Influx) -> None:
        self._server, self._bucket = server, bucket

    def bytes(self, text: str) -> bytes:
        """The whole answer."""
        params = {"db": self._bucket.bucket, "epoch": "ms"}
        return self._server.call("POST", "/query", params, urlencode({"q": text}).encode())

    def rows(self, text: str) -> list[list[Any]]:
        """The rows of the answer, over all series."""
        result = json.loads(self.bytes(text))["results"][0]
        if "error" in result:
            raise RuntimeError(f"{result['error']}: {text}")
        return [row for series in result.get("series", []) for row in series["values"]]

    def cost(self, texts: Sequence[str]) -> Cost:
        """What these cost together, one after the other."""
        times_ms: list[float] = []
        size = 0
        end_s = time.perf_counter() + PATIENCE_S
        while len(times_ms) < 3 or (len(times_ms) < REPEATS and time.perf_counter() < end_s):
            begin_s = time.perf_counter()
            size = sum(len(self.bytes(text)) for text in texts)
            times_ms.append((time.perf_counter() - begin_s) * 1000)
        last = math.ceil(0.95 * len(times_ms)) - 1
        return Cost(statistics.median(times_ms), sorted(times_ms)[last], size)


@dataclass(frozen=True)
class Page:
    """A dashboard as it is when it has loaded with these choices."""

    panels: Sequence[Mapping[str, Any]]
    menus: Menus
    asker: Asker

    def texts(self, title: str, replace: Callable[[str], str] = lambda text: text) -> list[str]:
        """The texts of a panel; of a repeated one that of its first value."""
        panel = next(panel for panel in self.panels if panel["title"] == title)
        scoped: dict[str, str] = {}
        if panel.get("repeat"):
            scoped[panel["repeat"]] = next(iter(self.menus.chosen(panel["repeat"])), "")
        queries = [replace(target["query"]).replace("$__interval", f"{INTERVAL_MS}ms") for target in panel["targets"]]
        return [self.menus.interpolate(query, **scoped) for query in queries]

    def cost(self, title: str, replace: Callable[[str], str] = lambda text: text) -> Cost:
        """What a panel costs."""
        return self.asker.cost(self.texts(title, replace))


def load(asker: Asker, uid: str, **chosen: str | Sequence[str]) -> Page:
    """Load a dashboard; its range is wide enough for everything."""
    dashboard = next(made.to_dict() for made in all_dashboards().values() if made.to_dict()["uid"] == uid)
    now_ms = time.time_ns() // 1_000_000
    menus = Menus(dashboard, asker.rows, now_ms - DAYS * 86_400_000, now_ms, **chosen)
    return Page(list(_panels(dashboard["panels"])), menus, asker)


def _panels(panels: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for panel in panels:
        yield from _panels(panel.get("panels", []))
        if panel.get("targets"):
            yield panel


def on_raw_points(text: str) -> str:
    """The same query on every point."""
    return text.replace("/^${resolution:raw}(_10)?$/", '"metrics"').replace("/^${resolution:raw}$/", '"metrics"')


def main() -> None:
    """Fill, ask, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    scale = 10 if parser.parse_args().quick else 1
    source = influxdb.find_own(print)
    if isinstance(source, influxdb.Missing):
        sys.exit(source.reason)
    with influxdb.running(source) as instance:
        asker = Asker(instance.server, fill(instance.server, scale))
        pages = {
            "Runs, 200 runs x 40 metrics": load(asker, "metriclog-runs", experiment="many"),
            "Runs, 20 runs": load(asker, "metriclog-runs", experiment="sweep"),
            "Compare, 20 runs": load(asker, "metriclog-compare", experiment="sweep"),
            "Run, 100,000 steps": load(asker, "metriclog-run", experiment="sweep", run="mlp-07"),
            "Run, 10,000,000 steps": load(asker, "metriclog-run", experiment="long", run="pretrain"),
            "Delivery": load(asker, "metriclog-delivery"),
        }
        print_panels(pages)
        met = print_targets(pages, load(asker, "metriclog-run", experiment="short", run="finetune"))
    print("targets met" if met else "a target was MISSED")
    sys.exit(0 if met else 1)


def print_panels(pages: Mapping[str, Page]) -> None:
    """Every panel of every page."""
    print(f"{'panel':64} {'p50 ms':>9} {'p95 ms':>9} {'kB':>10}")
    for name, page in pages.items():
        print(name)
        for panel in page.panels:
            print(f"  {panel['title'][:60]:62} {page.cost(panel['title']).show()}")


CURVES, BAND = "$metric_drawn", "$metric_drawn"


def print_targets(pages: Mapping[str, Page], short: Page) -> bool:
    """What is promised, beside what it replaces; whether it is kept."""
    compare, long = pages["Compare, 20 runs"], pages["Run, 10,000,000 steps"]
    table = pages["Runs, 200 runs x 40 metrics"].cost("Runs")
    curves, chart, little = compare.cost(CURVES), long.cost(BAND), short.cost(BAND)
    rows = [
        ("Compare panel, 20 runs x 100,000 steps", curves),
        ("  on raw points", compare.cost(CURVES, on_raw_points)),
        ("  GROUP BY time, 1,000 buckets", compare.asker.cost([by_time(compare, "train/loss", 10_000)])),
        ("Run chart, 10,000,000 steps", chart),
        ("Run chart, 10,000 steps", little),
        ("  10,000,000 steps, GROUP BY time, 1,000 buckets", long.asker.cost([by_time(long, "train/loss", 100_000)])),
        ("Runs table, 200 runs x 40 metrics", table),
        ("  last, lowest and highest from raw points, 20 runs x 5", compare.asker.cost([summary_of_points(compare)])),
    ]
    print(f"\n{'promised, and what it replaces':64} {'p50 ms':>9} {'p95 ms':>9} {'kB':>10}")
    for name, cost in rows:
        print(f"{name:64} {cost.show()}")
    spiky = SPIKE in {value for row in long.asker.rows(long.texts(BAND)[1]) for value in row}
    kept = {
        f"Compare panel <= {COMPARE_MS:.0f} ms": curves.p50_ms <= COMPARE_MS,
        f"Compare panel <= {COMPARE_BYTES / 1e6:.0f} MB": curves.size_bytes <= COMPARE_BYTES,
        f"chart of 10,000,000 steps within {LONG_RATIO:.0f} x of 10,000": chart.p50_ms <= LONG_RATIO * little.p50_ms,
        "the spike of one step in 10,000,000 is in the chart": spiky,
        f"Runs table <= {TABLE_MS:.0f} ms": table.p50_ms <= TABLE_MS,
    }
    print()
    for name, holds in kept.items():
        print(f"{'yes' if holds else 'NO':4} {name}")
    return all(kept.values())


def by_time(page: Page, metric: str, interval_ms: int) -> str:
    """The mean of a metric in buckets of time, run by run: what is asked where there are no roll-ups."""
    runs = page.menus.interpolate('"run" =~ /^${run:regex}$/ AND $timeFilter')
    return (
        f'SELECT mean("value") FROM "metrics" WHERE "metric" = \'{metric}\' AND {runs} '
        f'GROUP BY time({interval_ms}ms), "run" fill(none)'
    )


def summary_of_points(page: Page) -> str:
    """What the table of runs would ask of raw points."""
    runs = page.menus.interpolate('"run" =~ /^${run:regex}$/ AND $timeFilter')
    return f'SELECT last("value"), min("value"), max("value") FROM "metrics" WHERE {runs} GROUP BY "run", "metric"'


if __name__ == "__main__":
    main()
