"""The alert rules on a real InfluxDB, time being moved by the time stamps of what is written: who has an alert when.

What a real Grafana finds is in tests/screens/test_alerts.py: the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import alert_stories as stories
from tests.alert_evaluator import committed_rules, evaluate, firing
from tests.alert_stories import LOSS, Event, Life, Tale
from tests.servers.api import Influx, Server, new_bucket

TALES = [*stories.well(), *stories.badly()]
RULES = {rule["uid"]: rule for rule in committed_rules()}


@pytest.fixture(scope="module")
def told(influxdb_server: Server) -> Iterator[Influx]:
    """A bucket with all the stories."""
    with new_bucket(influxdb_server) as bucket:
        stories.fill(bucket, TALES)
        yield bucket


def alerts(influx: Influx, instant: int) -> list[tuple[str, str]]:
    """Rule and run of each alert, sorted; one that is there twice is there twice."""
    now_s = stories.NOW_S + instant
    return sorted(
        (uid, labels.get("run", "?")) for uid, rule in RULES.items() for labels in firing(rule, influx, now_s)
    )


def values(influx: Influx, uid: str, run: str, instant: int = 0) -> dict[str, float]:
    """What the message of a run's only alert is told, by name."""
    found = evaluate(RULES[uid], influx, stories.NOW_S + instant)
    (alert,) = [labels for labels in found["FIRES"] if dict(labels)["run"] == run]
    return {name: value for name, instances in found.items() for labels, value in instances.items() if labels <= alert}


# --- Who has an alert -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instant", stories.INSTANTS)
def test_each_run_has_the_alerts_of_its_story_and_no_other(told: Influx, instant: int) -> None:
    assert alerts(told, instant) == sorted(stories.expected(TALES, instant))


def test_every_rule_has_a_story() -> None:
    assert {uid for instant in stories.INSTANTS for uid, _ in stories.expected(TALES, instant)} == RULES.keys()


def test_no_points_at_all_are_no_alert(influx: Influx) -> None:
    assert alerts(influx, 0) == []


@pytest.mark.parametrize(
    "finished",
    [
        Tale("finished", [Life(-1000, -20, "finished", stories.broken(900, 970))]),
        Tale("finished", [Life(-2500, -20, "finished", stories.rising(2000))]),
        Tale("finished", [Life(-1000, -20, "finished", stories.falling, dropped=lambda at: max(0, at + 400))]),
        Tale("finished", [Life(-1000, -20, "finished", stories.falling)], [Event(-40, "divergence", metric=LOSS)]),
        Tale("finished", [Life(-3000, -20, "finished", stories.falling, logs_until=-900)]),
    ],
    ids=["nonfinite", "diverged", "lost", "event", "stalled"],
)
@pytest.mark.parametrize("begun", [-1000, -30])
def test_beside_a_single_other_run_a_finished_one_is_silent_too(influx: Influx, finished: Tale, begun: int) -> None:
    """Where one instance is left on each side, Grafana's math joins two that have nothing to do with each other."""
    stories.fill(influx, [finished, Tale("other", [Life(begun, 0, None, stories.falling)])])
    assert alerts(influx, 0) == []


def test_five_hundred_ranks_are_one_alert_a_rule(influx: Influx) -> None:
    stories.fill(influx, [stories.on_ranks(512)])
    assert alerts(influx, 0) == [("metriclog-lost", "ranks"), ("metriclog-nonfinite", "ranks")]
    assert values(influx, "metriclog-nonfinite", "ranks")["COUNT"] == 512 * 40
    assert values(influx, "metriclog-lost", "ranks")["DROPPED"] == 45


def test_a_metric_has_an_alert_of_its_own(influx: Influx) -> None:
    bad = stories.broken(900, 950)
    stories.fill(influx, [Tale("two", [Life(-1000, 0, None, bad)], beside=[Life(-1000, 0, None, bad, "grad_norm")])])
    found = firing(RULES["metriclog-nonfinite"], influx, stories.NOW_S)
    assert sorted(labels["metric"] for labels in found) == ["grad_norm", LOSS]


# --- What its message says --------------------------------------------------------------------------------------------


def test_the_message_of_values_that_are_not_finite_has_their_number_kind_and_first_step(told: Influx) -> None:
    found = values(told, "metriclog-nonfinite", "nan-then-failed")
    assert (found["COUNT"], found["KIND"], found["STEP"]) == (10, 1, 790)
    assert values(told, "metriclog-nonfinite", "infinite-once", -200)["KIND"] == 2


def test_the_message_of_a_divergence_has_the_loss_now_its_average_its_best_and_the_step(told: Influx) -> None:
    found = values(told, "metriclog-diverged", "diverging")
    curve = [stories.rising(1900)(step) for step in range(2500)]
    assert (found["STEP"], found["BEST"]) == (2499, min(curve))
    assert found["AVERAGE"] == pytest.approx(sum(curve) / 2500, rel=0.01)
    assert found["LOSS"] == pytest.approx(sum(curve[-300:]) / 300, rel=0.1), "the mean of one in ten"


def test_the_message_of_a_stalled_run_says_since_when_and_how_often_it_logged(told: Influx) -> None:
    found = values(told, "metriclog-stalled", "stalled")
    assert (found["SILENCE"], found["STEP"]) == (820, 2180)
    assert found["INTERVAL"] == pytest.approx(1)


def test_the_message_of_an_event_has_its_step_and_its_value_if_it_has_one(told: Influx) -> None:
    found = values(told, "metriclog-event", "says-so")
    assert (found["COUNT"], found["STEP"], found["VALUE"]) == (1, 600, 3.5)
    assert "VALUE" not in values(told, "metriclog-event", "alerts")


@pytest.mark.parametrize(("uid", "run"), [("metriclog-nonfinite", "nan-then-failed"), ("metriclog-dead", "killed")])
def test_a_message_leads_to_the_time_from_the_start_of_the_run_to_its_last_sign_of_life(
    told: Influx, uid: str, run: str
) -> None:
    found = values(told, uid, run)
    last = {"nan-then-failed": -200, "killed": -235 + 5}[run]
    assert found["STARTED"] == (stories.NOW_S - 1000) * 1000
    assert abs(found["UNTIL"] - (stories.NOW_S + last + 60) * 1000) <= 15_000
