"""MLflow's names for logging: the same points as `log` and `log_params` write."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import metriclog
from metriclog import testing


@dataclass
class MlflowMetric:
    """As mlflow.entities.Metric: its time stamp is in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class MlflowParam:
    """As mlflow.entities.Param and RunTag."""

    key: str
    value: str


def stored(captured: testing.Captured) -> list[tuple[str, object, object]]:
    points = [point for point in captured.points() if point.measurement == "metrics"]
    return [(point.tags["metric"], point.fields["step"], point.fields["value"]) for point in points]


def test_log_metric_and_log_metrics_log_at_the_step_and_time_they_are_given() -> None:
    with testing.capture() as captured, metriclog.init("exp", model="mlp") as run:
        run.log_metric("loss", 0.5)
        run.log_metric("loss", 0.4, 7, 1_700_000_000.5, model="teacher", dataset=("digits", "1f"))
        run.log_metrics({"loss": 0.3, "accuracy": 1}, step=8, timestamp=1_700_000_001)
        run.log_metric(key="loss", value=0.2)
    points = [point for point in captured.points() if point.measurement == "metrics"]
    assert stored(captured) == [
        ("loss", 0, 0.5), ("loss", 7, 0.4), ("loss", 8, 0.3), ("accuracy", 8, 1.0), ("loss", 9, 0.2),
    ]  # fmt: skip
    assert [point.time_ns for point in points[1:4]] == [1_700_000_000_500_000_000] + [1_700_000_001_000_000_000] * 2
    assert [(point.tags["model"], point.tags.get("dataset")) for point in points[:2]] == [
        ("mlp", None), ("teacher", "digits@1f"),
    ]  # fmt: skip


def test_a_batch_takes_mappings() -> None:
    with testing.capture() as captured, metriclog.init("exp") as run:
        run.log_batch({"loss": 0.5}, {"lr": 0.1}, {"team": "a"})
    assert stored(captured) == [("loss", 0, 0.5)]
    assert captured.params() == {"lr": 0.1, "tags/team": "a"}


def test_a_batch_takes_mlflows_objects_whose_time_is_in_milliseconds() -> None:
    with testing.capture() as captured, metriclog.init("exp") as run:
        run.log_batch(
            metrics=[MlflowMetric("loss", 0.5, 1_700_000_000_250, 3), MlflowMetric("loss", 0.4, 1_700_000_000_350, 4)],
            params=[MlflowParam("optimizer", "adam")],
            tags=[MlflowParam("team", "a")],
        )
    points = [point for point in captured.points() if point.measurement == "metrics"]
    assert stored(captured) == [("loss", 3, 0.5), ("loss", 4, 0.4)]
    assert [point.time_ns for point in points] == [1_700_000_000_250_000_000, 1_700_000_000_350_000_000]
    assert captured.params() == {"optimizer": "adam", "tags/team": "a"}


def test_a_batch_takes_tuples() -> None:
    with testing.capture() as captured, metriclog.init("exp") as run:
        run.log_batch([("loss", 0.5), ("loss", 0.4, 7), ("loss", 0.3, 8, 1_700_000_000)], [("lr", 0.1)])
    assert stored(captured) == [("loss", 0, 0.5), ("loss", 7, 0.4), ("loss", 8, 0.3)]


def test_an_empty_batch_writes_nothing() -> None:
    with testing.capture() as captured, metriclog.init("exp") as run:
        before = len(captured.points())
        run.log_batch()
        assert len(captured.points()) == before


def test_misuse_is_refused_as_log_refuses_it() -> None:
    with testing.capture(), metriclog.init("exp") as run:
        with pytest.raises(metriclog.MetricValueError):
            run.log_metric("loss", "high")  # type: ignore[arg-type]
        with pytest.raises(metriclog.MetricNameError):
            run.log_batch({"a\nb": 1.0})
