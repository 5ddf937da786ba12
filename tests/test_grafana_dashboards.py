"""The committed dashboards: what the code makes, and free of the traps that Grafana answers with a wrong picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from metriclog import dashboard_queries as queries
from metriclog.grafana import __main__ as command
from metriclog.grafana import links
from tests.dashboard_files import (
    DASHBOARDS,
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
FILES = ["runs.json", "compare.json", "run.json", "delivery.json"]
GRAFANA_OWN = {"__field", "__value", "__data", "__url_time_range", "__to"}
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
        values = [dashboard[key] for dashboard in DASHBOARDS.values()]
        assert len(values) == len(set(values))


def test_the_addresses_are_those_that_links_and_alerts_know() -> None:
    uids = [dashboard["uid"] for dashboard in DASHBOARDS.values()]
    assert uids == ["metriclog-runs", "metriclog-compare", "metriclog-run", "metriclog-delivery"]
    assert set(uids) == {links.RUNS_UID, links.COMPARE_UID, links.RUN_UID, links.DELIVERY_UID}


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
        assert re.match(r"/d/(metriclog-\w+)\?", url)[1] in {made["uid"] for made in DASHBOARDS.values()}  # type: ignore[index]
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
    assert re.match("No (runs|reports) here. Widen the time range", first["fieldConfig"]["defaults"]["noValue"])
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
        assert target["rawQuery"] is True and target["query"]
        assert target["datasource"] == panel["datasource"] == {"type": "influxdb", "uid": "${datasource}"}


@every_panel
def test_a_panel_says_for_which_version_it_was_written(panel: Json) -> None:
    """Without it Grafana first migrates the panel from an old format, and an xychart ends there."""
    assert panel["pluginVersion"]


@every_panel
def test_series_have_a_name_and_tables_have_none(panel: Json) -> None:
    for target in panel["targets"]:
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
            assert step["filter"] == steps[place - 1]["filter"] == steps[place - 2]["filter"]


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
    assert repeated == {None, "metric_drawn", "quantity"}


def test_what_is_hidden_stands_in_no_address() -> None:
    """A value in the address would win, even a stale one."""
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            if variable.get("hide"):
                assert variable["skipUrlSync"] is True


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


# --- Compare and Run --------------------------------------------------------------------------------------------------


def test_the_smooth_lines_lie_on_top_whatever_a_run_is_called() -> None:
    """Fields are sorted by name, the last on top: in reverse, the space comes after every run id, which begins with a
    letter, a digit, a dot, a hyphen or an underscore."""
    panel = panel_of("compare", "$metric_drawn")
    assert panel["transformations"][-2]["options"]["orderBy"] == [{"type": "name", "desc": True}]
    steps = {step["id"]: step["options"] for step in panel["transformations"]}
    assert steps["calculateField"]["alias"] == " smooth"
    assert steps["calculateField"]["window"]["windowSize"] == "${smooth:raw}"
    assert property_of(panel, " smooth", "custom.lineWidth") == 2
    assert property_of(panel, "value", "custom.hideFrom")["legend"] is True
    assert panel["targets"][0]["refId"] == "edge", "the join keeps the x of its first table"


def test_smoothing_can_be_off_and_is_never_a_window_of_nothing() -> None:
    sizes = [float(choice.rpartition(" : ")[2]) for choice in variables_of("compare")["smooth"]["query"].split(",")]
    assert all(size > 0 for size in sizes) and min(sizes) < 1e-5


def test_a_logarithmic_twin_is_folded_away_and_its_x_is_linear() -> None:
    (row,) = (row for row in DASHBOARDS["metriclog/compare.json"]["panels"] if row.get("collapsed"))
    (panel,) = row["panels"]
    assert panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"] == {"type": "log", "log": 10}
    assert property_of(panel, "x", "custom.scaleDistribution") == {"type": "linear"}


def test_the_resolution_is_automatic_and_can_be_chosen() -> None:
    for name in ("compare", "run"):
        menus = variables_of(name)
        first, *others = menus["resolution"]["query"].split(",")
        assert first == "Auto : (${auto:raw})", "in brackets, or it would equal a manual choice and stick to it"
        assert [other.rpartition(" : ")[2] for other in others][:3] == ["metrics", "metrics_10", "metrics_100"]
        assert menus["auto"]["hide"] == 2


def test_the_x_axis_menu_offers_the_steps_first_and_every_axis_there_is() -> None:
    for name in ("compare", "run"):
        menu = variables_of(name)["x"]
        assert menu["query"].split(",") == [f"{label} : {text}" for label, text in queries.X_AXES.items()]
        assert menu["current"]["text"] == "step"


def test_a_spike_in_a_band_is_a_line_not_only_an_area() -> None:
    panel = next(
        panel
        for panel in panels_of(DASHBOARDS["metriclog/run.json"])
        if "band" in {target["refId"] for target in panel["targets"]}
    )
    assert property_of(panel, "max", "custom.lineWidth") == 1
    assert property_of(panel, "max", "custom.fillBelowTo") == "min"


def test_training_and_validation_are_told_apart_by_their_names() -> None:
    def is_like(pattern: str, name: str) -> bool:
        return re.search(pattern.removeprefix("/").removesuffix("/i"), name, re.I) is not None

    for name in ("val/loss", "val_loss", "eval/accuracy", "Loss/test", "validation.f1"):
        assert is_like(queries.VALIDATION_NAME, name) and not is_like(queries.TRAINING_NAME, name)
    for name in ("train/loss", "train_loss", "Loss/train"):
        assert is_like(queries.TRAINING_NAME, name) and not is_like(queries.VALIDATION_NAME, name)
    for name in ("loss", "value", "trainer/lr", "interval"):
        assert not is_like(queries.TRAINING_NAME, name) and not is_like(queries.VALIDATION_NAME, name)


def test_the_file_holds_the_regex_of_the_matrix_key_as_grafana_reads_it() -> None:
    text = (COMMITTED / "metriclog" / "run.json").read_text(encoding="utf-8")
    assert r'"regex": "^(.*)\\\\metric$"' in text
    assert json.loads(text)["uid"] == "metriclog-run"
