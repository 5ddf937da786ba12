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
    Panel,
    Section,
    Size,
    Target,
    TimeRange,
    Transformation,
    Words,
)

_PER_METRIC = "metric_drawn"


def compare() -> Dashboard:
    return Dashboard(
        heading=Heading(
            links.COMPARE_UID, "Compare", "Several runs side by side: curves, final values, parameters, a baseline."
        ),
        time=TimeRange("now-90d", refresh="5m"),
        variables=variables.of_compare(),
        links=[links.to_runs(), links.to_delivery()],
        panels=[_table()],
        sections=[
            Section("Curves", [_curves(logarithmic=False)]),
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


def _curves(*, logarithmic: bool) -> Panel:
    scale = " Values of 0 and below have no place on this scale." if logarithmic else ""
    words = Words(
        "${metric_drawn} (logarithmic)" if logarithmic else "$metric_drawn",
        "A line per run, smoothed over the part of the run that the menu Smoothing says; the raw line is faint behind "
        "it. Of a step logged twice the newer value is drawn, of several ranks rank 0; NaN and infinite values are not "
        f"drawn.{scale} A click on the legend shows that run alone, on a line opens its run.",
    )
    return curves.smoothed(words, Size(width=12, height=10, repeat=_PER_METRIC), logarithmic=logarithmic)


def _final_values() -> Panel:
    order = {"excludeByName": {"Time": True}, "indexByName": {"run": 0, "value": 1}, "renameByName": {}}
    steps = [Transformation("organize", order), Transformation("sortBy", {"sort": [{"field": "value"}]})]
    return Panel(
        type="bargauge",
        title="$metric_drawn",
        description="The last finite value of each run, the lowest first. Bars begin at 0: a negative value has none.",
        data=Data([Target("final", queries.FINAL_BY_RUN)], steps),
        options={
            "orientation": "horizontal",
            "displayMode": "basic",
            "valueMode": "text",
            "namePlacement": "top",
            "showUnfilled": False,
            "sizing": "manual",
            "minVizHeight": 36,
            "maxVizHeight": 40,
            "reduceOptions": {"values": True, "fields": "/^value$/", "calcs": ["lastNotNull"], "limit": 40},
            "text": {"valueSize": 13, "titleSize": 13},
        },
        fields=Fields(
            defaults={"min": 0, "unit": "none", "color": {"mode": "fixed", "fixedColor": "blue"}},
            overrides=tables.TEXTS,
        ),
        size=Size(width=8, height=9, repeat=_PER_METRIC),
    )


def _params_that_differ() -> Panel:
    targets: list[Target] = []
    steps = [tables.without_time()]
    for field in ("number", "text"):
        targets += [
            Target(field, queries.param_values(field, "run_drawn")),
            Target(f"{field}_variety", queries.param_variety(field)),
        ]
        steps += tables.matrix(field, "param", "run", field)
    # Numbers and texts below each other: Grafana shows both in one column.
    steps += [
        Transformation("merge", {}, "/^$/"),
        Transformation("merge", {}, "/_variety$/"),
        tables.rename("__param", "param"),
        Transformation("joinByField", {"byField": "param", "mode": "outerTabular"}),
        Transformation("filterByValue", {"type": "include", "match": "all", "filters": [_greater("__variety", 1)]}),
        Transformation("organize", tables.ordered(["param"], hidden=["__variety"])),
    ]
    return _small_table(
        "Parameters that differ",
        "The parameters that have more than one value over these runs.",
        Data(targets, steps),
        {"noValue": "No parameter differs between these runs."},
    )


def _against_baseline() -> Panel:
    minus = {"left": {"matcher": {"id": "byName", "options": "last"}}, "operator": "-", "right": _field("base")}
    over = {"left": _field("delta"), "operator": "/", "right": _field("base")}
    targets = [Target("last", queries.last_values("run_drawn")), Target("base", queries.BASELINE_VALUES)]
    steps = [
        tables.without_time(),
        Transformation("joinByField", {"byField": "metric", "mode": "inner"}),
        Transformation("calculateField", {"mode": "binary", "alias": "delta", "timeSeries": False, "binary": minus}),
        Transformation("calculateField", {"mode": "binary", "timeSeries": False, "binary": over}),
        Transformation(
            "groupingToMatrix",
            {"rowField": "metric", "columnField": "run", "valueField": "delta / base", "emptyValue": "null"},
        ),
        # The matrix may call its key column `metric\\run`.
        tables.rename(r"metric\\run", "metric"),
        Transformation("sortBy", {"sort": [{"field": "metric"}]}),
    ]
    return _small_table(
        "Difference to ${baseline}",
        "By how much of the baseline's final value each run's final value lies above or below it.",
        Data(targets, steps),
        {"noValue": "No final values yet.", "unit": "percentunit", "decimals": 1},
    )


def _greater(name: str, value: float) -> dict[str, Any]:
    return {"fieldName": name, "config": {"id": "greater", "options": {"value": value}}}


def _field(name: str) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": name}}


def _small_table(title: str, description: str, data: Data, defaults: dict[str, Any]) -> Panel:
    return Panel(
        type="table",
        title=title,
        description=description,
        data=data,
        options={"showHeader": True, "cellHeight": "sm", "frozenColumns": {"left": 1}},
        fields=Fields(
            defaults={"unit": "none", **defaults},
            custom={"minWidth": 100, "align": "auto", "wrapHeaderText": True},
            overrides=tables.TEXTS,
        ),
        size=Size(width=12, height=9),
    )


def _scatter() -> Panel:
    words = Words(
        "$metric_drawn against ${param}",
        "A point per run: the parameter to the right, the last finite value of the metric upwards. Parameters that are "
        "no numbers are not in the menu Parameter.",
    )
    return curves.points_by_run(words, Size(width=8, height=9, repeat=_PER_METRIC))
