"""The committed dashboards: what the code makes, and free of the traps that Grafana answers with a wrong picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from metriclog.grafana import __main__ as command
from metriclog.grafana import links
from tests.dashboard_files import (
    DASHBOARDS,
    EVERY,
    LIVE,
    Json,
    every_dashboard,
    every_panel,
    panel_of,
    panels_of,
    property_of,
    strings,
    variables_of,
)
from tests.grafana_interpolation import bare_variables, variable_formats

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "dashboards"
FILES = ["runs.json", "compare.json", "run.json", "delivery.json", "live.json"]
HIDDEN, BEHIND_THE_DOTS = 2, 3
GRAFANA_OWN = {"__field", "__value", "__data", "__url_time_range", "__to", "__range"}
PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
# The name that the data source gave is shed, rows become columns, the key column gets a plain name.
COLUMNS = ["calculateField", "groupingToMatrix", "renameByRegex"]


# --- The files --------------------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_the_code_makes() -> None:
    assert command.check(COMMITTED) == []


def test_writing_twice_gives_the_same_bytes_and_a_check_that_passes(tmp_path: Path) -> None:
    command.write(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    command.write(tmp_path)
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert command.check(tmp_path) == []


def test_check_names_missing_changed_and_stray_files_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("is missing") == len(FILES)
    assert list(tmp_path.iterdir()) == []

    command.write(tmp_path)
    (tmp_path / "metriclog" / "run.json").write_text("{}")
    (tmp_path / "metriclog" / "old.json").write_text("{}")
    assert command.main(["--check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "run.json is not what the code makes" in told and "old.json is made by no code" in told


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "".join(f"wrote {tmp_path / 'metriclog' / name}\n" for name in FILES)


def test_the_builders_load_no_heavy_package() -> None:
    program = "import sys, metriclog.grafana.dashboards; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "pydantic", "influxdb_client", "yaml"}
    assert not heavy & set(loaded.stdout.split())


# --- Each dashboard as a whole ----------------------------------------------------------------------------------------


def test_uids_and_titles_are_unique() -> None:
    """Two dashboards of one title in a folder stop that whole provider, with one log line."""
    for key in ("uid", "title"):
        values = [dashboard[key] for dashboard in EVERY.values()]
        assert len(values) == len(set(values))


def test_the_addresses_are_those_that_links_and_alerts_know() -> None:
    uids = [dashboard["uid"] for dashboard in EVERY.values()]
    assert uids == ["metriclog-runs", "metriclog-compare", "metriclog-run", "metriclog-delivery", "metriclog-live"]
    assert set(uids) == {links.RUNS_UID, links.COMPARE_UID, links.RUN_UID, links.DELIVERY_UID, links.LIVE_UID}


@every_dashboard
def test_panels_do_not_overlap(dashboard: Json) -> None:
    open_ones = [panel["gridPos"] for panel in dashboard["panels"]]
    folded = [[panel["gridPos"] for panel in row.get("panels", [])] for row in dashboard["panels"]]
    for places in (open_ones, *folded):
        for one, other in combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or below


@every_dashboard
def test_every_variable_that_is_used_is_defined_and_the_other_way_round(dashboard: Json) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = {panel["repeat"] for panel in panels_of(dashboard) if "repeat" in panel}
    for text in strings({key: dashboard[key] for key in ("panels", "templating", "links", "annotations")}):
        used |= {name for name, _ in variable_formats(text)} - GRAFANA_OWN
        used |= {name for name in bare_variables(text) if not name.isdigit() and not name.startswith("tag_")}
    assert used - GRAFANA_OWN - {"__all"} == defined


@every_dashboard
def test_links_lead_only_to_dashboards_that_exist_and_carry_what_they_must(dashboard: Json) -> None:
    """A resolution that was chosen for one run is wrong for another, and Grafana keeps what an address says."""
    urls = {text for text in strings(dashboard) if text.startswith("/d/")}
    assert urls
    for url in urls:
        assert re.match(r"/d/(metriclog-\w+)\?", url)[1] in {made["uid"] for made in EVERY.values()}  # type: ignore[index]
        assert "${datasource:queryparam}" in url
        assert "${experiment:queryparam}" in url or "var-experiment=" in url
        assert "resolution" not in url


@every_dashboard
def test_the_links_at_the_top_lead_to_the_other_dashboards_at_the_same_time(dashboard: Json) -> None:
    lead_to = {re.match(r"/d/([\w-]+)\?", link["url"])[1] for link in dashboard["links"]}  # type: ignore[index]
    assert dashboard["uid"] not in lead_to and len(lead_to) >= 2
    assert all(link["keepTime"] and not link["includeVars"] for link in dashboard["links"])


@every_dashboard
def test_the_table_with_the_hint_comes_first(dashboard: Json) -> None:
    first = dashboard["panels"][0]
    assert first["type"] == "table" and first["gridPos"]["y"] == 0
    starts = "No live runs here. Start a job" if dashboard is LIVE else "No (runs|reports) here. Widen the time range"
    assert re.match(starts, first["fieldConfig"]["defaults"]["noValue"])
    assert first["fieldConfig"]["overrides"][0]["matcher"]["id"] == "byRegexp", "or each empty cell shows the hint"


def test_an_empty_database_is_told_what_to_do() -> None:
    hint = panel_of("runs", "Runs")["fieldConfig"]["defaults"]["noValue"]
    assert "METRICLOG_URL" in hint and "METRICLOG_TOKEN" in hint and "metriclog.init(" in hint


def test_the_charts_over_time_show_what_happened_in_three_colours() -> None:
    marks = {mark["name"]: mark for mark in DASHBOARDS["metriclog/run.json"]["annotations"]["list"]}
    kinds = {
        name: set(re.findall(r"\w+", mark["target"]["query"].split('"kind" =~ ')[1])) for name, mark in marks.items()
    }
    assert {"nonfinite", "divergence"} <= kinds["Problems"] and marks["Problems"]["iconColor"] == "red"
    assert "checkpoint" in kinds["Checkpoints"]
    assert kinds["Start, resume, finish"] == {"start", "resume", "finish"}


# --- Each panel -------------------------------------------------------------------------------------------------------


@every_panel
def test_a_panel_has_a_title_a_description_and_a_unit(panel: Json) -> None:
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@every_panel
def test_a_panel_asks_the_chosen_data_source_in_raw_influxql(panel: Json) -> None:
    for target in panel["targets"]:
        if panel["datasource"] == PROMETHEUS:
            continue
        assert target["rawQuery"] is True and target["query"]
        assert target["datasource"] == panel["datasource"] == {"type": "influxdb", "uid": "${datasource}"}


@every_panel
def test_a_panel_says_for_which_version_it_was_written(panel: Json) -> None:
    """Without it Grafana first migrates the panel from an old format, and an xychart ends there."""
    assert panel["pluginVersion"]


@every_panel
def test_series_have_a_name_and_tables_have_none(panel: Json) -> None:
    for target in panel["targets"]:
        if panel["datasource"] == PROMETHEUS:
            continue
        over_time = panel["type"] in ("timeseries", "state-timeline")
        assert (target["resultFormat"], "alias" in target) == (("time_series", True) if over_time else ("table", False))


@every_panel
def test_a_chart_over_steps_asks_for_its_right_edge_and_names_no_x(panel: Json) -> None:
    """Without the edge a chart without data is an error; an override's display name breaks a search for x by name."""
    if panel["type"] != "trend" or "against" in panel["title"]:
        return
    assert "xField" not in panel["options"]
    assert "edge" in {target["refId"] for target in panel["targets"]}
    assert {"id": "joinByField", "options": {"byField": "x", "mode": "outer"}} in panel["transformations"]
    assert property_of(panel, "x", "displayName") == "${x:text}"
    assert property_of(panel, "x", "custom.scaleDistribution") == {"type": "linear"}
    assert property_of(panel, "edge", "custom.hideFrom")["legend"] is True


@every_panel
def test_rows_become_columns_without_the_name_that_the_data_source_gave(panel: Json) -> None:
    """Each step is needed: else every line and column is called "value", or the matrix takes too many tables."""
    steps = panel["transformations"]
    for place, step in enumerate(steps):
        if step["id"] == "groupingToMatrix" and panel["type"] == "trend":
            assert [one["id"] for one in steps[place - 1 : place + 2]] == COLUMNS
            assert step["options"]["valueField"] == "value * 1" and step["options"]["emptyValue"] == "null"
            assert steps[place + 1]["options"]["regex"] == rf"^(.*)\\{step['options']['columnField']}$"
        elif step["id"] == "groupingToMatrix" and step["options"]["rowField"].startswith("__"):
            assert [one["id"] for one in steps[place - 2 : place]] == ["groupBy", "renameByRegex"]
            assert len({json.dumps(one.get("filter")) for one in steps[place - 2 : place + 1]}) == 1


@every_panel
def test_a_table_shows_texts_as_texts_and_hides_no_column_with_a_name_of_old(panel: Json) -> None:
    """With a number's unit the text 1e5 would be shown as 100000."""
    if panel["type"] in ("table", "bargauge") and panel["title"] != "Parameters":
        matchers = [override["matcher"] for override in panel["fieldConfig"]["overrides"]]
        assert {"id": "byType", "options": "string"} in matchers
    assert "custom.hidden" not in set(strings(panel))


def test_no_more_is_drawn_than_a_browser_can_bear() -> None:
    compare, run = variables_of("compare"), variables_of("run")
    assert compare["run_drawn"]["query"]["query"].endswith("ORDER BY time DESC LIMIT 20")
    for menus in (compare, run):
        assert menus["metric_drawn"]["query"]["query"].endswith("LIMIT 12")
    repeated = {panel.get("repeat") for made in DASHBOARDS.values() for panel in panels_of(made)}
    assert repeated == {None, "metric_drawn", "metric_ranked", "quantity"}
    assert run["metric_ranked"]["query"]["query"].endswith("LIMIT 12")


def test_what_is_hidden_stands_in_no_address() -> None:
    """A value in the address would win, even a stale one."""
    for dashboard in EVERY.values():
        for variable in dashboard["templating"]["list"]:
            if variable.get("hide") == HIDDEN:
                assert variable["skipUrlSync"] is True


@every_dashboard
def test_menus_of_rare_use_and_switches_take_no_room_but_work(dashboard: Json) -> None:
    """On a page of 900 pixels with a long time range each menu at the top is a line of its own."""
    menus = dashboard["templating"]["list"]
    tucked = {variable["name"] for variable in menus if variable.get("hide") == BEHIND_THE_DOTS}
    assert tucked <= {"datasource", "prometheus", "model", "dataset", "resolution"}
    assert not any(variable.get("skipUrlSync") for variable in menus if variable["name"] in tucked)
    assert sum("hide" not in variable for variable in menus) <= 8
    assert {mark["placement"] for mark in dashboard["annotations"]["list"]} <= {"inControlsMenu"}


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_a_run_in_the_table_opens_in_exactly_its_time() -> None:
    for name, title in (("runs", "Runs"), ("compare", "Runs compared")):
        url = property_of(panel_of(name, title), "__run", "links")[0]["url"]
        assert url.startswith("/d/metriclog-run?")
        assert "var-run=${__value.text:percentencode}" in url
        assert url.endswith("&from=${__data.fields.__started.numeric}&to=${__data.fields.__to}")


def test_the_columns_of_a_run_never_share_a_name_with_those_of_a_parameter_or_a_metric() -> None:
    """Grafana's table takes columns of the same name for one: a parameter `steps` stands beside our `Steps`."""
    shown = [
        property_of(panel_of("runs", "Runs"), column, "displayName")
        for column in ("__run", "__experiment", "__status", "__started", "__duration", "__steps", "__nonfinite")
    ]
    assert shown == ["Run", "Experiment", "Status", "Age", "Duration", "Steps", "Non-finite"]


def test_a_run_that_is_silent_is_shown_as_perhaps_killed() -> None:
    mapping = property_of(panel_of("runs", "Runs"), "__status", "mappings")[0]["options"]
    assert mapping["0"]["text"] == "killed?"
    assert mapping.keys() - {"0"} == {"running", "finished", "failed", "killed"}


def test_the_filters_of_runs_all_work_through_the_menu_of_runs() -> None:
    menus = variables_of("runs")
    assert {"experiment", "status", "model", "dataset"} <= menus.keys()
    assert "${model:regex}" in menus["run_made_of"]["query"]["query"]
    assert "${run_made_of:regex}" in menus["run"]["query"]["query"]
    assert "${status:regex}" in menus["run"]["query"]["query"]
    assert menus["run"]["allValue"] == "", "All must stand for the runs that were found, not for any"


def test_best_is_the_lowest_or_the_highest_value_of_the_summaries() -> None:
    assert variables_of("runs")["best"]["query"] == "lowest : min,highest : max"
