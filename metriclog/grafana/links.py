"""The addresses of the dashboards and the links between them: they keep the time range and what was chosen.

No link carries a resolution: a manual choice for one run is wrong for the next, and Grafana keeps it all the same.
"""

from __future__ import annotations

from metriclog.grafana.model import Link

RUNS_UID = "metriclog-runs"
COMPARE_UID = "metriclog-compare"
RUN_UID = "metriclog-run"
DELIVERY_UID = "metriclog-delivery"
LIVE_UID = "metriclog-live"

_ALWAYS = "${datasource:queryparam}&${experiment:queryparam}"
_SAME_TIME = "${__url_time_range}"


def to_runs() -> Link:
    return Link("Runs", f"/d/{RUNS_UID}?{_ALWAYS}")


def to_compare() -> Link:
    return Link("Compare", f"/d/{COMPARE_UID}?{_ALWAYS}&${{run:queryparam}}")


def to_delivery() -> Link:
    return Link("Delivery", f"/d/{DELIVERY_UID}?{_ALWAYS}&${{run:queryparam}}")


def to_live() -> Link:
    return Link("Live", f"/d/{LIVE_UID}?{_ALWAYS}&${{run:queryparam}}")


def run_since_its_start() -> Link:
    """From a row of a table of live runs: that run, from its start until now."""
    experiment = "var-experiment=${__data.fields.experiment:percentencode}"
    return Link("Open this run", f"{_to_run('__value.text', experiment)}&from=${{__data.fields.Age.numeric}}&to=now")


def run_in_its_time() -> Link:
    """From a row of a table of runs: that run, from its start to its end."""
    experiment = "var-experiment=${__data.fields.experiment:percentencode}"
    time = "from=${__data.fields.__started.numeric}&to=${__data.fields.__to}"
    return Link("Open this run", f"{_to_run('__value.text', experiment)}&{time}")


def run_named(expression: str) -> Link:
    """From a point or a cell: the run that one of Grafana's expressions names, in the dashboard's time range."""
    return Link("Open the run", f"{_to_run(expression, '${experiment:queryparam}')}&{_SAME_TIME}")


def _to_run(expression: str, experiment: str) -> str:
    return f"/d/{RUN_UID}?${{datasource:queryparam}}&{experiment}&var-run=${{{expression}:percentencode}}"
