"""Charts over the time of day: lines, and the states that runs were in."""

from __future__ import annotations

from metriclog import dashboard_queries as queries
from metriclog.grafana import tables
from metriclog.grafana.model import EDGE, Data, Fields, Panel, Size, Target, Words


def edge(query: str) -> Target:
    """An unseen point, whose axis without labels makes room for the last label of the time axis; else that is cut.

    `query` must have no row where there is nothing to show, or the panel could not say so.
    """
    return Target(EDGE.argument, query, alias=EDGE.argument)


def lines(words: Words, data: Data, size: Size, fields: Fields) -> Panel:
    """A line a series. `fields` are added to what all these charts have in common."""
    common = {"unit": "none", "noValue": "Nothing in this time range.", "color": {"mode": "palette-classic"}}
    look = {"drawStyle": "line", "lineWidth": 1, "showPoints": "auto", "pointSize": 4, "spanNulls": True}
    return Panel(
        type="timeseries",
        title=words.title,
        description=words.description,
        data=data,
        options={
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        fields=Fields(
            {**common, **fields.defaults}, {**look, **fields.custom}, fields.links, [*fields.overrides, EDGE]
        ),
        size=size,
    )


def states(title: str, run: str, size: Size, **options: int) -> Panel:
    """What each run in the variable `run` said of itself at its heartbeats; `options` are the panel's own."""
    return Panel(
        type="state-timeline",
        title=title,
        description="What a run said about itself at each heartbeat. A hole is a time without a sign of life.",
        # Heartbeats come every 15 s: in a shorter interval a hole would be no news.
        data=Data([Target("status", queries.status_by_time(run), alias="$tag_run")], interval="1m"),
        options={
            "showValue": "auto",
            "rowHeight": 0.8,
            "mergeValues": True,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "single"},
            **options,
        },
        fields=Fields(
            defaults={
                "unit": "none",
                "noValue": "No sign of life in this time range.",
                "mappings": tables.STATUS["mappings"],
                "color": {"mode": "thresholds"},
            },
            custom={"lineWidth": 0, "fillOpacity": 70},
        ),
        size=size,
    )
