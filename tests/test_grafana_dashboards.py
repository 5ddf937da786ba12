"""The committed dashboards: what the code makes, and free of the traps that Grafana answers with a wrong picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from metriclog import influxql
from metriclog.grafana import __main__ as command
from metriclog.grafana.dashboards import all_dashboards
from tests.grafana_interpolation import bare_variables, variable_formats

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "dashboards"
GRAFANA_OWN = {"__field", "__value", "__data", "__url_time_range"}

Json = dict[str, Any]
DASHBOARDS: dict[str, Json] = {name: made.to_dict() for name, made in all_dashboards().items()}
PANELS = [
    pytest.param(panel, id=f"{name}:{panel['title']}") for name, made in DASHBOARDS.items() for panel in made["panels"]
]
TARGETS = [
    pytest.param(target["query"], id=f"{name}:{panel['title']}:{target['refId']}")
    for name, made in DASHBOARDS.items()
    for panel in made["panels"]
    for target in panel["targets"]
]
MENUS = [
    pytest.param(variable["query"]["query"], id=f"{name}:{variable['name']}")
    for name, made in DASHBOARDS.items()
    for variable in made["templating"]["list"]
    if variable["type"] == "query"
]
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
every_panel = pytest.mark.parametrize("panel", PANELS)
every_query = pytest.mark.parametrize("query", [*TARGETS, *MENUS])


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


def property_of(panel: Json, field: str, name: str) -> Any:
    """What the panel's override for one field sets a property to."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": field}:
            return {entry["id"]: entry["value"] for entry in override["properties"]}[name]
    raise AssertionError(f"no override for {field}")


# --- The files ------------------------------------------------------------------------------------------------------


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
    assert "curves.json is missing" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    command.write(tmp_path)
    (tmp_path / "metriclog" / "curves.json").write_text("{}")
    (tmp_path / "metriclog" / "old.json").write_text("{}")
    assert command.main(["--check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "curves.json is not what the code makes" in told and "old.json is made by no code" in told


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'metriclog' / 'curves.json'}\n"


def test_the_builders_load_no_heavy_package() -> None:
    program = "import sys, metriclog.grafana.dashboards; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "pydantic", "influxdb_client", "yaml"}
    assert not heavy & set(loaded.stdout.split())


# --- The dashboard as a whole ---------------------------------------------------------------------------------------


def test_uids_and_titles_are_unique() -> None:
    """Two dashboards of one title in a folder stop that whole provider, with one log line."""
    for key in ("uid", "title"):
        values = [dashboard[key] for dashboard in DASHBOARDS.values()]
        assert len(values) == len(set(values))


@every_dashboard
def test_the_uid_is_one_that_grafana_takes(dashboard: Json) -> None:
    assert re.fullmatch(r"metriclog-[a-z-]{1,30}", dashboard["uid"])


@every_dashboard
def test_panels_do_not_overlap(dashboard: Json) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


@every_dashboard
def test_every_variable_that_is_used_is_defined_and_the_other_way_round(dashboard: Json) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    texts = [*strings(dashboard["panels"]), *strings(dashboard["templating"])]
    used = {panel["repeat"] for panel in dashboard["panels"] if "repeat" in panel}
    for text in texts:
        used |= {name for name, _ in variable_formats(text)} - GRAFANA_OWN
        used |= bare_variables(text) - GRAFANA_OWN - {"__all", "1"}
    assert used == defined


@every_dashboard
def test_links_lead_only_to_dashboards_that_exist(dashboard: Json) -> None:
    uids = {other["uid"] for other in DASHBOARDS.values()}
    assert set(re.findall(r"/d/([\w-]+)", "\n".join(strings(dashboard)))) <= uids


@every_dashboard
def test_the_table_with_the_hint_comes_first(dashboard: Json) -> None:
    first = dashboard["panels"][0]
    assert first["type"] == "table" and first["gridPos"]["y"] == 0
    assert first["fieldConfig"]["defaults"]["noValue"].startswith("No runs in this time range")
    assert first["fieldConfig"]["overrides"][0]["matcher"]["id"] == "byRegexp", "or each empty cell shows the hint"


# --- Each panel -----------------------------------------------------------------------------------------------------


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
def test_chain_m_is_whole_and_has_no_x_field(panel: Json) -> None:
    """The override's display name would break xField; four steps, of which none can be left out."""
    if panel["type"] != "trend":
        return
    assert "xField" not in panel["options"]
    steps = [step["id"] for step in panel["transformations"]]
    assert steps == ["calculateField", "groupingToMatrix", "renameByRegex", "sortBy"]
    options = [step["options"] for step in panel["transformations"]]
    assert options[1] == {"columnField": "run", "rowField": "x", "valueField": "value * 1", "emptyValue": "null"}
    assert options[2] == {"regex": r"^(.*)\\run$", "renamePattern": "$1"}
    assert 'GROUP BY "run"' in panel["targets"][0]["query"]


def test_a_curve_panel_is_drawn_per_metric_two_in_a_row_with_the_values_in_its_legend() -> None:
    panel = next(panel for panel in DASHBOARDS["metriclog/curves.json"]["panels"] if panel["type"] == "trend")
    assert (panel["title"], panel["repeat"], panel["maxPerRow"]) == ("$metric", "metric", 2)
    assert panel["options"]["legend"]["calcs"] == ["lastNotNull", "min", "max"]
    assert panel["options"]["legend"]["displayMode"] == "table"
    assert panel["options"]["tooltip"]["mode"] == "multi"
    assert property_of(panel, "x", "displayName") == "${x:text}"


def test_a_run_in_the_table_opens_its_curves_in_exactly_its_time() -> None:
    table = DASHBOARDS["metriclog/curves.json"]["panels"][0]
    url = property_of(table, "run", "links")[0]["url"]
    assert url.startswith("/d/metriclog-curves?")
    assert "var-run=${__value.text:percentencode}" in url
    assert url.endswith("&from=${__data.fields.started.numeric}&to=${__data.fields.to}")


# --- Each query -----------------------------------------------------------------------------------------------------


@every_query
def test_every_query_keeps_to_the_time_range(query: str) -> None:
    assert "$timeFilter" in query


@every_query
def test_every_variable_in_a_query_has_a_format_and_a_pattern_is_anchored(query: str) -> None:
    """Without a format, a value that starts with a digit is put in unescaped."""
    assert bare_variables(query) == set()
    for name, chosen_format in variable_formats(query):
        assert (name, chosen_format) == ("x", "raw") or chosen_format == "regex"
    for pattern in re.findall(r"=~ (\S+)", query):
        assert re.fullmatch(r"/\^\$\{\w+:regex\}\$/", pattern)


@pytest.mark.parametrize("query", TARGETS)
def test_null_values_are_left_out_where_values_are_drawn(query: str) -> None:
    """A NaN point has no value; the null would be drawn as 0."""
    if re.search(r'SELECT .*"value".* FROM', query):
        assert '"value" = "value"' in query


@pytest.mark.parametrize("query", TARGETS)
def test_where_values_are_drawn_there_is_one_rank(query: str) -> None:
    if re.search(r'SELECT .*"value".* FROM "metrics"', query):
        assert "(\"rank\" = '0' OR \"rank\" = '')" in query


@every_query
def test_no_query_has_a_limit_beside_a_group_by(query: str) -> None:
    assert not ("LIMIT" in query and "GROUP BY" in query)


def test_the_x_axis_menu_offers_the_steps_first_and_every_axis_of_influxql() -> None:
    menu = next(v for v in DASHBOARDS["metriclog/curves.json"]["templating"]["list"] if v["name"] == "x")
    assert menu["query"].split(",") == [f"{label} : {text}" for label, text in influxql.X_AXES.items()]
    assert menu["current"]["text"] == "step"


def test_the_file_holds_the_regex_of_the_matrix_key_as_grafana_reads_it() -> None:
    text = (COMMITTED / "metriclog" / "curves.json").read_text(encoding="utf-8")
    assert r'"regex": "^(.*)\\\\run$"' in text
    assert json.loads(text)["uid"] == "metriclog-curves"
