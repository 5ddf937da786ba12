"""What differs between a dashboard as we ship it and as a Grafana has it. Pure: JSON in, words out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]
Differences = dict[str, list[str]]
"""Where (a panel, a variable, the dashboard itself) → which of its properties, as dotted paths."""

_GRAFANAS_OWN = {"id", "version", "iteration", "schemaVersion"}  # of a dashboard: who, how often saved, in which format

# What Grafana's pages write out when somebody saves a dashboard there, whatever he changed; seen in 12.3. A property
# with any other value is a change. What a later Grafana adds is reported: better too much than an edit unseen.
_FILLED_IN: Json = {
    "fiscalYearStartMonth": 0,
    "preload": False,
    "sort": 0,
    "hide": False,
    "multi": False,
    "includeAll": False,
    "cellOptions": {"type": "auto"},
    "footer": {"reducers": []},
    "inspect": False,
    "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": 0}, {"color": "red", "value": 80}]},
    "axisBorderShow": False,
    "axisCenteredZero": False,
    "axisColorMode": "text",
    "axisPlacement": "auto",
    "barAlignment": 0,
    "barWidthFactor": 0.6,
    "gradientMode": "none",
    "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    "hideZeros": False,
    "insertNulls": False,
    "lineInterpolation": "linear",
    "pointSize": 5,
    "showValues": False,
    "stacking": {"group": "A", "mode": "none"},
    "thresholdsStyle": {"mode": "off"},
}
_NOTHING: tuple[object, ...] = ({}, [], "", None)  # Grafana writes these for what is absent, and drops them too


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Differences:
    """Where the two differ once what Grafana adds by itself is left out; empty if they are the same."""
    mine, other = dict(_parts(ours)), dict(_parts(theirs))
    found: Differences = {}
    for key, (label, part) in mine.items():
        paths = list(_paths(part, other[key][1])) if key in other else ["missing"]
        if paths:
            found[label] = paths
    found |= {label: ["added"] for key, (label, _) in other.items() if key not in mine}
    return found


def _parts(dashboard: Mapping[str, Any]) -> Iterator[tuple[tuple[str, object], tuple[str, Any]]]:
    """The pieces that are compared one by one: (kind, id) → what to call it, and its properties."""
    whole = {key: value for key, value in dashboard.items() if key not in {*_GRAFANAS_OWN, "panels", "templating"}}
    marks = _list_in(dashboard, "annotations")
    whole["annotations"] = [mark for mark in marks if not mark.get("builtIn")]
    menus = _list_in(dashboard, "templating")
    whole["variables"] = [variable.get("name") for variable in menus]  # their order
    yield ("dashboard", None), ("dashboard", _normal(whole))
    for panel in _panels(dashboard.get("panels") or []):
        number, title = panel.get("id"), panel.get("title", "")
        yield ("panel", number), (f'panel {number} "{title}"', _normal(_without_habits(panel)))
    for variable in menus:
        name = variable.get("name")
        # The options are a copy of the menu as it was when somebody saved.
        yield ("variable", name), (f"variable {name}", _normal({**variable, "options": []}))


def _list_in(dashboard: Mapping[str, Any], name: str) -> list[Json]:
    return (dashboard.get(name) or {}).get("list") or []


def _panels(panels: list[Json]) -> Iterator[Json]:
    """All panels, those of folded rows too."""
    for panel in panels:
        yield {key: value for key, value in panel.items() if key != "panels"}
        yield from panel.get("panels") or []


def _without_habits(panel: Json) -> Json:
    """A panel without what Grafana rewrites: its plugin's version, the width of repeats, a source nobody asks."""
    place = dict(panel.get("gridPos") or {})
    if panel.get("repeat") and panel.get("repeatDirection", "h") == "h":
        place.pop("w", None)
    source = panel.get("datasource") if panel.get("targets") else None
    return {**panel, "gridPos": place, "datasource": source, "pluginVersion": None}


def _normal(value: Any) -> Any:
    """The value without what says nothing."""
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if not isinstance(value, dict):
        return value
    pairs = {key: _normal(_from_bottom(item)) for key, item in value.items() if not _is_filled_in(key, item)}
    return {key: item for key, item in pairs.items() if item not in _NOTHING}


def _is_filled_in(key: str, value: Any) -> bool:
    return key in _FILLED_IN and _from_bottom(_FILLED_IN[key]) == _from_bottom(value)


def _from_bottom(value: Any) -> Any:
    """Thresholds without the first one's value: minus infinity, which is null for some and 0 for others."""
    if not (isinstance(value, dict) and isinstance(value.get("steps"), list) and value["steps"]):
        return value
    first, *others = value["steps"]
    return {**value, "steps": [{**first, "value": None}, *others]} if isinstance(first, dict) else value


def _paths(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The innermost properties that differ; a list is one."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _paths(ours.get(key), theirs.get(key), f"{path}.{key}" if path else key)
    elif ours != theirs:
        yield path
