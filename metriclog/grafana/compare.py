"""The dashboard Compare: 2 to 20 runs side by side, their curves, their final values, and what makes them differ."""

from __future__ import annotations

from typing import Any

from metriclog import dashboard_queries as queries
from metriclog.grafana import curves, links, tables, variables
from metriclog.grafana.model import (
    Dashboard,
    Data,
    Fields,
    Heading,
    Override,
    Panel,
    Section,
    Size,
    Target,
    TimeRange,
    Transformation,
    Words,
)

_PER_METRIC = "metric_drawn"
_LINES = (
    "A line per run, smoothed over the part of the run that the menu Smoothing says; the raw line is faint behind it. "
    "Of a step logged twice the newer value is drawn, of several ranks rank 0; NaN and infinite values are not drawn."
)
_NEWEST = "value (lastNotNull)"
_BY_NAME = {"type": "name", "desc": False}
_TO_TEXT = {"targetField": "value", "destinationType": "string"}
_DIFFERENT = [
    {"fieldName": f"{_NEWEST} (distinctCount)", "config": {"id": "greater", "options": {"value": 1}}},
    {"fieldName": f"{_NEWEST} (count)", "config": {"id": "lower", "options": {"value": "${run_count:raw}"}}},
]
_BEYOND = [
    {"type": "range", "options": {"from": 10, "to": None, "result": {"text": "> +1,000 %", "index": 0}}},
    {"type": "range", "options": {"from": None, "to": -10, "result": {"text": "< −1,000 %", "index": 1}}},
    {"type": "special", "options": {"match": "nan", "result": {"text": tables.DASH, "index": 2}}},
]


def compare() -> Dashboard:
    return Dashboard(
        heading=Heading(
            links.COMPARE_UID, "Compare", "Several runs side by side: curves, final values, parameters, a baseline."
        ),
        time=TimeRange("now-90d", refresh="5m"),
        variables=variables.of_compare(),
        links=[links.to_runs(), links.to_delivery(), links.to_live()],
        panels=[_table()],
        sections=[
            Section("Curves", [_large_chart(), _curves(logarithmic=False)]),
            Section("Curves on a logarithmic scale", [_curves(logarithmic=True)], folded=True),
            Section("Final values", [_final_values()]),
            Section("What differs", [_params_that_differ(), _against_baseline()]),
            Section("${param} against final values", [_scatter()]),
        ],
    )


def _table() -> Panel:
    return tables.runs_panel(
        "Runs compared",
        f"The runs on this page: of those chosen the newest {queries.RUNS_DRAWN}, and of the chosen metrics the first "
        f"{queries.METRICS_DRAWN}; more could not be told apart. A click opens a run in the time it ran.",
        Data(tables.state_targets("run_drawn"), [*tables.state_rows(), *tables.joined()]),
        height=8,
    )


def _large_chart() -> Panel:
    words = Words(
        "Large chart: ${metric_large}",
        f"The metric that the menu Large chart says. {_LINES} The colours are those of the smaller charts too, but for "
        "a metric that not every run has. A click on a name shows that run alone, on a line opens its run.",
    )
    return curves.smoothed(words, Size(height=14), "metric_large", legend="right")


def _curves(*, logarithmic: bool) -> Panel:
    scale = " Values of 0 and below have no place on this scale." if logarithmic else ""
    words = Words(
        "${metric_drawn} (logarithmic)" if logarithmic else "$metric_drawn",
        f"{_LINES}{scale} Which run has which colour is beside the large chart above, and under the mouse. A click on "
        "a line opens its run.",
    )
    size = Size(width=12, height=9, repeat=_PER_METRIC)
    return curves.smoothed(words, size, _PER_METRIC, logarithmic=logarithmic)


def _best_first() -> Data:
    """The final values of one metric: of these two queries one has an answer."""
    order = {"excludeByName": {"Time": True}, "indexByName": {"run": 0, "value": 1}, "renameByName": {}}
    targets = [
        Target("lower", queries.FINAL_WHERE_LOWER_IS_BETTER),
        Target("higher", queries.FINAL_WHERE_HIGHER_IS_BETTER),
    ]
    steps = [
        Transformation("organize", order),
        Transformation("sortBy", {"sort": [{"field": "value"}]}, "lower"),
        Transformation("sortBy", {"sort": [{"field": "value", "desc": True}]}, "higher"),
    ]
    return Data(targets, steps)


def _final_values() -> Panel:
    return Panel(
        type="bargauge",
        title="$metric_drawn",
        description="The last finite value of each run, the best first: the highest of a metric whose name has "
        "accuracy, acc, score, f1, auc, reward, return, bleu, precision, recall, per second or the like in it and no "
        "loss or error; of any other the lowest. Bars begin at 0: a negative value has none.",
        data=_best_first(),
        options={
            "orientation": "horizontal",
            "displayMode": "basic",
            "valueMode": "text",
            "namePlacement": "left",
            "showUnfilled": False,
            "sizing": "manual",
            # Twenty fit into the panel.
            "minVizHeight": 10,
            "maxVizHeight": 40,
            "reduceOptions": {"values": True, "fields": "/^value$/", "calcs": ["lastNotNull"], "limit": 40},
            "text": {"valueSize": 11, "titleSize": 11},
        },
        fields=Fields(
            defaults={
                "min": 0,
                "unit": "none",
                "noValue": "No final values yet.",
                "color": {"mode": "fixed", "fixedColor": "blue"},
            },
            overrides=tables.TEXTS,
        ),
        size=Size(width=8, height=12, repeat=_PER_METRIC),
    )


def _params_that_differ() -> Panel:
    """Numbers and texts are counted apart: a parameter of both kinds is missing from some runs as either."""
    targets, steps = [], []
    key = {"operation": "groupby", "aggregations": []}
    newest = {"operation": "aggregate", "aggregations": ["lastNotNull"]}
    counted = {"operation": "aggregate", "aggregations": ["distinctCount", "count"]}
    for field in ("number", "text"):
        query = queries.param_values(field, "run_drawn", "value")
        targets += [Target(field, query), Target(f"{field}_counts", query)]
    steps = [
        # In one column with the texts; and as they were written, 0.0005 and 1e-11.
        Transformation("convertFieldType", {"conversions": [_TO_TEXT]}, "number"),
        Transformation("merge", {}, "/^(number|text)$/"),
        Transformation("sortBy", {"sort": [{"field": "Time"}]}),
        Transformation("groupBy", {"fields": {"run": key, "param": key, "value": newest}}),
        Transformation("groupBy", {"fields": {"param": key, f"{_NEWEST}": counted}}, "/_counts$/"),
        Transformation("merge", {}, "/_counts$/"),
        Transformation("joinByField", {"byField": "param", "mode": "inner"}),
        Transformation("filterByValue", {"type": "include", "match": "any", "filters": _DIFFERENT}),
        # To and fro: of no rows this makes no table, of which the panel says so, in place of a table without rows.
        Transformation("partitionByValues", {"fields": ["param"], "keepFields": True, "naming": {"asLabels": False}}),
        Transformation("merge", {}),
        *tables.matrix(None, "run", "param", _NEWEST),
        Transformation("organize", {"orderByMode": "auto", "orderBy": [_BY_NAME], **tables.ordered([])}),
        Transformation("sortBy", {"sort": [{"field": "__run"}]}),
    ]
    return _table_by_run(
        "Parameters that differ",
        "The parameters that are not the same in all of these runs. One that a run does not have is not the same.",
        Data(targets, steps),
        {"noValue": "No parameter differs between these runs."},
    )


def _against_baseline() -> Panel:
    minus = {"left": _field("last"), "operator": "-", "right": _field("base")}
    over = {"left": _field("delta"), "operator": "/", "right": _field("base")}
    targets = [Target("last", queries.last_values("run_drawn")), Target("base", queries.BASELINE_VALUES)]
    steps = [
        tables.without_time(),
        Transformation("joinByField", {"byField": "metric", "mode": "inner"}),
        Transformation("calculateField", {"mode": "binary", "alias": "delta", "timeSeries": False, "binary": minus}),
        Transformation("calculateField", {"mode": "binary", "timeSeries": False, "binary": over}),
        *tables.matrix(None, "run", "metric", "delta / base"),
        Transformation("sortBy", {"sort": [{"field": "__run"}]}),
    ]
    return _table_by_run(
        "Difference to ${baseline}",
        "By how much of the baseline's final value each run's final value lies above or below it. A baseline near 0 "
        "makes that a number without a meaning: beyond tenfold, only this is said.",
        Data(targets, steps),
        {"noValue": "No final values yet.", "unit": "percentunit", "decimals": 1, "mappings": _BEYOND},
    )


def _field(name: str) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": name}}


def _table_by_run(title: str, description: str, data: Data, defaults: dict[str, Any]) -> Panel:
    run = {"displayName": "Run", "custom.width": 220, "links": [links.run_named("__value.text").to_dict()]}
    return Panel(
        type="table",
        title=title,
        description=description,
        data=data,
        options={"showHeader": True, "cellHeight": "sm", "frozenColumns": {"left": 1}},
        fields=Fields(
            defaults={"unit": "none", **defaults},
            custom={"minWidth": 110, "align": "auto", "wrapHeaderText": True},
            overrides=[*tables.TEXTS, Override("byName", "__run", run)],
        ),
        size=Size(height=10),
    )


def _scatter() -> Panel:
    words = Words(
        "$metric_drawn against ${param}",
        "A point per run, whose name is under the mouse: the parameter to the right, the last finite value of the "
        "metric upwards. Parameters that are no numbers are not in the menu Parameter.",
    )
    return curves.points_by_run(words, Size(width=8, height=9, repeat=_PER_METRIC))
