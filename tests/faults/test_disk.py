"""The disk is full, fails, is gone, or hangs: what happens to the points (D1, D3, D6)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory, journal, testing
from metriclog.replay import owner_is_alive
from metriclog.settings import Settings
from tests.faults.disks import EVERYTHING, Disk
from tests.faults.loads import EXPERIMENT, ROOT, address, log_step, metrics_of
from tests.faults.oracle import Accepted, Tally, check_conservation
from tests.servers.api import Influx

LIMIT_S = 30.0
LINES = 5  # of a run: its state and an event at the start, an event, its state and its delivery at the end
QUIET = {"heartbeat_s": 3600.0, "free_floor_bytes": 0, "segment_bytes": 64 << 10}


def settings_of(influx: Influx, tmp_path: Path, **more: Any) -> Settings:
    """Ships to this bucket; small segments, and no heartbeats, so that the points of a run can be foretold."""
    quick = {"flush_interval_s": 0.01, "batch_max_points": 5000}
    return Settings(**{**address(influx, tmp_path / "journal"), **quick, **QUIET, **more})


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    """A disk that fails as the test says; the journal tries again at once, not after a second."""
    monkeypatch.setattr(journal, "RETRY_FULL_S", 0.0)
    return Disk(monkeypatch, tmp_path / "journal")


def log_steps(run: metriclog.Run, first: int, count: int) -> list[Accepted]:
    return [log_step(run, step) for step in range(first, first + count)]


def check_all_is_well(run: metriclog.Run, accepted: list[Accepted], settings: Settings, influx: Influx) -> Tally:
    """Everything that is not a counted drop is delivered; `stats()`, the LOSS records and the points found agree."""
    stats = run.stats()
    tally = check_conservation(accepted, settings, influx, dropped=stats["dropped"], lines=LINES, stats=[stats])
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)
    return tally


# -- full ---------------------------------------------------------------------------------------------------------

# In a mount namespace of its own: a tmpfs of 1 MB under the journal, filled up by somebody else.
ON_A_SMALL_DISK = """
    import contextlib, json, os, shutil, sys
    import metriclog
    from pathlib import Path
    from metriclog import journal
    from tests.faults.loads import log_step
    journal.RETRY_FULL_S = 0.0
    place, out, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    hog = place / "hog"

    def fill():
        with contextlib.suppress(OSError), open(hog, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    run = metriclog.init("faults", run_id="r")
    calls = [log_step(run, step) for step in range(500)]
    assert run.flush(30.0)
    for first in range(10_000, 10_000 * (times + 1), 10_000):
        fill()
        calls += [log_step(run, step) for step in range(first, first + 3000)]
        assert os.statvfs(place).f_bavail < 64
        hog.unlink()
        calls += [log_step(run, step) for step in range(first + 5000, first + 5200)]
        assert run.flush(30.0)
    run.finish(timeout_s=30.0)
    shutil.copytree(place / "journal", out)
    print(json.dumps({"stats": run.stats(), "calls": [(call.step, call.before_ns, call.after_ns) for call in calls]}))
"""


def on_a_small_disk(settings: Settings, place: Path, times: int) -> tuple[list[Accepted], dict[str, Any]]:
    """Run ON_A_SMALL_DISK; its calls and its counts. The journal is where the settings say afterwards."""
    place.mkdir()
    values = settings.model_dump() | {"token": settings.read_token(), "dir": place / "journal"}
    surroundings = {f"METRICLOG_{name.upper()}": str(value) for name, value in values.items() if value is not None}
    command = f'mount -t tmpfs -o size=1m tmpfs {place} && exec {sys.executable} -c "$0" "$@"'
    unshare = ["unshare", "-Urm", "sh", "-c", command, textwrap.dedent(ON_A_SMALL_DISK)]
    done = subprocess.run(
        [*unshare, str(place), str(settings.dir), str(times)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **surroundings, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return [Accepted("r", step, metrics_of(step), before, after) for step, before, after in said["calls"]], said[
        "stats"
    ]


def can_mount() -> bool:
    """Whether this user may mount a tmpfs in a namespace of its own."""
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("times", [1, 4], ids=["once", "again and again"])
def test_a_real_full_disk_costs_what_found_no_room_counted_and_the_rest_is_delivered(
    influx: Influx, tmp_path: Path, times: int
) -> None:
    if not can_mount():
        pytest.skip("no mount namespace here (unshare -Urm)")
    settings = settings_of(influx, tmp_path)
    accepted, stats = on_a_small_disk(settings, tmp_path / "small", times)
    assert 0 < stats["dropped"] < 3000 * times * 3
    tally = check_conservation(accepted, settings, influx, dropped=stats["dropped"], lines=LINES, stats=[stats])
    assert (tally.pending, tally.quarantined) == (0, 0)


def test_a_disk_that_is_full_for_long_costs_what_found_no_room_and_one_warning(
    influx: Influx, tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 300)
    disk.fails("allocate", "create", "write")
    accepted += log_steps(run, 300, 5000)
    assert run.stats()["dropped"] > 4000
    assert len([record for record in caplog.records if "dropped so far" in record.getMessage()]) == 1
    disk.heals()
    accepted += log_steps(run, 6000, 300)
    run.finish(timeout_s=LIMIT_S)
    check_all_is_well(run, accepted, settings, influx)


# -- failing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["flush", "cut", "delete", "allocate"])
def test_errors_of_msync_truncate_and_unlink_cost_nothing_and_those_of_allocating_counted_drops(
    influx: Influx, tmp_path: Path, disk: Disk, trouble: str
) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 300)
    disk.fails(trouble, code=errno.EIO)
    descriptors = len(os.listdir("/proc/self/fd"))
    accepted += log_steps(run, 300, 9000)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 12
    disk.heals()
    accepted += log_steps(run, 10_000, 300)
    run.finish(timeout_s=LIMIT_S)
    assert (run.stats()["dropped"] > 0) == (trouble == "allocate")
    check_all_is_well(run, accepted, settings, influx)


def test_a_directory_turned_read_only_costs_what_found_no_room_and_afterwards_all_goes_on(
    influx: Influx, tmp_path: Path, disk: Disk
) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 300)
    assert run.flush(LIMIT_S)
    disk.fails(*EVERYTHING, code=errno.EROFS)
    accepted += log_steps(run, 300, 3000)
    assert run.stats()["dropped"] > 0
    disk.heals()
    accepted += log_steps(run, 5000, 300)
    run.finish(timeout_s=LIMIT_S)
    check_all_is_well(run, accepted, settings, influx)


def test_while_an_ack_cannot_be_written_points_may_be_sent_twice_and_none_is_missed(
    influx: Influx, tmp_path: Path, disk: Disk
) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    disk.fails("write", code=errno.ENOSPC)  # the fsync of an ack; the journal itself is a mapping
    accepted = log_steps(run, 0, 500)
    run.flush(0.3)
    disk.heals()
    accepted += log_steps(run, 500, 500)
    assert run.flush(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    check_all_is_well(run, accepted, settings, influx)


# -- gone ---------------------------------------------------------------------------------------------------------


def test_a_directory_that_vanishes_is_made_again_and_what_was_in_the_open_segment_is_delivered(
    influx: Influx, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 200)
    assert run.flush(LIMIT_S)
    accepted += log_steps(run, 200, 200)
    shutil.rmtree(settings.dir.rename(tmp_path / "away"))  # at once, also beside a thread that makes files
    accepted += log_steps(run, 400, 200)
    run.finish(timeout_s=LIMIT_S)
    assert run.stats()["dropped"] == 0
    check_all_is_well(run, accepted, settings, influx)


def test_of_a_directory_that_vanishes_in_an_outage_full_segments_are_lost_and_counted(tmp_path: Path) -> None:
    settings = Settings(url="http://127.0.0.1:1", token="t", dir=tmp_path / "journal", **QUIET)  # type: ignore[arg-type]
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    own = run._recorder.journal
    assert own is not None
    accepted = log_steps(run, 0, 4000)
    own.sync()
    full = sum(kept.points for kept in own.ledger.kept.values())
    shutil.rmtree(settings.dir.rename(tmp_path / "away"))  # at once, also beside a thread that makes files
    accepted += log_steps(run, 4000, 10)
    own.sync()
    accepted += log_steps(run, 5000, 200)
    run.finish(timeout_s=0.0)
    stats = run.stats()
    assert stats["dropped"] == full > 3000
    check_conservation(accepted, settings, None, dropped=full, lines=LINES, stats=[stats])


# -- hanging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal_io", ["mmap", "buffered"])
def test_a_disk_that_hangs_does_not_hold_up_log_and_afterwards_everything_is_delivered(
    influx: Influx, tmp_path: Path, disk: Disk, journal_io: str
) -> None:
    settings = settings_of(influx, tmp_path, journal_io=journal_io, segment_bytes=256 << 10)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 100)
    disk.blocks()
    slowest_s, end_s, pace = 0.0, time.monotonic() + 2.0, threading.Event()
    step = 100
    while time.monotonic() < end_s:
        begin_s = time.perf_counter()
        accepted += log_steps(run, step, 5)
        slowest_s = max(slowest_s, time.perf_counter() - begin_s)
        step += 5
        pace.wait(0.001)
    assert step > 2000, "about a segment full"
    assert slowest_s < 0.5, "on a busy machine; a wait for the disk would have been 2 s"
    disk.heals()
    run.finish(timeout_s=LIMIT_S)
    assert run.stats()["dropped"] == 0
    check_all_is_well(run, accepted, settings, influx)


def test_a_disk_that_hangs_does_not_hold_up_the_end_of_a_run_and_what_was_logged_is_in_the_journal(
    influx: Influx, tmp_path: Path, disk: Disk
) -> None:
    settings = settings_of(influx, tmp_path, segment_bytes=64 << 10, heartbeat_s=0.02)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = log_steps(run, 0, 100)
    assert run.flush(LIMIT_S)
    disk.blocks()
    accepted += log_steps(run, 100, 900)
    begin_s = time.monotonic()
    run.finish(timeout_s=0.5)
    assert time.monotonic() - begin_s < 1.5
    check_conservation(accepted, settings, influx)
    disk.heals()
    (path,) = directory.process_directories(settings.dir)
    deadline_s, pace = time.monotonic() + LIMIT_S, threading.Event()
    while owner_is_alive(path):
        assert time.monotonic() < deadline_s, "it keeps the directory for ever"
        pace.wait(0.01)


def test_a_buffered_journal_holds_a_few_segments_for_a_disk_that_hangs_and_counts_what_is_beyond(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(dir=tmp_path / "journal", journal_io="buffered", mode="offline", **QUIET)  # type: ignore[arg-type]
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    disk.blocks()
    accepted = log_steps(run, 0, 20_000)
    held = run.stats()["accepted"] - run.stats()["dropped"]
    assert 4 * 1000 < held < 4 * 3000, "four segments of 64 KB"
    assert "what is in memory cannot be written to the disk" in caplog.text
    disk.heals()
    run.finish()
    stats = run.stats()
    points = list(testing.Captured(settings.dir).points())
    assert stats["accepted"] == stats["dropped"] + len(points)
    assert held <= len(points) <= held + 2, "and perhaps the last words"
    check_conservation(accepted, settings, None, dropped=stats["dropped"], lines=4)
