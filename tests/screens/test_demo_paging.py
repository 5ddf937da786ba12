"""`metriclog demo` with everything up: the run that diverges is told by each way, and the three good runs by none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.loads import address
from tests.prometheus.test_paging import HURRIED
from tests.screens.pager import Paging
from tests.servers import prometheus
from tests.servers.prometheus import Prometheus, wait_until
from tests.servers.scripted import ScriptedServer, says, serving

pytestmark = pytest.mark.timeout(600)
DEMO_S, PAGED_S = 300.0, 120.0
DIVERGES = "high-lr-"


@pytest.fixture
def alertmanager() -> Iterator[ScriptedServer]:
    """What Alertmanager tells."""
    with serving(says(200)) as webhook:
        yield webhook


@pytest.fixture
def scraping(programs: prometheus.Programs, tmp_path: Path, alertmanager: ScriptedServer) -> Iterator[Prometheus]:
    with prometheus.running(programs, tmp_path / "prometheus", HURRIED, alertmanager.url) as started:
        yield started


@pytest.fixture
def in_process() -> Iterator[ScriptedServer]:
    """What the training process tells."""
    with serving(says(200)) as webhook:
        yield webhook


def test_the_diverging_run_of_the_demo_is_told_by_each_way_and_the_others_by_none(
    paging: Paging, scraping: Prometheus, alertmanager: ScriptedServer, in_process: ScriptedServer, tmp_path: Path
) -> None:
    settings = {
        **address(paging.influx, tmp_path / "journal"),
        "alert_webhook": f"{in_process.url}/told",
        "prometheus_port": "0",
        "prometheus_sd_dir": str(scraping.targets),
        "prometheus_linger_s": "30",
    }
    surroundings = {**os.environ, **{f"METRICLOG_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "metriclog", "demo"]
    done = subprocess.run(command, env=surroundings, cwd=tmp_path, capture_output=True, text=True, timeout=DEMO_S)
    assert done.returncode == 0, done.stdout + done.stderr

    def told() -> dict[str, set[str]]:
        return {
            "process": {one["run"] for one in _bodies(in_process)},
            "Prometheus": {one["groupLabels"]["run"] for one in _bodies(alertmanager)},
            "Grafana": {page.group["run"] for page in paging.pages() if page.status == "firing"},
        }

    wait_until(lambda: all(told().values()), lambda: f"told: {told()}", PAGED_S)
    runs = set.union(*told().values())
    assert len(runs) == 1 and next(iter(runs)).startswith(DIVERGES), told()


def _bodies(webhook: ScriptedServer) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, _, body in webhook.requests]
