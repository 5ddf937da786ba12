"""A real Prometheus and Alertmanager with this repository's configuration, and promtool, where they are installed.

Looked for on PATH, under Debian's names too. Servers of a test listen on loopback, on ports of their own, and keep
their data in a folder that the test gives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

from tests.servers import build, processes
from tests.servers.answers import OPENER
from tests.servers.influxdb import Missing, free_port

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "provisioning" / "prometheus"
START_DEADLINE_S = 60.0
REQUEST_TIMEOUT_S = 30.0
_LOOK_S = 0.1

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Programs:
    """Where they are."""

    prometheus: str
    promtool: str
    alertmanager: str


def find() -> Programs | Missing:
    """The programs of this machine."""
    ways = {"prometheus": (), "promtool": (), "alertmanager": ("prometheus-alertmanager",)}
    found = {name: next(filter(None, map(shutil.which, (name, *others))), None) for name, others in ways.items()}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        return Missing(f"no {' and no '.join(missing)}: apt-get install prometheus prometheus-alertmanager")
    return Programs(**{name: path for name, path in found.items() if path is not None})


@dataclass(frozen=True)
class Prometheus:
    """The address of a Prometheus. `targets` is the folder in which jobs announce themselves to it."""

    url: str
    targets: Path

    def call(self, path: str, **params: str) -> Any:
        """What an address of its API says as data."""
        query = f"?{urlencode(params)}" if params else ""
        try:
            with OPENER.open(f"{self.url}/api/v1/{path}{query}", timeout=REQUEST_TIMEOUT_S) as answer:
                return json.loads(answer.read())["data"]
        except HTTPError as error:
            with error:
                raise ValueError(error.read().decode(errors="replace")) from error

    def ask(self, expression: str) -> list[tuple[Labels, float]]:
        """An instant vector: labels and value of each series."""
        found = self.call("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def firing(self) -> list[Labels]:
        """The labels of the alerts that fire now."""
        return [alert["labels"] for alert in self.call("alerts")["alerts"] if alert["state"] == "firing"]

    def wait(self, expression: str) -> list[tuple[Labels, float]]:
        """The answer, once it is not empty."""
        wait_until(lambda: bool(self.ask(expression)), lambda: f"{expression} has no result; up: {self.ask('up')}")
        return self.ask(expression)


def wait_until(holds: Callable[[], bool], otherwise: Callable[[], str], deadline_s: float = 60.0) -> None:
    """Asks again and again. Raises TimeoutError with the words."""
    end_s = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end_s:
            raise TimeoutError(f"after {deadline_s} s: {otherwise()}")
        time.sleep(_LOOK_S)


@contextmanager
def running(
    programs: Programs, folder: Path, changes: Mapping[str, Sequence[tuple[str, str]]], webhook: str | None = None
) -> Iterator[Prometheus]:
    """Prometheus below `folder` with our rules, and with a `webhook` our Alertmanager too.

    `changes` are (old, new) texts by file: other times, so that a test need not wait for minutes.
    """
    config = folder / "config"
    shutil.copytree(PROVISIONING, config)
    alerts = free_port()
    address = [("127.0.0.1:9093", f"127.0.0.1:{alerts}")]
    for name in {"prometheus.yml", *changes}:
        replace(config / name, [*changes.get(name, ()), *(address if name == "prometheus.yml" else [])])
    if webhook is None:
        with _prometheus(programs, config, folder) as started:
            yield started
        return
    with _alertmanager(config, folder, alerts, webhook), _prometheus(programs, config, folder) as started:
        yield started


def replace(path: Path, changes: Sequence[tuple[str, str]]) -> None:
    """Replaces texts, all of which must be there."""
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, f"{path.name} has no {old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@contextmanager
def _prometheus(programs: Programs, config: Path, folder: Path) -> Iterator[Prometheus]:
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        programs.prometheus, f"--config.file={config / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}", "--storage.tsdb.retention.time=100y", "--log.level=warn",
    ]  # fmt: skip
    with _process(command, folder / "prometheus.log", {}, f"{url}/-/ready"):
        yield Prometheus(url, config / "targets")


@contextmanager
def _alertmanager(config: Path, folder: Path, port: int, webhook: str) -> Iterator[None]:
    """As docker-compose.yml starts it."""
    command = [
        "sh", str(config / "alertmanager.sh"), f"--storage.path={folder / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    told = {"METRICLOG_ALERT_WEBHOOK": webhook, "TMPDIR": str(folder)}
    with _process(command, folder / "alertmanager.log", told, f"http://127.0.0.1:{port}/-/ready"):
        yield


@contextmanager
def _process(command: Sequence[str], log: Path, settings: Mapping[str, str], ready: str) -> Iterator[None]:
    with log.open("ab") as out:
        environment = {**os.environ, **settings}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        processes.wait_until_ready(
            command[0],
            lambda: _answers(ready),
            lambda: process.poll() is None,
            lambda: build.tail(log),
            START_DEADLINE_S,
        )
        yield
    finally:
        processes.end(process)


def _answers(url: str) -> bool:
    try:
        with OPENER.open(url, timeout=REQUEST_TIMEOUT_S):
            return True
    except OSError:
        return False
