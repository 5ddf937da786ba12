"""The dashboard Runs, where one begins: which runs there are, how they went, what happened, what is wrong."""

from __future__ import annotations

from metriclog import dashboard_queries as queries
from metriclog.grafana import links, tables, variables
from metriclog.grafana.model import Dashboard, Data, Fields, Heading, Panel, Size, Target, TimeRange

_RECENT_EVENTS = 100


def runs() -> Dashboard:
    return Dashboard(
        heading=Heading(
            links.RUNS_UID,
            "Runs",
            "All runs with their state, final and best metrics and parameters; what happened lately; firing alerts.",
        ),
        # Wide, because a run older than the range is in no menu, and a wide range does not squeeze a table.
        time=TimeRange("now-90d", refresh="1m"),
        variables=variables.of_runs(),
        links=[links.to_compare(), links.to_delivery(), links.to_live()],
        panels=[_table(), _events(), _alerts()],
    )


def _table() -> Panel:
    targets = [
        *tables.state_targets("run"),
        Target("last", queries.last_values("run", "metric_listed")),
        Target("best", queries.BEST_VALUES),
        Target("numbers", queries.param_values("number", "run")),
        Target("texts", queries.param_values("text", "run")),
    ]
    steps = [
        *tables.state_rows(),
        *tables.metric_columns(),
        *tables.param_columns(),
        *tables.joined(),
    ]
    return tables.runs_panel(
        "Runs",
        "Every run that the menus choose, the newest first: its state, the last and the best value of the first "
        f"{queries.METRICS_LISTED} chosen metrics, its parameters. A click opens the run in exactly the time it ran. "
        "Status killed? is a run that says running but has given no sign of life for a minute; the menu Status still "
        "counts it as running. Non-finite counts the values that were NaN or infinite.",
        Data(targets, steps),
        height=14,
    )


def _events() -> Panel:
    return tables.events_panel(
        "Recent events",
        "What happened in these runs, the newest first: start, resume and finish, checkpoints, non-finite values, "
        "divergence, notes.",
        _RECENT_EVENTS,
        Size(width=16, height=9),
    )


def _alerts() -> Panel:
    shown = {"firing": True, "pending": True, "error": True, "noData": False, "normal": False, "recovering": True}
    return Panel(
        type="alertlist",
        title="Firing alerts",
        description="The alerts about training and delivery that are pending or firing now, one row a run.",
        data=Data(),
        options={
            "viewMode": "list",
            "groupMode": "default",
            "maxItems": 20,
            "sortOrder": 3,
            "dashboardAlerts": False,
            "alertInstanceLabelFilter": '{component=~"training|delivery"}',
            "stateFilter": shown,
            "showInstances": True,
        },
        fields=Fields(defaults={"unit": "none"}),
        size=Size(width=8, height=9),
    )
