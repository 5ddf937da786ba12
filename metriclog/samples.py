"""What a run shows of itself to Prometheus: the metric families, their types and labels, and the samples. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from metriclog.live import Snapshot

STATUSES = ("running", "finished", "failed", "killed")
WHOSE = ("experiment", "run", "rank")  # the labels of all; rank is "" where there are no ranks
INFO = "metriclog_run"
BOUND = "At most METRICLOG_PROMETHEUS_MAX_METRICS metrics of a run are shown, in order of first appearance."

Series = tuple[str, tuple[str, ...]]  # family, label values


class Shown(NamedTuple):
    """One metric family, by its OpenMetrics name: samples of a counter end in _total, those of an info in _info."""

    name: str
    kind: Literal["gauge", "counter", "info"]
    labels: tuple[str, ...]
    """Beside those of all."""
    help: str

    @property
    def unit(self) -> str:
        """As OpenMetrics wants it: the end of the name."""
        return "seconds" if self.name.endswith("_seconds") else ""


SHOWN = (
    Shown("metriclog_metric_value", "gauge", ("metric",), f"Newest value, NaN and Inf as they are. {BOUND}"),
    Shown("metriclog_metric_step", "gauge", ("metric",), "Step of the newest value of a metric."),
    Shown("metriclog_nonfinite", "counter", ("metric",), "How many values of a metric were NaN or infinite."),
    Shown("metriclog_metrics_hidden", "gauge", (), f"How many metrics are not shown here. {BOUND}"),
    Shown("metriclog_last_log_timestamp_seconds", "gauge", (), "Time of the newest metric, in seconds since 1970."),
    Shown(INFO, "info", ("model", "dataset", "host", "attempt"), "What the run is and where; always 1."),
    Shown("metriclog_run_running", "gauge", (), "1 while the run goes on, 0 once it has ended."),
    Shown("metriclog_run_status", "gauge", ("status",), "1 for the status that the run has, 0 for the others."),
    Shown("metriclog_run_started_timestamp_seconds", "gauge", (), "When the run began, in seconds since 1970."),
    Shown("metriclog_run_steps", "gauge", (), "Highest step logged."),
    Shown("metriclog_heartbeat_timestamp_seconds", "gauge", (), "When the process showed this, in seconds since 1970."),
    Shown("metriclog_points_accepted", "counter", (), "Points that the process logged."),
    Shown("metriclog_points_delivered", "counter", (), "Points that InfluxDB has taken."),
    Shown("metriclog_points_dropped", "counter", (), "Points that found no room in the journal and are lost."),
    Shown("metriclog_points_quarantined", "counter", (), "Points that InfluxDB refused for good."),
    Shown("metriclog_points_pending", "gauge", (), "Points in the journal that InfluxDB does not have yet."),
    Shown("metriclog_posts_retried", "counter", (), "Posts to InfluxDB that had to be repeated."),
    Shown("metriclog_delivery_lag_seconds", "gauge", (), "How far InfluxDB is behind the run, in seconds."),
    Shown(
        "metriclog_alert_active",
        "gauge",
        ("metric", "rule", "level"),
        "1 while a rule in the process finds that training goes wrong; rank is whom it is about.",
    ),
)


def samples(of: Snapshot, most: int) -> Iterator[tuple[Series, float]]:
    """The samples of one run: of at most `most` metrics, and at most as many alerts, those of hidden metrics too."""
    for name, labels, value in (*_metrics(of, most), *_run(of), *_delivery(of)):
        yield (name, (of.experiment, of.run, of.rank, *labels)), value
    for finding in of.firing[:most]:
        if not finding.recovered:
            whose = of.experiment, of.run, finding.rank or of.rank
            yield ("metriclog_alert_active", (*whose, finding.metric, finding.rule, finding.level)), 1


_Sample = tuple[str, tuple[str, ...], float]  # family, values of the labels beside those of all


def _metrics(of: Snapshot, most: int) -> Iterator[_Sample]:
    for metric, latest in list(of.metrics.items())[:most]:
        yield "metriclog_metric_value", (metric,), latest.value
        yield "metriclog_metric_step", (metric,), latest.step
        yield "metriclog_nonfinite", (metric,), latest.nonfinite
    yield "metriclog_metrics_hidden", (), max(0, len(of.metrics) - most)
    if of.last_log_ns is not None:
        yield "metriclog_last_log_timestamp_seconds", (), of.last_log_ns / 1e9


def _run(of: Snapshot) -> Iterator[_Sample]:
    yield INFO, (of.model, of.dataset, of.host, str(of.attempt)), 1
    yield "metriclog_run_running", (), of.status == "running"
    for status in STATUSES:
        yield "metriclog_run_status", (status,), of.status == status
    yield "metriclog_run_started_timestamp_seconds", (), of.started_ns / 1e9
    yield "metriclog_run_steps", (), of.steps
    yield "metriclog_heartbeat_timestamp_seconds", (), of.now_ns / 1e9


def _delivery(of: Snapshot) -> Iterator[_Sample]:
    for name in ("accepted", "delivered", "dropped", "quarantined", "pending"):
        yield f"metriclog_points_{name}", (), of.stats[name]
    yield "metriclog_posts_retried", (), of.stats["retried"]
    yield "metriclog_delivery_lag_seconds", (), of.stats["lag_s"]
