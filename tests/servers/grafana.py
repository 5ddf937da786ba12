"""Finds a real Grafana, or starts one with this repository's provisioning and dashboards.

In this order: METRICLOG_TEST_GRAFANA_URL (with _TOKEN); METRICLOG_TEST_GRAFANA_HOME, a folder with Grafana's bin, conf
and public; docker, with the image of docker-compose.yml, but only where these tests were asked for by name.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.servers import build, processes
from tests.servers.api import Server
from tests.servers.grafana_api import Grafana
from tests.servers.influxdb import (
    Image,
    Missing,
    docker,
    docker_works,
    free_port,
)

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "provisioning" / "grafana"
DASHBOARDS = ROOT / "dashboards"
# Its first start makes a database, step by step; that takes a minute where the machine is busy.
START_DEADLINE_S = 240.0

# No telemetry, no downloads, no sign-in.
_QUIET = {
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Admin",
    "GF_LOG_MODE": "console",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PLUGIN_ADMIN_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_AUTO_UPDATE": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
}


@dataclass(frozen=True)
class External:
    """A Grafana that somebody else runs: METRICLOG_TEST_GRAFANA_URL."""

    grafana: Grafana


@dataclass(frozen=True)
class Home:
    """A Grafana unpacked on this machine: METRICLOG_TEST_GRAFANA_HOME."""

    path: Path


Source = External | Home | Image | Missing


def find(*, by_name: bool) -> Source:
    """The Grafana to test with; `by_name`: whether these tests were asked for, and docker may fetch an image."""
    if url := os.environ.get("METRICLOG_TEST_GRAFANA_URL"):
        return External(Grafana(url.rstrip("/"), os.environ.get("METRICLOG_TEST_GRAFANA_TOKEN") or None))
    if home := os.environ.get("METRICLOG_TEST_GRAFANA_HOME"):
        return _home(Path(home).expanduser().resolve())
    if by_name and docker_works():
        return Image(pinned_image())
    ways = "set METRICLOG_TEST_GRAFANA_URL or METRICLOG_TEST_GRAFANA_HOME, or `make screenshots` with docker"
    return Missing(f"no Grafana: {ways}")


def _home(path: Path) -> Home | Missing:
    missing = [name for name in ("bin/grafana", "conf", "public") if not (path / name).exists()]
    return Missing(f"METRICLOG_TEST_GRAFANA_HOME: no {missing[0]} in {path}") if missing else Home(path)


def pinned_image() -> str:
    """The image that docker-compose.yml starts."""
    found = re.search(r"image: (grafana/grafana:\S+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert found is not None, "docker-compose.yml starts no grafana/grafana"
    return found[1]


@dataclass(frozen=True)
class Given:
    """What a Grafana is started with: its provisioning files, and settings beside those of all tests."""

    provisioning: Path = PROVISIONING
    settings: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def running(source: External | Home | Image, influx: Server, given: Given | None = None) -> Iterator[Grafana]:
    """A Grafana whose provisioned data source reads `influx`; an external one is taken as it is."""
    if isinstance(source, External):
        yield source.grafana
        return
    given = given or Given()
    started = _from_home(source, influx, given) if isinstance(source, Home) else _in_container(source, influx, given)
    with started as grafana:
        yield grafana


def compose_defaults(prefix: str) -> dict[str, str]:
    """What docker-compose.yml sets for Grafana where .env says nothing, of the names that begin so."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    given = compose["services"]["grafana"]["environment"].items()
    found = {name: re.fullmatch(r"\$\{\w+:-(.+)\}", value) for name, value in given if name.startswith(prefix)}
    return {name: match[1] for name, match in found.items() if match}


@contextmanager
def _from_home(source: Home, influx: Server, given: Given) -> Iterator[Grafana]:
    temporary = tempfile.TemporaryDirectory(prefix="metriclog-grafana-", ignore_cleanup_errors=True)
    with temporary as folder, _process(source, Path(folder), influx, given) as grafana:
        yield grafana


@contextmanager
def _process(source: Home, folder: Path, influx: Server, given: Given) -> Iterator[Grafana]:
    port, log = free_port(), folder / "grafana.log"
    command = [str(source.path / "bin" / "grafana"), "server", "--homepath", str(source.path)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("GF_", "METRICLOG_"))}
    settings = {**_settings(influx.url, influx.token, DASHBOARDS, port), **given.settings}
    env = {**surroundings, **settings, **_paths(folder, given.provisioning)}
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=source.path, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        grafana = Grafana(f"http://127.0.0.1:{port}")
        _wait_until_ready(grafana, lambda: process.poll() is None, lambda: build.tail(log))
        yield grafana
    finally:
        processes.end(process)


def _paths(folder: Path, provisioning: Path) -> dict[str, str]:
    """Folders of Grafana's own. Provisioning is linked in, because Grafana complains about each folder that is not."""
    for name in ("provisioning", "plugins", "log"):
        (folder / name).mkdir()
    for name in {"datasources", "dashboards", "alerting", "plugins"}:
        shipped = provisioning / name
        place = folder / "provisioning" / name
        place.symlink_to(shipped) if shipped.is_dir() else place.mkdir()
    paths = {"DATA": folder, "LOGS": folder / "log", "PLUGINS": folder / "plugins"}
    paths["PROVISIONING"] = folder / "provisioning"
    return {f"GF_PATHS_{name}": str(path) for name, path in paths.items()}


@contextmanager
def _in_container(source: Image, influx: Server, given: Given) -> Iterator[Grafana]:
    port, name = free_port(), f"metriclog-test-{secrets.token_hex(6)}"

    def alive() -> bool:
        return docker("inspect", "--format", "{{.State.Running}}", name).strip() == "true"

    docker("create", "--name", name, *_container(influx, port, given), source.name)
    try:
        docker("start", name)
        grafana = Grafana(f"http://127.0.0.1:{port}")
        _wait_until_ready(grafana, alive, lambda: docker("logs", "--tail", str(build.TAIL_LINES), name))
        yield grafana
    finally:
        docker("rm", "--force", "--volumes", name)


def _container(influx: Server, port: int, given: Given) -> list[str]:
    """The arguments of `docker create`. Only Linux lets a container use the machine's own loopback."""
    url, inside = influx.url, "/etc/metriclog/dashboards"
    settings: dict[str, str] = {}
    if sys.platform == "linux":
        network = ["--network", "host"]
    else:
        network = ["--publish", f"127.0.0.1:{port}:{port}"]
        url = re.sub(r"//(127\.0\.0\.1|localhost)\b", "//host.docker.internal", url)
        settings = {"GF_SERVER_HTTP_ADDR": ""}
    settings = {**_settings(url, influx.token, Path(inside), port), **settings, **given.settings}
    mounts = [f"{DASHBOARDS}:{inside}:ro"]
    mounts += [f"{path}:/etc/grafana/provisioning/{path.name}:ro" for path in sorted(given.provisioning.iterdir())]
    options = [("--env", f"{name}={value}") for name, value in settings.items()]
    options += [("--volume", mount) for mount in mounts]
    return [*network, *(part for option in options for part in option)]


def _settings(influx_url: str, influx_token: str, dashboards: Path, port: int) -> Mapping[str, str]:
    """As docker-compose.yml sets them."""
    return {
        **_QUIET,
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "METRICLOG_DASHBOARDS_DIR": str(dashboards),
        "METRICLOG_INFLUX_URL": influx_url,
        "METRICLOG_INFLUX_TOKEN": influx_token,
        "METRICLOG_PROMETHEUS_URL": "http://127.0.0.1:9",  # where none runs, nothing else is the worse for it
    }


def _wait_until_ready(grafana: Grafana, alive: Callable[[], bool], output: Callable[[], str]) -> None:
    processes.wait_until_ready("Grafana", grafana.healthy, alive, output, START_DEADLINE_S)
