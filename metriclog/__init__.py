"""metriclog: training metrics that cannot get lost: a journal on disk, InfluxDB behind it, Grafana in front.

    import metriclog
    run = metriclog.init(experiment="mnist", params={"lr": 0.1}, model="mlp", dataset="digits")
    run.log({"train/loss": 0.31, "train/accuracy": 0.91}, step=10)
    run.finish()

Public names only. `Settings` and `reader` are resolved at first use: they need packages that take time to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metriclog.errors import (
    DeliveryError,
    JournalError,
    JournalFullError,
    MetriclogError,
    MetricNameError,
    MetricValueError,
    MissingPackageError,
    NoActiveRunError,
    NotDeliveredError,
    QuarantinedError,
    QueryError,
    RunActiveError,
    RunExistsError,
    RunFinishedError,
    RunNotFoundError,
    ServerError,
    SettingsError,
    StepError,
    UsageError,
)
from metriclog.receipts import Receipt
from metriclog.run import Run
from metriclog.session import active_run, finish, init, log, log_metric, log_metrics

if TYPE_CHECKING:
    from metriclog import reader
    from metriclog.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "DeliveryError",
    "JournalError",
    "JournalFullError",
    "MetricNameError",
    "MetricValueError",
    "MetriclogError",
    "MissingPackageError",
    "NoActiveRunError",
    "NotDeliveredError",
    "QuarantinedError",
    "QueryError",
    "Receipt",
    "Run",
    "RunActiveError",
    "RunExistsError",
    "RunFinishedError",
    "RunNotFoundError",
    "ServerError",
    "Settings",
    "SettingsError",
    "StepError",
    "UsageError",
    "__version__",
    "active_run",
    "finish",
    "init",
    "log",
    "log_metric",
    "log_metrics",
    "reader",
]


if not TYPE_CHECKING:  # a type checker would take it for a yes to every name

    def __getattr__(name: str) -> object:
        if name == "Settings":
            from metriclog.settings import Settings

            return Settings
        if name == "reader":
            import importlib

            return importlib.import_module("metriclog.reader")
        raise AttributeError(f"module 'metriclog' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
