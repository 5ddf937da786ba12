"""The committed alert rules: what the code makes, free of what Grafana gets wrong in silence, and explained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from metriclog import alert_queries as queries
from metriclog.grafana import __main__ as command
from metriclog.grafana import alerts, links
from metriclog.grafana.delivery import delivery
from metriclog.grafana.rules import Group, Number, Rule
from metriclog.grafana.variables import DATASOURCE_UID
from metriclog.identity import SILENT_S

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / alerts.FILE).read_text(encoding="utf-8")
(GROUP,) = yaml.safe_load(TEXT)["groups"]
RULES: list[Json] = GROUP["rules"]
RUNBOOK = (ROOT / alerts.RUNBOOK).read_text(encoding="utf-8")
EXPRESSIONS = "__expr__"
# Grafana puts environment variables into these, and not into annotations and models.
EXPANDED = ("uid", "title", "condition", "labels", "execErrState", "noDataState", "for")

every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule["uid"] for rule in RULES])


def asked(rule: Json) -> list[Json]:
    """The parts of a rule that are queries."""
    return [part for part in rule["data"] if part["datasourceUid"] != EXPRESSIONS]


# --- The file ---------------------------------------------------------------------------------------------------------


def test_the_committed_file_is_what_the_code_makes() -> None:
    assert command.check_alerts(ROOT / alerts.FILE) == []


def test_the_command_writes_and_checks_it_with_the_dashboards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--check"]) == 1
    assert f"{alerts.FILE} is missing" in capsys.readouterr().out
    assert command.main([]) == 0
    assert f"wrote {alerts.FILE}\n" in capsys.readouterr().out
    assert command.main(["--check"]) == 0
    (tmp_path / alerts.FILE).write_text("{}")
    assert command.main(["--check"]) == 1
    assert f"{alerts.FILE} is not what the code makes" in capsys.readouterr().out


def test_nothing_but_rules_is_in_it_so_that_it_fits_into_any_grafana() -> None:
    assert yaml.safe_load(TEXT).keys() == {"apiVersion", "groups"}


def test_every_text_is_quoted_and_comes_back_whole() -> None:
    for line in TEXT.splitlines():
        value = line.partition(": ")[2]
        assert line.lstrip().startswith("#") or re.fullmatch(r"'.*'|\d*|true|false", value), line
    made = [rule.to_dict(DATASOURCE_UID) for rule in alerts.all_alerts().rules]
    assert json.loads(json.dumps(made)) == RULES


@pytest.mark.parametrize("text", ["it's 'quoted'", "a: b, c # d", "{{ x }}", "$VAR", "", " ", "-", "ü"])
def test_any_line_of_text_survives_yaml(text: str) -> None:
    rule = Rule("u", text, [Number("A", text, 60)], "$A > 0", {}, {"summary": text})
    (group,) = yaml.safe_load(Group("g", "f", "d", [rule]).to_yaml("said"))["groups"]
    assert group["rules"][0]["title"] == group["rules"][0]["annotations"]["summary"] == text
    assert group["rules"][0]["data"][0]["model"]["query"] == text


def test_what_is_no_line_of_text_is_refused() -> None:
    with pytest.raises(ValueError, match="in one line"):
        Group("g", "f", "d", [Rule("u", "a\nb", [], "1", {}, {})]).to_yaml("")


# --- Each rule --------------------------------------------------------------------------------------------------------


def test_uids_and_titles_are_unique_and_uids_are_such_as_grafana_takes() -> None:
    for key in ("uid", "title"):
        assert len({rule[key] for rule in RULES}) == len(RULES)
    assert all(re.fullmatch(r"metriclog-[a-z-]{1,30}", rule["uid"]) for rule in RULES)
    assert GROUP["interval"] == "60s"


@every_rule
def test_a_rule_says_what_no_data_and_errors_mean(rule: Json) -> None:
    """Left unsaid, both fire. One rule alone says that InfluxDB cannot be asked."""
    assert rule["noDataState"] == "OK"
    assert rule["execErrState"] == ("Error" if rule["uid"] == "metriclog-dead" else "KeepLast")


@every_rule
def test_nothing_is_taken_for_an_environment_variable(rule: Json) -> None:
    assert "$" not in json.dumps([rule[key] for key in EXPANDED])
    assert "$" not in json.dumps([part["datasourceUid"] for part in rule["data"]])


@every_rule
def test_a_query_asks_for_one_number_a_run_in_a_time_range_and_nothing_unportable(rule: Json) -> None:
    for part in asked(rule):
        query, span = part["model"]["query"], part["relativeTimeRange"]
        assert part["model"]["resultFormat"] == "time_series" and part["model"]["rawQuery"] is True
        assert part["datasourceUid"] == DATASOURCE_UID
        assert query.count("$timeFilter") == 1 and span["from"] > span["to"] >= 0
        assert query.rpartition("GROUP BY ")[2].startswith('"experiment", "run"')
        assert "rank" not in query.rpartition("GROUP BY ")[2]
        assert not re.search(r"now\(\)|\bLIMIT\b|\bSLIMIT\b|percentile|moving_average|fill\(", query)
        assert len(re.findall(r"^SELECT ([^,]*) FROM", query)) == 1, "one column"


@every_rule
def test_raw_points_are_not_read_but_the_newest_and_those_that_are_not_finite(rule: Json) -> None:
    for part in asked(rule):
        if 'FROM "metrics"' in part["model"]["query"]:
            assert re.search(r'(last\("elapsed"\)|\("nonfinite"\))', part["model"]["query"])


@every_rule
def test_every_result_is_used_and_every_name_is_a_result(rule: Json) -> None:
    names = [part["refId"] for part in rule["data"]]
    assert len(set(names)) == len(names)
    expressions = [part["model"]["expression"] for part in rule["data"] if part["datasourceUid"] == EXPRESSIONS]
    texts = " ".join(rule["annotations"].values())
    used = {name for one in expressions for name in re.findall(r"\$(\w+)", one)}
    used |= {one for one in expressions if one in names} | set(re.findall(r"\$values\.(\w+)", texts))
    assert used | {rule["condition"]} == set(names)


@every_rule
def test_its_labels_are_those_that_dashboards_and_policies_choose_by(rule: Json) -> None:
    assert rule["labels"].keys() == {"severity", "component"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["labels"]["component"] in {"training", "delivery"}


@every_rule
def test_its_message_names_the_run_and_leads_to_it(rule: Json) -> None:
    texts = rule["annotations"]
    assert "{{ $labels.run }}" in texts["summary"] and "{{ $labels.experiment }}" in texts["description"]
    for text in texts.values():
        assert text.count("{{") == text.count("}}")
    address = texts["dashboard"]
    assert re.match(r"\{\{ externalURL \}\}d/(metriclog-run|metriclog-delivery)\?", address)
    assert "var-experiment={{ $labels.experiment | urlquery }}&var-run={{ $labels.run | urlquery }}" in address
    assert "&from=" in address and "&to=" in address


@every_rule
def test_a_rule_is_linked_to_a_panel_of_all_runs_or_to_none(rule: Json) -> None:
    """A panel shows the state of its rule, which is that of any run."""
    if "dashboardUid" in rule:
        assert rule["dashboardUid"] == links.DELIVERY_UID
        panels = {panel["id"]: panel["title"] for panel in delivery().to_dict()["panels"]}
        assert re.match("Heartbeats|Quarantined and dropped", panels[rule["panelId"]])


# --- What goes with it ------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


@every_rule
def test_the_runbook_has_its_heading_and_says_four_things(rule: Json) -> None:
    sections = dict(re.findall(r"^### (.+)\n((?:(?!^#).*\n?)*)", RUNBOOK, re.M))
    assert rule["annotations"]["runbook"] == f"{alerts.RUNBOOK}#{anchor(rule['title'])}"
    words = re.findall(r"^- \*\*(.+?)\*\*:", sections[rule["title"]], re.M)
    assert words == ["Means", "Look at", "Do", "Silence"]


def test_the_runbook_says_what_the_one_alert_means_that_is_no_rule() -> None:
    assert "### Grafana cannot ask InfluxDB" in RUNBOOK and "DatasourceError" in RUNBOOK


def test_a_silent_run_is_one_to_the_reader_the_dashboards_and_the_alerts_alike() -> None:
    assert queries.SILENT_S == SILENT_S


def test_the_windows_of_the_runbook_are_those_of_the_rules() -> None:
    minutes = f"last {queries.RECENT_S // 60} minutes"
    assert RUNBOOK.count(minutes) == 3
    assert f"nothing for {queries.STALLED_S // 60} minutes" in RUNBOOK
    assert f"the last {queries.DIVERGED_S // 60} minutes" in RUNBOOK and f"{queries.JUDGED_FROM} values" in RUNBOOK
