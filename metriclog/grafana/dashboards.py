"""The dashboards of metriclog, each by the path of its file."""

from __future__ import annotations

from metriclog.grafana.compare import compare
from metriclog.grafana.delivery import delivery
from metriclog.grafana.live import live
from metriclog.grafana.model import Dashboard
from metriclog.grafana.one_run import one_run
from metriclog.grafana.runs import runs


def all_dashboards() -> dict[str, Dashboard]:
    """Every dashboard by its path below `dashboards/`. The folder is the folder in Grafana."""
    return {
        "metriclog/runs.json": runs(),
        "metriclog/compare.json": compare(),
        "metriclog/run.json": one_run(),
        "metriclog/delivery.json": delivery(),
        "metriclog/live.json": live(),
    }
