"""The public surface, spelled out: whoever changes a name, a parameter or a default changes it here too, knowingly."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import __main__ as main_module
from metriclog import cli, errors, reader, testing

ROOT = Path(__file__).resolve().parents[1]

ERRORS = [
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
    "RunActiveError",
    "RunExistsError",
    "RunFinishedError",
    "RunNotFoundError",
    "ServerError",
    "SettingsError",
    "StepError",
    "UsageError",
]
OTHERS = ["Receipt", "Run", "Settings", "__version__", "active_run", "finish", "init", "log", "log_metric"]
OTHERS += [
    "log_metrics",
    "reader",
    "exposition",
    "alert",
    "Finding",
    "NonFinite",
    "Spike",
    "Explosion",
    "SlowDivergence",
    "Plateau",
]
OTHERS += ["GradientExplosion", "RankSpread"]

FUNCTIONS = {
    "init": "(experiment: str, *, name: str | None = None, run_id: str | None = None, resume: Resume = 'never', "
    "params: Mapping[str, object] | None = None, tags: Mapping[str, object] | None = None, model: str | None = None, "
    "dataset: Dataset | None = None, rank: int | None = None, mode: Mode | None = None, watch: bool | None = None, "
    "settings: Settings | None = None) -> Run",
    "log": "(metrics: Mapping[str, SupportsFloat | Mapping[str, Any]], step: int | None = None, "
    "**options: Any) -> Receipt",
    "log_metric": "(key: str, value: SupportsFloat, step: int | None = None, timestamp: object = None) -> Receipt",
    "log_metrics": "(metrics: Mapping[str, SupportsFloat], step: int | None = None, timestamp: object = None) "
    "-> Receipt",
    "alert": "(title: str, text: str = '', level: str = 'warning', wait_duration_s: float = 0.0) -> Receipt",
    "finish": "(status: Status = 'finished', timeout_s: float | None = None) -> None",
    "active_run": "() -> Run",
}
RUN = {
    "log": "(self, metrics: Mapping[str, SupportsFloat | Mapping[str, Any]], step: int | None = None, *, "
    "timestamp: object = None, model: str | None = None, dataset: Dataset | None = None) -> Receipt",
    "log_metric": "(self, key: str, value: SupportsFloat, step: int | None = None, timestamp: object = None, "
    "model: str | None = None, dataset: Dataset | None = None) -> Receipt",
    "log_metrics": "(self, metrics: Mapping[str, SupportsFloat], step: int | None = None, timestamp: object = None) "
    "-> Receipt",
    "log_batch": "(self, metrics: Mapping[str, SupportsFloat] | Iterable[Any] = (), "
    "params: Mapping[str, object] | Iterable[Any] = (), tags: Mapping[str, object] | Iterable[Any] = ()) -> Receipt",
    "log_params": "(self, params: Mapping[str, object]) -> Receipt",
    "event": "(self, kind: str, title: str, text: str = '', step: int | None = None, level: str = 'info') -> Receipt",
    "watch": "(self, metric: str, rule: Rule | Sequence[Rule] | None = None, "
    "on_fire: Callable[[Finding], object] | None = None) -> None",
    "should_stop": "(self) -> bool",
    "alert": "(self, title: str, text: str = '', level: str = 'warning', wait_duration_s: float = 0.0) -> Receipt",
    "flush": "(self, timeout_s: float | None = None) -> bool",
    "finish": "(self, status: Status = 'finished', timeout_s: float | None = None) -> None",
    "stats": "(self) -> dict[str, Any]",
    "run_id": "(self) -> str",
    "experiment": "(self) -> str",
    "url": "(self) -> str | None",
    "finished": "(self) -> bool",
}
RUN_INTERNALS = {"begin", "after_fork", "exit_timeout_s", "snapshot"}  # called by session.py and live.py alone
RECEIPT = {
    "delivered": "(self) -> bool",
    "wait": "(self, timeout_s: float | None = None) -> bool",
    "result": "(self, timeout_s: float | None = None) -> None",
    "exception": "(self) -> MetriclogError | None",
}
READER = {
    "runs": "(self, experiment: str | None = None) -> pd.DataFrame",
    "metrics": "(self, run: str) -> list[str]",
    "curve": "(self, run: str, metric: str) -> pd.DataFrame",
}
READER_MODULE = {
    "open_journal": "(path: Path | str | None = None) -> Reader",
    "open_server": "(settings: Settings | None = None) -> Reader",
}
CAPTURED = {
    "keep": "(self) -> None",
    "points": "(self) -> list[Point]",
    "curve": "(self, metric: str) -> list[tuple[int, float]]",
    "values": "(self, metric: str) -> list[float]",
    "params": "(self) -> dict[str, Field]",
    "events": "(self, kind: str | None = None) -> list[Point]",
}
SCRIPTED_TARGET = {
    "another": "(self) -> ScriptedTarget",
    "healthy": "(self) -> bool",
    "logged": "(self) -> list[bytes]",
    "write": "(self, lines: bytes) -> None",
    "close": "(self) -> None",
}
TESTING_MODULE = {
    "capture": "() -> Iterator[Captured]",
    "read_points": "(path: Path, position: int = 0) -> Iterator[Point]",
    "number_of": "(point: Point) -> float",
}
SETTINGS = ["url", "token", "token_file", "org", "bucket", "dir", "mode", "grafana_url", "grafana_token", "watch"]
SETTINGS += ["alert_webhook", "alert_webhook_format", "alert_cooldown_s", "alert_max", "prometheus_port"]
SETTINGS += ["prometheus_host", "prometheus_sd_dir", "prometheus_max_metrics", "prometheus_linger_s", "pushgateway_url"]
SETTINGS += [
    "verify_tls",
    "ca_file",
    "proxy",
    "connect_timeout_s",
    "read_timeout_s",
    "flush_interval_s",
    "exit_timeout_s",
    "heartbeat_s",
]
SETTINGS += ["batch_max_points", "connections", "gzip", "segment_bytes", "journal_max_bytes", "free_floor_bytes"]
SETTINGS += ["journal_policy", "journal_io", "retain_bytes"]


def signature(member: Any) -> str:
    """A signature as it stands in the source; that of its getter for a property."""
    function: Any = member.fget if isinstance(member, property) else member
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def members(owner: type) -> dict[str, str]:
    """Public methods and properties of a class, inherited ones too."""
    found = {name: inspect.getattr_static(owner, name) for name in dir(owner) if not name.startswith("_")}
    return {name: signature(member) for name, member in found.items() if callable(member) or hasattr(member, "fget")}


def test_the_package_offers_exactly_these_names() -> None:
    assert sorted(metriclog.__all__) == sorted(ERRORS + OTHERS)
    assert dir(metriclog) == sorted(metriclog.__all__)
    assert all(hasattr(metriclog, name) for name in metriclog.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'metriclog' has no attribute 'logg'"):
        _ = metriclog.logg  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_take_what_they_took(name: str) -> None:
    assert signature(getattr(metriclog, name)) == FUNCTIONS[name]


@pytest.mark.parametrize(
    ("owner", "pinned"),
    [
        (metriclog.Run, RUN),
        (metriclog.Receipt, RECEIPT),
        (reader.Reader, READER),
        (testing.Captured, CAPTURED),
        (testing.ScriptedTarget, SCRIPTED_TARGET),
    ],
)
def test_the_methods_take_what_they_took(owner: type, pinned: dict[str, str]) -> None:
    assert {name: text for name, text in members(owner).items() if name not in RUN_INTERNALS} == pinned


@pytest.mark.parametrize(("module", "pinned"), [(reader, READER_MODULE), (testing, TESTING_MODULE)])
def test_the_functions_of_the_public_modules_take_what_they_took(module: object, pinned: dict[str, str]) -> None:
    assert {name: signature(getattr(module, name)) for name in pinned} == pinned


def test_frames_have_the_columns_they_had() -> None:
    assert reader.RUN_COLUMNS == ("experiment", "run", "status", "started", "ended", "steps", "attempt", "params")
    assert reader.CURVE_COLUMNS == ("time", "step", "value", "elapsed", "model", "dataset", "rank")


def test_settings_have_the_names_that_users_put_into_their_environment() -> None:
    assert list(metriclog.Settings.model_fields) == SETTINGS


def documented() -> Iterator[tuple[str, object]]:
    yield from ((name, getattr(metriclog, name)) for name in metriclog.__all__ if name != "__version__")
    for owner in (metriclog.Run, metriclog.Receipt, reader.Reader, testing.Captured, testing.ScriptedTarget):
        yield owner.__name__, owner
        yield from ((f"{owner.__name__}.{name}", inspect.getattr_static(owner, name)) for name in members(owner))
    yield from ((name, getattr(reader, name)) for name in READER_MODULE)
    yield from ((name, getattr(testing, name)) for name in TESTING_MODULE)


def test_whatever_is_public_says_what_it_does() -> None:
    assert [name for name, thing in documented() if not inspect.getdoc(thing)] == []


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_one_of_ours_and_drawn_in_the_tree(name: str) -> None:
    assert issubclass(getattr(metriclog, name), metriclog.MetriclogError)
    assert re.search(rf"\b{name}\b", errors.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("MetricNameError", ValueError),
        ("MetricValueError", TypeError),
        ("StepError", TypeError),
        ("SettingsError", ValueError),
        ("RunNotFoundError", LookupError),
        ("MissingPackageError", ImportError),
    ],
)
def test_misuse_is_also_the_builtin_error_that_it_would_be_elsewhere(name: str, builtin: type) -> None:
    assert issubclass(getattr(metriclog, name), builtin)


def test_the_command_and_python_m_metriclog_are_the_same_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"metriclog": "metriclog.cli:main"}
    assert vars(main_module)["main"] is cli.main
    assert project["version"] == metriclog.__version__


def test_python_m_metriclog_lists_its_commands() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "metriclog", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=True)
    assert done.stderr == ""
    assert all(re.search(rf"\b{name}\b", done.stdout) for name in ("demo", "runs", "sync", "status"))
