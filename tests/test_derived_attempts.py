"""Roll-ups from one attempt of a run to the next, and beside what was logged: counted nowhere, never in the way."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from metriclog import testing
from metriclog.acks import load_ack
from metriclog.background import is_pending
from metriclog.derived import streams
from metriclog.errors import JournalError, PartialWriteError
from metriclog.segments import gone_name, segment_name
from metriclog.shipper import MOST_LINES
from metriclog.testing import ScriptedTarget
from tests.streams import TAGS, Logged, check, delete_delivered, ship, stored, summary_of

# -- from one attempt to the next -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shipped", [0, 3, 100], ids=["nothing", "a part", "all"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_run_goes_on_in_its_open_buckets_and_its_summary(tmp_path: Path, killed: bool, shipped: int) -> None:
    first, target = Logged(tmp_path, 1).log(300), ScriptedTarget()
    ship(first.path, target, batches=shipped)
    first.ended(killed=killed)
    second = Logged(tmp_path, 2, seed=2, attempt=2).log(200, step=250)
    ship(second.path, target)
    ship(second.log(10).ended(), target)
    ship(first.path, target)
    assert summary_of(check(target, first.path, second.path))["count"] == 510


def test_each_rank_goes_on_from_itself_and_a_forked_child_from_nobody(tmp_path: Path) -> None:
    rank, target = {"rank": 1}, ScriptedTarget()
    paths = [
        Logged(tmp_path, 1, seed=1).log(100).ended(),
        Logged(tmp_path, 2, seed=2, child=True).log(100).ended(),
        Logged(tmp_path, 3, seed=3, attempt=2).log(100, step=90).ended(),
    ]
    assert streams(paths) == [paths[1:2], [paths[0], paths[2]]]
    other = Logged(tmp_path, 4, seed=4, **rank).ended()
    assert streams([*paths, other])[-1] == [other]
    for path in reversed(paths):
        ship(path, target)
    check(target, *paths)


def test_what_an_attempt_had_set_aside_when_it_was_killed_is_put_back_before_the_next_goes_on_from_it(
    tmp_path: Path,
) -> None:
    first = Logged(tmp_path, 1).log(300).ended(killed=True)
    (first / segment_name(2)).rename(first / gone_name(2))
    second, target = Logged(tmp_path, 2, seed=2, attempt=2).log(100, step=300).ended(), ScriptedTarget()
    for path in (second, first):
        ship(path, target)
    assert summary_of(check(target, first, second))["count"] == 400


def test_a_run_of_many_attempts_none_of_which_was_shipped_goes_on(tmp_path: Path) -> None:
    paths = [Logged(tmp_path, n, seed=n, attempt=n).log(3, step=n).ended(killed=True) for n in range(1, 61)]
    target = ScriptedTarget()
    ship(paths[-1], target)
    assert summary_of(stored(target))["count"] == 180


def test_without_the_attempt_before_no_roll_up_is_made_up_and_the_rest_is_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, target = Logged(tmp_path, 1).log(30).ended(), ScriptedTarget()
    second = Logged(tmp_path, 2, attempt=2).log(30).ended()
    for path in first.iterdir():
        path.unlink()
    ship(second, target)
    assert len(target.lines) == len(target.logged) == len(list(testing.read_points(second)))
    assert "the attempt before" in caplog.text
    assert not is_pending(second, target.target)
    with pytest.raises(JournalError, match="the attempt before"):
        streams([second])


def test_an_attempt_whose_beginning_is_deleted_goes_on_from_its_standing(tmp_path: Path) -> None:
    first, target = Logged(tmp_path, 1).log(400), ScriptedTarget()
    ship(first.path, target, batches=6)
    forgotten = delete_delivered(first.path, target)
    second = Logged(tmp_path, 2, seed=2, attempt=2)
    first.ended(killed=True)
    ship(second.log(100, step=300).ended(), target)
    ship(first.path, target)
    assert summary_of(check(target, first.path, second.path, forgotten=forgotten))["count"] == 500


def test_two_targets_have_a_standing_each(tmp_path: Path) -> None:
    process = Logged(tmp_path).log(300)
    one, other = ScriptedTarget(), ScriptedTarget()
    other.target = "other"
    ship(process.path, one, batches=2)
    ship(process.path, other, points=33)
    process.log(100).ended()
    for target in (one, other):
        ship(process.path, target)
        check(target, process.path)


# -- beside what was logged -----------------------------------------------------------------------------------------


def test_roll_ups_are_counted_nowhere(tmp_path: Path) -> None:
    path, target = Logged(tmp_path).log(400).ended(), ScriptedTarget()
    ship(path, target)
    assert load_ack(path, target.target).delivered == len(target.logged) < len(target.lines)


def test_roll_ups_that_the_server_refuses_are_said_and_nothing_waits_for_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(ScriptedTarget):
        def write(self, lines: bytes) -> None:
            if b"metrics_10," in lines:
                raise PartialWriteError("the server said 422: partial write: dropped=1", status=422)
            super().write(lines)

    path, target = Logged(tmp_path).log(100).ended(), Refuses()
    ship(path, target)
    ack = load_ack(path, target.target)
    assert (ack.delivered, ack.quarantined) == (len(list(testing.read_points(path))), 0)
    assert not list(path.glob("quarantine-*"))
    assert "the server refused" in caplog.text
    assert "points of roll-ups: metriclog backfill" in caplog.text
    assert not is_pending(path, target.target)


def test_without_numpy_all_that_was_logged_arrives_and_the_roll_ups_follow_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, target = Logged(tmp_path).log(100).ended(), ScriptedTarget()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "metriclog.derived", None)
        ship(path, target)
    assert len(target.lines) == len(target.logged) == len(list(testing.read_points(path)))
    assert "no roll-ups: metriclog backfill" in caplog.text
    assert is_pending(path, target.target)
    ship(path, target)
    check(target, path)


def test_the_end_of_a_run_of_many_metrics_comes_in_posts_of_the_usual_size(tmp_path: Path) -> None:
    names = tuple(f"layer{number}/norm" for number in range(4000))
    process = Logged(tmp_path)
    process.journal.append_values(process.journal.shape(names, names, TAGS), 3, range(4000))
    sizes: list[int] = []

    class Counts(ScriptedTarget):
        def write(self, lines: bytes) -> None:
            sizes.append(lines.count(b"\n"))
            super().write(lines)

    path, target = process.ended(), Counts()
    ship(path, target, points=1000)
    assert sum(sizes) >= 8 * 4000
    assert max(sizes) <= MOST_LINES
    check(target, path)


def test_a_directory_in_which_nothing_was_begun_is_not_pending(tmp_path: Path) -> None:
    (tmp_path / "r" / "0001-h1").mkdir(parents=True)
    assert not is_pending(tmp_path / "r" / "0001-h1", "scripted")
    ship(tmp_path / "r" / "0001-h1", ScriptedTarget())


def test_shipping_without_trouble_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = ScriptedTarget()
    for number in (1, 2):
        ship(Logged(tmp_path, number, seed=number, attempt=number).log(200).ended(killed=True), target)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
