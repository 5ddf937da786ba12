"""From a point in InfluxDB to a message at a webhook and back: Grafana's scheduler, our rules, our notifications."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import alert_stories as stories
from tests.alert_stories import LOSS, Event, Life, Tale, broken, falling, rising
from tests.screens.pager import Page, Paging
from tests.servers.grafana_api import Grafana

pytestmark = pytest.mark.timeout(600)
RANKS, BEAT_S = 512, 5
ALSO_DROPS = ("Points are dropped or quarantined", "nan on every rank")


def troubled() -> dict[str, Tale]:
    """One run for each rule, still going on at second 0 but for one that is dead; by the title of the rule."""
    goes_on = Life(-1000, 0, None, falling)
    event = Event(-60, "divergence", metric=LOSS, value=3.5)
    return {
        "Metric is NaN or infinite": replace(stories.on_ranks(RANKS), run="nan on every rank"),
        "Loss diverged": Tale("diverges", [replace(goes_on, begin=-2500, curve=rising(2000))]),
        "Run stalled": Tale("stalls", [replace(goes_on, begin=-3000, logs_until=-800)]),
        "Run is dead": Tale("dies", [replace(goes_on, end=-120)]),
        "Points are dropped or quarantined": Tale("drops", [replace(goes_on, dropped=lambda at: max(0, at + 60))]),
        "Training reports a critical event": Tale("reports", [goes_on], [event]),
    }


def sound() -> list[Tale]:
    """Runs that nobody is to be told of."""
    return [
        Tale("goes well", [Life(-1000, 0, None, falling)]),
        Tale("had NaN and finished", [Life(-1000, -30, "finished", broken(800, 900))]),
        Tale("finished", [Life(-1000, -30, "finished", falling)]),
    ]


@dataclass
class Stage:
    """What goes on meanwhile: heartbeats of those that live."""

    paging: Paging
    start_s: int
    living: list[Tale]
    beat_s: float = 0.0

    def beat(self) -> None:
        """A heartbeat of every run that lives, if it is time."""
        if time.time() - self.beat_s >= BEAT_S:
            self.beat_s = time.time()
            self._say("running", self.living)

    def finish(self, tales: Sequence[Tale]) -> None:
        """These runs say that all went well."""
        self.living = [tale for tale in self.living if tale.run not in {one.run for one in tales}]
        self._say("finished", tales)

    def _say(self, status: str, tales: Sequence[Tale]) -> None:
        lines = [
            stories.identity(tale, tale.lives[0], self.start_s).run_line(time.time_ns(), status, 2000) for tale in tales
        ]
        self.paging.influx.write("\n".join(lines))


@pytest.fixture(scope="module")
def stage(paging: Paging) -> Iterator[Stage]:
    start_s, trouble = int(time.time()), list(troubled().values())
    stories.fill(paging.influx, [*trouble, *sound()], start_s)
    yield Stage(paging, start_s, [tale for tale in (*trouble, sound()[0]) if tale.run != "dies"])


def told(pages: Sequence[Page], status: str) -> list[tuple[str, str]]:
    """Rule and run of each message."""
    return sorted((page.group["alertname"], page.group.get("run", "?")) for page in pages if page.status == status)


def test_every_trouble_is_one_message_and_a_run_that_finishes_takes_it_back(stage: Stage) -> None:
    expected = sorted([*((title, tale.run) for title, tale in troubled().items()), ALSO_DROPS])
    pages = stage.paging.wait(lambda pages: {*told(pages, "firing")} >= {*expected}, stage.beat)
    assert told(pages, "firing") == expected, "each once, and nobody is told of the other runs"
    for page in pages:
        _check_message(stage.paging, page)

    stage.finish(list(troubled().values()))
    pages = stage.paging.wait(lambda pages: {*told(pages, "resolved")} >= {*expected}, stage.beat)
    assert told(pages, "resolved") == expected
    assert told(pages, "firing") == expected, "and nobody is told anything new"


def _check_message(paging: Paging, page: Page) -> None:
    """One alert for all ranks, in words, with a link to its run that works."""
    (alert,) = page.alerts
    labels, texts = alert["labels"], alert["annotations"]
    assert labels["component"] in {"training", "delivery"} and "rank" not in labels
    assert page.group["run"] in texts["summary"] and page.group["experiment"] in texts["description"]
    assert not re.search(r"no value|error|{{|%!|NaN minutes", "".join(texts.values()))
    address = urlsplit(texts["dashboard"])
    chosen = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert (chosen["var-experiment"], chosen["var-run"]) == (stories.EXPERIMENT, page.group["run"])
    assert chosen.get("var-metric") in {labels.get("metric"), None}
    assert 0 < int(chosen["from"]) < int(chosen["to"])
    assert paging.grafana.dashboard(address.path.removeprefix("/d/"))["meta"]["provisioned"]


def test_without_anybody_to_tell_grafana_starts_all_the_same(paging_nobody: Grafana) -> None:
    points = paging_nobody.call("GET", "/api/v1/provisioning/contact-points")
    assert [one["type"] for one in points if one["name"] == "metriclog"] == ["webhook"]
    assert paging_nobody.call("GET", "/api/v1/provisioning/policies")["receiver"] == "metriclog"


@pytest.mark.parametrize("kind", ["webhook", "slack", "discord"])
def test_each_type_that_the_settings_name_takes_its_address_as_url(paging: Paging, kind: str) -> None:
    point = {"name": f"one of {kind}", "type": kind, "settings": {"url": f"{paging.webhook.url}/x"}}
    made = paging.grafana.call("POST", "/api/v1/provisioning/contact-points", point, expect=202)
    paging.grafana.call("DELETE", f"/api/v1/provisioning/contact-points/{made['uid']}", expect=202)
