"""A journal in memory that a thread writes out, as on a network file system: what arrives, what kill -9 costs."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import metriclog
from metriclog import cli, directory, journal, volumes
from metriclog.segments import segment_numbers
from metriclog.settings import Settings
from tests.faults.disks import Disk
from tests.faults.loads import EXPERIMENT, MOST_METRICS, Children, address, log_step
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.shipping import check_all_delivered, ship
from tests.servers.api import Influx

LIMIT_S = 30.0
WINDOW_S = 1.0  # what kill -9 may cost: 0.25 s between two saves, and whatever a busy machine adds
LINES = 5
SMALL: dict[str, Any] = {
    "journal_io": "buffered", "segment_bytes": 64 << 10, "free_floor_bytes": 0, "heartbeat_s": 3600.0,
    "flush_interval_s": 0.01, "batch_max_points": 5000,
}  # fmt: skip


def settings_of(influx: Influx, tmp_path: Path, **more: Any) -> Settings:
    return Settings(**{**address(influx, tmp_path / "journal"), **SMALL, **more})


def log_steps(run: metriclog.Run, first: int, count: int) -> list[Accepted]:
    return [log_step(run, step) for step in range(first, first + count)]


def test_everything_is_delivered_segment_after_segment_also_while_it_is_logged(influx: Influx, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted: list[Accepted] = []
    for first in range(0, 20_000, 2000):
        accepted += log_steps(run, first, 2000)
        assert run.flush(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    assert len(segment_numbers(directory.process_directories(settings.dir)[0])) > 10
    check_all_delivered(accepted, settings, influx)
    check_conservation(accepted, settings, influx, lines=LINES, stats=[run.stats()])


def test_a_sync_beside_a_live_run_skips_nothing_that_is_still_in_memory(influx: Influx, tmp_path: Path) -> None:
    """A segment has a file only when the one before it is written to its end."""
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings, mode="offline")
    accepted: list[Accepted] = []
    for first in range(0, 10_000, 500):
        accepted += log_steps(run, first, 500)
        ship(settings)
    run.finish()
    ship(settings)
    check_all_delivered(accepted, settings, influx)


@pytest.fixture
def children() -> Iterator[Children]:
    parent = Children()
    yield parent
    parent.close()


def test_kill_9_costs_at_most_the_last_second(children: Children, influx: Influx, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path)
    where = {**address(influx, tmp_path / "journal"), **SMALL}
    sure: list[Accepted] = []
    unsure = 0
    for number in range(3):
        calls = children.live_and_die(f"k{number}", where, seed=number, life_s=1.5 + 0.1 * number)
        killed_ns = calls[-1].after_ns
        early = [call for call in calls if call.after_ns < killed_ns - WINDOW_S * 1e9]
        assert len(early) > 100
        sure += early
        unsure += sum(len(call.metrics) for call in calls[len(early) :]) + MOST_METRICS
    ship(settings)
    tally = check_conservation(sure, settings, influx, unreported=unsure)
    assert (tally.pending, tally.server) == (0, tally.journal)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "error"])
def test_a_disk_that_takes_nothing_for_a_while_costs_nothing_and_tears_nothing(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(journal, "RETRY_FULL_S", 0.0)
    disk = Disk(monkeypatch, tmp_path / "journal")
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 500)
    assert run.flush(LIMIT_S)
    for first in range(1000, 6000, 1000):
        disk.fails("write", "create", code=code)
        accepted += log_steps(run, first, 300)
        assert not run.flush(0.05)
        disk.heals()
        disk.writes_short(1000)
        accepted += log_steps(run, first + 500, 300)
        assert run.flush(LIMIT_S)
        disk.heals()
    run.finish(timeout_s=LIMIT_S)
    assert run.stats()["dropped"] == 0
    check_all_delivered(accepted, settings, influx)


def test_a_directory_that_vanishes_is_written_again_from_memory(influx: Influx, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 200)
    assert run.flush(LIMIT_S)
    shutil.rmtree(settings.dir.rename(tmp_path / "away"))  # at once, also beside a thread that makes files
    accepted += log_steps(run, 200, 200)
    assert run.flush(LIMIT_S)
    accepted += log_steps(run, 400, 200)
    run.finish(timeout_s=LIMIT_S)
    check_all_delivered(accepted, settings, influx)


def test_the_oldest_are_given_up_and_counted_here_too(influx: Influx, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path, journal_max_bytes=1 << 20)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings, mode="offline")
    accepted: list[Accepted] = []
    for first in range(0, 40_000, 1000):
        accepted += log_steps(run, first, 1000)
        run._recorder.journal.sync()  # type: ignore[union-attr]
    run.finish()
    dropped = run.stats()["dropped"]
    assert dropped > 10_000
    ship(settings)
    tally = check_conservation(accepted, settings, influx, dropped=dropped, lines=LINES - 1)
    assert (tally.pending, tally.dropped, tally.server) == (0, dropped, tally.journal)


def test_on_a_network_file_system_it_is_chosen_and_status_and_stats_say_so(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "file_system_type", lambda _: "nfs4")
    settings = settings_of(influx, tmp_path, journal_io="auto")
    began_s = time.monotonic()
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = log_steps(run, 0, 100)
        assert run.stats()["journal_io"] == "buffered"
        assert run.flush(LIMIT_S)
    assert time.monotonic() - began_s < LIMIT_S
    surroundings = {f"METRICLOG_{name.upper()}": value for name, value in address(influx, settings.dir).items()}
    done = CliRunner().invoke(cli.app, ["status", "--json"], env=surroundings)
    assert done.exit_code == 0, done.output
    assert "buffered" in json.dumps(json.loads(done.stdout))
    assert "buffered" in CliRunner().invoke(cli.app, ["status"], env=surroundings).stdout
    check_all_delivered(accepted, settings, influx)
