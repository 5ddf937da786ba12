"""The dashboards taken apart for tests: their panels, also those that are folded away, and every query text in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from metriclog.grafana.dashboards import all_dashboards

Json = dict[str, Any]

EVERY: dict[str, Json] = {name: made.to_dict() for name, made in all_dashboards().items()}
LIVE = EVERY["metriclog/live.json"]
"""The one that asks Prometheus."""
DASHBOARDS: dict[str, Json] = {name: made for name, made in EVERY.items() if made is not LIVE}
"""Those that ask InfluxDB."""


def panels_of(dashboard: Json) -> Iterator[Json]:
    """Every panel that shows something, in the order of the page."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def panel_of(name: str, title: str) -> Json:
    """The panel with this title."""
    return next(panel for panel in panels_of(EVERY[f"metriclog/{name}.json"]) if panel["title"] == title)


def variables_of(name: str) -> dict[str, Json]:
    """The variables of a dashboard by their names."""
    return {variable["name"]: variable for variable in EVERY[f"metriclog/{name}.json"]["templating"]["list"]}


def property_of(panel: Json, field: str, name: str) -> Any:
    """What the panel's override for one field sets a property to."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": field}:
            return {entry["id"]: entry["value"] for entry in override["properties"]}[name]
    raise AssertionError(f"no override for {field}")


def strings(node: object) -> Iterator[str]:
    """Every text anywhere in a piece of JSON."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def _targets() -> Iterator[tuple[str, str]]:
    for name, dashboard in DASHBOARDS.items():
        for panel in panels_of(dashboard):
            yield from ((f"{name}:{panel['title']}:{target['refId']}", target["query"]) for target in panel["targets"])


def _menus() -> Iterator[tuple[str, str]]:
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}:{variable['name']}", variable["query"]["query"]


def _annotations() -> Iterator[tuple[str, str]]:
    for name, dashboard in DASHBOARDS.items():
        for annotation in dashboard["annotations"]["list"]:
            yield f"{name}:{annotation['name']}", annotation["target"]["query"]


PANELS = [
    pytest.param(panel, id=f"{name}:{panel['title']}") for name, made in EVERY.items() for panel in panels_of(made)
]
TARGETS = [pytest.param(query, id=key) for key, query in _targets()]
MENUS = [pytest.param(query, id=key) for key, query in _menus()]
ANNOTATIONS = [pytest.param(query, id=key) for key, query in _annotations()]

every_dashboard = pytest.mark.parametrize("dashboard", EVERY.values(), ids=EVERY)
every_panel = pytest.mark.parametrize("panel", PANELS)
every_target = pytest.mark.parametrize("query", TARGETS)
every_query = pytest.mark.parametrize("query", [*TARGETS, *MENUS, *ANNOTATIONS])
