"""Run: watching metrics, stopping by it, telling people, and what a run shows of itself while it lives."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import live, showing, testing
from metriclog.settings import Settings

LIMIT_S = 20.0
QUICK = {"flush_interval_s": 0.02}


@pytest.fixture
def captured() -> Iterator[testing.Captured]:
    with testing.capture() as found:
        yield found


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as it holds; fail after LIMIT_S."""
    deadline_s, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        pause.wait(0.01)


def explode(run: metriclog.Run, metric: str = "train/loss") -> None:
    """A loss that falls, then jumps up and stays there."""
    rng = random.Random(3)
    for step in range(600):
        value = 2.0 * math.exp(-step / 100) + 0.1 + rng.gauss(0, 0.01)
        run.log({metric: value if step < 500 else 1000.0}, step)


def troubles(captured: testing.Captured) -> list[tuple[str, str | None, Any]]:
    """(kind, metric, level) of what was found."""
    own = ("start", "finish", "resume")
    return [
        (it.tags["kind"], it.tags.get("metric"), it.fields["level"])
        for it in captured.events()
        if it.tags["kind"] not in own
    ]


# -- without being asked ------------------------------------------------------------------------------------------


def test_a_nan_in_the_very_last_step_is_found_and_journaled_before_the_end_of_the_run(
    captured: testing.Captured,
) -> None:
    with metriclog.init("exp") as run:
        run.log({"train/loss": 1.0})
        run.log({"train/loss": math.nan})
    assert run.should_stop
    kinds = [event.tags["kind"] for event in captured.events()]
    assert kinds == ["start", "nonfinite", "finish"]
    (event,) = captured.events("nonfinite")
    assert event.tags["metric"] == "train/loss"
    assert {name: event.fields[name] for name in ("title", "level", "step", "count", "rule")} == {
        "title": "train/loss is NaN", "level": "critical", "step": 1, "count": 1, "rule": "nonfinite",
    }  # fmt: skip
    assert "value" not in event.fields


def test_that_also_holds_on_a_network_file_system_where_the_journal_is_buffered(tmp_path: Path) -> None:
    settings = Settings(mode="offline", dir=tmp_path, journal_io="buffered")
    with metriclog.init("exp", settings=settings) as run:
        run.log({"train/loss": 1.0})
        run.log({"train/loss": math.nan})
    assert run.should_stop


def test_and_without_any_time_to_wait(captured: testing.Captured) -> None:
    run = metriclog.init("exp")
    run.log({"train/loss": math.inf})
    run.finish(timeout_s=0.0)
    assert ("nonfinite", "train/loss", "critical") in troubles(captured)


def test_a_training_loop_learns_while_it_runs_that_it_should_stop(captured: testing.Captured) -> None:
    with metriclog.init("exp", settings=Settings.load(**QUICK)) as run:
        assert not run.should_stop
        explode(run)
        until(lambda: run.should_stop)
        run.log({"train/loss": 0.1})
        assert run.should_stop, "it stays"
    assert "divergence" in {kind for kind, _, _ in troubles(captured)}


def test_a_run_that_goes_well_says_nothing(captured: testing.Captured) -> None:
    rng = random.Random(11)
    with metriclog.init("exp") as run:
        for step in range(600):
            run.log({"train/loss": 2.0 * math.exp(-step / 200) + 0.1 + rng.gauss(0, 0.01), "grad_norm": 1.0})
    assert not run.should_stop
    assert troubles(captured) == []


def test_two_curves_of_one_name_but_of_two_models_are_not_mixed_up(captured: testing.Captured) -> None:
    with metriclog.init("exp") as run:
        for step in range(400):
            run.log({"loss": 100.0 / (step + 1) + 1}, step, model="student")
            run.log({"loss": 0.01 / (step + 1) + 0.001}, step, model="teacher")
    assert troubles(captured) == []


# -- by choice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", ["by argument", "by setting"])
def test_watching_can_be_turned_off_and_what_is_named_is_watched_all_the_same(
    captured: testing.Captured, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICLOG_WATCH", "false" if off == "by setting" else "true")
    with metriclog.init("exp", watch=False if off == "by argument" else None) as run:
        run.watch("speed")
        run.log({"train/loss": math.nan, "speed": 1.0})
        explode(run)
        run.log({"speed": math.nan})
    assert {metric for _, metric, _ in troubles(captured)} == {"speed"}


def test_an_argument_stands_for_the_setting(captured: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_WATCH", "false")
    with metriclog.init("exp", watch=True) as run:
        run.log({"train/loss": math.nan})
    assert run.should_stop


def test_a_rule_given_by_hand_is_the_one_that_fires(captured: testing.Captured) -> None:
    with metriclog.init("exp") as run:
        run.watch("speed", metriclog.Spike())
        run.watch("train/loss", [])
        explode(run, "speed")
        explode(run)
    assert {metric for _, metric, _ in troubles(captured)} == {"speed"}
    assert {event.fields["rule"] for event in captured.events("divergence")} == {"spike"}


@pytest.mark.parametrize("rule", ["spike", 3, [metriclog.Spike(), "x"], metriclog.Spike])
def test_what_is_no_rule_is_refused_at_the_call(captured: testing.Captured, rule: Any) -> None:
    with metriclog.init("exp") as run, pytest.raises(metriclog.UsageError, match="is no rule"):
        run.watch("train/loss", rule)


def test_a_callable_gets_what_was_found_as_often_as_an_event_is_written(captured: testing.Captured) -> None:
    found: list[metriclog.Finding] = []
    threads: list[str] = []

    def fire(finding: metriclog.Finding) -> None:
        found.append(finding)
        threads.append(threading.current_thread().name)

    with metriclog.init("exp") as run:
        run.watch("train/*", on_fire=fire)
        explode(run)
        run.log({"other": math.nan})
    assert {finding.metric for finding in found} == {"train/loss"}
    assert len(found) == len([it for it in captured.events() if it.tags.get("metric") == "train/loss"])
    assert set(threads) == {"metriclog-watch"}


def test_what_is_critical_is_said_in_the_terminal_once_a_minute(
    captured: testing.Captured, caplog: pytest.LogCaptureFixture
) -> None:
    with metriclog.init("exp", run_id="r") as run:
        run.log({"a_loss": math.nan, "b_loss": math.nan}, 7)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and said[0].startswith("metriclog: run r: a_loss is NaN: step 7")
    assert len(captured.events("nonfinite")) == 2


def test_a_callable_that_fails_is_logged_and_does_no_harm(
    captured: testing.Captured, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def fails(finding: metriclog.Finding) -> None:
        called.append(finding.metric)
        raise ZeroDivisionError("mine")

    with metriclog.init("exp") as run:
        run.watch("*", on_fire=fails)
        run.log({"a_loss": math.nan, "b_loss": math.nan})
    assert sorted(called) == ["a_loss", "b_loss"]
    assert "on_fire of a_loss failed" in caplog.text
    assert len(captured.events("nonfinite")) == 2


def test_a_callable_may_finish_the_run(captured: testing.Captured) -> None:
    run = metriclog.init("exp", settings=Settings.load(**QUICK))
    run.watch("train/loss", on_fire=lambda _: run.finish("failed"))
    run.log({"train/loss": math.nan})
    until(lambda: run.finished and showing_of(run).status == "failed")
    assert [event.tags["kind"] for event in captured.events()] == ["start", "nonfinite", "finish"]


def test_a_callable_that_hangs_keeps_nobody_waiting_beyond_the_deadline(captured: testing.Captured) -> None:
    release = threading.Event()
    run = metriclog.init("exp")
    run.watch("train/loss", on_fire=lambda _: release.wait(LIMIT_S))
    run.log({"train/loss": math.nan})
    begin_s = time.monotonic()
    run.finish(timeout_s=0.1)
    assert time.monotonic() - begin_s < LIMIT_S / 2
    release.set()
    assert run.should_stop


def test_a_disabled_run_watches_nothing_and_never_stops() -> None:
    with metriclog.init("exp", mode="disabled") as run:
        run.watch("train/loss", metriclog.Spike(), on_fire=lambda _: None)
        run.log({"train/loss": math.nan})
        assert run.alert("x").wait() is False
    assert not run.should_stop


def test_a_finished_run_takes_no_further_wish_and_no_alert(captured: testing.Captured) -> None:
    run = metriclog.init("exp")
    run.finish()
    with pytest.raises(metriclog.RunFinishedError):
        run.watch("train/loss")
    with pytest.raises(metriclog.RunFinishedError):
        run.alert("x")


# -- telling people -----------------------------------------------------------------------------------------------


def test_an_alert_is_an_event_of_its_kind(captured: testing.Captured) -> None:
    with metriclog.init("exp") as run:
        run.log({"loss": 1.0}, 41)
        metriclog.alert("disk is slow", "reading takes 80 % of a step")
    (event,) = captured.events("alert")
    assert {name: event.fields[name] for name in ("title", "text", "level", "step")} == {
        "title": "disk is slow", "text": "reading takes 80 % of a step", "level": "warning", "step": 41,
    }  # fmt: skip
    assert not run.should_stop


@pytest.mark.parametrize(
    ("given", "stored"),
    [("info", "info"), ("INFO", "info"), ("WARN", "warning"), ("ERROR", "critical"), ("Critical", "critical")],
)
def test_levels_are_ours_or_those_of_other_trackers(captured: testing.Captured, given: str, stored: str) -> None:
    with metriclog.init("exp") as run:
        run.alert("x", level=given)
    assert [event.fields["level"] for event in captured.events("alert")] == [stored]


def test_the_same_title_is_not_told_again_within_the_time_given(captured: testing.Captured) -> None:
    with metriclog.init("exp") as run:
        first = run.alert("slow", wait_duration_s=3600)
        assert run.alert("slow", wait_duration_s=3600) is first
        run.alert("slower", wait_duration_s=3600)
        run.alert("slow")
        run.alert("slow", wait_duration_s=0)
    assert [event.fields["title"] for event in captured.events("alert")] == ["slow", "slower", "slow", "slow"]


def test_a_flood_ends_with_a_word_about_it(captured: testing.Captured) -> None:
    with metriclog.init("exp", settings=Settings.load(alert_max=4)) as run:
        run.log({f"m{number}": math.nan for number in range(20)})
    assert len(captured.events("nonfinite")) == 4
    assert [event.fields["title"] for event in captured.events("alert")] == [
        "More alerts are suppressed: 4 have been written",
        "16 alerts were not written",
    ]


# -- forks --------------------------------------------------------------------------------------------------------


def test_a_forked_child_watches_its_own_journal_by_the_same_wishes(captured: testing.Captured) -> None:
    run = metriclog.init("exp")
    run.watch("speed")
    run.log({"loss": 1.0})
    child = os.fork()
    if child == 0:
        run.log({"speed": 1.0})
        run.log({"speed": math.nan})
        run.finish()
        os._exit(0 if run.should_stop else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not run.should_stop
    run.finish()
    assert troubles(captured) == [("nonfinite", "speed", "critical")]


# -- what a run shows ---------------------------------------------------------------------------------------------


def showing_of(run: metriclog.Run) -> live.Snapshot:
    """What can be seen of a run now."""
    (found,) = [it for it in (source.snapshot() for source in live.sources()) if it.run == run.run_id]
    return found


def test_a_run_shows_its_newest_values_counts_and_what_fires_at_any_time(captured: testing.Captured) -> None:
    with metriclog.init("exp", rank=2, model="mlp", dataset="digits") as run:
        run.log({"train/loss": 1.0, "lr": 0.1}, 6)
        run.log({"train/loss": math.nan}, 7)
        shown = showing_of(run)
    assert (shown.experiment, shown.rank, shown.model, shown.dataset) == ("exp", "2", "mlp", "digits")
    assert (shown.status, shown.attempt, shown.steps, shown.host) == ("running", 1, 7, os.uname().nodename)
    assert (math.isnan(shown.metrics["train/loss"].value), shown.metrics["train/loss"].nonfinite) == (True, 1)
    assert (shown.metrics["lr"].value, shown.metrics["lr"].step) == (0.1, 6)
    assert shown.stats["accepted"] >= 3
    assert [(finding.rule, finding.metric) for finding in shown.firing] == [("nonfinite", "train/loss")]
    assert shown.last_log_ns is not None
    assert shown.started_ns <= shown.last_log_ns <= shown.now_ns


def test_a_run_that_has_ended_is_shown_as_it_was_and_the_clock_goes_on(captured: testing.Captured) -> None:
    run = metriclog.init("exp")
    run.log({"loss": 0.5}, 3)
    run.finish("failed")
    first, second = showing_of(run), showing_of(run)
    assert (first.status, first.metrics["loss"].value) == ("failed", 0.5)
    assert second.now_ns > first.now_ns
    assert not any(source is run for source in live.sources())


def test_of_very_many_ended_runs_the_last_ones_are_shown(
    captured: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "MOST_ENDED", 5)
    ended = []
    for _ in range(8):
        run = metriclog.init("exp")
        run.finish()
        ended.append(run.run_id)
    assert [source.snapshot().run for source in live.sources()] == ended[-5:]


def test_a_disabled_run_is_not_shown() -> None:
    before = live.sources()
    with metriclog.init("exp", mode="disabled"):
        assert live.sources() == before


def test_a_rule_that_breaks_is_said_once_and_costs_neither_values_nor_the_run(
    captured: testing.Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("in a rule")

    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("metriclog.divergence.Detector.add", breaks)
    with metriclog.init("exp", settings=Settings.load(**QUICK)) as run:
        for step in range(200):
            run.log({"train/loss": 1.0}, step)
        showing_of(run)
        assert showing_of(run).metrics["train/loss"].step == 199
    assert captured.values("train/loss") == [1.0] * 200
    assert len([record for record in caplog.records if "watching run" in record.getMessage()]) == 1
