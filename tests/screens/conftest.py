"""What the tests with a real Grafana share: Grafana itself, a filled and an empty bucket behind it, and Chromium."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.left_out import leave_out, lines
from tests.screens import chromium, demo_data
from tests.screens.pager import Paging, paging_grafana, quick_copy
from tests.servers import grafana as grafana_servers
from tests.servers.api import Influx, Server, new_bucket
from tests.servers.grafana_api import Grafana
from tests.servers.influxdb import Image, Missing

_FOUND = pytest.StashKey[grafana_servers.Source]()
HERE = Path(__file__).resolve().parent


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if _uses_grafana(item):
            item.add_marker("live_grafana")
    yield
    # Of those that are left after -m and -k.
    if not config.option.collectonly and any(_uses_grafana(item) for item in items):
        found = config.stash[_FOUND] = grafana_servers.find(by_name="live_grafana" in config.option.markexpr)
        if isinstance(found, Missing):
            leave_out(config, items, _uses_grafana, found.reason)
        if reason := _no_browser():
            leave_out(config, items, lambda item: _uses(item, "browser"), reason)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return lines(config)


def _uses(item: pytest.Item, fixture: str) -> bool:
    return HERE in item.path.parents and fixture in getattr(item, "fixturenames", ())


def _uses_grafana(item: pytest.Item) -> bool:
    return any(_uses(item, fixture) for fixture in ("grafana", "paging", "paging_nobody"))


def _no_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return 'no playwright: pip install "metriclog[screenshots]", or `make screenshots`'
    if chromium.executable() is None:
        return "no Chromium: set METRICLOG_TEST_CHROMIUM, or put chromium or google-chrome on PATH"
    return None


@pytest.fixture(scope="session")
def grafana(pytestconfig: pytest.Config, influxdb_server: Server) -> Iterator[Grafana]:
    """A Grafana with the dashboards of this repository, whose provisioned data source reads the shared InfluxDB."""
    found = pytestconfig.stash[_FOUND]
    assert not isinstance(found, Missing)
    with grafana_servers.running(found, influxdb_server) as running:
        yield running


def _to_be_started(config: pytest.Config) -> grafana_servers.Home | Image:
    found = config.stash[_FOUND]
    assert not isinstance(found, Missing)
    if isinstance(found, grafana_servers.External):
        pytest.skip("a Grafana that somebody else runs gets no other rules and notification policies")
    return found


@pytest.fixture(scope="module")
def paging(
    pytestconfig: pytest.Config, influxdb_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Paging]:
    """A Grafana of one's own that evaluates the alert rules every ten seconds and tells a webhook."""
    with paging_grafana(_to_be_started(pytestconfig), influxdb_server, tmp_path_factory.mktemp("paging")) as running:
        yield running


@pytest.fixture
def paging_nobody(pytestconfig: pytest.Config, influxdb_server: Server, tmp_path: Path) -> Iterator[Grafana]:
    """A Grafana with the notifications of the compose file, where .env names nobody to tell."""
    source = _to_be_started(pytestconfig)
    quick_copy(tmp_path / "provisioning", "metriclog")
    given = grafana_servers.Given(tmp_path / "provisioning", grafana_servers.compose_defaults("METRICLOG_ALERT_"))
    with grafana_servers.running(source, influxdb_server, given) as running:
        yield running


@pytest.fixture(scope="session")
def filled(influxdb_server: Server) -> Iterator[Influx]:
    """A bucket with all the demo data."""
    with new_bucket(influxdb_server) as bucket:
        demo_data.fill(bucket)
        yield bucket


@pytest.fixture(scope="session")
def filled_source(grafana: Grafana, filled: Influx) -> Iterator[str]:
    """The uid of a data source that reads the demo data."""
    with grafana.source(filled, "demo") as uid:
        yield uid


@pytest.fixture(scope="session")
def empty_source(grafana: Grafana, influxdb_server: Server) -> Iterator[str]:
    """The uid of a data source that reads an empty bucket."""
    with new_bucket(influxdb_server) as bucket, grafana.source(bucket, "empty") as uid:
        yield uid
