"""Reading journals back as DataFrames: runs and their states, curves with everything that was logged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import metriclog
from metriclog import reader, testing
from tests.faults.loads import python


@pytest.fixture
def captured() -> Iterator[testing.Captured]:
    with testing.capture() as found:
        yield found


def test_an_empty_folder_has_no_runs_but_the_columns(tmp_path: Path) -> None:
    frame = reader.open_journal(tmp_path / "nowhere").runs()
    assert list(frame.columns) == list(reader.RUN_COLUMNS)
    assert len(frame) == 0


def test_every_run_is_one_row_oldest_first(captured: testing.Captured) -> None:
    for name in ("a", "b"):
        with metriclog.init("exp", run_id=name, params={"lr": 0.1, "net": {"depth": 3}}) as run:
            run.log({"loss": 1.0}, 41)
    with metriclog.init("other", run_id="c"), metriclog.init("exp", run_id="d") as run:
        run.log_params({"lr": "auto"})
        run.log_params({"lr": 0.5})
        frame = reader.open_journal().runs()
    assert list(frame["run"]) == ["a", "b", "c", "d"]
    assert frame["started"].is_monotonic_increasing
    assert list(frame["status"]) == ["finished", "finished", "running", "running"]
    assert list(frame["steps"]) == [41, 41, 0, 0]
    assert list(frame["attempt"]) == [1, 1, 1, 1]
    assert list(frame["params"]) == [{"lr": 0.1, "net/depth": 3.0}] * 2 + [{}, {"lr": 0.5}]
    assert (frame["ended"] >= frame["started"]).all()
    assert str(frame["started"].dt.tz) == "UTC"
    assert abs(pd.Timestamp.now(tz="UTC") - frame["started"].iloc[0]) < pd.Timedelta(minutes=1)


def test_runs_of_one_experiment_alone_can_be_asked_for(captured: testing.Captured) -> None:
    metriclog.init("exp", run_id="a").finish("failed")
    metriclog.init("other", run_id="b").finish()
    stored = reader.open_journal()
    assert list(stored.runs("other")["run"]) == ["b"]
    assert list(stored.runs("exp")["status"]) == ["failed"]
    assert len(stored.runs("neither")) == 0


def test_a_curve_has_every_value_with_nan_and_infinities_as_logged(captured: testing.Captured) -> None:
    values = [0.1, math.nan, math.inf, -math.inf, 1e-300, -0.0, float(np.float32(0.1))]
    with metriclog.init("exp", run_id="r", model="mlp", dataset=("digits", "1f"), rank=0) as run:
        for step, value in enumerate(values):
            run.log({"loss": value, "other": 1.0}, step)
    frame = reader.open_journal().curve("r", "loss")
    assert list(frame.columns) == list(reader.CURVE_COLUMNS)
    assert [repr(value) for value in frame["value"]] == [repr(value) for value in values]
    assert list(frame["step"]) == list(range(len(values)))
    assert frame.dtypes.astype(str).to_dict() == {
        "time": "datetime64[ns, UTC]",
        "step": "int64",
        "value": "float64",
        "elapsed": "int64",
        "model": "object",
        "dataset": "object",
        "rank": "object",
    }
    assert set(frame["model"]) == {"mlp"}
    assert set(frame["dataset"]) == {"digits@1f"}
    assert set(frame["rank"]) == {"0"}
    assert frame["time"].is_monotonic_increasing
    assert frame["elapsed"].between(0, 60_000).all()


def test_a_curve_keeps_the_order_of_time_where_steps_go_back(captured: testing.Captured) -> None:
    with metriclog.init("exp", run_id="r") as run:
        for step in (5, 3, 3, 8):
            run.log({"loss": float(step)}, step)
    frame = reader.open_journal().curve("r", "loss")
    assert list(frame["step"]) == [5, 3, 3, 8]
    assert set(frame["rank"]) == {None}


def test_a_curve_goes_over_all_ranks_attempts_and_changes_of_shape(captured: testing.Captured) -> None:
    first = metriclog.init("exp", run_id="r", rank=0)
    second = metriclog.init("exp", run_id="r", rank=1)
    for step in range(3):
        first.log({"loss": 1.0}, step)
        second.log({"accuracy": 0.5, "loss": 2.0}, step)
    first.finish()
    second.finish()
    with metriclog.init("exp", run_id="r", rank=0, resume="must") as again:
        again.log({"loss": 3.0})
    frame = reader.open_journal().curve("r", "loss")
    assert list(frame["value"]) == [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0]
    assert list(frame["rank"]) == ["0", "1"] * 3 + ["0"]
    assert list(frame["step"]) == [0, 0, 1, 1, 2, 2, 3]
    assert frame["elapsed"].is_monotonic_increasing
    assert reader.open_journal().metrics("r") == ["accuracy", "loss"]


def test_a_metric_nobody_logged_is_an_empty_curve_and_an_unknown_run_an_error(captured: testing.Captured) -> None:
    metriclog.init("exp", run_id="r").finish()
    stored = reader.open_journal()
    assert len(stored.curve("r", "loss")) == 0
    assert stored.metrics("r") == []
    for ask in (lambda: stored.curve("s", "loss"), lambda: stored.metrics("s")):
        with pytest.raises(metriclog.RunNotFoundError, match="'s' is not in"):
            ask()
    with pytest.raises(metriclog.MetricNameError):
        stored.curve("../r", "loss")


def test_a_journal_can_be_read_while_it_is_written(captured: testing.Captured) -> None:
    with metriclog.init("exp", run_id="r") as run:
        for step in range(5):
            run.log({"loss": 1.0})
            assert len(reader.open_journal().curve("r", "loss")) == step + 1


def test_a_run_that_was_killed_is_shown_as_killed_with_all_it_logged(tmp_path: Path) -> None:
    script = """
    import metriclog, os
    run = metriclog.init("exp", run_id="r", params={"lr": 0.1})
    for step in range(1000):
        run.log({"loss": 1.0 / (step + 1)}, step)
    os.kill(os.getpid(), 9)
    """
    assert python(script, dir=str(tmp_path)).returncode == -9
    stored = reader.open_journal(str(tmp_path))
    assert stored.runs().iloc[0]["status"] == "killed"
    assert list(stored.curve("r", "loss")["value"]) == [1.0 / (step + 1) for step in range(1000)]


def test_without_a_server_open_server_says_what_to_set() -> None:
    with pytest.raises(metriclog.SettingsError, match="METRICLOG_URL"):
        reader.open_server()
