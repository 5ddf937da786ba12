"""`metriclog backfill` on a real InfluxDB: what it writes is what would have been written, from whichever side."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pytest

import metriclog
from metriclog import backfill, directory, standing
from metriclog.settings import Settings
from metriclog.standing import Standing
from metriclog.transport import Transport
from tests.commands import metriclog as command
from tests.commands import metriclog_json
from tests.faults.loads import EXPERIMENT, address
from tests.faults.oracle import DERIVED, Accepted, check_conservation, server_points
from tests.faults.shipping import settings_of, ship
from tests.faults.test_rollups import train
from tests.servers.api import Influx

BEGIN_NS = 1_700_000_000 * 10**9


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(influx, tmp_path / "journal", read_timeout_s=30.0, segment_bytes=64 << 10)


@pytest.fixture
def older(influx: Influx, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Accepted]:
    """Two attempts of a run on two ranks, on the server without roll-ups, as an older metriclog leaves them."""
    accepted = []
    for attempt, first in enumerate((0, 250)):
        for rank in range(2):
            options = {"rank": rank, "resume": "allow", "mode": "offline"}
            with metriclog.init(EXPERIMENT, run_id="r", settings=settings, **options) as run:  # type: ignore[arg-type]
                accepted += train(run, 2 * attempt + rank, range(first, first + 300))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "metriclog.derived", None)
        ship(settings)
    assert not {key[0] for key in server_points(influx)} & set(DERIVED)
    return accepted


def check(accepted: list[Accepted], settings: Settings, influx: Influx) -> None:
    """All roll-ups are there, and right, as if a shipper had finished each journal."""
    target = Transport(settings).target
    for path in directory.process_directories(settings.dir):
        standing.save(path, target, Standing(1 << 60, b"made by backfill", finished=True))
    tally = check_conservation(accepted, settings, influx)
    assert tally.server == tally.journal


@pytest.mark.parametrize("side", ["server", "journal"])
def test_a_run_without_roll_ups_gets_those_that_would_have_been_written(
    influx: Influx, settings: Settings, older: list[Accepted], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "PAGE_POINTS", 70)
    monkeypatch.setattr(backfill, "POST_LINES", 100)
    where = address(influx, settings.dir)
    code, out, _ = command("backfill", "--from", side, **where)
    assert code == 0, out
    assert out.startswith("r: wrote ")
    once = server_points(influx)
    check(older, settings, influx)
    code, out, _ = command("backfill", "--from", side, **where)
    assert (code, out) == (0, "no run lacks its roll-ups\n")
    (done,) = metriclog_json("backfill", "--all", "--from", side, **where)
    assert done["rollups"] > done["summaries"] > 0
    assert (done["run"], done["refused"], done["note"], done["failed"]) == ("r", 0, None, False)
    assert server_points(influx) == once
    assert command("verify", "r", **where)[0] == 0


def test_a_backfill_that_was_cut_short_is_made_good_by_the_next(
    influx: Influx, settings: Settings, older: list[Accepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "POST_LINES", 100)
    where, posts = address(influx, settings.dir), itertools.count()
    write = Transport.write

    def stops(target: Transport, lines: bytes) -> None:
        if next(posts) == 5:
            raise KeyboardInterrupt
        write(target, lines)

    with monkeypatch.context() as patch:
        patch.setattr(Transport, "write", stops)
        assert command("backfill", **where)[0] == 130
    assert len({key[0] for key in server_points(influx)} & set(DERIVED)) > 1
    assert command("backfill", **where)[0] == 0
    check(older, settings, influx)


def test_both_sides_make_the_same_points(influx: Influx, settings: Settings, older: list[Accepted]) -> None:
    where = address(influx, settings.dir)
    assert command("backfill", "--from", "server", **where)[0] == 0
    from_server = server_points(influx)
    assert command("backfill", "--all", "--from", "journal", **where)[0] == 0
    both = server_points(influx)
    assert from_server.items() <= both.items()


def test_points_that_something_else_wrote_are_rolled_up_as_far_as_they_have_a_step_and_a_value(
    influx: Influx, tmp_path: Path
) -> None:
    key = "metrics,experiment=import,run=a\\ b\\,c,metric=loss value"
    lines = [f"{key}={step % 7},step={step}i {BEGIN_NS + step * 10**9 + 5}" for step in range(95)]
    lines += [f"{key}=1e9 {BEGIN_NS + 10**12}", f"{key}_other=3,step=9i {BEGIN_NS + 10**12 + 1}"]
    influx.write("\n".join(lines))
    assert metriclog_json("backfill", **address(influx, tmp_path))[0]["run"] == "a b,c"
    (newest,) = influx.rows('SELECT last("count") AS "count", "max", "mean", "last_step" FROM "summary"')
    assert (newest["count"], newest["max"], newest["last_step"]) == (95, 6, 94)
    assert newest["mean"] == pytest.approx(sum(step % 7 for step in range(95)) / 95)
    rows = influx.rows('SELECT "value", "min", "max", "step", "elapsed" FROM "metrics_10"')
    assert [(row["step"], row["min"], row["max"]) for row in rows][:2] == [(5, 0, 6), (15, 0, 6)]
    assert [row["elapsed"] for row in rows] == [1000 * step for step in (9, 19, 29, 39, 49, 59, 69, 79, 89, 94)]


def test_a_run_that_goes_on_is_left_alone_and_that_is_said(influx: Influx, settings: Settings) -> None:
    where = address(influx, settings.dir)
    with metriclog.init(EXPERIMENT, run_id="here", settings=settings) as run:
        run.log({"loss": 1.0}, 1)
        assert run.flush(30.0)
        influx.write(f"metrics,experiment=e,run=elsewhere,metric=m value=1,step=1i,elapsed=1i {time.time_ns()}")
        running = f'running=1i,status="running",started=1i,ended={time.time_ns() // 1_000_000}i'
        influx.write(f"runs,experiment=e,run=elsewhere {running} {time.time_ns()}")
        code, out, _ = command("backfill", "--all", **where)
    assert code == 0
    assert out.splitlines() == [f"{name}: it goes on, and its roll-ups with it" for name in ("elsewhere", "here")]
    assert not influx.rows('SELECT * FROM "summary" WHERE "run" = \'elsewhere\'')


def test_runs_that_are_named_are_said_one_by_one_and_one_that_is_not_there_is_trouble(
    influx: Influx, settings: Settings, older: list[Accepted]
) -> None:
    where = address(influx, settings.dir)
    assert command("backfill", "r", **where)[0] == 0
    code, out, _ = command("backfill", "r", "nowhere", **where)
    assert code == 1
    assert out == "r: it has them; --all makes them again\nnowhere: it has no points on the server\n"
    code, out, _ = command("backfill", "nowhere", "--from", "journal", **where)
    assert (code, out) == (1, "nowhere: it has no points in the journals\n")
    code, _, complaint = command("backfill", "--from", "journal", "--dir", str(settings.dir / "nowhere"), **where)
    assert (code, "is no directory" in complaint) == (1, True)


def test_a_journal_that_has_lost_its_beginning_says_so_and_the_server_has_all(
    influx: Influx, settings: Settings
) -> None:
    lean = settings.model_copy(update={"retain_bytes": 0, "flush_interval_s": 0.01})
    with metriclog.init(EXPERIMENT, run_id="r", settings=lean) as run:
        for first in range(0, 5000, 500):
            train(run, first, range(first, first + 500))
            assert run.flush(30.0)
    before, where = server_points(influx), address(influx, settings.dir)
    code, out, _ = command("backfill", "r", "--all", "--from", "journal", **where)
    assert (code, out) == (1, "r: its journal has lost its beginning; try --from server\n")
    code, out, _ = command("backfill", "r", "--all", **where)
    assert code == 0, out
    assert server_points(influx).items() >= before.items()


def test_roll_ups_that_the_server_refuses_are_counted_and_end_with_exit_code_1(
    influx: Influx, settings: Settings, older: list[Accepted]
) -> None:
    now_ns = time.time_ns()
    influx.write(f"metrics_10,experiment=e,run=x,metric=m value=1i {now_ns}")  # a field's type is fixed in a shard
    code, out, _ = command("backfill", "r", **address(influx, settings.dir))
    assert code == 1
    assert "wrote" in out
    assert "the server refused some: " in out
    assert "type conflict" in out
    (done,) = metriclog_json("backfill", "r", "--all", **address(influx, settings.dir))
    assert done["refused"] > 0
    assert done["rollups"] > 0
    assert done["failed"]
