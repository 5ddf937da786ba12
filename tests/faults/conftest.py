"""What the fault tests share: a proxy in front of the test's bucket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.proxy import FaultProxy
from tests.servers.api import Influx


@pytest.fixture
def proxy(influx: Influx) -> Iterator[FaultProxy]:
    """Passes everything on until a test says otherwise."""
    with FaultProxy(influx.url) as between:
        yield between
