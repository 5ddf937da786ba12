"""Charts over steps: panels of Grafana's type `trend`, whose x axis is the step or the time since the run began.

Each asks for an `edge` too: the highest x, and beside it an axis without labels that makes room for the last label of
the x axis. Without it that label is cut, a chart without data is an error, and a join may have but one table, which it
neither sorts nor rids of the older one of two rows with the same x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metriclog import dashboard_queries as queries
from metriclog.grafana import links
from metriclog.grafana.menus import Json
from metriclog.grafana.model import Data, Fields, Override, Panel, Size, Target, Transformation, Words
from metriclog.grafana.tables import ordered, rename, without_time

_LINE = {"drawStyle": "line", "lineWidth": 1, "showPoints": "auto", "pointSize": 4, "spanNulls": True, "fillOpacity": 0}
_LINEAR = {"type": "linear"}
_LOGARITHMIC = {"type": "log", "log": 10}
_X_AXIS = Override(
    "byName",
    "x",
    {
        "displayName": "${x:text}",
        "custom.axisLabel": "${x:text}",
        "custom.scaleDistribution": _LINEAR,  # a logarithmic default is meant for y alone
        "unit": "locale",
        "links": [],
    },
)
_EDGE = Override(
    "byName",
    "edge",
    {
        "custom.axisPlacement": "right",
        "custom.axisWidth": 36,
        "custom.axisGridShow": False,
        "custom.showPoints": "never",
        "custom.hideFrom": {"legend": True, "tooltip": True, "viz": False},
        "custom.scaleDistribution": _LINEAR,
        "min": 0,
        "max": 1,
        "mappings": [{"type": "range", "options": {"from": -1, "to": 2, "result": {"text": " ", "index": 0}}}],
        "links": [],
    },
)
# A scale of their own, so that they stand at the bottom edge whatever the values are.
_NONFINITE = Override(
    "byName",
    "nonfinite",
    {
        "displayName": "NaN or infinite",
        "custom.drawStyle": "points",
        "custom.showPoints": "always",
        "custom.pointSize": 9,
        "color": {"mode": "fixed", "fixedColor": "red"},
        "min": -0.04,
        "max": 1,
        "custom.axisPlacement": "hidden",
        "custom.scaleDistribution": _LINEAR,
        "mappings": [{"type": "value", "options": {"0": {"text": "here", "index": 0}}}],
        "links": [],
    },
)
# The space sorts it before the name of any run.
_SMOOTH = " smooth"
_ON_X = Transformation("joinByField", {"byField": "x", "mode": "outer"})


def _panel(words: Words, data: Data, size: Size, fields: Fields) -> Panel:
    """No xField: the first number is x, and an override's display name would hide a field from a search by name."""
    options: Json = {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc", "maxHeight": 400},
    }
    return Panel("trend", words.title, words.description, data, options, fields, size)


def _fields(overrides: Sequence[Override], *, logarithmic: bool = False) -> Fields:
    return Fields(
        # By index, not by name: by name many runs share a colour, above all on a light page.
        defaults={"color": {"mode": "palette-classic"}, "unit": "none"},
        custom={**_LINE, "scaleDistribution": _LOGARITHMIC if logarithmic else _LINEAR},
        overrides=[_X_AXIS, *overrides, _EDGE],
    )


def by_metric(words: Words, query: str, size: Size, marks: str | None = None) -> Panel:
    """Some metrics of one run: a line a metric, and with the query `marks` a dot where a value was not finite."""
    targets = [Target("curves", query)]
    targets += [] if marks is None else [Target("marks", marks)]
    targets += [Target("edge", queries.EDGE_OF_RUN)]
    return _panel(words, Data(targets, [*_lines("metric"), _ON_X]), size, _fields([*of_splits(), _NONFINITE]))


def ranks_apart(words: Words, size: Size) -> Panel:
    """One metric of one run: a line a rank."""
    targets = [Target("curves", queries.RANKS_APART), Target("edge", queries.EDGE_OF_METRIC)]
    steps = [*_lines("rank"), rename(r"(\d+)", "rank $1"), _ON_X]
    return _panel(words, Data(targets, steps), size, _fields([]))


def points_by_run(words: Words, size: Size) -> Panel:
    """A parameter against the final value of a metric: each run is a line of one point, with its name and colour."""
    steps = [
        without_time(),
        Transformation("joinByField", {"byField": "run", "mode": "inner"}),
        *_columns("run", "param"),
        Transformation("sortBy", {"sort": [{"field": "param"}]}),
    ]
    targets = [Target("param", queries.PARAM_BY_RUN), Target("final", queries.FINAL_BY_RUN)]
    axis = {"displayName": "${param:text}", "custom.axisLabel": "${param:text}", "unit": "string"}
    dots = {"drawStyle": "points", "showPoints": "always", "pointSize": 9, "scaleDistribution": _LINEAR}
    fields = Fields(
        defaults={"color": {"mode": "palette-classic"}, "unit": "none"},
        custom=dots,
        links=[links.run_named("__field.name")],
        overrides=[Override("byName", "param", {**axis, "links": []})],
    )
    return _panel(words, Data(targets, steps), size, fields)


def _lines(column: str) -> list[Transformation]:
    """From the rows of the query `curves` to the column x and a column for each name in `column`."""
    return [without_time(), *_columns(column, "x", "curves")]


def _columns(column: str, row: str, only: str | None = None) -> list[Transformation]:
    """From rows (row, value and a name in `column`) to `row` and a column for each name. Each step is needed."""
    times_one = {"left": {"matcher": {"id": "byName", "options": "value"}}, "operator": "*", "right": {"fixed": "1"}}
    shape = {"columnField": column, "rowField": row, "valueField": "value * 1", "emptyValue": "null"}
    return [
        # A copy of value without the name the data source gave it; else every line is called "value".
        Transformation("calculateField", {"mode": "binary", "timeSeries": False, "binary": times_one}, only),
        # Of rows with the same x the last one wins: a resumed run shows its newest values.
        Transformation("groupingToMatrix", shape, only),
        # The matrix may call its key column `x\\run`.
        rename(rf"^(.*)\\{column}$", "$1"),
    ]


def of_splits() -> list[Override]:
    """Validation orange, training blue, so that the gap between the two is seen at once."""
    validation: Json = {"custom.lineWidth": 2, "color": {"mode": "fixed", "fixedColor": "orange"}}
    training: Json = {"color": {"mode": "fixed", "fixedColor": "blue"}}
    return [
        Override("byRegexp", queries.TRAINING_NAME, training),
        Override("byRegexp", queries.VALIDATION_NAME, validation),
    ]


def smoothed(words: Words, size: Size, *, logarithmic: bool = False) -> Panel:
    """All runs on one chart: the smoothed line of each, and the raw one faint behind it."""
    window = {"field": "value", "reducer": "mean", "windowAlignment": "centered", "windowSizeMode": "percentage"}
    smooth = {"mode": "windowFunctions", "alias": _SMOOTH, "timeSeries": False}
    by_run = {"fields": ["run"], "keepFields": False, "naming": {"asLabels": False}}
    by_name = {"orderByMode": "auto", "orderBy": [{"type": "name", "desc": True}]}
    steps = [
        without_time(),
        Transformation("partitionByValues", by_run, "curves"),
        Transformation("calculateField", {**smooth, "window": {**window, "windowSize": "${smooth:raw}"}}, "/^curves/"),
        # The join also gives each line the name of its run, as a label.
        _ON_X,
        # The smooth lines come last and lie on top: the raw ones of twenty runs are a cloud.
        Transformation("organize", {**by_name, **ordered([])}),
        Transformation("organize", ordered(["x"])),
    ]
    # The edge first: the x that a join keeps is that of its first table, and those of the parts have longer names.
    targets = [Target("edge", queries.EDGE_OF_METRIC_BY_RUN), Target("curves", queries.CURVES_BY_RUN)]
    fields = _fields(_raw_and_smooth(), logarithmic=logarithmic)
    return _panel(words, Data(targets, steps), size, fields)


def _raw_and_smooth() -> list[Override]:
    name = "${__field.labels.name}"
    faint = {"mode": "fixed", "fixedColor": "rgba(140,140,150,0.3)"}
    unnamed = {"legend": True, "tooltip": True, "viz": False}
    link = links.run_named("__field.labels.name").to_dict()
    return [
        Override("byName", "value", {"displayName": name, "custom.hideFrom": unnamed, "color": faint}),
        Override("byName", _SMOOTH, {"displayName": name, "custom.lineWidth": 2, "links": [link]}),
    ]


def band(words: Words, size: Size) -> Panel:
    """One metric of one run: the mean of each bucket of steps in its lowest and highest value."""
    targets = [
        Target("curve", queries.METRIC_CURVE),
        Target("band", queries.METRIC_BAND),
        Target("marks", queries.METRIC_MARKS),
        Target("edge", queries.EDGE_OF_METRIC),
    ]
    fields = _fields([*_band_overrides("blue", "rgba(87,148,242,0.55)"), _NONFINITE])
    return _panel(words, Data(targets, [without_time(), _ON_X]), size, fields)


def spread_of_ranks(words: Words, size: Size) -> Panel:
    """One metric of one run: the mean over the ranks at each x, in their lowest and highest value."""
    kept = {"operation": "aggregate", "aggregations": ["min", "max", "mean"]}
    names = {f"value ({name})": name for name in ("min", "max", "mean")}
    steps = [
        without_time(),
        Transformation(
            "groupBy", {"fields": {"x": {"operation": "groupby", "aggregations": []}, "value": kept}}, "ranks"
        ),
        Transformation("organize", ordered([], names), "ranks"),
        _ON_X,
    ]
    targets = [Target("ranks", queries.RANKS_TOGETHER), Target("edge", queries.EDGE_OF_METRIC)]
    return _panel(words, Data(targets, steps), size, _fields(_band_overrides("purple", "rgba(184,119,217,0.55)")))


def _band_overrides(color: str, edge: str) -> list[Override]:
    """The edges are thin lines, not mere areas: of a spike in one step an area shows nothing."""
    line: dict[str, Any] = {
        "custom.lineWidth": 1,
        "color": {"mode": "fixed", "fixedColor": edge},
        "custom.showPoints": "never",
    }
    unlisted = {"custom.hideFrom": {"legend": True, "tooltip": False, "viz": False}}
    fill = {"custom.fillBelowTo": "min", "custom.fillOpacity": 25}
    mean: Mapping[str, Any] = {"custom.lineWidth": 2, "color": {"mode": "fixed", "fixedColor": color}}
    return [
        Override("byName", "max", {**line, **unlisted, **fill}),
        Override("byName", "min", {**line, **unlisted}),
        Override("byName", "mean", mean),
    ]
