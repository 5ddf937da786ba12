"""The dashboards of metriclog: what they show, in what order, with which words. Query texts come from `influxql`."""

from __future__ import annotations

from metriclog import influxql
from metriclog.grafana.model import (
    DESCENDING,
    Dashboard,
    Data,
    Fields,
    Link,
    Override,
    Panel,
    Size,
    Target,
    TimeRange,
    Transformation,
    Variable,
    custom_variable,
    datasource_variable,
    query_variable,
)

DATASOURCE_NAME = "metriclog-influxdb"
DATASOURCE_UID = "metriclog-influxql"
"""As in provisioning/grafana/datasources/metriclog.yaml."""

CURVES_UID = "metriclog-curves"

_NO_RUNS = "No runs in this time range. Widen the range, or log a first run."
_STATUS_COLORS = {"running": "green", "finished": "blue", "failed": "red", "killed": "orange"}
# Left out on purpose: the metric, which inside a repeated panel is that panel's alone.
_CURVES_LINK = f"/d/{CURVES_UID}?${{datasource:queryparam}}&${{experiment:queryparam}}&${{x:queryparam}}"


def all_dashboards() -> dict[str, Dashboard]:
    """Every dashboard by its path below `dashboards/`. The folder is the folder in Grafana."""
    return {"metriclog/curves.json": curves()}


def curves() -> Dashboard:
    """Curves: the runs of one experiment as a table, then one panel per metric with one line per run."""
    return Dashboard(
        uid=CURVES_UID,
        title="Curves",
        description="The metrics of an experiment's runs, by step or by time since the run began.",
        tags=["metriclog"],
        variables=_curves_variables(),
        panels=[_runs_table(), _curve_by_run()],
        # Wide, because a run older than the range is in no menu, and a wide range does not squeeze curves by step.
        time=TimeRange("now-90d", refresh="1m"),
    )


def _curves_variables() -> list[Variable]:
    return [
        datasource_variable("datasource", "Data source", default_name=DATASOURCE_NAME, default_uid=DATASOURCE_UID),
        query_variable("experiment", "Experiment", influxql.EXPERIMENT_MENU),
        query_variable("run", "Run", influxql.RUN_MENU, sort=DESCENDING, multi=True),
        query_variable("metric", "Metric", influxql.METRIC_MENU, multi=True),
        custom_variable("x", "X axis", influxql.X_AXES),
    ]


def _runs_table() -> Panel:
    return Panel(
        type="table",
        title="Runs of ${experiment}",
        description="All runs of the experiment in the time range. A click on a run shows its curves alone, in exactly "
        "the time it ran. Non-finite counts the values that were NaN or infinite, over all metrics.",
        data=Data(
            [Target("A", influxql.RUNS_TABLE), Target("B", influxql.NONFINITE_BY_RUN)],
            [
                Transformation("organize", {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}),
                # outerTabular: plain outer sorts the joined names as numbers.
                Transformation("joinByField", {"byField": "run", "mode": "outerTabular"}),
                Transformation("organize", {"excludeByName": {}, "indexByName": _order(), "renameByName": {}}),
            ],
        ),
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frozenColumns": {"left": 1},
            "sortBy": [{"displayName": "started", "desc": True}],
            "enablePagination": True,
        },
        fields=_runs_table_fields(),
        size=Size(height=8),
    )


def _order() -> dict[str, int]:
    return {name: place for place, name in enumerate(["run", "status", "started", "steps", "nonfinite", "to"])}


def _runs_table_fields() -> Fields:
    alone = _CURVES_LINK + "&var-run=${__value.text:percentencode}"
    time_it_ran = "&from=${__data.fields.started.numeric}&to=${__data.fields.to}"
    status_mapping = {
        "type": "value",
        "options": {status: {"color": color, "index": i} for i, (status, color) in enumerate(_STATUS_COLORS.items())},
    }
    red_from_one = {"mode": "absolute", "steps": [{"color": "text", "value": None}, {"color": "red", "value": 1}]}
    colored = {"custom.cellOptions": {"type": "color-text"}}
    hidden = {"custom.hideFrom": {"viz": True}, "custom.hidden": True}
    return Fields(
        # This noValue is the text of the empty table, and of every empty cell without the first override.
        defaults={"noValue": _NO_RUNS, "unit": "none"},
        custom={"minWidth": 130, "align": "auto", "wrapHeaderText": True},
        overrides=[
            Override("byRegexp", "/.*/", {"noValue": "–"}),
            Override("byName", "run", {"links": [Link("Curves of this run", alone + time_it_ran).to_dict()]}),
            Override("byName", "status", {**colored, "mappings": [status_mapping]}),
            Override("byName", "started", {"unit": "dateTimeAsIso"}),
            Override(
                "byName",
                "nonfinite",
                {"displayName": "non-finite", "noValue": "0", "thresholds": red_from_one, **colored},
            ),
            Override("byName", "to", hidden),
        ],
    )


def _curve_by_run() -> Panel:
    return Panel(
        type="trend",
        title="$metric",
        description="One line per selected run; the legend gives its last, lowest and highest value. Of a step logged "
        "twice the newer value is drawn, of several ranks rank 0. NaN and infinite values are not drawn: the table "
        "above counts them. Click a legend entry to see that run alone, a line to open its run.",
        data=Data([Target("A", influxql.CURVES_BY_RUN)], _one_column_per_run()),
        options={
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "min", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "asc", "maxHeight": 400},
        },
        fields=_curve_fields(),
        size=Size(width=12, height=12, repeat="metric"),
    )


def _one_column_per_run() -> list[Transformation]:
    """From rows (run, x, value) to the ascending column x and one column per run. Each of the four steps is needed."""
    times_one = {"left": {"matcher": {"id": "byName", "options": "value"}}, "operator": "*", "right": {"fixed": "1"}}
    return [
        # A copy of value without the name the data source gave it; else every line is called "value".
        Transformation("calculateField", {"mode": "binary", "timeSeries": False, "binary": times_one}),
        # Of rows with the same x the last one wins: a resumed run shows its newest values.
        Transformation(
            "groupingToMatrix",
            {"columnField": "run", "rowField": "x", "valueField": "value * 1", "emptyValue": "null"},
        ),
        # The matrix calls its key column `x\run`.
        Transformation("renameByRegex", {"regex": r"^(.*)\\run$", "renamePattern": "$1"}),
        Transformation("sortBy", {"sort": [{"field": "x"}]}),
    ]


def _curve_fields() -> Fields:
    x_axis = {
        "displayName": "${x:text}",
        "custom.axisLabel": "${x:text}",
        "custom.scaleDistribution": {"type": "linear"},
        "unit": "none",
        "links": [],
    }
    this_run = _CURVES_LINK + "&var-run=${__field.name:percentencode}&${__url_time_range}"
    return Fields(
        # By index, not by name: the by-name palette has colours that cannot be read on a dark page.
        defaults={"color": {"mode": "palette-classic"}, "unit": "none"},
        custom={
            "drawStyle": "line",
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": True,
            "fillOpacity": 0,
            "scaleDistribution": {"type": "linear"},
        },
        links=[Link("Curves of ${__field.name}", this_run)],
        overrides=[Override("byName", "x", x_axis)],
    )
