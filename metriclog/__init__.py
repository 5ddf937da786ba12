"""metriclog: training metrics that cannot get lost: a journal on disk, InfluxDB behind it, Grafana in front.

    import metriclog
    run = metriclog.init(experiment="mnist", params={"lr": 0.1}, model="mlp", dataset="digits")
    run.log({"train/loss": 0.31, "train/accuracy": 0.91}, step=10)
    run.finish()

Public names only. All but the errors are resolved at first use: a program that imports metriclog and logs nothing, or
not yet, does not pay for it.
"""

from __future__ import annotations

import importlib
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

if TYPE_CHECKING:
    from metriclog import reader
    from metriclog.receipts import Receipt
    from metriclog.run import Run
    from metriclog.session import active_run, finish, init, log, log_metric, log_metrics
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


_ROOMS = {
    "Receipt": "receipts",
    "Run": "run",
    "Settings": "settings",
    **dict.fromkeys(("active_run", "finish", "init", "log", "log_metric", "log_metrics"), "session"),
}


if not TYPE_CHECKING:  # a type checker would take it for a yes to every name

    def __getattr__(name: str) -> object:
        if name == "reader":
            return importlib.import_module("metriclog.reader")
        if name not in _ROOMS:
            raise AttributeError(f"module 'metriclog' has no attribute {name!r}")
        found = getattr(importlib.import_module(f"metriclog.{_ROOMS[name]}"), name)
        globals()[name] = found  # from now on as fast as any other name
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
