"""Charts over steps: panels of Grafana's type `trend`, whose x axis is the step or the time since the run began.

Each asks for an `edge` too: the highest x, and beside it an axis without labels that makes room for the last label of
the x axis. Without it that label is cut, a chart without data is an error, and a join may have but one table, which it
neither sorts nor rids of the older one of two rows with the same x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metriclog import dashboard_queries as queries
from metriclog.grafana import links
from metriclog.grafana.menus import Json
from metriclog.grafana.model import EDGE, Data, Fields, Override, Panel, Size, Target, Transformation, Words
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
_VALUE, _SMOOTH = "value (last)", "smooth"
_ON_X = Transformation("joinByField", {"byField": "x", "mode": "outer"})
_EDGE_OF_RUN = Target("edge", queries.EDGE_OF_RUN)


def _panel(words: Words, data: Data, size: Size, fields: Fields, legend: str | None = "bottom") -> Panel:
    """No xField: the first number is x, and an override's display name would hide a field from a search by name."""
    place = {"showLegend": legend is not None, "placement": legend or "bottom"}
    options: Json = {
        "legend": {**place, "displayMode": "list", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc", "maxHeight": 400},
    }
    return Panel("trend", words.title, words.description, data, options, fields, size)


def _fields(overrides: Sequence[Override], *, logarithmic: bool = False) -> Fields:
    # On a logarithmic axis Grafana rounds every label to the decimals of the highest one: 0.02 would be 0.
    unit = {"unit": "sci", "decimals": 2} if logarithmic else {"unit": "none"}
    return Fields(
        # By index, not by name: by name many runs share a colour, above all on a light page.
        defaults={"color": {"mode": "palette-classic"}, **unit},
        custom={**_LINE, "scaleDistribution": _LOGARITHMIC if logarithmic else _LINEAR},
        overrides=[_X_AXIS, *overrides, EDGE],
    )


@dataclass(frozen=True)
class Absence:
    """What a chart says in place of its legend where it has nothing to show: `query` has a row only there."""

    query: str
    words: str

    @property
    def target(self) -> Target:
        return Target("absent", self.query)

    @property
    def override(self) -> Override:
        """A point that is not drawn, on a scale of its own."""
        unseen = {"custom.showPoints": "never", "custom.lineWidth": 0, "custom.axisPlacement": "hidden", "max": 1}
        silent = {"custom.hideFrom": {"legend": False, "tooltip": True, "viz": False}, "links": []}
        grey = {"color": {"mode": "fixed", "fixedColor": "transparent"}}
        return Override("byName", "absent", {"displayName": self.words, **unseen, **silent, **grey})


def of_quantity(words: Words, size: Size) -> Panel:
    """One quantity of one run, on all splits: a line a metric, and a dot where a value was not finite."""
    targets = [Target("curves", queries.QUANTITY_CURVES), Target("marks", queries.QUANTITY_MARKS), _EDGE_OF_RUN]
    return _panel(words, Data(targets, [*_lines("metric"), _ON_X]), size, _fields([*of_splits(), _NONFINITE]))


def by_metric(words: Words, query: str, size: Size, absence: Absence) -> Panel:
    """Some metrics of one run: a line a metric."""
    targets = [Target("curves", query), absence.target, _EDGE_OF_RUN]
    return _panel(words, Data(targets, [*_lines("metric"), _ON_X]), size, _fields([absence.override]))


def ranks_apart(words: Words, size: Size, absence: Absence) -> Panel:
    """One metric of one run: a line a rank."""
    targets = [Target("curves", queries.RANKS_APART), absence.target, _EDGE_OF_RUN]
    steps = [*_lines("rank"), rename(r"(\d+)", "rank $1"), _ON_X]
    return _panel(words, Data(targets, steps), size, _fields([absence.override]))


def points_by_run(words: Words, size: Size) -> Panel:
    """A parameter against the final value of a metric: each run is a line of one point, with its name."""
    steps = [
        without_time(),
        Transformation("joinByField", {"byField": "run", "mode": "inner"}, "/^(param|final)$/"),
        *_columns("run", "param", "joinByField-param-final"),
        Transformation("joinByField", {"byField": "param", "mode": "outer"}),
    ]
    targets = [
        Target("param", queries.PARAM_BY_RUN),
        Target("final", queries.FINAL_BY_RUN),
        Target("edge", queries.EDGE_OF_PARAM),
    ]
    axis = {"displayName": "${param:text}", "custom.axisLabel": "${param:text}", "unit": "string"}
    dots = {"drawStyle": "points", "showPoints": "always", "pointSize": 9, "scaleDistribution": _LINEAR}
    fields = Fields(
        # One colour for all: those of the curves count their raw lines too, so that these could not agree with them.
        defaults={"color": {"mode": "fixed", "fixedColor": "blue"}, "unit": "none"},
        custom=dots,
        links=[links.run_named("__field.name")],
        overrides=[Override("byName", "param", {**axis, "links": []}), EDGE],
    )
    return _panel(words, Data(targets, steps), size, fields, legend=None)


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


def smoothed(words: Words, size: Size, metric: str, *, logarithmic: bool = False, legend: str | None = None) -> Panel:
    """A metric of all runs on one chart: the smoothed line of each, and the raw one faint behind it.

    `metric` is the name of a variable. The colours go by the order of the runs: they agree between charts that have
    the same runs.
    """
    window = {"field": _VALUE, "reducer": "mean", "windowAlignment": "centered", "windowSizeMode": "percentage"}
    smooth = {"mode": "windowFunctions", "alias": _SMOOTH, "timeSeries": False}
    by_run = {"fields": ["run"], "keepFields": False, "naming": {"asLabels": False}}
    by_name = [{"type": "name", "desc": True}, {"type": "label", "name": "name", "desc": False}]
    key = {"operation": "groupby", "aggregations": []}
    newest = {"operation": "aggregate", "aggregations": ["last"]}
    steps = [
        without_time(),
        # Rows come by time. A window over those of a resumed run would hold what its second attempt replaced, and
        # where the steps go back, the end of one attempt and the beginning of the other.
        Transformation("groupBy", {"fields": {"run": key, "x": key, "value": newest}}, "curves"),
        Transformation("sortBy", {"sort": [{"field": "x"}]}, "curves"),
        Transformation("partitionByValues", by_run, "curves"),
        Transformation("calculateField", {**smooth, "window": {**window, "windowSize": "${smooth:raw}"}}, "/^curves/"),
        # The join also gives each line the name of its run, as a label.
        _ON_X,
        # The smooth lines come last and lie on top: the raw ones of twenty runs are a cloud.
        Transformation("organize", {"orderByMode": "auto", "orderBy": by_name, **ordered([])}),
        Transformation("organize", ordered(["x"])),
    ]
    # The edge first: the x that a join keeps is that of its first table, and those of the parts have longer names.
    targets = [Target("edge", queries.edge_of_runs(metric)), Target("curves", queries.curves_by_run(metric))]
    fields = _fields(_raw_and_smooth(), logarithmic=logarithmic)
    return _panel(words, Data(targets, steps), size, fields, legend)


def _raw_and_smooth() -> list[Override]:
    name = "${__field.labels.name}"
    faint = {"mode": "fixed", "fixedColor": "rgba(140,140,150,0.3)"}
    unnamed = {"legend": True, "tooltip": True, "viz": False}
    link = links.run_named("__field.labels.name").to_dict()
    return [
        Override("byName", _VALUE, {"displayName": name, "custom.hideFrom": unnamed, "color": faint}),
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


def spread_of_ranks(words: Words, size: Size, absence: Absence) -> Panel:
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
    targets = [Target("ranks", queries.RANKS_TOGETHER), absence.target, _EDGE_OF_RUN]
    overrides = [*_band_overrides("purple", "rgba(184,119,217,0.55)"), absence.override]
    return _panel(words, Data(targets, steps), size, _fields(overrides))


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
