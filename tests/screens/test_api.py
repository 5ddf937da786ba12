"""What a real Grafana says about our provisioning, and what its data source answers to the panels' queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from metriclog.grafana.variables import DATASOURCE_UID
from tests import panels
from tests.grafana_frames import frames_of
from tests.panels import DASHBOARDS, FROM_MS, TO_MS, Asked, Json, View
from tests.servers.api import Influx, Server, new_bucket
from tests.servers.grafana_api import Grafana

PANELS = {f"{uid}-{panel['id']}-{panel['title']}": (uid, panel) for uid, panel in panels.all_panels()}
ANNOTATIONS = {
    f"{uid}-{one['name']}": (uid, one["target"])
    for uid, dashboard in DASHBOARDS.items()
    for one in dashboard["annotations"]["list"]
    if "target" in one
}
VIEW = View(panels.RANKED)


@pytest.fixture(scope="module")
def bucket(influxdb_server: Server) -> Iterator[Influx]:
    with new_bucket(influxdb_server) as filled:
        panels.fill(filled)
        yield filled


@pytest.fixture(scope="module")
def source(grafana: Grafana, bucket: Influx) -> Iterator[str]:
    with grafana.source(bucket, "small") as uid:
        yield uid


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_a_dashboard_is_there_as_it_was_generated(uid: str, grafana: Grafana) -> None:
    found = grafana.dashboard(uid)
    assert found["meta"]["provisioned"]
    counted = {"id", "version"}
    assert {key: value for key, value in found["dashboard"].items() if key not in counted} == {
        key: value for key, value in DASHBOARDS[uid].items() if key not in counted
    }


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_grafana_can_convert_a_dashboard_to_its_newer_format(uid: str, grafana: Grafana) -> None:
    path = f"/apis/dashboard.grafana.app/v1beta1/namespaces/default/dashboards/{uid}"
    conversion = grafana.call("GET", path).get("status", {}).get("conversion", {})
    assert not conversion.get("failed"), conversion


def test_the_provisioned_data_source_is_there(grafana: Grafana) -> None:
    found = grafana.call("GET", f"/api/datasources/uid/{DATASOURCE_UID}")
    assert (found["type"], found["jsonData"]["httpMode"], found["readOnly"]) == ("influxdb", "POST", True)


def test_a_data_source_of_our_kind_is_healthy(grafana: Grafana, source: str) -> None:
    assert grafana.call("GET", f"/api/datasources/uid/{source}/health")["status"] == "OK"


@pytest.mark.parametrize("key", PANELS)
def test_a_panel_gets_the_frames_that_the_node_tests_make(
    key: str, grafana: Grafana, source: str, bucket: Influx
) -> None:
    """Every target, sent as the page sends it: nothing is refused, and `tests.grafana_frames` says what comes back."""
    uid, panel = PANELS[key]
    asked = Asked(bucket)
    menus = VIEW.menus(uid, asked.rows)
    for scoped in panels.repeats(panel, menus):
        targets = [
            {**target, **_sent(source), "query": menus.without_macros(target["query"], **scoped)}
            for target in panel["targets"]
        ]
        results = grafana.query(targets, FROM_MS, TO_MS)
        for target in panel["targets"]:
            expected = frames_of(target, asked.series(menus.interpolate(target["query"], **scoped)))
            result = results[target["refId"]]
            assert "error" not in result
            assert [_comparable(frame) for frame in result["frames"]] == [_comparable(frame) for frame in expected]


@pytest.mark.parametrize("key", ANNOTATIONS)
def test_an_annotation_finds_events(key: str, grafana: Grafana, source: str, bucket: Influx) -> None:
    uid, target = ANNOTATIONS[key]
    menus = View().menus(uid, Asked(bucket).rows)
    sent = {**target, **_sent(source), "query": menus.without_macros(target["query"])}
    (result,) = grafana.query([sent], FROM_MS, TO_MS).values()
    assert "error" not in result
    names = {field["name"] for frame in result["frames"] for field in frame["schema"]["fields"]}
    assert names <= {"Time", "title", "text", "tags"}


def _sent(source: str) -> dict[str, Any]:
    return {"datasource": {"type": "influxdb", "uid": source}, "intervalMs": 15_000, "maxDataPoints": 1_000}


def _comparable(frame: Json) -> Json:
    """A frame without what it says about its making; tags in the order of their names, which Grafana shuffles."""
    schema = frame["schema"]
    fields = [
        {"labels": {}, "config": {}, **field, "values": values}
        for field, values in zip(schema["fields"], frame["data"]["values"], strict=True)
    ]
    tags = sorted(field["name"] for field in fields if field["type"] == "string")
    order = sorted(fields, key=lambda field: (field["name"] in tags, field["name"] if field["name"] in tags else ""))
    return {"name": schema.get("name", ""), "refId": schema["refId"], "fields": order}
