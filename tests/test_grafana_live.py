"""The dashboard Live: it asks Prometheus alone, of runs and not of ranks, and names are escaped."""

from __future__ import annotations

import re

import pytest

from tests.dashboard_files import LIVE, Json, panel_of, panels_of, property_of, variables_of
from tests.grafana_interpolation import bare_variables, variable_formats

PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
PANELS = list(panels_of(LIVE))

every_panel = pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])


@every_panel
def test_a_panel_of_live_asks_prometheus_and_nothing_else(panel: Json) -> None:
    """A table of what holds now, or lines with a name."""
    assert panel["datasource"] == PROMETHEUS and panel["targets"]
    for target in panel["targets"]:
        over_time = panel["type"] == "timeseries"
        assert target["datasource"] == PROMETHEUS
        assert (target["format"], target["range"], target["instant"], "legendFormat" in target) == (
            ("time_series", True, False, True) if over_time else ("table", False, True, False)
        )


def test_names_in_promql_stand_in_backquotes_as_patterns() -> None:
    """Within double quotes the backslashes of a pattern would have to be doubled."""
    menus = [one["query"]["query"] for one in variables_of("live").values() if one["type"] == "query"]
    for query in [*menus, *(target["expr"] for panel in PANELS for target in panel["targets"])]:
        assert bare_variables(query) <= {"1", "__range"}
        for name, chosen_format in variable_formats(query):
            assert chosen_format == "regex" and f"=~`${{{name}:regex}}`" in query


def test_live_groups_by_run_and_draws_no_more_than_a_browser_can_bear() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            assert re.search(r"by \(experiment, run\b|vector\(0\)|^0 \* group", target["expr"])
    assert "topk(12, " in variables_of("live")["metric_drawn"]["query"]["query"]
    assert {panel.get("repeat") for panel in PANELS} == {None, "metric_drawn"}


def test_live_lets_the_other_dashboards_keep_their_data_source() -> None:
    menus = variables_of("live")
    assert (menus["datasource"]["query"], menus["prometheus"]["query"]) == ("influxdb", "prometheus")
    url = property_of(panel_of("live", "Live runs"), "run", "links")[0]["url"]
    assert url.startswith("/d/metriclog-run?${datasource:queryparam}&") and url.endswith("&to=now")
