"""The alert rules in a real Grafana: it takes the file, and finds at each instant what our own evaluator finds."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from metriclog.grafana.variables import DATASOURCE_UID
from tests import alert_stories as stories
from tests.alert_evaluator import committed_rules
from tests.servers.api import Influx, Server, new_bucket
from tests.servers.grafana_api import Grafana

Json = dict[str, Any]
TALES = [*stories.well(), *stories.badly()]
RULES = {rule["uid"]: rule for rule in committed_rules()}


@pytest.fixture(scope="module")
def told(influxdb_server: Server) -> Iterator[Influx]:
    with new_bucket(influxdb_server) as bucket:
        stories.fill(bucket, TALES)
        yield bucket


@pytest.fixture(scope="module")
def source(grafana: Grafana, told: Influx) -> Iterator[str]:
    with grafana.source(told, "alerts") as uid:
        yield uid


def on(source: str, rule: Json) -> Json:
    """The rule on another data source."""
    changed = copy.deepcopy(rule)
    for part in changed["data"]:
        if part["datasourceUid"] == DATASOURCE_UID:
            part["datasourceUid"] = source
    return changed


def evaluated(grafana: Grafana, rule: Json, instant: int) -> list[dict[str, str]]:
    """The labels of each instance that Grafana finds alerting."""
    now = dt.datetime.fromtimestamp(stories.NOW_S + instant, dt.UTC)
    send = {"data": rule["data"], "condition": rule["condition"], "now": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
    results = grafana.call("POST", "/api/v1/eval", send)["results"]
    assert not [result["error"] for result in results.values() if "error" in result]
    # A frame without fields says that there are no data.
    frames = [frame for frame in results[rule["condition"]]["frames"] if frame["schema"]["fields"]]
    return [frame["schema"]["fields"][0].get("labels", {}) for frame in frames if frame["data"]["values"] != [[0]]]


def test_grafana_has_taken_every_rule_as_it_stands_in_the_file(grafana: Grafana) -> None:
    found = {rule["uid"]: rule for rule in grafana.call("GET", "/api/v1/provisioning/alert-rules")}
    for uid, rule in RULES.items():
        theirs = found[uid]
        assert theirs["provenance"] == "file"
        for key in ("title", "condition", "noDataState", "execErrState", "labels"):
            assert theirs[key] == rule[key]
        assert theirs["annotations"].items() >= rule["annotations"].items()
        assert [essence(part) for part in theirs["data"]] == [essence(part) for part in rule["data"]]


def essence(part: Json) -> tuple[str, str, str]:
    """Name, source, and the query or expression of a part of a rule, to the last letter."""
    model = part["model"]
    return part["refId"], part["datasourceUid"], model.get("query") or model["expression"]


def test_dashboards_and_alerts_share_one_folder(grafana: Grafana) -> None:
    assert [one["title"] for one in grafana.call("GET", "/api/folders")].count("metriclog") == 1


@pytest.mark.parametrize("instant", stories.INSTANTS)
def test_each_run_has_the_alerts_of_its_story_and_no_other(grafana: Grafana, source: str, instant: int) -> None:
    found = [
        (uid, labels.get("run", "?"))
        for uid, rule in RULES.items()
        for labels in evaluated(grafana, on(source, rule), instant)
    ]
    assert sorted(found) == sorted(stories.expected(TALES, instant))
