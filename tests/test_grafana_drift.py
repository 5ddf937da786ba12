"""What differs between a dashboard as shipped and as Grafana has it: every edit, and nothing that Grafana adds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metriclog.grafana.drift import differences

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "dashboards").rglob("*.json")}
Json = dict[str, Any]

every_dashboard = pytest.mark.parametrize("dashboard", SHIPPED.values(), ids=SHIPPED)

SMALL: Json = {
    "uid": "small",
    "title": "Small",
    "tags": ["metriclog"],
    "refresh": "1m",
    "schemaVersion": 42,
    "version": 1,
    "annotations": {"list": [{"name": "Problems", "enable": True}]},
    "templating": {
        "list": [{"name": "run", "multi": True, "sort": 2}, {"name": "x", "current": {"value": "a"}, "multi": False}]
    },
    "panels": [
        {
            "id": 1,
            "title": "Loss",
            "type": "trend",
            "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
            "targets": [{"refId": "A", "query": "SELECT 1"}],
            "fieldConfig": {"defaults": {"unit": "none", "custom": {"lineWidth": 1}}, "overrides": []},
        },
        {
            "id": 2,
            "title": "More",
            "type": "row",
            "collapsed": True,
            "panels": [{"id": 3, "title": "Inner", "targets": [], "repeat": "metric", "gridPos": {"w": 8}}],
        },
    ],
}


def saved_in_a_browser(dashboard: Json) -> Json:
    """As Grafana 12.3 saves a dashboard whose panels it has shown, when somebody presses Save without a change."""
    saved = copy.deepcopy(dashboard)
    saved |= {"id": 7, "version": 12, "fiscalYearStartMonth": 0, "preload": False, "timepicker": {}, "weekStart": ""}
    builtin = {"builtIn": 1, "name": "Annotations & Alerts", "type": "dashboard", "enable": True, "hide": True}
    marks = [{**mark, "hide": False} for mark in saved.get("annotations", {}).get("list", [])]
    saved["annotations"] = {"list": [builtin, *marks]}
    for variable in saved["templating"]["list"]:
        variable["options"] = [{"text": "a", "value": "a"}]
        for name in ("multi", "sort"):
            if not variable.get(name):
                variable.pop(name, None)
    for row in saved["panels"]:
        for panel in (row, *row.get("panels", [])):
            if panel["type" if "type" in panel else "title"] != "row":
                _fill_in(panel)
    return saved


def _fill_in(panel: Json) -> None:
    panel["pluginVersion"] = "12.3.0"
    if not panel.get("targets"):
        panel.pop("datasource", None)
    if not panel.get("transformations"):
        panel.pop("transformations", None)
    if panel.get("repeat") and panel.get("repeatDirection", "h") == "h":
        panel["gridPos"]["w"] = 24
    defaults = panel.setdefault("fieldConfig", {}).setdefault("defaults", {})
    defaults.setdefault("mappings", [])
    steps = [{"color": "green", "value": 0}, {"color": "red", "value": 80}]
    thresholds = defaults.setdefault("thresholds", {"mode": "absolute", "steps": steps})
    thresholds["steps"] = [{**step, "value": step.get("value") or 0} for step in thresholds["steps"]]
    filled = {
        "axisBorderShow": False,
        "axisPlacement": "auto",
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }
    custom = defaults.setdefault("custom", {})
    for name, value in {**filled, "pointSize": 5, "stacking": {"group": "A", "mode": "none"}}.items():
        custom.setdefault(name, value)


@every_dashboard
def test_a_dashboard_does_not_differ_from_itself(dashboard: Json) -> None:
    assert differences(dashboard, copy.deepcopy(dashboard)) == {}


@every_dashboard
def test_what_grafana_adds_when_it_stores_a_dashboard_is_no_difference(dashboard: Json) -> None:
    assert differences(dashboard, {**dashboard, "id": 3, "version": 9}) == {}


@every_dashboard
def test_what_its_pages_add_when_somebody_saves_there_is_no_difference(dashboard: Json) -> None:
    assert differences(dashboard, saved_in_a_browser(dashboard)) == {}


def _panel(number: int) -> Callable[[Json], Json]:
    return lambda board: next(
        panel for row in board["panels"] for panel in (row, *row.get("panels", [])) if panel["id"] == number
    )


def _change(path: str, value: object, panel: int = 1) -> Callable[[Json], None]:
    def change(board: Json) -> None:
        *parents, last = path.split(".")
        place = _panel(panel)(board)
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value

    return change


LOSS = 'panel 1 "Loss"'
EDITS: dict[str, tuple[Callable[[Json], Any], dict[str, list[str]]]] = {
    "title of a panel": (_change("title", "x"), {LOSS: ["title"]}),
    "query": (_change("targets", [{"refId": "A", "query": "SELECT 2"}]), {LOSS: ["targets"]}),
    "unit": (_change("fieldConfig.defaults.unit", "s"), {LOSS: ["fieldConfig.defaults.unit"]}),
    "an option that we do not set": (
        _change("fieldConfig.defaults.decimals", 0),
        {LOSS: ["fieldConfig.defaults.decimals"]},
    ),
    "a filled-in option to another value": (
        _change("fieldConfig.defaults.custom.pointSize", 9),
        {LOSS: ["fieldConfig.defaults.custom.pointSize"]},
    ),
    "thresholds": (
        _change("fieldConfig.defaults.thresholds", {"mode": "absolute", "steps": [{"color": "red", "value": None}]}),
        {LOSS: ["fieldConfig.defaults.thresholds"]},
    ),
    "two things of a panel": (
        lambda board: (_change("title", "x")(board), _change("description", "y")(board)),
        {LOSS: ["description", "title"]},
    ),
    "size": (_change("gridPos.w", 24), {LOSS: ["gridPos.w"]}),
    "a panel inside a folded row": (_change("title", "x", 3), {'panel 3 "Inner"': ["title"]}),
    "a row unfolded": (_change("collapsed", False, 2), {'panel 2 "More"': ["collapsed"]}),
    "a panel less": (lambda board: board["panels"].pop(0), {LOSS: ["missing"]}),
    "a panel more": (
        lambda board: board["panels"].append({"id": 9, "title": "Mine"}),
        {'panel 9 "Mine"': ["added"]},
    ),
    "a menu": (
        lambda board: board["templating"]["list"][0].update(sort=1),
        {"variable run": ["sort"]},
    ),
    "the order of menus": (lambda board: board["templating"]["list"].reverse(), {"dashboard": ["variables"]}),
    "a menu less": (
        lambda board: board["templating"]["list"].pop(),
        {"dashboard": ["variables"], "variable x": ["missing"]},
    ),
    "a chosen value saved": (
        lambda board: board["templating"]["list"][1].update(current={"value": "b"}),
        {"variable x": ["current.value"]},
    ),
    "refresh": (lambda board: board.update(refresh="5s"), {"dashboard": ["refresh"]}),
    "an annotation": (
        lambda board: board["annotations"]["list"].append({"name": "Mine", "enable": True}),
        {"dashboard": ["annotations"]},
    ),
}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("in_browser", [False, True], ids=["over the API", "in a browser"])
def test_every_edit_is_said_with_its_place_and_nothing_else(
    edit: Callable[[Json], Any], expected: dict[str, list[str]], in_browser: bool
) -> None:
    theirs = copy.deepcopy(SMALL)
    edit(theirs)
    assert differences(SMALL, saved_in_a_browser(theirs) if in_browser else theirs) == expected


@pytest.mark.parametrize("theirs", [{}, {"panels": None, "templating": None, "annotations": None}, {"panels": [{}]}])
def test_a_dashboard_of_any_form_is_compared(theirs: Json) -> None:
    assert differences(SMALL, theirs)[LOSS] == ["missing"]
