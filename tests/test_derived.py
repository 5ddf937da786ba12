"""Roll-ups beside delivery: however batches, acks and standings end, what arrives is what a direct computation says,
and nothing of it is missing in the end."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from metriclog import acks, derived, standing, testing
from metriclog.acks import forget_ack, load_ack
from metriclog.background import is_pending
from metriclog.derived import streams, whole
from metriclog.errors import JournalError
from metriclog.journal import Journal
from metriclog.segments import SEAL, segment_numbers
from metriclog.shipper import Shipper
from metriclog.testing import ScriptedTarget
from tests.faults.derivation import check_derived
from tests.streams import STANDING, Kept, Logged, Stored, check, delete_delivered, ship, stored, summary_of
from tests.test_sender import VirtualControl

Hurt = Callable[[Path], object]

# -- however it is shipped ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("points", [1, 7, 100, 10_000])
def test_whatever_the_batches_all_roll_ups_arrive_and_are_right(tmp_path: Path, points: int, connections: int) -> None:
    path, target = Logged(tmp_path).log(400).ended(), ScriptedTarget()
    ship(path, target, points=points, connections=connections)
    assert summary_of(check(target, path))["count"] == 400


@pytest.mark.parametrize("killed", [False, True])
def test_a_shipper_that_is_replaced_after_each_batch_leaves_nothing_out(tmp_path: Path, killed: bool) -> None:
    path, target = Logged(tmp_path).log(400).ended(killed=killed), ScriptedTarget()
    for points in itertools.cycle([1, 30, 7, 90]):
        if not is_pending(path, target.target):
            break
        ship(path, target, points=points, batches=1)
    check(target, path)


@pytest.mark.parametrize("count", range(80, 280, 10))
def test_the_end_of_a_process_comes_even_if_its_points_have_all_been_delivered_before(
    tmp_path: Path, count: int
) -> None:
    """All since the first batch is read again, in one piece: what came of that when it was sent is not known."""
    process, target = Logged(tmp_path, segment_bytes=1 << 16).log(count), ScriptedTarget()
    ship(process.path, target)
    assert not is_pending(process.path, target.target)
    logged, lines = len(target.logged), len(target.lines)
    path = process.ended(killed=True)
    assert is_pending(path, target.target)
    ship(path, target)
    assert len(target.logged) == logged
    assert len(target.lines) > lines
    check(target, path)


def test_a_live_journal_is_shipped_again_and_again_and_ends_once(tmp_path: Path) -> None:
    process, target = Logged(tmp_path), ScriptedTarget()
    for count in (1, 80, 0, 200, 3):
        process.log(count)
        ship(process.path, target)
        check(target, process.path)
        assert not standing.is_finished(process.path, target.target, 0)
    ship(process.ended(), target)
    assert standing.is_finished(process.path, target.target, load_ack(process.path, target.target).position)
    check(target, process.path)
    before = len(target.lines)
    ship(process.path, target)
    assert len(target.lines) == before


@pytest.mark.parametrize("connections", [1, 3])
def test_the_last_standing_covers_what_was_read_even_where_the_last_batch_is_empty(
    tmp_path: Path, connections: int
) -> None:
    path, target = Logged(tmp_path).log(400).ended(killed=True), ScriptedTarget()
    points = len(list(testing.read_points(path)))
    size = next(size for size in range(20, 200) if points % size == 0)
    ship(path, target, points=size, connections=connections)
    saved = standing.load(path, target.target)
    assert saved is not None
    assert saved.position == load_ack(path, target.target).position
    more = Logged(tmp_path, 2, seed=2, attempt=2).log(100, step=5).ended()
    ship(more, target)
    assert summary_of(check(target, path, more))["count"] == 500


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError("x")])
@pytest.mark.parametrize("connections", [1, 3])
def test_an_error_in_the_middle_costs_no_roll_up(tmp_path: Path, error: Exception, connections: int) -> None:
    class Breaks(ScriptedTarget):
        def write(self, lines: bytes) -> None:
            self.writes += 1
            if self.writes in (1, 4, 10):
                raise error
            self.lines += lines.splitlines()

    path, target = Logged(tmp_path).log(400).ended(), Breaks()
    control = VirtualControl()
    with contextlib.closing(Shipper(path, target, control, max_points=50, connections=connections)) as shipper:
        more = True
        while more:
            with contextlib.suppress(type(error)):
                more = shipper.ship_batch()
    check(target, path)


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("which", [1, 2, 5, 1000], ids=["first", "second", "fifth", "last"])
def test_a_shipper_that_dies_between_standing_and_ack_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, deleted: bool
) -> None:
    path, target = Logged(tmp_path).log(400).ended(), ScriptedTarget()
    saves, real = itertools.count(1), acks.save_ack

    def save(directory: Path, name: str, ack: acks.Ack) -> None:
        if next(saves) == which or (which == 1000 and standing.is_finished(directory, name, 0)):
            raise ZeroDivisionError
        real(directory, name, ack)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(acks, "save_ack", save)
        ship(path, target)
    forgotten = delete_delivered(path, target) if deleted else {}
    ship(path, target)
    check(target, path, forgotten=forgotten)


def test_segments_that_are_delivered_may_be_deleted_at_any_time(tmp_path: Path) -> None:
    path, target = Logged(tmp_path).log(600).ended(), ScriptedTarget()
    forgotten: Stored = {}
    for points in itertools.cycle([40, 100, 70]):
        if not is_pending(path, target.target):
            break
        ship(path, target, points=points, batches=2)
        forgotten |= delete_delivered(path, target)
    assert len(segment_numbers(path)) == 1
    check(target, path, forgotten=forgotten)


# -- what may be lost or damaged ------------------------------------------------------------------------------------


def _cut_state(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


HURTS: dict[str, Hurt] = {"lost": Path.unlink, "empty": lambda path: path.write_bytes(b""), "cut": _cut_state}


@pytest.mark.parametrize("hurt", HURTS.values(), ids=[*HURTS])
@pytest.mark.parametrize("batches", [1, 5, 100])
def test_without_its_standing_everything_is_derived_again_from_the_beginning(
    tmp_path: Path, hurt: Hurt, batches: int
) -> None:
    process, target = Logged(tmp_path).log(400), ScriptedTarget()
    ship(process.path, target, batches=batches)
    hurt(process.path / STANDING)
    target.lines = target.logged
    ship(process.log(50).ended(), target)
    check(target, process.path)


def test_what_is_derived_again_goes_on_where_a_shipper_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, target = Logged(tmp_path).log(400), ScriptedTarget()
    ship(process.path, target)
    (process.path / STANDING).unlink()
    target.lines = target.logged
    monkeypatch.setattr(derived, "READ_POINTS", 40)
    path, shippers = process.ended(), 0
    while is_pending(path, target.target):
        ship(path, target, batches=1)
        shippers += 1
    assert shippers > 5
    assert len(set(target.lines)) == len(target.lines), "nothing twice"
    check(target, path)


def test_an_ack_that_is_lost_sends_everything_again_roll_ups_too(tmp_path: Path) -> None:
    path, target = Logged(tmp_path).log(400).ended(), ScriptedTarget()
    ship(path, target)
    forget_ack(path, target.target)
    again = ScriptedTarget()
    ship(path, again)
    check(again, path)


def test_an_ack_that_is_lost_with_the_beginning_of_the_journal_sends_what_the_standing_tells(tmp_path: Path) -> None:
    path, target = Logged(tmp_path).log(400).ended(), ScriptedTarget()
    ship(path, target)
    forgotten = delete_delivered(path, target)
    forget_ack(path, target.target)
    again = ScriptedTarget()
    ship(path, again)
    assert summary_of(stored(again)) == summary_of(stored(target))
    target.lines += again.lines
    check(target, path, forgotten=forgotten)


def test_of_a_journal_without_its_beginning_and_standing_no_roll_up_is_made_up_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path, retain_bytes=0)
    target = ScriptedTarget()
    for _ in range(8):
        kept.log(100)
        kept.ship(target)
    assert kept.opened.journal.ledger.kept.keys() != {1}
    assert segment_numbers(kept.path)[0] > 1
    kept.close()
    (kept.path / STANDING).unlink()
    forget_ack(kept.path, target.target)
    again = ScriptedTarget()
    ship(kept.path, again)
    assert len(again.lines) == len(again.logged) == len(list(testing.read_points(kept.path)))
    assert "no roll-ups of" in caplog.text
    assert "has lost its beginning. See metriclog backfill" in caplog.text
    assert not is_pending(kept.path, target.target)
    with pytest.raises(JournalError, match="has lost its beginning"):
        streams([kept.path])


def test_what_was_dropped_before_anything_was_delivered_is_no_lost_beginning(tmp_path: Path) -> None:
    kept = Kept(tmp_path, max_bytes=30_000, policy="drop_oldest")
    kept.log(1200)
    assert segment_numbers(kept.path)[0] > 1
    target = ScriptedTarget()
    kept.close()
    ship(kept.path, target)
    assert summary_of(check(target, kept.path))["count"] < 1200
    (stream,) = streams([kept.path])
    again = ScriptedTarget()
    again.lines = [line[:-1] for lines in whole(stream) for line in lines]
    check_derived([kept.path], target.target, stored(again), {}, complete=True)


def test_whoever_ships_the_last_record_of_a_journal_ships_its_roll_ups_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a process waits for the acknowledgement of its last record, and for nothing after that."""
    kept, target = Kept(tmp_path), ScriptedTarget()
    kept.log(30)
    own, put = kept.opened.journal, Journal._put

    def put_and_ship(journal: Journal, payload: bytes, points: int = 0, reserve: int | None = None) -> bool:
        done = put(journal, payload, points, reserve)
        if payload[0] == SEAL:
            kept.ship(target)
        return done

    monkeypatch.setattr(Journal, "_put", put_and_ship)
    kept.close()
    assert load_ack(kept.path, target.target).position == own.position
    check(target, kept.path)
