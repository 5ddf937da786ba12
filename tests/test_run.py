"""Run: counting steps, what a number is, misuse at the caller's line, time stamps, threads, and how a run ends."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metriclog
from metriclog import testing


class FakeTensor:
    """What log() can see of a 0-d tensor inside a graph: reading it without detach() warns."""

    shape = ()
    dtype = "float32"

    def __init__(self, value: float, attached: bool = True) -> None:
        self._value, self._attached = value, attached

    def detach(self) -> FakeTensor:
        return FakeTensor(self._value, attached=False)

    def __float__(self) -> float:
        assert not self._attached, "read inside the graph"
        return self._value


@pytest.fixture
def captured() -> Iterator[testing.Captured]:
    with testing.capture() as found:
        yield found


@pytest.fixture
def run(captured: testing.Captured) -> Iterator[metriclog.Run]:
    """An offline run; `captured` tells what it wrote."""
    with metriclog.init("exp", model="mlp", dataset="digits") as started:
        yield started


def steps(captured: testing.Captured, metric: str) -> list[int]:
    return [step for step, _ in captured.curve(metric)]


# -- steps ------------------------------------------------------------------------------------------------------


def test_without_a_step_calls_are_counted_from_0(captured: testing.Captured, run: metriclog.Run) -> None:
    for _ in range(3):
        run.log({"loss": 1.0})
    assert steps(captured, "loss") == [0, 1, 2]


def test_counting_goes_on_from_an_explicit_step_also_one_that_goes_back(
    captured: testing.Captured, run: metriclog.Run
) -> None:
    for step in (None, 10, None, 10, 3, None, -5, None):
        run.log({"loss": 1.0}, step)
    assert steps(captured, "loss") == [0, 10, 11, 10, 3, 4, -5, -4]


def test_a_numpy_integer_is_a_step(captured: testing.Captured, run: metriclog.Run) -> None:
    run.log({"loss": 1.0}, np.int64(7))  # type: ignore[arg-type]
    run.log({"loss": 1.0})
    assert steps(captured, "loss") == [7, 8]


def test_the_step_of_a_call_that_is_refused_does_not_count(captured: testing.Captured, run: metriclog.Run) -> None:
    run.log({"loss": 1.0})
    with pytest.raises(metriclog.MetricValueError):
        run.log({"loss": "high"}, step=100)  # type: ignore[dict-item]
    run.log({"loss": 1.0})
    assert steps(captured, "loss") == [0, 1]


@pytest.mark.parametrize("step", [1.5, "3", True, 2**63, np.float64(2)])
def test_a_step_that_is_no_integer_is_refused(run: metriclog.Run, step: Any) -> None:
    with pytest.raises(metriclog.StepError, match="step must be an integer"):
        run.log({"loss": 1.0}, step)


def test_steps_of_a_run_are_the_highest_one_logged(captured: testing.Captured) -> None:
    with metriclog.init("exp") as run:
        for step in (5, 900, 20):
            run.log({"loss": 1.0}, step)
    states = [point for point in captured.points() if point.measurement == "runs"]
    assert states[-1].fields["steps"] == 900


# -- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (3, 3.0),
        (True, 1.0),
        (0.1, 0.1),
        (decimal.Decimal("0.25"), 0.25),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int8(-3), -3.0),
        (np.uint64(2**63), float(2**63)),
        (np.bool_(True), 1.0),
        (np.array(0.75), 0.75),
        (FakeTensor(0.3), 0.3),
        (-0.0, -0.0),
        (5e-324, 5e-324),
        (2**1000, float(2**1000)),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
    ],
)
def test_what_is_one_real_number_is_stored_as_it_is(
    captured: testing.Captured, run: metriclog.Run, value: Any, stored: float
) -> None:
    for _ in range(2):  # the second call takes the fast path where there is one
        run.log({"loss": value})
    assert [repr(found) for found in captured.values("loss")] == [repr(stored)] * 2


def test_nan_and_infinities_are_stored_beside_value_not_as_a_value(
    captured: testing.Captured, run: metriclog.Run
) -> None:
    for value in (math.nan, math.inf, -math.inf, np.float32("nan"), 1.0):
        run.log({"loss": value})
    stored = [point.fields for point in captured.points() if point.measurement == "metrics"]
    assert [fields.get("nonfinite") for fields in stored] == [1, 2, 3, 1, None]
    assert [fields.get("value") for fields in stored] == [None, None, None, None, 1.0]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0.5", "text goes to run.event"),
        (b"0.5", "not bytes"),
        (None, "not NoneType"),
        (1j, "not complex"),
        (np.complex64(1), "not complex64"),
        (np.array([1.0, 2.0]), r"shape \(2,\); log its .mean"),
        (np.datetime64("2026-01-01"), "datetime64"),
        ([1.0], "one real number"),
        (object(), "one real number"),
        (10**400, "one real number"),
    ],
)
def test_what_is_not_one_real_number_is_refused_at_the_call_and_nothing_is_written(
    captured: testing.Captured, run: metriclog.Run, value: Any, says: str
) -> None:
    run.log({"loss": 1.0, "accuracy": 0.5})
    with pytest.raises(metriclog.MetricValueError, match=rf"metric 'loss': .*{says}") as caught:
        run.log({"accuracy": 0.75, "loss": value})
    assert caught.traceback[0].path == Path(__file__)
    assert isinstance(caught.value, TypeError)
    assert captured.values("accuracy") == [0.5]
    assert run.stats()["dropped"] == 0


@pytest.mark.parametrize("metrics", [[("loss", 1.0)], "loss", 1.0, None])
def test_metrics_that_are_no_mapping_are_refused(run: metriclog.Run, metrics: Any) -> None:
    with pytest.raises(metriclog.MetricValueError, match="takes a mapping"):
        run.log(metrics)


@pytest.mark.parametrize("name", ["", "a\nb", "a\\", 3, None, "x" * 513])
def test_a_name_that_cannot_be_stored_is_refused(captured: testing.Captured, run: metriclog.Run, name: Any) -> None:
    with pytest.raises(metriclog.MetricNameError, match="name"):
        run.log({"fine": 1.0, name: 1.0})
    assert captured.values("fine") == []


def test_an_empty_call_writes_nothing_and_does_no_harm(captured: testing.Captured, run: metriclog.Run) -> None:
    before = len(captured.points())
    assert run.log({}).exception() is None
    assert len(captured.points()) == before


# -- names and tags ---------------------------------------------------------------------------------------------


def test_nested_mappings_become_names_joined_with_slashes(captured: testing.Captured, run: metriclog.Run) -> None:
    run.log({"train": {"loss": 0.5, "head": {"accuracy": 0.75}}, "lr": 0.1})
    names = {point.tags["metric"] for point in captured.points() if point.measurement == "metrics"}
    assert names == {"train/loss", "train/head/accuracy", "lr"}


def test_names_that_fall_together_are_refused(run: metriclog.Run) -> None:
    with pytest.raises(metriclog.MetricNameError, match="'train/loss' occurs twice"):
        run.log({"train": {"loss": 1.0}, "train/loss": 2.0})


def test_model_and_data_set_of_a_call_stand_for_those_of_the_run(
    captured: testing.Captured, run: metriclog.Run
) -> None:
    run.log({"loss": 1.0})
    run.log({"loss": 2.0}, model="teacher")
    run.log({"loss": 3.0}, dataset=("digits", "1f3a"))
    run.log({"loss": 4.0})
    found = {point.fields["value"]: point.tags for point in captured.points() if point.measurement == "metrics"}
    models = [(found[value]["model"], found[value]["dataset"]) for value in (1.0, 2.0, 3.0, 4.0)]
    assert models == [("mlp", "digits"), ("teacher", "digits"), ("mlp", "digits@1f3a"), ("mlp", "digits")]


@pytest.mark.parametrize("dataset", [("digits",), ("digits", 3), 7])
def test_a_data_set_that_is_no_name_is_refused(run: metriclog.Run, dataset: Any) -> None:
    with pytest.raises(metriclog.MetricNameError, match="a dataset is a name"):
        run.log({"loss": 1.0}, dataset=dataset)


# -- parameters and events --------------------------------------------------------------------------------------


def test_parameters_are_numbers_or_text_and_written_again_only_on_change(captured: testing.Captured) -> None:
    with metriclog.init("exp", params={"lr": 0.1, "net": {"layers": 3}, "optimizer": "adam", "amp": True}) as run:
        run.log_params({"lr": 0.1, "optimizer": "adam"})
        run.log_params({"lr": 0.01})
        run.log_params({"net": {"width": np.int64(64)}, "clip": None})
    written = [(point.tags["param"], point.fields) for point in captured.points() if point.measurement == "params"]
    assert written == [
        ("lr", {"number": 0.1}),
        ("net/layers", {"number": 3.0}),
        ("optimizer", {"text": "adam"}),
        ("amp", {"text": "true"}),
        ("lr", {"number": 0.01}),
        ("net/width", {"number": 64.0}),
        ("clip", {"text": "None"}),
    ]


def test_an_event_always_has_a_step_and_elapsed_time(captured: testing.Captured, run: metriclog.Run) -> None:
    run.event("note", "before any step")
    run.log({"loss": 1.0}, 41)
    run.event("checkpoint", 'saved "best"\nmodel', text="line 1\nline 2", level="warning")
    run.event("phase", "warm-up", step=7)
    note, checkpoint, phase = (captured.events(kind)[0] for kind in ("note", "checkpoint", "phase"))
    assert [event.fields["step"] for event in (note, checkpoint, phase)] == [0, 41, 7]
    assert all(isinstance(event.fields["elapsed"], int) for event in captured.events())
    assert checkpoint.fields["title"] == 'saved "best"\\nmodel'
    assert (checkpoint.fields["text"], checkpoint.fields["level"]) == ("line 1\\nline 2", "warning")


def test_an_event_of_an_unknown_level_is_refused(run: metriclog.Run) -> None:
    with pytest.raises(metriclog.UsageError, match='"info", "warning" or "critical"'):
        run.event("note", "x", level="fatal")


# -- time stamps and threads ------------------------------------------------------------------------------------


def stamps(captured: testing.Captured, metric: str) -> list[int]:
    return [point.time_ns for point in captured.points() if point.tags.get("metric") == metric]


def test_explicit_time_stamps_are_seconds_or_aware_datetimes(captured: testing.Captured, run: metriclog.Run) -> None:
    run.log({"loss": 1.0}, timestamp=1_700_000_000.25)
    run.log({"loss": 1.0}, timestamp=dt.datetime(2023, 11, 14, 22, 13, 21, tzinfo=dt.UTC))
    assert stamps(captured, "loss") == [1_700_000_000_250_000_000, 1_700_000_001_000_000_000]


def test_points_given_the_same_time_stamp_are_kept_apart(captured: testing.Captured, run: metriclog.Run) -> None:
    for _ in range(2500):  # more than fit between two microseconds
        run.log({"loss": 1.0}, timestamp=1_700_000_000)
    run.log({"loss": 1.0}, timestamp=1_700_000_000.000_001)
    assert len(set(stamps(captured, "loss"))) == 2501


def test_a_metric_logged_alone_and_with_others_at_one_time_is_kept_apart_too(
    captured: testing.Captured, run: metriclog.Run
) -> None:
    run.log({"loss": 1.0}, timestamp=1_700_000_000)
    run.log({"loss": 2.0, "accuracy": 0.5}, timestamp=1_700_000_000)
    run.log({"accuracy": 0.6}, timestamp=1_700_000_000)
    assert len(set(stamps(captured, "loss"))) == 2
    assert len(set(stamps(captured, "accuracy"))) == 2


@pytest.mark.parametrize("stamp", [dt.datetime(2026, 1, 1), "now", math.nan, -1.0, 1_700_000_000_000])
def test_a_time_stamp_without_zone_or_out_of_range_is_refused(run: metriclog.Run, stamp: Any) -> None:
    with pytest.raises(metriclog.StepError, match="timestamp"):
        run.log({"loss": 1.0}, timestamp=stamp)


def test_eight_threads_lose_nothing_and_share_no_time_stamp_and_no_step(
    captured: testing.Captured, run: metriclog.Run
) -> None:
    begin = threading.Barrier(8)

    def work(number: int) -> None:
        begin.wait()
        for index in range(2000):
            run.log({"loss": number * 10_000 + index})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the middle of a call
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual_s)
    assert sorted(captured.values("loss")) == [n * 10_000 + i for n in range(8) for i in range(2000)]
    assert len(set(stamps(captured, "loss"))) == 16_000
    assert sorted(steps(captured, "loss")) == list(range(16_000))


# -- ending -----------------------------------------------------------------------------------------------------


def last_state(captured: testing.Captured) -> tuple[Any, Any, Any]:
    fields = [point.fields for point in captured.points() if point.measurement == "runs"][-1]
    return fields["status"], fields["running"], fields["to"]


def test_finish_marks_the_run_once_and_flush_and_finish_may_be_repeated(captured: testing.Captured) -> None:
    run = metriclog.init("exp")
    assert last_state(captured) == ("running", 1, "now")
    assert [run.flush(0), run.flush(0)] == [False, False]  # offline: nothing ships
    run.finish()
    run.finish("failed")
    assert run.flush(0) is False
    status, running, to = last_state(captured)
    assert (status, running, str(to).isdigit()) == ("finished", 0, True)
    assert len(captured.events("finish")) == 1
    assert run.finished


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), "failed"),
        (KeyboardInterrupt(), "killed"),
        (SystemExit(0), "finished"),
        (SystemExit(3), "failed"),
    ],
)
def test_leaving_the_with_block_by_an_exception_marks_the_run_and_lets_it_pass(
    captured: testing.Captured, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)) as caught, metriclog.init("exp"):
        raise error
    assert caught.value is error
    assert last_state(captured)[0] == status


@pytest.mark.parametrize("call", ["log", "log_metric", "log_params", "event"])
def test_a_finished_run_takes_nothing_more(captured: testing.Captured, call: str) -> None:
    run = metriclog.init("exp")
    run.log({"loss": 1.0})
    run.finish()
    arguments: dict[str, tuple[Any, ...]] = {"log_metric": ("loss", 1.0), "event": ("note", "late")}
    with pytest.raises(metriclog.RunFinishedError, match=rf"{run.run_id} has been finished; start another"):
        getattr(run, call)(*arguments.get(call, ({"loss": 1.0},)))
    assert captured.values("loss") == [1.0]


def test_finish_with_an_unknown_status_is_refused(run: metriclog.Run) -> None:
    with pytest.raises(metriclog.UsageError, match='"finished", "failed" or "killed"'):
        run.finish("done")  # type: ignore[arg-type]
    assert not run.finished
