"""Tables: of runs with their state, parameters and metrics, and of events. One row a run, whatever it consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metriclog import dashboard_queries as queries
from metriclog.grafana import links
from metriclog.grafana.menus import Json
from metriclog.grafana.model import Data, Fields, Override, Panel, Size, Target, Transformation

NO_RUNS = (
    "No runs here. Widen the time range or choose more in the menus above. Or log a first run: set METRICLOG_URL and "
    'METRICLOG_TOKEN, then metriclog.init("my-experiment").log({"loss": 0.5}, step=1)'
)
DASH = "–"
_STATUS_COLORS = {"running": "green", "finished": "blue", "failed": "red", "killed": "orange"}
_SILENT = {"0": {"text": "killed?", "color": "orange", "index": len(_STATUS_COLORS)}}
_LEVEL_COLORS = {"info": "text", "warning": "orange", "error": "red", "critical": "red"}
TEXTS = (
    Override("byRegexp", "/.*/", {"noValue": DASH}),
    # With a number's unit a text like 1e5 would be shown as 100000.
    Override("byType", "string", {"unit": "string"}),
)
"""Overrides of every table: first of all others."""

_STATE = "/^(state|silent|merge-state-silent)$/"
# The matrix forgets from which query its table came.
_FROM_MATRIX = "/^$/"
# A lower table scrolls: pages of three rows are no help.
_A_FEW_ROWS = 10
_COLUMNS = ("__run", "__experiment", "__status", "__started", "__duration", "__steps", "__nonfinite", "__to")


def color_text(mappings: Mapping[str, Json]) -> Json:
    """Properties for a column whose words have colors."""
    return {"custom.cellOptions": {"type": "color-text"}, "mappings": [{"type": "value", "options": mappings}]}


def _colors(colors: Mapping[str, str]) -> dict[str, Json]:
    return {word: {"color": color, "index": index} for index, (word, color) in enumerate(colors.items())}


def thresholds(color: str, *steps: tuple[float, str]) -> Json:
    """A color, and others from some values on."""
    higher = [{"color": above, "value": value} for value, above in steps]
    return {"mode": "absolute", "steps": [{"color": color, "value": None}, *higher]}


RED_FROM_ONE: Json = {
    "custom.cellOptions": {"type": "color-text"},
    "thresholds": thresholds("text", (1, "red")),
}
"""Properties for a column of numbers that should all be 0."""

STATUS = color_text({**_colors(_STATUS_COLORS), **_SILENT})
LEVEL = color_text(_colors(_LEVEL_COLORS))


def without_time(only: str | None = None) -> Transformation:
    """Drops the column Time, which a join would double."""
    return Transformation("organize", {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}, only)


def rename(pattern: str, to: str, only: str | None = None) -> Transformation:
    """Renames the columns that a regular expression of JavaScript's matches."""
    return Transformation("renameByRegex", {"regex": pattern, "renamePattern": to}, only)


def ordered(columns: Sequence[str], renamed: Mapping[str, str] | None = None, hidden: Sequence[str] = ()) -> Json:
    """Options of `organize`: these columns first, the others after them as they come."""
    places = {name: place for place, name in enumerate(columns)}
    return {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": places,
        "renameByName": dict(renamed or {}),
    }


def matrix(
    only: str | None, row: str, column: str, value: str, of_several: str = "lastNotNull"
) -> list[Transformation]:
    """From rows (row, column, value) of one query to `__row` and one column for each name in `column`.

    `of_several` reduces the values of several rows to one.
    """
    by = {"operation": "groupby", "aggregations": []}
    kept = {"operation": "aggregate", "aggregations": [of_several]}
    key = f"__{row}"
    shape = {"rowField": key, "columnField": column, "valueField": f"{value} ({of_several})", "emptyValue": "null"}
    return [
        # Also where there is nothing to group, to shed the name that the data source gave: every column would carry it.
        Transformation("groupBy", {"fields": {row: by, column: by, value: kept}}, only),
        rename(row, key, only),
        Transformation("groupingToMatrix", shape, only),
    ]


def state_targets(run: str) -> list[Target]:
    """What a table of runs asks for itself; `run` is the variable with the runs."""
    return [
        Target("state", queries.run_states(run)),
        Target("silent", queries.silent_runs(run)),
        Target("nonfinite", queries.nonfinite_counts(run)),
    ]


def state_rows() -> list[Transformation]:
    """The state of a run in one row, however it was found; its own columns begin with `__`."""
    return [
        without_time(),
        Transformation("merge", {}, _STATE),
        rename("(run|experiment)", "__$1", "/^(state|silent|merge-state-silent|nonfinite)$/"),
    ]


def metric_columns() -> list[Transformation]:
    """A column for the last and one for the best value of each metric, out of the queries `last` and `best`.

    The suffixes keep them apart from each other and from a parameter of the same name.
    """
    best = "${best:text}"
    return [
        *matrix("best", "run", "metric", "best", "${best:raw}"),
        rename("(?!__run$)(.+)", f"$1 · {best}", _FROM_MATRIX),
        *matrix("last", "run", "metric", "last"),
        rename(f"(?!__run$)(?!.* · {best}$)(.+)", "$1 · last", _FROM_MATRIX),
        _side_by_side(_FROM_MATRIX),
    ]


def param_columns() -> list[Transformation]:
    """A column for each parameter, out of the queries `texts` and `numbers`; to the right of the metrics."""
    return [
        *matrix("numbers", "run", "param", "number"),
        # By the names that they have: of one that a metric has too, joining would make "lr 3".
        rename("(?!__run$)(.+)", "$1", _FROM_MATRIX),
        *matrix("texts", "run", "param", "text"),
        # Changes nothing but the order: what a transformation was meant for comes before what it was not.
        rename("__run", "__run", "/^joinByField/"),
    ]


def joined() -> list[Transformation]:
    """All tables side by side, a run a row; first what is known of the run itself."""
    return [_side_by_side(), Transformation("organize", ordered(_COLUMNS))]


def _side_by_side(only: str | None = None) -> Transformation:
    """Plain `outer` would sort the runs as numbers."""
    return Transformation("joinByField", {"byField": "__run", "mode": "outerTabular"}, only)


def runs_panel(title: str, description: str, data: Data, height: int, *, newest_first: bool = True) -> Panel:
    """A table of runs. Each row opens its run in its own time range."""
    return Panel(
        type="table",
        title=title,
        description=description,
        data=data,
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frozenColumns": {"left": 1},
            "sortBy": [{"displayName": "Age", "desc": newest_first}],
            "enablePagination": height > _A_FEW_ROWS,
        },
        fields=run_fields(),
        size=Size(height=height),
    )


def run_fields() -> Fields:
    return Fields(
        # This noValue is the text of the empty table, and of every empty cell without the first override.
        defaults={"noValue": NO_RUNS, "unit": "none"},
        custom={"minWidth": 140, "align": "auto", "wrapHeaderText": True, "filterable": True},
        overrides=[
            *TEXTS,
            _column("__run", "Run", 220, {"links": [links.run_in_its_time().to_dict()]}),
            _column("__experiment", "Experiment", 150),
            _column("__status", "Status", 95, STATUS),
            _column("__started", "Age", 145, {"unit": "dateTimeFromNow"}),
            _column("__duration", "Duration", 110, {"unit": "s", "decimals": 1}),
            _column("__steps", "Steps", 110, {"unit": "locale"}),
            _column("__nonfinite", "Non-finite", 115, {"noValue": "0", **RED_FROM_ONE}),
            Override("byName", "__to", {"custom.hideFrom.viz": True}),
        ],
    )


def _column(name: str, title: str, width: int, more: Mapping[str, Any] | None = None) -> Override:
    return Override("byName", name, {"displayName": title, "custom.width": width, **(more or {})})


def events_panel(title: str, description: str, limit: int, size: Size, hidden: Sequence[str] = ()) -> Panel:
    """A table of the newest events, without the columns `hidden`."""
    run = {"links": [links.run_named("__value.text").to_dict()]}
    return Panel(
        type="table",
        title=title,
        description=description,
        data=Data(
            [Target("events", queries.newest_events(limit))], [Transformation("organize", ordered([], hidden=hidden))]
        ),
        options={"showHeader": True, "cellHeight": "sm", "sortBy": []},
        fields=Fields(
            defaults={"noValue": "No events in this time range.", "unit": "none"},
            custom={"minWidth": 80, "align": "auto", "filterable": True},
            overrides=[
                *TEXTS,
                _column("Time", "time", 160, {"unit": "dateTimeAsIso"}),
                _column("kind", "kind", 100),
                _column("run", "run", 170, run),
                _column("step", "step", 90, {"unit": "locale"}),
                _column("metric", "metric", 110),
                _column("level", "level", 80, LEVEL),
                Override("byName", "title", {"custom.minWidth": 180}),
            ],
        ),
        size=size,
    )
