"""A bounded journal in an outage: what its policy gives up, to the point, and that all the rest arrives (D2)."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory, journal
from metriclog.errors import JournalFullError
from metriclog.settings import Settings
from tests.faults.disks import Disk
from tests.faults.loads import EXPERIMENT, address, log_step, metrics_of, python
from tests.faults.oracle import Accepted, Tally, check_conservation
from tests.faults.proxy import FaultProxy
from tests.faults.shipping import ship
from tests.journals import read_back
from tests.servers.api import Influx

LIMIT_S = 60.0
MAX_BYTES = 1 << 20
LINES = 5  # of a run: its state and an event at the start, an event, its state and its delivery at the end
SMALL: dict[str, Any] = {
    "journal_max_bytes": MAX_BYTES, "segment_bytes": 64 << 10, "free_floor_bytes": 0, "heartbeat_s": 3600.0,
    "flush_interval_s": 0.01, "batch_max_points": 5000,
}  # fmt: skip
STEPS = 40_000  # about three times the bound


def settings_of(influx: Influx, proxy: FaultProxy, tmp_path: Path, **more: Any) -> Settings:
    return Settings(**{**address(influx, tmp_path / "journal"), "url": proxy.url, **SMALL, **more})


def size_bytes(settings: Settings) -> int:
    """What a run's segments take on disk."""
    files = [path for folder in directory.process_directories(settings.dir) for path in folder.iterdir()]
    return sum(path.stat().st_blocks * 512 for path in files if path.suffix in (".seg", ".spare", ".gone"))


def check_all_counts(run: metriclog.Run, accepted: list[Accepted], settings: Settings, influx: Influx) -> Tally:
    """`stats()`, the LOSS records and the points found agree, and what was not dropped is delivered."""
    stats = run.stats()
    tally = check_conservation(accepted, settings, influx, dropped=stats["dropped"], lines=LINES, stats=[stats])
    assert (tally.pending, tally.quarantined) == (0, 0)
    return tally


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as it holds; fail after LIMIT_S."""
    deadline_s, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        pause.wait(0.01)


def test_drop_oldest_gives_up_the_oldest_points_and_counts_each_and_the_newest_arrive(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(influx, proxy, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = [log_step(run, step) for step in range(100)]
    assert run.flush(LIMIT_S)
    with proxy.refusing():
        for step in range(100, STEPS):
            accepted.append(log_step(run, step))
            if step % 1000 == 0:
                assert size_bytes(settings) <= MAX_BYTES
        dropped = run.stats()["dropped"]
        assert dropped > STEPS / 4
    accepted += [log_step(run, step) for step in range(STEPS, STEPS + 100)]
    run.finish(timeout_s=LIMIT_S)
    tally = check_all_counts(run, accepted, settings, influx)
    assert tally.dropped == dropped, "nothing more is dropped once the server takes points again"
    newest = {call.step for call in accepted[-5000:]}
    assert newest <= {row for path in directory.process_directories(settings.dir) for row in steps_in(path)}


def steps_in(path: Path) -> list[int]:
    return [step for step in read_back(path).steps if isinstance(step, int)]


def test_dropped_in_an_outage_and_delivered_by_a_later_sync_all_counts_agree(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, proxy, tmp_path)
    with proxy.refusing():
        run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
        accepted = [log_step(run, step) for step in range(STEPS)]
        run.finish(timeout_s=0.0)
        stats = run.stats()
        assert stats["pending"] == stats["accepted"] - stats["dropped"]
        check_conservation(accepted, settings, None, dropped=stats["dropped"], lines=LINES, stats=[stats])
    ship(settings)
    tally = check_conservation(accepted, settings, influx, dropped=stats["dropped"], lines=LINES)
    assert (tally.pending, tally.server, tally.dropped) == (0, tally.journal, stats["dropped"])


def test_block_makes_log_wait_in_an_outage_and_everything_arrives(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, proxy, tmp_path, journal_policy="block")
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted: list[Accepted] = []

    def train() -> None:
        for step in range(STEPS):
            accepted.append(log_step(run, step))

    training = threading.Thread(target=train, daemon=True)
    with proxy.refusing():
        training.start()
        until(lambda: stands_still(accepted))
        assert size_bytes(settings) <= MAX_BYTES
    training.join(LIMIT_S)
    assert len(accepted) == STEPS
    run.finish(timeout_s=LIMIT_S)
    assert run.stats()["dropped"] == 0
    check_all_counts(run, accepted, settings, influx)


def stands_still(calls: list[Accepted]) -> bool:
    """Whether there are many calls, and for a while no more."""
    before = len(calls)
    threading.Event().wait(0.3)
    return len(calls) == before > 1000


BLOCKED = """
    import json, os, signal, sys, threading, metriclog
    from tests.faults.loads import log_step
    run = metriclog.init("faults", run_id="r")
    sys.stderr.write("%d\\n" % os.getpid())
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIG)).start()
    for step in range(100_000):
        call = log_step(run, step)
        print(json.dumps([call.step, call.before_ns, call.after_ns]))
"""


@pytest.mark.parametrize(("signal_name", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", -signal.SIGTERM)])
def test_a_process_that_waits_in_log_can_be_ended_and_what_it_had_logged_is_in_the_journal(
    tmp_path: Path, signal_name: str, code: int
) -> None:
    away = {**SMALL, "url": "http://127.0.0.1:1", "token": "t", "dir": tmp_path / "journal", "exit_timeout_s": 1.0}
    begin_s = time.monotonic()
    source = BLOCKED.replace("signal.SIG)", f"signal.{signal_name})")
    done = python(source, journal_policy="block", **{name: str(value) for name, value in away.items()})
    assert time.monotonic() - begin_s < 1.5 + 1.0 + 1.0 + 2.0, "it ends by its exit deadline, whatever waits"
    assert done.returncode == code, done.stderr
    calls = [json.loads(line) for line in done.stdout.splitlines() if line.endswith("]")]
    accepted = [Accepted("r", step, metrics_of(step), before, after) for step, before, after in calls]
    assert len(accepted) > 1000
    check_conservation(accepted, Settings(**away), None, unreported=200)  # print buffers what SIGTERM cuts off


def test_raise_refuses_what_finds_no_room_at_the_callers_line_and_the_rest_arrives(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RETRY_FULL_S", 0.0)
    settings = settings_of(influx, proxy, tmp_path, journal_policy="raise")
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted, refused = [], 0
    with proxy.refusing():
        for step in range(STEPS):
            try:
                accepted.append(log_step(run, step))
            except JournalFullError:
                refused += 1
        assert refused > STEPS / 4
    assert run.flush(LIMIT_S)
    accepted += [log_step(run, step) for step in range(STEPS, STEPS + 100)]
    run.finish(timeout_s=LIMIT_S)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.dropped) == (0, run.stats()["dropped"])
    assert run.stats()["accepted"] == tally.journal + tally.gone + tally.dropped


def test_the_free_space_floor_gives_up_the_oldest_points_and_counts_each(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, tmp_path / "journal")
    floor = 64 << 20
    settings = settings_of(influx, proxy, tmp_path, journal_max_bytes=1 << 30, free_floor_bytes=floor)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    with proxy.refusing():
        accepted = [log_step(run, step) for step in range(STEPS // 2)]
        assert run.stats()["dropped"] == 0
        disk.free_bytes = floor + 1000
        accepted += [log_step(run, step) for step in range(STEPS // 2, STEPS)]
    assert run.stats()["dropped"] > 0
    disk.free_bytes = None
    run.finish(timeout_s=LIMIT_S)
    check_all_counts(run, accepted, settings, influx)


def test_what_is_delivered_and_deleted_to_keep_the_bound_is_on_the_server_and_counted_as_gone(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, proxy, tmp_path, retain_bytes=128 << 10)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = []
    for step in range(STEPS):
        accepted.append(log_step(run, step))
        if step % 2000 == 0:
            assert run.flush(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    tally = check_all_counts(run, accepted, settings, influx)
    assert (tally.dropped, tally.server) == (0, tally.journal + tally.gone)
    assert tally.gone > tally.server / 2


def test_an_offline_run_under_a_watching_sync_gives_up_nothing_that_was_delivered(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, proxy, tmp_path)
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings, mode="offline")
    accepted = []
    for step in range(STEPS):
        accepted.append(log_step(run, step))
        if step % 2000 == 0:
            ship(settings)
    run.finish()
    ship(settings)
    stats = run.stats()
    tally = check_conservation(accepted, settings, influx)
    assert (stats["dropped"], tally.pending, tally.server) == (0, 0, tally.journal + tally.gone)
    assert tally.gone > 0
