"""The dashboard Delivery: how metriclog itself is doing, over all processes of all runs."""

from __future__ import annotations

from metriclog import dashboard_queries as queries
from metriclog.grafana import links, tables, times, variables
from metriclog.grafana.menus import Json
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
from metriclog.grafana.tables import thresholds

_PROCESS = "$tag_run $tag_host $tag_rank"
# Every process reports each 15 s.
_INTERVAL = "30s"
_NO_REPORTS = (
    "No reports here. Widen the time range or choose more in the menus above. Each process that logs while "
    "METRICLOG_URL is set reports every 15 s."
)


def delivery() -> Dashboard:
    return Dashboard(
        heading=Heading(links.DELIVERY_UID, "Delivery", "How the points get to the server, for all processes."),
        time=TimeRange("now-6h", refresh="30s"),
        variables=variables.of_delivery(),
        links=[links.to_runs(), links.to_compare(), links.to_live()],
        panels=[_processes(), *_totals()],
        sections=[
            Section("Over time", [_pending(), _lag(), _delivered(), _retries(), _lost(), _heartbeats()]),
        ],
    )


def _processes() -> Panel:
    columns = ["run", "experiment", "host", "rank", "Time", "pending", "bytes", "lag"]
    targets = [Target("report", queries.DELIVERY_REPORT), Target("state", queries.DELIVERY_STATE)]
    steps = [
        tables.without_time("state"),
        # By what both have: experiment, run, host and rank.
        Transformation("merge", {}),
        Transformation("organize", tables.ordered(columns)),
    ]
    return Panel(
        type="table",
        title="Processes",
        description="What each process that logs last reported: points and bytes that wait in its journal, how old the "
        "newest delivered point was while some wait, and since its start: points delivered, posts tried again, points "
        "refused for good (quarantined) and given up (dropped).",
        data=Data(targets, steps),
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frozenColumns": {"left": 1},
            "sortBy": [{"displayName": "last report", "desc": True}],
            "enablePagination": True,
        },
        fields=_process_fields(),
        size=Size(height=9),
    )


def _process_fields() -> Fields:
    open_run = {"links": [links.run_named("__value.text").to_dict()], "custom.width": 220}
    return Fields(
        defaults={"noValue": _NO_REPORTS, "unit": "none"},
        custom={"minWidth": 90, "align": "auto", "filterable": True, "wrapHeaderText": True},
        overrides=[
            *tables.TEXTS,
            Override("byName", "run", open_run),
            Override("byName", "experiment", {"custom.width": 150}),
            Override("byName", "Time", {"displayName": "last report", "unit": "dateTimeFromNow", "custom.width": 140}),
            Override("byName", "pending", {"displayName": "pending points", "unit": "short"}),
            Override("byName", "bytes", {"displayName": "pending bytes", "unit": "bytes"}),
            Override("byName", "lag", {"unit": "s", "decimals": 1}),
            Override("byName", "delivered", {"unit": "short"}),
            *(
                Override("byName", name, {"custom.width": 125, **tables.RED_FROM_ONE})
                for name in ("quarantined", "dropped")
            ),
        ],
    )


def _totals() -> list[Panel]:
    none, lost = thresholds("text"), thresholds("green", (1, "red"))
    late = thresholds("green", (30, "orange"), (300, "red"))
    return [
        _total(Words("Pending", "Points that wait in the journals."), "pending_points", none),
        _total(Words("Longest lag", "The oldest of the newest delivered points where some wait."), "lag_s", late),
        _total(Words("Delivered", "Points that the server has taken."), "delivered", none),
        _total(Words("Tried again", "Posts that had to be sent once more."), "retried", none),
        _total(Words("Quarantined", "Points that the server refused for good."), "quarantined", lost),
        _total(Words("Dropped", "Points given up because their disk or journal was full."), "dropped", lost),
    ]


def _total(words: Words, field: str, colors: Json) -> Panel:
    is_lag = field == "lag_s"
    return Panel(
        type="stat",
        title=words.title,
        description=words.description,
        data=Data([Target("total", queries.delivery_total(field, "max" if is_lag else "sum"))]),
        options={
            "reduceOptions": {"values": False, "fields": f"/^{field}$/", "calcs": ["lastNotNull"]},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "value",
            "justifyMode": "center",
        },
        fields=Fields(
            defaults={
                "unit": "s" if is_lag else "short",
                "noValue": tables.DASH,
                "color": {"mode": "thresholds"},
                "thresholds": colors,
            }
        ),
        size=Size(width=4, height=4),
    )


def _pending() -> Panel:
    return _by_time(
        "Pending points", "Points in the journal of each process.", "short", queries.delivery_by_time("pending_points")
    )


def _lag() -> Panel:
    return _by_time(
        "Lag", "How old the newest delivered point is while some wait.", "s", queries.delivery_by_time("lag_s")
    )


def _delivered() -> Panel:
    query = queries.delivery_growth("delivered", 'non_negative_derivative("count", 1s)')
    return _by_time("Delivered points per second", "Points that the server took, a second.", "short", query)


def _retries() -> Panel:
    query = queries.delivery_growth("retried", 'non_negative_difference("count")')
    return _by_time("Posts tried again", "How many more in each interval.", "short", query)


def _lost() -> Panel:
    return _by_time(
        "Quarantined and dropped points",
        "Refused for good by the server, or given up because disk or journal was full, since each process began.",
        "short",
        queries.DELIVERY_LOST,
    )


def _by_time(title: str, description: str, unit: str, query: str) -> Panel:
    fields = Fields({"unit": unit, "min": 0}, {"spanNulls": False}, [links.run_named("__field.labels.run")])
    data = Data([Target("by_time", query, alias=_PROCESS), times.edge(queries.DELIVERY_EDGE)], interval=_INTERVAL)
    return times.lines(Words(title, description), data, Size(width=12, height=8), fields)


def _heartbeats() -> Panel:
    title = f"Heartbeats of the newest {queries.RUNS_DRAWN} runs"
    # More rows than these would lie on each other.
    return times.states(title, "run_drawn", Size(width=12, height=8), perPage=8)
