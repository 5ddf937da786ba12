"""What the fault tests share: a proxy in front of the test's bucket, and a family of processes that log into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.families import Family
from tests.faults.proxy import FaultProxy
from tests.servers.api import Influx

# Tests in these files reckon with every point of a run. What the rules find in the NaNs of the load are points too.
COUNTED = {
    "test_bounds",
    "test_buffered",
    "test_damage",
    "test_disk",
    "test_processes",
    "test_rollups",
    "test_syscalls",
}


@pytest.fixture(autouse=True)
def no_rules_where_points_are_counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else goes on as always: the journal is followed there too."""
    if request.path.stem in COUNTED:
        monkeypatch.setenv("METRICLOG_WATCH", "false")


@pytest.fixture
def proxy(influx: Influx) -> Iterator[FaultProxy]:
    """Passes everything on until a test says otherwise."""
    with FaultProxy(influx.url) as between:
        yield between


@pytest.fixture
def family(influx: Influx, tmp_path: Path) -> Family:
    """A program with its children, and what they logged."""
    return Family(influx, tmp_path)
