"""Every dashboard in Chromium, in many situations: no panel shows an error, or nothing where there is something.

The pictures are in build/screenshots, or in the folder METRICLOG_TEST_SCREENSHOTS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.dashboard_files import panels_of
from tests.panels import ABSENT, DASHBOARDS
from tests.screens import chromium, demo_data
from tests.servers.api import Influx
from tests.servers.grafana_api import Grafana

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]

# What panels say when their data are not as they need them; "Err" is all that an xychart has to say.
BROKEN = re.compile(r"Values must be in ascending order|Only one frame is supported|Unable to find field|^Err$")
NOTHING = re.compile(r"^No data$|No numeric fields found")


@dataclass(frozen=True)
class Scene:
    """What is looked at. `run` goes to dashboards of one run; also to those of several runs where it stands `alone`."""

    experiment: str
    run: str
    alone: bool = False
    theme: str = "dark"
    width: int = 1500
    open_rows: bool = False
    empty: bool = False


SCENES = {
    "dark": Scene(demo_data.DEMO, demo_data.DEMO_DIVERGED),
    "light": Scene(demo_data.DEMO, demo_data.DEMO_DIVERGED, theme="light"),
    "narrow": Scene(demo_data.DEMO, demo_data.DEMO_DIVERGED, width=900),
    "twenty": Scene(demo_data.SWEEP, demo_data.WITH_NAN, open_rows=True),
    "resumed": Scene(demo_data.SWEEP, demo_data.RESUMED, alone=True, open_rows=True),
    "ranks": Scene(demo_data.SWEEP, demo_data.RANKED, alone=True, open_rows=True),
    "long": Scene(demo_data.LONG, demo_data.LONG_RUN, open_rows=True),
    "empty": Scene("", "", open_rows=True, empty=True),
}
_RANKS = {("metriclog-run", f"{words}: $metric_ranked") for words in ("Over the ranks", "On each rank")}
_ONE_RUN = {("metriclog-compare", "Parameters that differ")}
NOTHING_THERE: Mapping[str, set[tuple[str, str]]] = {
    "twenty": _RANKS,
    "resumed": _RANKS | _ONE_RUN,
    "ranks": _ONE_RUN,
    "long": _RANKS | _ONE_RUN | {("metriclog-run", "Learning rate"), ("metriclog-run", "Gradient norm")},
}
"""Scene → the panels that have nothing to show in it."""
LEGENDS = {("metriclog-compare", "twenty"): {"Large chart: ${metric_large}": 20}}
"""Page → the charts with a legend, and how many names that has."""


def panels(dashboard: dict[str, Any], *, in_closed_rows: bool) -> dict[int, dict[str, Any]]:
    """The dashboard's panels by their numbers, without the rows between them."""
    at_once = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return {panel["id"]: panel for panel in (panels_of(dashboard) if in_closed_rows else at_once)}


def _has_charts(uid: str) -> bool:
    return any(panel["type"] == "trend" for panel in panels(DASHBOARDS[uid], in_closed_rows=True).values())


PICTURES = [(uid, name) for uid in DASHBOARDS for name, scene in SCENES.items() if not scene.alone or _has_charts(uid)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.launched() as running:
        yield running


@pytest.fixture(scope="module")
def ranges(filled: Influx) -> Mapping[str, tuple[int, int]]:
    """When each run was, in ms: what a link to it carries."""
    rows = filled.rows('SELECT last("started") AS "started", last("ended") AS "ended" FROM "runs" GROUP BY "run"')
    return {row["run"]: (row["started"], row["ended"] + 1) for row in rows}


@pytest.mark.parametrize(("uid", "scene"), PICTURES)
def test_a_dashboard_shows_what_there_is_and_no_error(
    uid: str, scene: str, grafana: Grafana, browser: Browser, request: pytest.FixtureRequest
) -> None:
    chosen = SCENES[scene]
    source = request.getfixturevalue("empty_source" if chosen.empty else "filled_source")
    times = {} if chosen.empty else request.getfixturevalue("ranges")
    url = grafana.url + address(uid, chosen, source, times)
    view = chromium.View(url, chosen.width, chosen.open_rows, grafana.headers)
    sight = chromium.look(browser, view, folder() / f"{uid}-{scene}.png")

    assert sight.problems == []
    assert [f"{panel.title}: {panel.text}" for panel in sight.panels if is_broken(panel)] == []
    made = panels(DASHBOARDS[uid], in_closed_rows=chosen.open_rows)
    assert made.keys() == {panel.number for panel in sight.panels}
    if not chosen.empty:
        blank = {(uid, made[panel.number]["title"]) for panel in sight.panels if is_blank(made[panel.number], panel)}
        assert blank == {(of, title) for of, title in NOTHING_THERE.get(scene, ()) if of == uid}
        for panel in sight.panels:
            assert says_why(made[panel.number], panel) or not is_blank(made[panel.number], panel), panel.title
    named = {made[panel.number]["title"]: panel.names for panel in sight.panels if panel.names}
    assert LEGENDS.get((uid, scene), named) == named


def folder() -> Path:
    """Where the pictures go."""
    return Path(os.environ.get("METRICLOG_TEST_SCREENSHOTS") or ROOT / "build" / "screenshots")


def address(uid: str, scene: Scene, source: str, times: Mapping[str, tuple[int, int]]) -> str:
    """The page, with the scene's choices for those menus that the dashboard has; of one run in the time of that run."""
    menus = {variable["name"]: variable for variable in DASHBOARDS[uid]["templating"]["list"]}
    wanted = {"datasource": source, "experiment": scene.experiment}
    if scene.alone or not menus.get("run", {}).get("multi"):
        wanted["run"] = scene.run
    choices = {f"var-{name}": value for name, value in wanted.items() if value and name in menus}
    begin, end = times.get(wanted.get("run", ""), (demo_data.FROM_MS, demo_data.TO_MS))
    looks = {"theme": scene.theme, "timezone": "utc", "from": str(begin), "to": str(end)}
    return f"/d/{uid}?kiosk&{urlencode({**looks, **choices})}"


def is_broken(panel: chromium.Seen) -> bool:
    return panel.failed or any(BROKEN.search(line) for line in panel.lines)


def is_blank(made: Mapping[str, Any], panel: chromium.Seen) -> bool:
    """Whether a panel has nothing to show: it says so in Grafana's words or in its own, or has no line and no row."""
    if any(NOTHING.search(line) for line in panel.lines) or says_why(made, panel):
        return True
    # A chart over steps may have no legend, and one by the wall clock coloured marks without a line.
    return not {"trend": panel.colored, "timeseries": panel.names, "table": panel.rows}.get(made["type"], True)


def says_why(made: Mapping[str, Any], panel: chromium.Seen) -> bool:
    """Whether a panel has our words for nothing to show on it: in its midst, or as a name in the legend of a chart."""
    ours = {made["fieldConfig"]["defaults"].get("noValue")}
    for override in made["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == ABSENT:
            ours |= {one["value"] for one in override["properties"] if one["id"] == "displayName"}
    return not ours.isdisjoint(panel.lines)
