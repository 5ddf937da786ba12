"""Node with Grafana's package, found or installed before the first test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.left_out import leave_out, lines
from tests.servers import node as node_servers
from tests.servers.influxdb import Missing
from tests.servers.node import InstallError, Node

HERE = Path(__file__).resolve().parent
_FOUND = pytest.StashKey[Node | Missing | InstallError]()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Installs after -m and -k, and before the first test: npm takes longer than a test may."""
    yield
    if not config.option.collectonly and any(_is_ours(item) for item in items):
        found = config.stash[_FOUND] = _find(config)
        if isinstance(found, Missing):
            leave_out(config, items, _is_ours, found.reason)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return lines(config)


def _is_ours(item: pytest.Item) -> bool:
    return HERE in item.path.parents


def _find(config: pytest.Config) -> Node | Missing | InstallError:
    reporter = config.pluginmanager.getplugin("terminalreporter")
    try:
        return node_servers.find(lambda line: reporter.write_line(line, flush=True) if reporter else None)
    except InstallError as error:
        on_ci = os.environ.get("CI", "").lower() in {"true", "1"}
        return error if on_ci else Missing(str(error).splitlines()[0])


@pytest.fixture(scope="session")
def node(pytestconfig: pytest.Config) -> Node:
    """A node with `@grafana/data`."""
    found = pytestconfig.stash[_FOUND]
    if isinstance(found, InstallError):
        pytest.fail(str(found), pytrace=False)
    assert isinstance(found, Node)
    return found
