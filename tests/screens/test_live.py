"""The dashboard Live in Chromium, over a real Prometheus: what there is, nothing, and no Prometheus at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from metriclog.grafana.live import PROMETHEUS_UID
from tests.dashboard_files import LIVE, panels_of
from tests.screens import chromium, live_data
from tests.screens.test_pictures import folder, is_blank, is_broken
from tests.servers import prometheus
from tests.servers.grafana_api import Grafana

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PANELS = {panel["id"]: panel for panel in panels_of(LIVE)}
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Scene:
    """How it is looked at, and how long before the jobs."""

    theme: str = "dark"
    width: int = 1500
    earlier_ms: int = 0


SCENES = {
    "dark": Scene(),
    "light": Scene(theme="light"),
    "narrow": Scene(width=900),
    "empty": Scene(earlier_ms=HOUR_MS),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.launched() as running:
        yield running


@pytest.fixture(scope="module")
def source(grafana: Grafana, programs: prometheus.Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The uid of a data source that reads a Prometheus with four jobs."""
    place, uid = tmp_path_factory.mktemp("prometheus"), f"test-{secrets.token_hex(6)}"
    live_data.fill(programs, place / "data")
    with prometheus.running(programs, place, {}) as started:
        made = {"uid": uid, "name": uid, "type": "prometheus", "access": "proxy", "url": started.url}
        settings = {"httpMode": "POST", "timeInterval": "5s", "manageAlerts": False}
        grafana.call("POST", "/api/datasources", {**made, "jsonData": settings})
        yield uid
        grafana.call("DELETE", f"/api/datasources/uid/{uid}")


def test_live_is_there_as_it_was_generated(grafana: Grafana) -> None:
    found = grafana.dashboard(LIVE["uid"])
    assert found["meta"]["provisioned"]
    counted = {"id", "version"}
    assert {key: found["dashboard"].get(key) for key in LIVE.keys() - counted} == {
        key: LIVE[key] for key in LIVE.keys() - counted
    }


def test_the_provisioned_data_source_is_there_although_no_prometheus_runs(grafana: Grafana) -> None:
    found = grafana.call("GET", f"/api/datasources/uid/{PROMETHEUS_UID}")
    assert (found["type"], found["isDefault"], found["jsonData"]["manageAlerts"]) == ("prometheus", False, False)


def address(grafana: Grafana, source: str, scene: Scene) -> str:
    """The page, at the time of the jobs or before, and standing still."""
    times = {"from": live_data.FROM_MS - scene.earlier_ms, "to": live_data.TO_MS - scene.earlier_ms}
    asked = {"var-prometheus": source, "theme": scene.theme, "timezone": "utc", "refresh": "", **times}
    return f"{grafana.url}/d/{LIVE['uid']}?kiosk&{urlencode(asked)}"


@pytest.mark.parametrize("scene", SCENES)
def test_live_shows_what_there_is_and_no_error(scene: str, grafana: Grafana, browser: Browser, source: str) -> None:
    chosen = SCENES[scene]
    view = chromium.View(address(grafana, source, chosen), chosen.width, True, grafana.headers)
    sight = chromium.look(browser, view, folder() / f"{LIVE['uid']}-{scene}.png")

    assert sight.problems == []
    assert [f"{panel.title}: {panel.text}" for panel in sight.panels if is_broken(panel)] == []
    assert PANELS.keys() == {panel.number for panel in sight.panels}
    blank = {PANELS[panel.number]["title"] for panel in sight.panels if is_blank(PANELS[panel.number], panel)}
    kinds = {panel["title"]: panel["type"] for panel in PANELS.values()}
    nothing = {title for title, kind in kinds.items() if kind != "stat"}
    assert blank == (nothing if chosen.earlier_ms else set())


def test_the_table_has_a_row_a_run_with_its_state(grafana: Grafana, browser: Browser, source: str) -> None:
    view = chromium.View(address(grafana, source, Scene()), 1500, False, grafana.headers)
    sight = chromium.look(browser, view, folder() / "metriclog-live-table.png")
    shown = {panel.title: panel for panel in sight.panels}
    assert shown["Live runs"].rows == len({job.run for job in live_data.JOBS}) == 4
    assert {"running", "finished", live_data.DIVERGED, live_data.EXPERIMENT} <= {*shown["Live runs"].lines}
    assert {"MetriclogNonFinite", "nonfinite", live_data.DIVERGED} <= {*shown["What fires"].lines}
