"""`metriclog provision --check` and `--apply` against a scripted Grafana: what is said, what is sent, what is left."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from metriclog import provision
from metriclog.grafana import datasource
from tests.commands import metriclog, metriclog_json
from tests.servers.scripted import says
from tests.servers.scripted_grafana import ScriptedGrafana, denied, scripted_grafana

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {board["uid"]: board for board in provision.shipped_dashboards()}
FIRST, *OTHERS = SHIPPED.values()
UID, TITLE = FIRST["uid"], FIRST["title"]
SOURCE = "metriclog-influxql"
TOKEN = "glsa_s3cr3t-t0ken"
INFLUX_TOKEN = "influx-s3cr3t"
Json = dict[str, Any]


@pytest.fixture
def grafana() -> Iterator[ScriptedGrafana]:
    """An empty Grafana."""
    with scripted_grafana() as server:
        yield server


@pytest.fixture
def filled(grafana: ScriptedGrafana) -> ScriptedGrafana:
    """A Grafana with everything in it."""
    apply(grafana, "--influx-url", "http://influx.example:8086")
    grafana.requests.clear()
    return grafana


def check(grafana: ScriptedGrafana, *arguments: str) -> tuple[int, str, str]:
    return metriclog("provision", "--check", "--url", grafana.url, *arguments, grafana_token=TOKEN)


def apply(grafana: ScriptedGrafana, *arguments: str, **settings: object) -> tuple[int, str, str]:
    settings = {"grafana_token": TOKEN, "token": INFLUX_TOKEN, **settings}
    return metriclog("provision", "--apply", "--url", grafana.url, *arguments, **settings)


def said_of(uid: str, out: str) -> str:
    """What a line says of one thing."""
    (line,) = (line for line in out.splitlines() if re.search(rf"\({uid}[,)]", line))
    return line.partition("): ")[2]


def edited(dashboard: Json) -> Json:
    """A dashboard of ours in which somebody renamed the first panel."""
    copied = copy.deepcopy(dashboard)
    copied["panels"][0]["title"] = "Mine"
    return copied


def foreign(uid: str) -> Json:
    return {"uid": uid, "title": "Somebody's", "tags": ["theirs"], "panels": []}


# --- --check --------------------------------------------------------------------------------------------------------


def test_check_of_an_empty_grafana_names_everything_as_missing_and_changes_nothing(grafana: ScriptedGrafana) -> None:
    code, out, err = check(grafana)
    assert (code, err) == (1, "")
    assert out.startswith(f"Grafana 12.3.0 at {grafana.url}\n")
    assert [said_of(uid, out) for uid in (SOURCE, *SHIPPED)] == ["missing"] * (1 + len(SHIPPED))
    assert grafana.writes() == []


def test_check_after_apply_finds_no_difference(filled: ScriptedGrafana) -> None:
    code, out, _ = check(filled)
    assert (code, out.splitlines()[-1]) == (0, "nothing differs")
    assert [said_of(uid, out) for uid in (SOURCE, *SHIPPED)] == ["equal"] * (1 + len(SHIPPED))
    assert filled.writes() == []


def test_check_says_which_panels_differ(filled: ScriptedGrafana) -> None:
    filled.put(edited(FIRST))
    code, out, _ = check(filled)
    assert code == 1
    assert said_of(UID, out) == "differs"
    panel = FIRST["panels"][0]
    assert f'  panel {panel["id"]} "{panel["title"]}": title\n' in out
    assert out.endswith(f"1 of {1 + len(SHIPPED)} differ\n")


def test_check_names_a_dashboard_of_our_uid_that_somebody_else_made(filled: ScriptedGrafana) -> None:
    filled.put(foreign(UID))
    code, out, _ = check(filled)
    assert (code, "somebody else made it" in said_of(UID, out)) == (1, True)


def test_check_prints_json(filled: ScriptedGrafana) -> None:
    filled.put(edited(FIRST), provisioned=True)
    found = metriclog_json("provision", "--check", "--url", filled.url, grafana_token=TOKEN)
    assert found["grafana"] == filled.url
    assert found["datasource"]["state"] == "equal"
    by_uid = {board["uid"]: board for board in found["dashboards"]}
    assert by_uid.keys() == SHIPPED.keys()
    assert (by_uid[UID]["state"], by_uid[UID]["file_managed"]) == ("differs", True)
    assert list(by_uid[UID]["differences"].values()) == [["title"]]


def test_what_the_token_may_not_read_is_unknown_and_the_rest_is_still_said(filled: ScriptedGrafana) -> None:
    filled.instead[f"GET /api/dashboards/uid/{UID}"] = denied()
    filled.instead[f"GET /api/datasources/uid/{SOURCE}"] = denied()
    code, out, _ = check(filled)
    assert code == 1
    for uid in (UID, SOURCE):
        assert re.match(r"unknown: .*403: Permissions needed: some:right.* role Viewer for --check", said_of(uid, out))
    assert {said_of(board["uid"], out) for board in OTHERS} <= {"equal"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "prometheus"}, "type is prometheus, not influxdb"),
        ({"access": "direct"}, "access is direct, not proxy"),
        ({"jsonData": {}}, "jsonData.httpMode is not set, not POST"),
        ({"jsonData": None}, "jsonData.version is not set, not InfluxQL"),
        ({"jsonData": {"version": "Flux"}}, "jsonData.version is Flux, not InfluxQL"),
    ],
)
def test_a_data_source_that_is_set_otherwise_is_named_and_never_altered(
    filled: ScriptedGrafana, change: Json, words: str
) -> None:
    filled.sources[SOURCE] |= change
    code, out, _ = check(filled)
    assert (code, words in out) == (1, True)
    code, out, _ = apply(filled, "--influx-url", "http://influx.example:8086", "--force")
    assert (code, said_of(SOURCE, out).startswith("left alone"), words in out) == (0, True, True)
    assert filled.writes() == []


def test_where_influxdb_is_and_how_one_signs_in_there_is_the_users_affair(filled: ScriptedGrafana) -> None:
    filled.sources[SOURCE] |= {"url": "https://elsewhere", "user": "me", "basicAuth": True, "name": "other"}
    filled.sources[SOURCE]["jsonData"].pop("httpHeaderName1")
    assert check(filled)[0] == 0


# --- --apply --------------------------------------------------------------------------------------------------------


def test_apply_puts_everything_into_an_empty_grafana_in_a_folder_of_its_own(grafana: ScriptedGrafana) -> None:
    code, out, err = apply(grafana, "--influx-url", "http://influx.example:8086")
    assert (code, err) == (0, "")
    assert grafana.folders == {"metriclog": {"uid": "metriclog", "title": "metriclog"}}
    for uid, board in SHIPPED.items():
        stored = grafana.dashboards[uid]
        assert said_of(uid, out) == "created"
        assert stored["meta"]["folderUid"] == "metriclog"
        assert stored["dashboard"]["panels"] == board["panels"]


def test_apply_a_second_time_sends_nothing(filled: ScriptedGrafana) -> None:
    code, out, _ = apply(filled, "--influx-url", "http://influx.example:8086")
    assert code == 0
    assert [said_of(uid, out) for uid in (SOURCE, *SHIPPED)] == ["unchanged"] * (1 + len(SHIPPED))
    assert filled.writes() == []


def test_apply_restores_ours_alone_and_where_the_user_put_it(filled: ScriptedGrafana) -> None:
    filled.folders["theirs"] = {}
    filled.put(edited(FIRST), folder="theirs")
    filled.put(foreign("something-else"))
    code, out, _ = apply(filled)
    assert (code, said_of(UID, out)) == (0, "updated")
    assert filled.writes() == ["POST /api/dashboards/db"]
    assert filled.dashboards[UID]["meta"]["folderUid"] == "theirs"
    assert filled.dashboards[UID]["dashboard"]["panels"] == FIRST["panels"]
    assert check(filled)[0] == 0


def test_apply_leaves_alone_a_dashboard_of_our_uid_that_somebody_else_made_unless_forced(
    filled: ScriptedGrafana,
) -> None:
    filled.put(foreign(UID))
    code, out, _ = apply(filled)
    assert code == 1
    assert re.match("left alone: .*somebody else made it; --force overwrites it", said_of(UID, out))
    assert filled.writes() == []
    code, out, _ = apply(filled, "--force")
    assert (code, said_of(UID, out)) == (0, "updated")
    assert check(filled)[0] == 0


def test_a_dashboard_that_grafana_reads_from_a_file_is_left_alone_even_by_force(filled: ScriptedGrafana) -> None:
    filled.put(edited(FIRST), provisioned=True)
    code, out, _ = apply(filled, "--force")
    assert (code, "reads it from a file" in said_of(UID, out)) == (1, True)
    assert filled.writes() == []


def test_one_that_is_equal_is_well_whoever_manages_it(filled: ScriptedGrafana) -> None:
    for board in SHIPPED.values():
        filled.put(board, provisioned=True)
    assert (check(filled)[0], apply(filled)[0], filled.writes()) == (0, 0, [])


def test_one_that_comes_up_in_between_is_not_overwritten_and_the_others_go_on(grafana: ScriptedGrafana) -> None:
    grafana.put(foreign(UID))
    grafana.instead[f"GET /api/dashboards/uid/{UID}"] = says(404, b'{"message":"Dashboard not found"}')
    code, out, _ = apply(grafana)
    assert code == 1
    assert re.match(r"left alone: .*\(412: The dashboard has been changed by someone else\)", said_of(UID, out))
    assert {said_of(board["uid"], out) for board in OTHERS} <= {"created"}
    assert grafana.dashboards[UID]["dashboard"]["title"] == "Somebody's"


def test_a_folder_that_may_not_be_seen_is_still_used(grafana: ScriptedGrafana) -> None:
    grafana.folders["metriclog"] = {}
    grafana.instead["GET /api/folders/metriclog"] = denied()
    grafana.instead["POST /api/folders"] = says(412, b'{"message":"the folder has been changed by someone else"}')
    assert apply(grafana)[0] == 0


def test_a_token_that_may_not_write_is_told_which_role_it_needs(grafana: ScriptedGrafana) -> None:
    grafana.instead["POST /api/folders"] = denied()
    code, _, err = apply(grafana)
    assert code == 1
    assert re.match(r"metriclog: .*make the folder metriclog \(403: Permissions needed: some:right\)\. .*Editor", err)
    assert grafana.dashboards == {}


def test_apply_prints_json(grafana: ScriptedGrafana) -> None:
    grafana.put(foreign(UID))
    found = metriclog_json("provision", "--apply", "--url", grafana.url, grafana_token=TOKEN)
    done = {outcome["uid"]: (outcome["done"], outcome["failed"]) for outcome in found["outcomes"]}
    assert done == {
        SOURCE: ("missing", False),
        UID: ("left alone", True),
        **{board["uid"]: ("created", False) for board in OTHERS},
    }


# --- The data source ------------------------------------------------------------------------------------------------


def sent(grafana: ScriptedGrafana, path: str) -> Json:
    (body,) = (body for method, asked, _, body in grafana.requests if (method, asked) == ("POST", path))
    parsed: Json = json.loads(body)
    return parsed


def test_the_data_source_is_the_provisioned_one(grafana: ScriptedGrafana) -> None:
    code, out, _ = apply(grafana, url="http://influx.example:8086")
    assert (code, "with METRICLOG_TOKEN; one that can only read is enough" in said_of(SOURCE, out)) == (0, True)
    file = ROOT / "provisioning" / "grafana" / "datasources" / "metriclog.yaml"
    text = file.read_text(encoding="utf-8").replace("$METRICLOG_INFLUX_URL", "http://influx.example:8086")
    (provisioned,) = yaml.safe_load(text.replace("$METRICLOG_INFLUX_TOKEN", INFLUX_TOKEN))["datasources"]
    provisioned.pop("editable")
    assert sent(grafana, "/api/datasources") == provisioned


def test_a_server_that_wants_no_token_gets_no_header(grafana: ScriptedGrafana) -> None:
    assert apply(grafana, "--influx-url", "http://influx.example:8086", token="", bucket="db")[0] == 0
    made = sent(grafana, "/api/datasources")
    assert "secureJsonData" not in made
    assert made["jsonData"]["dbName"] == "db"


def test_without_an_address_of_influxdb_no_data_source_is_made_and_that_is_said(grafana: ScriptedGrafana) -> None:
    code, out, _ = apply(grafana)
    assert (code, "--influx-url (or METRICLOG_URL)" in said_of(SOURCE, out)) == (0, True)
    assert grafana.sources == {}


def test_a_data_source_that_does_not_answer_is_said_with_grafanas_words(grafana: ScriptedGrafana) -> None:
    grafana.instead[f"GET /api/datasources/uid/{SOURCE}/health"] = says(400, b'{"message":"connection refused"}')
    code, out, _ = apply(grafana, "--influx-url", "http://127.0.0.1:1")
    assert (code, "connection refused" in said_of(SOURCE, out)) == (0, True)


def test_a_token_that_may_not_add_data_sources_still_adds_dashboards(grafana: ScriptedGrafana) -> None:
    grafana.instead["POST /api/datasources"] = denied()
    code, out, _ = apply(grafana, "--influx-url", "http://influx.example:8086")
    assert (code, "Admin to add the data source" in said_of(SOURCE, out)) == (1, True)
    assert grafana.dashboards.keys() == SHIPPED.keys()


def test_what_a_data_source_lacks_is_said_in_words() -> None:
    assert datasource.differences(datasource.datasource("http://x", "metriclog", "t"), "metriclog") == []
    assert datasource.differences({}, "db")[3] == "jsonData.dbName is not set, not db"
