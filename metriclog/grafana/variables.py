"""The menus of the four dashboards, and the hidden variables that keep a page within what a browser can draw."""

from __future__ import annotations

from metriclog import dashboard_queries as queries
from metriclog.grafana.menus import (
    AS_ANSWERED,
    EVERYTHING,
    Variable,
    custom_variable,
    datasource_variable,
    hidden_variable,
    multi_custom_variable,
    multi_variable,
    single_variable,
    tucked_away,
)

DATASOURCE_NAME = "metriclog-influxdb"
DATASOURCE_UID = "metriclog-influxql"
"""As in provisioning/grafana/datasources/metriclog.yaml."""

STATUSES = ("running", "finished", "failed", "killed")
BEST = {"lowest": "min", "highest": "max"}
# Grafana refuses a window of nothing; this one is a single point at any length.
SMOOTHING = {"2 %": "0.02", "Off": "0.000001", "1 %": "0.01", "5 %": "0.05", "10 %": "0.1"}


def of_runs() -> list[Variable]:
    """Runs: what to list. Model and data set are known to the metrics alone, so they are asked for their runs first."""
    return [
        *_source(),
        multi_custom_variable("status", "Status", {status: status for status in STATUSES}),
        *_made_of(),
        hidden_variable("run_made_of", queries.RUNS_MADE_OF_MENU),
        # All of these is the list of those found, not everything: the tables keep to the filters by it.
        multi_variable("run", "Run", queries.RUNS_FOUND_MENU, sort=AS_ANSWERED),
        _metric("run"),
        hidden_variable("metric_listed", queries.METRICS_LISTED_MENU),
        custom_variable("best", "Best is", BEST),
    ]


def of_compare() -> list[Variable]:
    """Compare: which runs and metrics, along what, how fine, how smooth. What is rarely chosen takes no room."""
    source, experiment = _source()
    return [
        tucked_away(source),
        experiment,
        _runs(),
        hidden_variable("run_drawn", queries.RUNS_DRAWN_MENU),
        hidden_variable("run_count", queries.RUN_COUNT, several=False),
        *map(tucked_away, _made_of()),
        _metric("run_drawn"),
        hidden_variable("metric_drawn", queries.metrics_drawn_menu("run_drawn")),
        single_variable("metric_large", "Large chart", queries.METRIC_LARGE_MENU),
        *_axis("run_drawn"),
        custom_variable("smooth", "Smoothing", SMOOTHING),
        single_variable("baseline", "Baseline", queries.BASELINE_MENU),
        single_variable("param", "Parameter", queries.PARAM_MENU),
    ]


def of_run() -> list[Variable]:
    """Run: which run, the newest at first. A link to a run brings its own time range, which leaves little room."""
    source, experiment = _source()
    return [
        tucked_away(source),
        experiment,
        single_variable("run", "Run", queries.RUN_MENU, sort=AS_ANSWERED),
        *map(tucked_away, _made_of()),
        _metric("run"),
        hidden_variable("metric_drawn", queries.metrics_drawn_menu("run")),
        hidden_variable("quantity", queries.QUANTITY_MENU, regex=queries.QUANTITY_IN_NAME),
        hidden_variable("learning_rate", queries.LEARNING_RATE_MENU),
        hidden_variable("gradient_norm", queries.GRADIENT_NORM_MENU),
        hidden_variable("densest", queries.DENSEST_METRIC, several=False),
        hidden_variable("rank", queries.RANKS_MENU),
        hidden_variable("metric_ranked", queries.RANKED_MENU),
        *_axis("run"),
    ]


def of_delivery() -> list[Variable]:
    """Delivery: all processes of all runs, or fewer; of the newest also when they beat."""
    return [*_source(), _runs(), hidden_variable("run_drawn", queries.RUNS_DRAWN_MENU)]


def _source() -> list[Variable]:
    return [
        datasource_variable("datasource", "Data source", default_name=DATASOURCE_NAME, default_uid=DATASOURCE_UID),
        multi_variable("experiment", "Experiment", queries.EXPERIMENT_MENU, sort=AS_ANSWERED, all_value=EVERYTHING),
    ]


def _runs() -> Variable:
    return multi_variable("run", "Run", queries.RUN_MENU, sort=AS_ANSWERED, all_value=EVERYTHING)


def _metric(run: str) -> Variable:
    return multi_variable("metric", "Metric", queries.metric_menu(run), all_value=EVERYTHING)


def _made_of() -> list[Variable]:
    return [
        multi_variable("model", "Model", queries.MODEL_MENU, all_value=EVERYTHING),
        multi_variable("dataset", "Data set", queries.DATASET_MENU, all_value=EVERYTHING),
    ]


def _axis(run: str) -> list[Variable]:
    return [
        custom_variable("x", "X axis", queries.X_AXES),
        hidden_variable("auto", queries.auto_resolution(run), several=False),
        tucked_away(custom_variable("resolution", "Resolution", queries.RESOLUTIONS)),
    ]
