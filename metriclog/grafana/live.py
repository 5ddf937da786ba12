"""The dashboard Live: the jobs that Prometheus scrapes, as they are at this moment. It needs no InfluxDB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from metriclog import live_queries as queries
from metriclog.grafana import links, tables, times
from metriclog.grafana.menus import (
    Json,
    Variable,
    datasource_variable,
    hidden_prometheus_variable,
    prometheus_variable,
    tucked_away,
)
from metriclog.grafana.model import (
    Dashboard,
    Data,
    Fields,
    Heading,
    Override,
    Panel,
    PromTarget,
    Section,
    Size,
    TimeRange,
    Transformation,
    Words,
)
from metriclog.grafana.variables import DATASOURCE_NAME, DATASOURCE_UID

PROMETHEUS_NAME = "metriclog-prometheus"
PROMETHEUS_UID = "metriclog-prometheus"
"""As in provisioning/grafana/datasources/prometheus.yaml."""

_NO_RUNS = (
    "No live runs here. Start a job with METRICLOG_PROMETHEUS_PORT=0 and METRICLOG_PROMETHEUS_SD_DIR, the folder that "
    "Prometheus looks into; or choose more in the menus above. Runs that are over are in the dashboard Runs."
)
_COLORS = {"finished": "blue", "killed": "orange", "failed": "red", "running": "green"}
# Prometheus scrapes each 5 s: two of them.
_INTERVAL = "10s"
_ROW = "Value #"


def live() -> Dashboard:
    """Everything a scrape shows."""
    return Dashboard(
        heading=Heading(
            links.LIVE_UID, "Live", "The jobs that run now, every few seconds, as Prometheus sees them: no InfluxDB."
        ),
        time=TimeRange("now-15m", refresh="5s"),
        variables=_variables(),
        links=[links.to_runs(), links.to_compare(), links.to_delivery()],
        panels=[_table(), *_totals()],
        sections=[
            Section("Alerts", [_alerts(), _nonfinite()]),
            Section("Metrics", [_metric()]),
            Section("Pace and delivery", [_speed(), _silence(), _pending(), _lost()]),
        ],
    )


def _variables() -> list[Variable]:
    influxdb = datasource_variable("datasource", "InfluxDB", default_name=DATASOURCE_NAME, default_uid=DATASOURCE_UID)
    prometheus = datasource_variable(
        "prometheus", "Prometheus", default_name=PROMETHEUS_NAME, default_uid=PROMETHEUS_UID, kind="prometheus"
    )
    return [
        tucked_away(prometheus),
        # Nothing here asks it; the links to the other dashboards bring it along.
        tucked_away(influxdb),
        prometheus_variable("experiment", "Experiment", queries.EXPERIMENT_MENU),
        prometheus_variable("run", "Run", queries.RUN_MENU),
        prometheus_variable("metric", "Metric", queries.METRIC_MENU),
        hidden_prometheus_variable("metric_drawn", queries.METRICS_DRAWN_MENU, queries.METRIC_IN_RESULT),
    ]


def _table() -> Panel:
    asked = {
        "status": queries.STATUS,
        "started": queries.STARTED_MS,
        "steps": queries.STEPS,
        "silence": queries.SILENCE,
        "nonfinite": queries.NONFINITE,
        "pending": queries.PENDING,
        "lost": queries.LOST,
        "processes": queries.PROCESSES,
    }
    names = {f"{_ROW}{name} (lastNotNull)": f"__{name}" for name in asked}
    steps = [
        *_rows(["run", "experiment"], asked),
        Transformation("organize", tables.ordered(["run", "experiment"], names)),
    ]
    return Panel(
        type="table",
        title="Live runs",
        description="Every run whose process lives, the newest first: what it shows to Prometheus now. A click opens "
        "it from its start on. Last log is how long ago it logged; lost are points dropped or quarantined.",
        data=Data([PromTarget(name, query) for name, query in asked.items()], steps),
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frozenColumns": {"left": 1},
            "sortBy": [{"displayName": "Age", "desc": True}],
        },
        fields=_table_fields(),
        size=Size(height=8),
    )


def _rows(keys: Sequence[str], asked: Iterable[str] = ()) -> list[Transformation]:
    """One table with a row for what has the same `keys`, out of those of all queries.

    Grouping changes no value, but an answer without rows leaves no table: only then the panel says what is missing.
    """
    by = {key: {"operation": "groupby", "aggregations": []} for key in keys}
    kept = {f"{_ROW}{name}": {"operation": "aggregate", "aggregations": ["lastNotNull"]} for name in asked}
    return [Transformation("merge", {}), Transformation("groupBy", {"fields": {**by, **kept}})]


def _table_fields() -> Fields:
    words = {str(queries.STATUS_NUMBERS[word]): {"text": word, "color": color} for word, color in _COLORS.items()}
    opened = {"links": [links.run_since_its_start().to_dict()]}
    late = {"custom.cellOptions": {"type": "color-text"}, "thresholds": tables.thresholds("text", (600, "orange"))}
    return Fields(
        defaults={"noValue": _NO_RUNS, "unit": "none"},
        custom={"minWidth": 90, "align": "auto", "filterable": True, "wrapHeaderText": True},
        overrides=[
            *tables.TEXTS,
            Override("byName", "run", {"displayName": "Run", "custom.minWidth": 200, **opened}),
            Override("byName", "experiment", {"displayName": "Experiment", "custom.minWidth": 150}),
            _column("__status", "Status", 95, tables.color_text(words)),
            _column("__started", "Age", 150, {"unit": "dateTimeFromNow"}),
            _column("__steps", "Steps", 110, {"unit": "locale"}),
            _column("__silence", "Last log", 110, {"unit": "s", "decimals": 1, **late}),
            _column("__nonfinite", "Non-finite", 110, {"unit": "locale", **tables.RED_FROM_ONE}),
            _column("__pending", "Pending", 110, {"unit": "short"}),
            _column("__lost", "Lost", 90, {"unit": "short", **tables.RED_FROM_ONE}),
            _column("__processes", "Processes", 110),
        ],
    )


def _column(name: str, title: str, width: int, more: Json | None = None) -> Override:
    return Override("byName", name, {"displayName": title, "custom.width": width, **(more or {})})


def _totals() -> list[Panel]:
    bad = tables.thresholds("green", (1, "red"))
    return [
        _total(Words("Running", "Runs that go on now."), queries.RUNNING_NOW, tables.thresholds("text")),
        _total(Words("Alerts", "Firing alerts of Prometheus' rules about these runs."), queries.ALERTS_NOW, bad),
        _total(
            Words("NaN or Inf", "Values that were NaN or infinite, of the live runs."),
            queries.total(queries.NONFINITE),
            bad,
        ),
        _total(
            Words("Steps/s", "Of all runs together, over the last minute."),
            queries.total(queries.SPEED),
            tables.thresholds("text"),
        ),
        _total(
            Words("Pending", "Points that InfluxDB does not have yet."),
            queries.total(queries.PENDING),
            tables.thresholds("text"),
        ),
        _total(Words("Lost", "Points dropped or quarantined."), queries.total(queries.LOST), bad),
    ]


def _total(words: Words, query: str, colors: Json) -> Panel:
    return Panel(
        type="stat",
        title=words.title,
        description=words.description,
        data=Data([PromTarget("total", query)]),
        options={
            "reduceOptions": {"values": False, "fields": "", "calcs": ["lastNotNull"]},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "value",
            "justifyMode": "center",
        },
        fields=Fields(
            defaults={
                "unit": "short",
                "noValue": tables.DASH,
                "color": {"mode": "thresholds"},
                "thresholds": colors,
            }
        ),
        size=Size(width=4, height=4),
    )


def _alerts() -> Panel:
    columns = ["what", "severity", "run", "metric", "experiment"]
    steps = [*_rows(columns), Transformation("organize", tables.ordered(columns))]
    opened = {"links": [links.run_named("__value.text").to_dict()], "custom.minWidth": 160}
    return Panel(
        type="table",
        title="What fires",
        description="Alerts of Prometheus' rules (Metriclog…), and what the rules in the training processes find (the "
        "others), also what is but a warning.",
        data=Data([PromTarget("alerts", queries.ALERTS), PromTarget("findings", queries.FINDINGS)], steps),
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": "severity", "desc": False}]},
        fields=Fields(
            defaults={"noValue": "Nothing fires.", "unit": "none"},
            custom={"minWidth": 80, "align": "auto", "filterable": True},
            overrides=[
                *tables.TEXTS,
                Override("byName", "what", {"displayName": "alert or rule", "custom.minWidth": 170}),
                Override("byName", "severity", {"custom.width": 110, **tables.LEVEL}),
                Override("byName", "run", opened),
            ],
        ),
        size=Size(width=12, height=8),
    )


def _nonfinite() -> Panel:
    words = Words(
        "Non-finite values by metric", "How many values of a metric were NaN or infinite since its process began."
    )
    fields = Fields({"unit": "short", "min": 0, "noValue": "None: all values are finite."})
    return _lines(words, queries.NONFINITE_BY_METRIC, "{{run}} {{metric}}", fields)


def _metric() -> Panel:
    words = Words(
        "$metric_drawn",
        f"The newest value at each scrape, over the time of day; over several ranks the mean. The first "
        f"{queries.METRICS_DRAWN} of the chosen metrics. A line that stops while its run goes on is NaN.",
    )
    target = PromTarget("values", queries.VALUES, legend="{{run}}")
    return _chart(words, target, Size(width=8, height=8, repeat="metric_drawn"), Fields())


def _speed() -> Panel:
    words = Words("Steps per second", "Over the last minute.")
    return _lines(words, queries.SPEED, "{{run}}", Fields({"unit": "none", "min": 0}))


def _silence() -> Panel:
    words = Words(
        "Time since the last log",
        "Of the runs that go on, by the clock of the job. Of several ranks the one that logged last counts.",
    )
    return _lines(words, queries.SILENCE_OF_RUNNING, "{{run}}", Fields({"unit": "s", "min": 0}))


def _pending() -> Panel:
    words = Words("Pending points", "Points in the journals that InfluxDB does not have yet.")
    return _lines(words, queries.PENDING, "{{run}}", Fields({"unit": "short", "min": 0}))


def _lost() -> Panel:
    words = Words("Lost points", "Dropped, because a disk or a journal was full, or refused by InfluxDB for good.")
    return _lines(words, queries.LOST, "{{run}}", Fields({"unit": "short", "min": 0}))


def _lines(words: Words, query: str, legend: str, fields: Fields) -> Panel:
    return _chart(words, PromTarget("by_time", query, legend), Size(width=12, height=8), fields)


def _chart(words: Words, target: PromTarget, size: Size, fields: Fields) -> Panel:
    edge = PromTarget("edge", queries.edge(target.query), legend="edge")
    unseen = Override("byName", "edge", {"custom.lineWidth": 0})
    run = [links.run_named("__field.labels.run")]
    more = Fields(fields.defaults, {"spanNulls": False}, run, [unseen])
    return times.lines(words, Data([target, edge], interval=_INTERVAL), size, more)
