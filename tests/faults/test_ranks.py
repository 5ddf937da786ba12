"""Eight processes on one host that start at the same instant: as ranks of one run, or refused, or each on its own."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from metriclog import testing
from metriclog.journal import Journal
from metriclog.keeper import recover
from metriclog.points import Point
from metriclog.replay import without_owner
from tests.faults.families import Family
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.shipping import check_all_delivered, ship
from tests.journals import META, log, read_back

UP = {"exit_timeout_s": "60"}
RANKS = 8


def every_point(family: Family) -> list[list[Point]]:
    """The points of each process."""
    return [list(testing.read_points(path)) for path in family.folders]


def test_eight_ranks_deliver_everything_and_share_no_time_stamp(family: Family) -> None:
    family.run(
        """
        def train(rank):
            run = metriclog.init("faults", run_id="r", rank=rank, params={"lr": 0.1})
            for step in range(200):
                note(run, step)

        assert list(map(exit_code, together(train))) == [0] * 8
        """,
        **UP,
    )
    check_all_delivered(family.accepted, family.settings, family.influx)
    points = every_point(family)
    metrics = [[point for point in one if point.measurement == "metrics"] for one in points]
    assert sorted("".join({point.tags["rank"] for point in one}) for one in metrics) == list("01234567")
    stamps = [{point.time_ns for point in one} for one in points]
    assert len(set().union(*stamps)) == sum(map(len, stamps))
    told = [point.fields["status"] for one in points for point in one if point.measurement == "runs"]
    assert told == ["running", "finished"]
    assert len([point for one in points for point in one if point.measurement == "params"]) == 1


def test_of_eight_on_one_run_without_ranks_seven_are_refused_and_told_what_to_do(family: Family) -> None:
    said = family.run(
        """
        refusals, refused = os.pipe()

        def train(number):
            try:
                run = metriclog.init("faults", run_id="r", resume=["never", "allow"][number % 2])
            except metriclog.RunActiveError as error:
                os.write(refused, f"{error}@".encode())
                return
            os.close(refused)
            while words := os.read(refusals, 1 << 16):  # until the seven others have ended
                print(words.decode(), end="")
            for step in range(200):
                note(run, step)

        pids = together(train)
        os.close(refused)
        assert list(map(exit_code, pids)) == [0] * 8
        """,
        **UP,
    )
    line = r"run 'r' is being written by process \d+ on \S+\. Give each process its rank=, or wait until it ends"
    assert [bool(re.fullmatch(line, words)) for words in said.split("@")] == [True] * (RANKS - 1) + [False]
    assert len(family.folders) == 1
    check_all_delivered(family.accepted, family.settings, family.influx)


def test_eight_under_one_name_have_a_run_each(family: Family) -> None:
    family.run(
        """
        def train(number):
            run = metriclog.init("faults", name="same")
            for step in range(50):
                note(run, step)

        assert list(map(exit_code, together(train))) == [0] * 8
        """,
        **UP,
    )
    assert len({path.parent for path in family.folders}) == len(family.folders) == RANKS
    check_all_delivered(family.accepted, family.settings, family.influx)


def test_ranks_that_were_killed_are_resumed_beside_those_that_live(family: Family) -> None:
    family.run(
        """
        killed = [2, 5, 7]
        resumed, all_resumed = os.pipe()

        def train(rank):
            run = metriclog.init("faults", run_id="r", rank=rank)
            for step in range(100):
                note(run, step)
            if rank in killed:
                os.kill(os.getpid(), signal.SIGKILL)
            os.close(all_resumed)
            os.read(resumed, 1)
            for step in range(100, 150):
                note(run, step)

        def go_on(rank):
            try:
                metriclog.init("faults", run_id="r", rank=0, resume="allow")
            except metriclog.RunActiveError:
                run = metriclog.init("faults", run_id="r", rank=rank, resume="allow")
                run.log({"resumed": float(rank)})
            for step in range(101, 150):
                note(run, step)

        pids = together(train)
        assert [exit_code(pids[rank]) for rank in killed] == [-9] * 3
        assert list(map(exit_code, together(go_on, killed))) == [0] * 3
        os.close(all_resumed)
        assert [exit_code(pid) for rank, pid in enumerate(pids) if rank not in killed] == [0] * 5
        """,
        **UP,
    )
    assert len(family.folders) == RANKS + 3
    resumed = [Accepted("r", 100, {"resumed": float(rank)}, 0, time.time_ns()) for rank in (2, 5, 7)]
    ship(family.settings)
    tally = check_conservation([*family.accepted, *resumed], family.settings, family.influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


# -- processes that look into each other's directories while they start -------------------------------------------


def test_a_journal_that_begins_loses_nothing_to_who_looks_for_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0001-h1"
    folder.mkdir()
    rename = Path.replace

    def late(path: Path, to: Path) -> Path:
        recover(folder)
        return rename(path, to)

    recover(folder)
    monkeypatch.setattr(Path, "replace", late)
    journal = Journal.create(folder, META, segment_bytes=4096, clock=time.time_ns)
    journal.sync()
    for step in range(300):
        recover(folder)
        log(journal, {"loss": step / 3}, step)
    journal.close()
    assert read_back(folder).steps == list(range(300))


def test_who_finishes_for_the_dead_is_waited_for(tmp_path: Path) -> None:
    with without_owner(tmp_path) as dead:
        assert dead
        begins = threading.Thread(
            target=Journal.create, args=(tmp_path, META), kwargs={"segment_bytes": 4096, "clock": time.time_ns}
        )
        begins.start()
        begins.join(0.1)
        assert begins.is_alive()
        assert list(tmp_path.glob("*.seg")) == []
    begins.join(30.0)
    assert len(list(tmp_path.glob("*.seg"))) == 1
    with without_owner(tmp_path) as dead:
        assert not dead
