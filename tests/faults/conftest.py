"""What the fault tests share: a proxy in front of the test's bucket, and a family of processes that log into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.families import Family
from tests.faults.proxy import FaultProxy
from tests.servers.api import Influx


@pytest.fixture
def proxy(influx: Influx) -> Iterator[FaultProxy]:
    """Passes everything on until a test says otherwise."""
    with FaultProxy(influx.url) as between:
        yield between


@pytest.fixture
def family(influx: Influx, tmp_path: Path) -> Family:
    """A program with its children, and what they logged."""
    return Family(influx, tmp_path)
