"""Every PromQL text of the dashboard Live. Pure text.

Runs are told apart by experiment and run, never by rank: of 512 ranks a chart has one line. Names stand in backquotes,
where nothing but a backquote has a meaning, so that Grafana's format `regex` is all the escaping they need.
"""

from __future__ import annotations

from typing import Final

METRICS_DRAWN: Final = 12
"""Charts on one page; more would be slow to draw and to read."""

_EXPERIMENT: Final = "experiment=~`${experiment:regex}`"
_RUN: Final = f"{_EXPERIMENT},run=~`${{run:regex}}`"
_METRIC: Final = f"{_RUN},metric=~`${{metric:regex}}`"
_BY_RUN: Final = "by (experiment, run)"

# --- Menus, in Grafana's own words ------------------------------------------------------------------------------------

EXPERIMENT_MENU: Final = "label_values(metriclog_run_running, experiment)"
RUN_MENU: Final = f"label_values(metriclog_run_running{{{_EXPERIMENT}}}, run)"
METRIC_MENU: Final = f"label_values(metriclog_metric_value{{{_RUN}}}, metric)"
_SHOWN: Final = f"last_over_time(metriclog_metric_value{{{_METRIC}}}[$__range])"
METRICS_DRAWN_MENU: Final = f"query_result(topk({METRICS_DRAWN}, count by (metric) ({_SHOWN})))"
METRIC_IN_RESULT: Final = r'/metric="((?:[^"\\]|\\.)*)"/'

# --- What each run shows now: a row a run -----------------------------------------------------------------------------

STATUS_NUMBERS: Final = {"finished": 1, "killed": 2, "failed": 3, "running": 4}
"""Of several processes the highest counts."""
STATUS: Final = "max by (experiment, run) ({})".format(
    " or ".join(
        f'{number} * (metriclog_run_status{{{_RUN},status="{status}"}} == 1)'
        for status, number in STATUS_NUMBERS.items()
    )
)
STARTED_MS: Final = f"floor(1000 * min {_BY_RUN} (metriclog_run_started_timestamp_seconds{{{_RUN}}}))"
STEPS: Final = f"max {_BY_RUN} (metriclog_run_steps{{{_RUN}}})"
SILENCE: Final = (
    f"min {_BY_RUN} (metriclog_heartbeat_timestamp_seconds{{{_RUN}}} - metriclog_last_log_timestamp_seconds{{{_RUN}}})"
)
SILENCE_OF_RUNNING: Final = f"{SILENCE} and max {_BY_RUN} (metriclog_run_running{{{_RUN}}}) == 1"
PROCESSES: Final = f"count {_BY_RUN} (metriclog_run_running{{{_RUN}}})"
NONFINITE: Final = f"sum {_BY_RUN} (metriclog_nonfinite_total{{{_RUN}}})"
PENDING: Final = f"sum {_BY_RUN} (metriclog_points_pending{{{_RUN}}})"
LOST: Final = (
    f"sum {_BY_RUN} (metriclog_points_dropped_total{{{_RUN}}}) "
    f"+ sum {_BY_RUN} (metriclog_points_quarantined_total{{{_RUN}}})"
)

# --- Totals: a number, 0 where there is nothing -----------------------------------------------------------------------

RUNNING_NOW: Final = f"count(max {_BY_RUN} (metriclog_run_running{{{_RUN}}}) == 1) or vector(0)"
ALERTS_NOW: Final = f'count(ALERTS{{alertname=~"Metriclog.+",alertstate="firing",{_RUN}}}) or vector(0)'


def total(of_runs: str) -> str:
    """Over all runs."""
    return f"sum({of_runs}) or vector(0)"


# --- What fires -------------------------------------------------------------------------------------------------------

_SAID: Final = "max by (experiment, run, metric, what, severity)"
ALERTS: Final = (
    f'{_SAID} (label_replace(ALERTS{{alertname=~"Metriclog.+",alertstate="firing",{_RUN}}}, '
    '"what", "$1", "alertname", "(.+)"))'
)
FINDINGS: Final = (
    f"{_SAID} (label_replace(label_replace(metriclog_alert_active{{{_RUN}}} == 1, "
    '"what", "$1", "rule", "(.+)"), "severity", "$1", "level", "(.+)"))'
)

# --- Over time --------------------------------------------------------------------------------------------------------

VALUES: Final = f"avg {_BY_RUN} (metriclog_metric_value{{{_RUN},metric=~`${{metric_drawn:regex}}`}})"
NONFINITE_BY_METRIC: Final = f"sum by (experiment, run, metric) (metriclog_nonfinite_total{{{_METRIC}}}) > 0"
SPEED: Final = f"clamp_min(max {_BY_RUN} (deriv(metriclog_run_steps{{{_RUN}}}[1m])), 0)"


def edge(query: str) -> str:
    """0 where the query has an answer: see `grafana.times.edge`."""
    return f"0 * group({query})"
