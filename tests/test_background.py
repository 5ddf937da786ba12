"""The threads behind a run: the heart beats and saves, the ship delivers its own journal and what others left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import metriclog
from metriclog import directory, testing
from metriclog.acks import load_ack
from metriclog.background import Heart, Ship, is_pending, leftovers, ship_directory
from metriclog.errors import MetriclogError, RejectedError, TransientError, UnparsableError
from metriclog.identity import Identity
from metriclog.keeper import Opened, open_journal
from metriclog.receipts import Delivery, Receipt
from metriclog.sender import Control
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock
from metriclog.testing import ScriptedTarget
from tests.servers.scripted import says, serving

LIMIT_S = 20.0
QUICK = Settings(flush_interval_s=0.02, segment_bytes=64 << 10)


def journal(root: Path, run: str, mode: str = "online", settings: Settings = QUICK) -> Opened:
    """The journal of a process that logs into `run`, alive until it is closed."""
    path = root / run / "0001-host"
    path.mkdir(parents=True)
    tags = (("experiment", "exp"), ("run", run))
    who = Identity("exp", run, None, tags, mode, root, 1, time.time_ns())
    return open_journal(path, who.meta(child=False), settings, 1, Delivery())


def log(opened: Opened, count: int, first: int = 0) -> Receipt:
    """Append points `loss` at `count` steps; the receipt of the last."""
    own = opened.journal
    tags = (("experiment", "exp"), ("run", "r"))
    position = 0
    for step in range(first, first + count):
        position = own.append_values(own.shape("loss", ("loss",), tags), step, [float(step)])
    return Receipt(opened.delivery, position)


@contextmanager
def shipping(opened: Opened, root: Path, target: ScriptedTarget) -> Iterator[Ship]:
    ship = Ship(opened, root, target, QUICK)
    try:
        yield ship
    finally:
        ship.stop()
        opened.journal.close()


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as it holds; fail after LIMIT_S."""
    deadline_s = time.monotonic() + LIMIT_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        pause.wait(0.01)


# -- the heart --------------------------------------------------------------------------------------------------


def test_the_heart_beats_until_it_is_stopped_and_survives_a_beat_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        raise MetriclogError("a bad day")

    opened = journal(tmp_path, "r")
    heart = Heart(beat, opened.journal, 0.01)
    until(lambda: len(beats) >= 5)
    heart.stop()
    opened.journal.close()
    assert len([record for record in caplog.records if "a bad day" in record.getMessage()]) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "metriclog-heart" and beating(thread)]


def beating(thread: threading.Thread) -> bool:
    thread.join(LIMIT_S)
    return thread.is_alive()


def test_a_running_run_gives_a_sign_of_life_at_each_beat() -> None:
    with testing.capture() as captured, metriclog.init("exp", settings=Settings(heartbeat_s=0.02)) as run:
        run.log({"loss": 1.0}, 7)
        until(lambda: len([p for p in captured.points() if p.measurement == "runs"]) >= 4)
    states = [point.fields for point in captured.points() if point.measurement == "runs"]
    assert {fields["status"] for fields in states[:-1]} == {"running"}
    assert states[-1]["status"] == "finished"
    assert [fields["steps"] for fields in states[1:]] == [7] * (len(states) - 1)
    assert [fields["ended"] for fields in states] == sorted(int(str(fields["ended"])) for fields in states)


# -- the ship: its own journal ----------------------------------------------------------------------------------


def test_steady_logging_costs_a_post_for_each_interval_not_one_for_every_few_points(tmp_path: Path) -> None:
    target, opened = ScriptedTarget(), journal(tmp_path, "r")
    paced = QUICK.model_copy(update={"flush_interval_s": 0.2})
    ship, pace, begun_s = Ship(opened, tmp_path, target, paced), threading.Event(), time.monotonic()
    for step in range(500):
        receipt = log(opened, 1, step)
        pace.wait(0.002)
    intervals = (time.monotonic() - begun_s) / 0.2
    assert 1 <= target.writes <= intervals + 2
    assert receipt.wait(LIMIT_S), "somebody who waits does not wait for the next interval"
    assert len(set(target.logged)) == 500
    ship.stop()
    opened.journal.close()


def test_what_is_logged_is_delivered_while_the_run_goes_on(tmp_path: Path) -> None:
    target, opened = ScriptedTarget(), journal(tmp_path, "r")
    with shipping(opened, tmp_path, target) as ship:
        for first in (0, 100, 200):
            assert log(opened, 100, first).wait(LIMIT_S)
        assert ship.ack.delivered == 300
    assert len(set(target.logged)) == 300


def test_receipts_of_what_was_refused_say_why_and_the_others_are_delivered(tmp_path: Path) -> None:
    opened = journal(tmp_path, "r")

    class Refuses(ScriptedTarget):
        def write(self, lines: bytes) -> None:
            if b"value=7.0," in lines:
                hit = next(line for line in lines.splitlines() if b"value=7.0," in line)
                raise UnparsableError("x", status=400, reasons={hit: "I do not like 7"})
            super().write(lines)

    receipts = [log(opened, 1, step) for step in range(10)]
    with shipping(opened, tmp_path, Refuses()):
        assert receipts[9].wait(LIMIT_S)
        assert not receipts[7].wait(LIMIT_S)
    assert [receipt.delivered for receipt in receipts] == [step != 7 for step in range(10)]
    error = receipts[7].exception()
    assert isinstance(error, metriclog.QuarantinedError)
    assert error.reason == "I do not like 7"
    with pytest.raises(metriclog.QuarantinedError, match=r"I do not like 7\. It is kept in the quarantine file"):
        receipts[7].result()


def test_somebody_who_waits_wakes_a_shipper_that_pauses_after_trouble(tmp_path: Path) -> None:
    target, opened = ScriptedTarget([RejectedError("401", status=401)]), journal(tmp_path, "r")
    receipt = log(opened, 1)
    with shipping(opened, tmp_path, target) as ship:
        until(lambda: ship.control.retried == 1)  # now it would sleep for half a minute
        begin_s = time.monotonic()
        assert receipt.wait(LIMIT_S)
        assert time.monotonic() - begin_s < 10.0


def test_it_stops_at_once_while_it_pauses_after_trouble(tmp_path: Path) -> None:
    target, opened = ScriptedTarget([TransientError("away", retry_after_s=300.0)] * 9), journal(tmp_path, "r")
    log(opened, 1)
    with shipping(opened, tmp_path, target) as ship:
        until(lambda: ship.control.retried == 1)
        begin_s = time.monotonic()
        ship.stop()
        assert time.monotonic() - begin_s < 0.9


def test_an_error_of_our_own_is_said_and_costs_no_point(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(ScriptedTarget):
        def write(self, lines: bytes) -> None:
            self.writes += 1
            if self.writes == 1:
                raise ZeroDivisionError
            super().write(lines)

    target, opened = Breaks(), journal(tmp_path, "r")
    receipt = log(opened, 100)
    with shipping(opened, tmp_path, target):
        assert receipt.wait(LIMIT_S)
    assert len(set(target.logged)) == 100
    assert "shipping failed; points wait in the journal" in caplog.text


# -- the ship: what others left ---------------------------------------------------------------------------------


def test_what_dead_processes_left_is_delivered_and_what_is_alive_offline_or_damaged_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead, alive = journal(tmp_path, "dead"), journal(tmp_path, "alive")
    offline, broken = journal(tmp_path, "offline", mode="offline"), journal(tmp_path, "broken")
    for opened in (dead, alive, offline, broken):
        log(opened, 10)
    for opened in (dead, offline, broken):
        opened.journal.close()
    for segment in (tmp_path / "broken").rglob("*.seg"):
        segment.write_bytes(segment.read_bytes()[:64] + b"\xff" * 4096)
    target, own = ScriptedTarget(), journal(tmp_path, "own")
    with shipping(own, tmp_path, target):
        until(lambda: len(target.logged) == 10)
        assert log(own, 5).wait(LIMIT_S)
    assert len(target.logged) == 15
    acked = {opened.journal.directory.parent.name: load_ack(opened.journal.directory, "scripted").delivered
             for opened in (dead, alive, offline, own)}  # fmt: skip
    assert acked == {"dead": 10, "alive": 0, "offline": 0, "own": 5}
    alive.journal.close()


def test_leftovers_are_the_online_directories_of_dead_processes_with_something_pending(tmp_path: Path) -> None:
    opened = journal(tmp_path, "r")
    log(opened, 10)
    path = opened.journal.directory
    assert leftovers(tmp_path, "scripted") == []
    opened.journal.close()
    assert leftovers(tmp_path, "scripted") == [path]
    assert is_pending(path, "scripted")
    with shipping_lock(path, "scripted"):
        assert not ship_directory(path, ScriptedTarget(), Control(), QUICK)
    assert ship_directory(path, ScriptedTarget(), Control(), QUICK)
    assert leftovers(tmp_path, "scripted") == []
    assert not is_pending(path, "scripted")


def test_shipping_for_others_pauses_as_soon_as_it_is_told(tmp_path: Path) -> None:
    opened = journal(tmp_path, "r")
    log(opened, 1000)
    opened.journal.close()
    target, settings = ScriptedTarget(), Settings(batch_max_points=100, connections=1)
    asked: list[int] = []

    def pause() -> bool:
        asked.append(1)
        return len(asked) >= 3

    assert not ship_directory(opened.journal.directory, target, Control(), settings, pause=pause)
    assert len(target.logged) == 300


# -- deleting what has been delivered ---------------------------------------------------------------------------


def test_segments_are_deleted_only_after_the_servers_yes_and_only_beyond_what_is_to_be_kept(tmp_path: Path) -> None:
    def run(answer: int, retain_bytes: int) -> tuple[list[str], int]:
        """Log 10 segments full to a server that answers like this; which are left, and how many points went."""
        root = tmp_path / f"{answer}-{retain_bytes}"
        with ExitStack() as stack:
            server = stack.enter_context(serving(says(answer)))
            settings = Settings(
                url=server.url, token="t", dir=root, segment_bytes=64 << 10, retain_bytes=retain_bytes,  # type: ignore[arg-type]
                flush_interval_s=0.01, free_floor_bytes=0,
            )  # fmt: skip
            started = stack.enter_context(metriclog.init("exp", run_id="r", settings=settings))
            for step in range(10_000):
                receipt = started.log({f"m{index}": 1.0 for index in range(5)}, step)
                if step % 1000 == 999 and answer == 204:
                    assert receipt.wait(LIMIT_S)
            (folder,) = directory.process_directories(root)
            left = sorted(path.name for path in folder.glob("*.seg"))
            started.finish(timeout_s=0.0)
            return left, started.stats()["dropped"]

    everything, _ = run(503, 0)
    assert len(everything) >= 9
    assert everything[0] == "00000001.seg"
    kept, dropped = run(204, 1 << 30)
    assert (kept, dropped) == (everything, 0)
    few, dropped = run(204, 128 << 10)
    assert len(few) < len(everything) / 2
    assert few == everything[-len(few) :]
    assert dropped == 0
