"""What the tests of the dashboards' queries share."""

from __future__ import annotations

import pytest

from tests.live import dashboard_data
from tests.servers.api import Influx


@pytest.fixture
def filled(influx: Influx) -> Influx:
    """A bucket with one run of each kind."""
    influx.write("\n".join(dashboard_data.lines()))
    return influx
