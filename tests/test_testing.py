"""metriclog.testing: what code logs is captured without a server, and a scripted target answers the shipper."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import metriclog
from metriclog.errors import TransientError
from metriclog.testing import Captured, ScriptedTarget, capture


def train() -> None:
    """Code under test: it knows nothing of tests."""
    with metriclog.init("digits", params={"lr": 0.1, "opt": "adam"}, model="mlp") as run:
        for step, loss in enumerate([1.0, 0.5, math.nan, -math.inf]):
            run.log({"train/loss": loss, "train/acc": step / 4}, step=step)
        run.log_params({"lr": 0.01})
        run.event("checkpoint", "saved", "to disk", step=3)


def test_what_code_logs_can_be_asked_for_by_name() -> None:
    with capture() as captured:
        train()
        assert captured.values("train/acc") == [0, 0.25, 0.5, 0.75]
        assert captured.curve("train/loss")[:2] == [(0, 1.0), (1, 0.5)]
        assert math.isnan(captured.values("train/loss")[2])
        assert captured.values("train/loss")[3] == -math.inf
        assert captured.values("no/such") == []
        assert captured.params() == {"lr": 0.01, "opt": "adam"}
        assert [event.fields["title"] for event in captured.events("checkpoint")] == ["saved"]
        assert {event.tags["kind"] for event in captured.events()} == {"start", "checkpoint", "nonfinite", "finish"}


def test_points_have_their_tags_fields_and_times() -> None:
    with capture() as captured:
        train()
        first = next(point for point in captured.points() if point.measurement == "metrics")
    assert {key: first.tags[key] for key in ("experiment", "model", "metric")} == {
        "experiment": "digits",
        "model": "mlp",
        "metric": "train/loss",
    }
    assert (first.fields["value"], first.fields["step"]) == (1.0, 0)
    assert first.time_ns > 1_700_000_000 * 10**9


def test_a_run_can_be_asked_for_while_it_goes_on() -> None:
    with capture() as captured:
        run = metriclog.init("digits")
        for step in range(3):
            run.log({"loss": step})
            assert captured.values("loss") == list(range(step + 1))
        run.finish()


def test_several_runs_are_captured_together() -> None:
    with capture() as captured:
        for _ in range(2):
            train()
        assert len(captured.values("train/acc")) == 8
        assert len({point.tags["run"] for point in captured.points()}) == 2


def test_what_was_captured_can_be_asked_for_after_the_block() -> None:
    with capture() as captured:
        train()
    assert captured.values("train/acc") == [0, 0.25, 0.5, 0.75]
    assert not captured.path.exists()


def test_a_run_that_outlives_the_block_ends_without_error() -> None:
    with capture() as captured:
        run = metriclog.init("digits")
        run.log({"loss": 0.5})
    run.log({"loss": 0.25})
    run.finish()
    assert captured.values("loss") == [0.5]


def test_nothing_is_sent_even_where_a_server_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("METRICLOG_TOKEN", "t")
    with capture(), metriclog.init("digits") as run:
        receipt = run.log({"loss": 0.5})
        assert isinstance(receipt.exception(), metriclog.NotDeliveredError)
        assert run.url is None


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("before", [None, "/somewhere/else"])
def test_the_environment_is_as_before_also_after_an_error(
    monkeypatch: pytest.MonkeyPatch, before: str | None, fail: bool
) -> None:
    if before is not None:
        monkeypatch.setenv("METRICLOG_DIR", before)

    def block() -> None:
        with capture() as captured:
            assert os.environ["METRICLOG_DIR"] == str(captured.path)
            if fail:
                raise KeyError("the test failed")

    if fail:
        with pytest.raises(KeyError, match="the test failed"):
            block()
    else:
        block()
    assert os.environ.get("METRICLOG_DIR") == before
    assert "METRICLOG_MODE" not in os.environ


def test_captures_nest() -> None:
    with capture() as outer:
        train()
        with capture() as inner:
            train()
        train()
        assert (len(outer.values("train/acc")), len(inner.values("train/acc"))) == (8, 4)


def test_no_file_is_left_behind(tmp_path: Path) -> None:
    with capture() as captured:
        train()
        assert captured.path.exists()
    assert not captured.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_capture_has_nothing(tmp_path: Path) -> None:
    captured = Captured(tmp_path)
    empty: list[Callable[[], object]] = [captured.points, captured.params, captured.events]
    assert [bool(ask()) for ask in empty] == [False, False, False]


def test_a_scripted_target_answers_by_its_script_and_then_says_yes() -> None:
    busy = TransientError("busy", status=503)
    target = ScriptedTarget([busy, None, busy])
    answers = []
    for number in range(5):
        try:
            target.write(b"m v=%d\nm w=%d\n" % (number, number))
            answers.append("yes")
        except TransientError:
            answers.append("busy")
    target.close()
    assert answers == ["busy", "yes", "busy", "yes", "yes"]
    assert target.writes == 5
    assert target.lines == [line for number in (1, 3, 4) for line in (b"m v=%d" % number, b"m w=%d" % number)]
