"""A real process killed by kill -9, in Grafana: dead until it is resumed, and silent for ever once it has finished."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.loads import ROOT, address
from tests.screens.pager import INTERVAL_S, Page, Paging

pytestmark = pytest.mark.timeout(900)
LIMIT_S = 60.0
RUN = "night-shift"


@contextmanager
def training(paging: Paging, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that logs until it is told to finish."""
    settings = {**address(paging.influx, folder), "heartbeat_s": "2"}
    surroundings = {**os.environ, **{f"METRICLOG_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "tests.prometheus.trainer", "steady", RUN]
    process = subprocess.Popen(command, cwd=ROOT, env=surroundings, stdin=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def told(pages: list[Page], status: str) -> list[str]:
    """What was said of the run."""
    return [page.group["alertname"] for page in pages if (page.status, page.group.get("run")) == (status, RUN)]


def test_a_killed_run_is_dead_until_it_is_resumed_and_silent_once_it_has_finished(
    paging: Paging, tmp_path: Path
) -> None:
    def points() -> int:
        return sum(row["count"] for row in paging.influx.rows('SELECT count("value") FROM "metrics"'))

    with training(paging, tmp_path) as process:
        paging.wait(lambda _: points() > 0, lambda: None)
        process.kill()
    pages = paging.wait(lambda pages: "Run is dead" in told(pages, "firing"), lambda: None)
    assert told(pages, "firing") == ["Run is dead"]

    with training(paging, tmp_path) as process:
        paging.wait(lambda pages: told(pages, "resolved") == ["Run is dead"], lambda: None)
        process.communicate("\n", timeout=LIMIT_S)
        assert process.returncode == 0
    # Longer than it takes to be taken for dead, and two looks more.
    deadline_s = 60 + 4 * INTERVAL_S
    with pytest.raises(TimeoutError):
        paging.wait(lambda pages: len(told(pages, "firing")) > 1, lambda: None, deadline_s)
