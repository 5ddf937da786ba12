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
    from metriclog import exposition, reader
    from metriclog.divergence import (
        Explosion,
        Finding,
        GradientExplosion,
        NonFinite,
        Plateau,
        RankSpread,
        SlowDivergence,
        Spike,
    )
    from metriclog.receipts import Receipt
    from metriclog.run import Run
    from metriclog.session import active_run, alert, finish, init, log, log_metric, log_metrics
    from metriclog.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "DeliveryError",
    "Explosion",
    "Finding",
    "GradientExplosion",
    "JournalError",
    "JournalFullError",
    "MetricNameError",
    "MetricValueError",
    "MetriclogError",
    "MissingPackageError",
    "NoActiveRunError",
    "NonFinite",
    "NotDeliveredError",
    "Plateau",
    "QuarantinedError",
    "QueryError",
    "RankSpread",
    "Receipt",
    "Run",
    "RunActiveError",
    "RunExistsError",
    "RunFinishedError",
    "RunNotFoundError",
    "ServerError",
    "Settings",
    "SettingsError",
    "SlowDivergence",
    "Spike",
    "StepError",
    "UsageError",
    "__version__",
    "active_run",
    "alert",
    "exposition",
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
    **dict.fromkeys(("active_run", "alert", "finish", "init", "log", "log_metric", "log_metrics"), "session"),
    **dict.fromkeys(("Explosion", "Finding", "GradientExplosion", "NonFinite"), "divergence"),
    **dict.fromkeys(("Plateau", "RankSpread", "SlowDivergence", "Spike"), "divergence"),
}


if not TYPE_CHECKING:  # a type checker would take it for a yes to every name

    def __getattr__(name: str) -> object:
        if name in ("exposition", "reader"):
            return importlib.import_module(f"metriclog.{name}")
        if name not in _ROOMS:
            raise AttributeError(f"module 'metriclog' has no attribute {name!r}")
        found = getattr(importlib.import_module(f"metriclog.{_ROOMS[name]}"), name)
        globals()[name] = found  # from now on as fast as any other name
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
