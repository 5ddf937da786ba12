"""One process' way to the journal: what `log()` does without room, thread or directory, and what is counted."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory, journal, recorder, testing
from metriclog.errors import JournalFullError, NotDeliveredError
from metriclog.settings import Settings
from tests.faults.disks import EVERYTHING, Disk
from tests.faults.loads import python
from tests.servers.scripted import ScriptedServer, says, serving

LIMIT_S = 20.0
SMALL = {"segment_bytes": 64 << 10, "journal_max_bytes": 1 << 20, "free_floor_bytes": 0, "heartbeat_s": 3600.0}
WIDE = {f"m{index}": 0.5 for index in range(100)}  # 832 bytes a call: the bound is reached after some 1,200


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that is away, until a test lets it answer 204."""
    with serving(says(503)) as made:
        yield made


def settings_for(server: ScriptedServer | None, **more: Any) -> Settings:
    there: dict[str, Any] = {"url": server.url, "token": "t", "flush_interval_s": 0.01} if server else {}
    return Settings(**{**SMALL, **there, "retain_bytes": 0, **more})


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as it holds; fail after LIMIT_S."""
    deadline_s, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        pause.wait(0.01)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Logger(threading.Thread):
    """Logs WIDE at so many steps; `step` is where it is."""

    def __init__(self, run: metriclog.Run, steps: int) -> None:
        super().__init__(daemon=True)
        self.step = 0
        self._run, self._steps = run, steps
        self.start()

    def run(self) -> None:
        with contextlib.suppress(metriclog.RunFinishedError):
            for step in range(self._steps):
                self.step = step
                self._run.log(WIDE, step)

    def stands_still(self) -> bool:
        """Whether it waits in `log()` for room, and has said so: not for a disk that is slow for a moment."""
        before = self.step
        self.join(0.3)
        return self.is_alive() and self.step == before and self._run._recorder._warned_s > 0


# -- policy "block" ---------------------------------------------------------------------------------------------


def test_block_makes_log_wait_for_the_server_and_go_on_and_drops_nothing(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    run = metriclog.init("exp", settings=settings_for(server, journal_policy="block"))
    training = Logger(run, 3000)
    until(training.stands_still)
    assert 1000 < training.step < 1300
    server.answer = says(204)
    training.join(LIMIT_S)
    assert training.step == 2999
    run.finish(timeout_s=LIMIT_S)
    stats = run.stats()
    assert (stats["dropped"], stats["pending"]) == (0, 0)
    assert stats["delivered"] == stats["accepted"] >= 3000 * len(WIDE)
    waits = [line for line in warnings(caplog) if "log() waits for the server" in line]
    assert len(waits) == 1
    assert "METRICLOG_JOURNAL_MAX_BYTES=1048576" in waits[0]


def test_while_log_waits_nobody_else_has_to(server: ScriptedServer) -> None:
    run = metriclog.init("exp", settings=settings_for(server, journal_policy="block", heartbeat_s=0.05))
    training = Logger(run, 3000)
    until(training.stands_still)
    begin_s = time.monotonic()
    for _ in range(10):
        run.stats()
        assert not run.flush(0.0)
        assert run.log({}) is not None
    until(lambda: bool(run.stats()["dropped"]))  # the heart's own lines find no room, and it does not wait for any
    assert time.monotonic() - begin_s < 2.0
    server.answer = says(204)
    training.join(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    assert run.stats()["pending"] == 0


def test_finish_lets_go_of_a_log_that_waits_at_its_deadline_and_counts_what_it_had(server: ScriptedServer) -> None:
    run = metriclog.init("exp", settings=settings_for(server, journal_policy="block"))
    training = Logger(run, 3000)
    until(training.stands_still)
    begin_s = time.monotonic()
    run.finish(timeout_s=0.5)
    assert time.monotonic() - begin_s < 0.5 + 1.0
    training.join(LIMIT_S)
    assert not training.is_alive()
    stats = run.stats()
    present = sum(1 for path in directory.process_directories(Path(".metriclog")) for _ in testing.read_points(path))
    assert stats["accepted"] == present + stats["dropped"]
    assert stats["dropped"] >= len(WIDE)


def test_offline_there_is_no_server_to_wait_for_so_block_drops_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    with metriclog.init("exp", settings=settings_for(None, journal_policy="block")) as run:
        for step in range(1500):
            run.log(WIDE, step)
    assert run.stats()["dropped"] > 0
    assert [line for line in warnings(caplog) if "points dropped so far" in line]


# -- policy "raise" ---------------------------------------------------------------------------------------------


def test_raise_raises_at_the_callers_line_and_ending_the_run_does_not(server: ScriptedServer) -> None:
    run = metriclog.init("exp", settings=settings_for(server, journal_policy="raise", heartbeat_s=0.02))
    kept = 0
    with pytest.raises(JournalFullError, match="METRICLOG_JOURNAL_MAX_BYTES"):
        for step in range(3000):
            run.log(WIDE, step)
            kept += len(WIDE)
    with pytest.raises(JournalFullError):
        run.event("note", "x" * 2000)
    run.finish(timeout_s=0.1)
    assert run.stats()["dropped"] >= len(WIDE) + 1
    (path,) = directory.process_directories(Path(".metriclog"))
    assert len([point for point in testing.read_points(path) if point.measurement == "metrics"]) == kept


# -- no thread --------------------------------------------------------------------------------------------------


def test_where_no_thread_can_be_started_points_are_journaled_and_receipts_say_that_nothing_ships(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is while the interpreter shuts down, or where the user may have no more threads."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with metriclog.init("exp", run_id="r", settings=settings_for(server)) as run:
        receipt = run.log({"loss": 0.5}, 1)
        assert not receipt.wait()
        with pytest.raises(NotDeliveredError, match=r"nothing ships: can't start new thread\. Use: metriclog sync"):
            receipt.result()
        assert not run.flush(1.0)
    assert testing.Captured(Path(".metriclog")).curve("loss") == [(1, 0.5)]
    assert any("stays in" in line for line in warnings(caplog))


# -- no room ----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    monkeypatch.setattr(journal, "RETRY_FULL_S", 0.0)
    return Disk(monkeypatch, tmp_path)


def test_trouble_is_said_at_most_once_a_minute_and_with_what_to_do(
    disk: Disk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = metriclog.init("exp", settings=settings_for(None))
    disk.fails("allocate")
    for step in range(500):
        run.log(WIDE, step)
    assert len(warnings(caplog)) == 1
    assert warnings(caplog)[0].endswith("points dropped so far. Free some space")
    monkeypatch.setattr(recorder, "WARN_EVERY_S", 0.0)
    run.log(WIDE)
    assert len(warnings(caplog)) == 2
    disk.heals()
    run.finish()


def test_a_forked_child_without_room_counts_what_it_lost_and_tells_it_when_there_is_room(tmp_path: Path) -> None:
    done = python(
        """
    import errno, os, metriclog
    from metriclog import journal
    journal.RETRY_FULL_S = 0.0
    run = metriclog.init("exp", run_id="r")
    usual = os.posix_fallocate
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    pid = os.fork()
    if pid == 0:
        os.posix_fallocate = full
        for step in range(5):
            run.log({"a": 1.0, "b": 2.0}, step)
        stats = run.stats()
        assert (stats["accepted"], stats["dropped"]) == (10, 10), stats
        os.posix_fallocate = usual
        run.log({"a": 1.0, "b": 2.0}, 5)
        run.finish()
        stats = run.stats()
        assert (stats["accepted"], stats["dropped"]) == (12, 10), stats
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """,
        dir=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert testing.Captured(tmp_path).curve("a") == [(5, 1.0)]


def test_flush_of_a_buffered_run_survives_a_failing_disk_and_delivers_when_it_is_well(
    server: ScriptedServer, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = says(204)
    run = metriclog.init("exp", settings=settings_for(server, journal_io="buffered"))
    assert run.stats()["journal_io"] == "buffered"
    assert run.flush(LIMIT_S)
    disk.fails("write", code=errno.EIO)
    run.log({"loss": 0.5}, 1)
    assert not run.flush(0.1)
    assert any("could not be saved: [Errno 5] Input/output error" in line for line in warnings(caplog))
    disk.heals()
    assert run.flush(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    assert (run.stats()["pending"], run.stats()["dropped"]) == (0, 0)


def test_what_a_buffered_run_cannot_write_at_its_end_is_counted_and_said(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    run = metriclog.init("exp", run_id="r", settings=settings_for(None, journal_io="buffered"))
    run.log({"loss": 0.5}, 1)
    run._recorder.journal.sync()  # type: ignore[union-attr]
    saved = run.stats()["accepted"]
    disk.fails(*EVERYTHING, code=errno.EIO)
    run.log({"loss": 0.5, "acc": 1.0}, 2)
    run.finish(timeout_s=0.1)
    stats = run.stats()
    assert (stats["accepted"], stats["dropped"]) == (saved + 4, 4)  # and the two lines of the end
    assert any("4 points could not be written to" in line for line in warnings(caplog))
    assert testing.Captured(Path(".metriclog")).curve("loss") == [(1, 0.5)]
