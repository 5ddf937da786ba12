"""The shipper: journal order, the ack that never runs ahead, quarantine, several connections at once."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import metriclog
from metriclog import directory, testing
from metriclog.acks import load_ack
from metriclog.errors import BadRequestError, PartialWriteError, ServerError, TransientError
from metriclog.settings import Settings
from metriclog.shipper import Shipper, shipping_lock
from metriclog.testing import ScriptedTarget
from tests.faults.loads import log_step
from tests.test_sender import VirtualControl

STEPS = 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of an offline process that has ended, with several segments."""
    settings = Settings(dir=tmp_path / "journal", segment_bytes=64 << 10)
    with metriclog.init("exp", run_id="r", params={"lr": 0.1}, settings=settings) as run:
        for step in range(STEPS):
            log_step(run, step)
            run.log({f"m{index}": float(step) for index in range(20)}, step)
    (found,) = directory.process_directories(tmp_path / "journal")
    assert len(list(found.glob("*.seg"))) > 1
    return found


def shipper(folder: Path, target: ScriptedTarget, max_points: int = 1000, connections: int = 1) -> Shipper:
    return Shipper(folder, target, VirtualControl(), max_points=max_points, connections=connections)


def ship_all(source: Shipper) -> int:
    batches = 0
    while source.ship_batch():
        batches += 1
    source.close()
    return batches


def lines_in(folder: Path) -> int:
    return len(list(testing.read_points(folder)))


def logged(body: bytes) -> list[bytes]:
    """The lines of a post without roll-ups."""
    target = ScriptedTarget()
    target.write(body)
    return target.logged


class Watched(ScriptedTarget):
    """Calls `before` with each body before it answers."""

    def __init__(self, before: Callable[[bytes], None]) -> None:
        super().__init__()
        self._before = before

    def write(self, lines: bytes) -> None:
        self._before(lines)
        super().write(lines)


def test_every_point_is_posted_once_in_journal_order_and_counted(folder: Path) -> None:
    target = ScriptedTarget()
    source = shipper(folder, target)
    assert ship_all(source) == target.writes > 10
    stamps = [int(line.rsplit(b" ", 1)[1]) for line in target.logged]
    assert stamps == sorted(stamps)
    assert len(set(target.logged)) == len(target.logged) == lines_in(folder)
    assert source.ack.delivered == load_ack(folder, "scripted").delivered == lines_in(folder)
    assert next(testing.read_points(folder, source.ack.position), None) is None


def test_a_second_shipper_finds_nothing_left(folder: Path) -> None:
    ship_all(shipper(folder, ScriptedTarget()))
    again = ScriptedTarget()
    assert ship_all(shipper(folder, again)) == again.writes == 0


def test_the_ack_on_disk_never_covers_a_batch_that_has_no_yes(folder: Path) -> None:
    delivered = 0

    def check(lines: bytes) -> None:
        nonlocal delivered
        assert load_ack(folder, "scripted").delivered == delivered
        delivered += len(logged(lines))

    ship_all(shipper(folder, Watched(check)))
    assert load_ack(folder, "scripted").delivered == delivered


def test_told_to_stop_it_acknowledges_nothing_and_the_next_one_sends_the_same_bytes(folder: Path) -> None:
    sent: list[bytes] = []
    source = shipper(folder, Watched(sent.append))
    source.ship_batch()
    source.close()

    def fail(lines: bytes) -> None:
        sent.append(lines)
        raise TransientError("away")

    stopped = VirtualControl()
    stopped.end()
    source = Shipper(folder, Watched(fail), stopped, max_points=1000)
    with pytest.raises(TransientError):
        source.ship_batch()
    source.close()
    assert load_ack(folder, "scripted").delivered == len(logged(sent[0]))
    source = shipper(folder, Watched(sent.append))
    source.ship_batch()
    source.close()
    assert len(sent) == 3
    assert logged(sent[1]) == logged(sent[2]) != logged(sent[0])


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError("disk"), RuntimeError("x")])
def test_an_unexpected_error_passes_over_no_batch(folder: Path, error: Exception, connections: int) -> None:
    failed = threading.Event()

    def fail_once(_: bytes) -> None:
        if not failed.is_set():
            failed.set()
            raise error

    target = Watched(fail_once)
    source = shipper(folder, target, connections=connections)
    with pytest.raises(type(error)):
        ship_all(source)
    ship_all(source)
    assert len(set(target.logged)) == source.ack.delivered == lines_in(folder)


# -- quarantine -------------------------------------------------------------------------------------------------


def conflict(lines: bytes) -> None:
    if b"metric=m7" in lines:
        raise PartialWriteError("the server said 422: partial write: field type conflict dropped=1", status=422)


def test_what_is_refused_is_kept_with_the_reason_before_the_ack_moves(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = Watched(conflict)
    source = shipper(folder, target)
    ship_all(source)
    assert source.ack.quarantined == STEPS
    assert source.ack.delivered + source.ack.quarantined == lines_in(folder)
    kept = [json.loads(line) for line in (folder / "quarantine-scripted.jsonl").read_text().splitlines()]
    assert len({entry["line"] for entry in kept}) == STEPS
    assert all("metric=m7" in entry["line"] and "type conflict" in entry["reason"] for entry in kept)
    assert set(target.logged).isdisjoint(entry["line"].encode() for entry in kept)
    said = [record for record in caplog.records if "can never take" in record.getMessage()]
    assert said
    assert "type conflict" in said[0].getMessage()


def test_a_server_that_refuses_everything_moves_no_ack_and_fills_no_quarantine(folder: Path) -> None:
    def refuse(_: bytes) -> None:
        raise BadRequestError("the server said 400: who are you?", status=400)

    source = shipper(folder, Watched(refuse))
    with pytest.raises(BadRequestError):
        source.ship_batch()
    source.close()
    assert load_ack(folder, "scripted").position == 0
    assert not (folder / "quarantine-scripted.jsonl").exists()


# -- several connections ----------------------------------------------------------------------------------------


class Lanes(ScriptedTarget):
    """Each connection is asked `judge(body)` in a thread of its own; what it says yes to is kept together."""

    def __init__(self, judge: Callable[[bytes], None], kept: list[bytes] | None = None) -> None:
        super().__init__()
        self._judge = judge
        self.lines = [] if kept is None else kept

    def write(self, lines: bytes) -> None:
        self._judge(lines)
        self.lines += lines.splitlines()

    def another(self) -> Lanes:
        return Lanes(self._judge, self.lines)


def test_with_several_connections_a_later_batch_may_arrive_first_but_the_ack_keeps_order(folder: Path) -> None:
    others = threading.Event()
    arrived: list[bytes] = []
    first_lock = threading.Lock()

    def judge(lines: bytes) -> None:
        with first_lock:
            arrived.append(lines)
            first = len(arrived) == 1
        if first:
            assert others.wait(30.0)
            assert load_ack(folder, "scripted").position == 0, "the ack ran ahead of the first batch"
        elif len(arrived) >= 3:
            others.set()

    target = Lanes(judge)
    source = shipper(folder, target, connections=3)
    ship_all(source)
    assert len(set(target.logged)) == source.ack.delivered == lines_in(folder)


def test_told_to_stop_nothing_is_acknowledged_beyond_a_batch_that_is_under_way(folder: Path) -> None:
    control = VirtualControl()
    in_lane = threading.Event()

    class Stops(ScriptedTarget):
        """Its own connection says yes; the other ones hang, and the end comes while they do."""

        def another(self) -> ScriptedTarget:
            return Watched(hang)

    def hang(_: bytes) -> None:
        in_lane.set()
        control.end()
        raise TransientError("away")

    source = Shipper(folder, Stops(), control, max_points=1000, connections=4)
    with pytest.raises(ServerError):
        ship_all(source)
    source.close()
    assert in_lane.is_set()
    assert load_ack(folder, "scripted").position == 0


def test_where_no_thread_can_be_started_it_goes_on_with_one_connection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    target = ScriptedTarget()
    source = shipper(folder, target, connections=3)
    ship_all(source)
    assert len(target.logged) == source.ack.delivered == lines_in(folder)


# -- damage, locks, logs ----------------------------------------------------------------------------------------


def test_damaged_bytes_are_set_aside_and_everything_else_is_shipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = lines_in(folder)
    segment = sorted(folder.glob("*.seg"))[0]
    body = bytearray(segment.read_bytes())
    body[len(body) // 2] ^= 0xFF
    segment.write_bytes(bytes(body))
    target = ScriptedTarget()
    source = shipper(folder, target)
    ship_all(source)
    assert whole - 20 <= len(target.logged) < whole
    assert source.ack.damaged == 1
    (kept,) = folder.glob("damaged-*.bin")
    assert kept.stat().st_size > 0
    assert "bytes of the journal are damaged, kept in" in caplog.text


def test_only_one_shipper_at_a_time_has_the_lock_of_a_target(folder: Path) -> None:
    with shipping_lock(folder, "a") as mine, shipping_lock(folder, "a") as other, shipping_lock(folder, "b") as third:
        assert (mine, other, third) == (True, False, True)
    with shipping_lock(folder, "a") as mine:
        assert mine


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_shipping_without_trouble_says_nothing(folder: Path, quiet: None) -> None:
    ship_all(shipper(folder, ScriptedTarget()))
