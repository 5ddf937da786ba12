"""Roll-ups and summaries on a real InfluxDB: whatever dies or gets lost, each says what a direct computation says.

`check_conservation` holds every derived point against the journals, and once all is delivered asks for those of every
bucket and for the newest summary of every series.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory
from metriclog.acks import forget_ack, load_ack
from metriclog.levels import MEASUREMENTS
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.commands import metriclog as command
from tests.faults.loads import EXPERIMENT, address, python
from tests.faults.oracle import Accepted, check_conservation, server_points
from tests.faults.proxy import FaultProxy
from tests.faults.shipping import settings_of, ship, unfinished
from tests.servers.api import Influx

LIMIT_S = 60.0
FOR_EVER_NS = 1 << 62
SMALL: dict[str, Any] = {
    "segment_bytes": 64 << 10, "batch_max_points": 300, "flush_interval_s": 0.01, "read_timeout_s": LIMIT_S,
    "free_floor_bytes": 0, "heartbeat_s": 3600.0, "exit_timeout_s": LIMIT_S,
}  # fmt: skip

Call = tuple[int, dict[str, float], str | None]  # step, metrics, model


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(influx, tmp_path / "journal", **SMALL)


def calls(seed: int, steps: range) -> Iterator[Call]:
    """What real programs log: NaN, sparse metrics, several shapes, models of their own."""
    rng = random.Random(seed)
    for step in steps:
        yield step, {"loss": rng.choice([rng.random(), 0.25, math.nan, math.inf])}, None
        if step % 50 == 49:
            yield step, {"eval/acc": rng.random(), "eval/loss": rng.random()}, None
        if step % 20 == 7:
            yield step, {"loss": rng.random(), "norm": rng.random()}, f"m{step % 3}"


def train(run: metriclog.Run, seed: int, steps: range) -> list[Accepted]:
    """Log these calls; the notes of them."""
    accepted = []
    for step, metrics, model in calls(seed, steps):
        before_ns = time.time_ns()
        run.log(metrics, step, model=model)
        accepted.append(Accepted(run.run_id, step, metrics, before_ns, time.time_ns()))
    return accepted


def trained(seed: int, steps: range, run_id: str = "r") -> list[Accepted]:
    """The notes of what another process has logged, at whatever time."""
    return [Accepted(run_id, step, metrics, 0, FOR_EVER_NS) for step, metrics, _ in calls(seed, steps)]


def start(settings: Settings, **given: Any) -> metriclog.Run:
    return metriclog.init(EXPERIMENT, settings=settings, **{"run_id": "r", "resume": "allow", **given})


def check(accepted: list[Accepted], settings: Settings, influx: Influx) -> None:
    """All is delivered, the roll-ups of every end too, each is right, and the summaries tell of every value."""
    assert not list(unfinished(settings))
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal + tally.gone)
    newest: dict[Any, tuple[int, int]] = {}
    for (measurement, tags, time_ns), fields in server_points(influx).items():
        if measurement == "summary":
            newest[tags] = max(newest.get(tags, (0, 0)), (time_ns, int(fields["count"])))
    assert sum(count for _, count in newest.values()) == sum(len(call.metrics) for call in accepted)


# -- processes that die and go on ---------------------------------------------------------------------------------

KILLED = """
    import os, signal, metriclog
    from tests.faults.test_rollups import train
    run = metriclog.init("faults", run_id="r", resume="allow")
    train(run, {seed}, range({first}, {middle}))
    assert not {flushes} or run.flush(30.0)
    train(run, {seed} + 1, range({middle}, {last}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("flushes", [True, False])
def test_a_run_that_is_killed_twice_and_resumed_with_steps_that_go_back(
    influx: Influx, settings: Settings, flushes: bool
) -> None:
    where = {**address(influx, settings.dir), **{name: str(value) for name, value in SMALL.items()}}
    accepted = []
    for seed, first, middle, last in ((1, 0, 437, 700), (10, 655, 900, 901)):
        done = python(KILLED.format(seed=seed, first=first, middle=middle, last=last, flushes=flushes), **where)
        assert done.returncode == -9, done.stderr
        accepted += trained(seed, range(first, middle)) + trained(seed + 1, range(middle, last))
        check_conservation(accepted, settings, influx)
    with start(settings) as run:
        accepted += train(run, 20, range(880, 1500))
    ship(settings)
    check(accepted, settings, influx)


def test_runs_that_finish_leave_nothing_of_their_end_behind(influx: Influx, settings: Settings) -> None:
    accepted = []
    for seed in range(20):
        with start(settings, run_id=f"r{seed}") as run:
            accepted += train(run, seed, range(random.Random(seed).randrange(60)))
        assert not list(unfinished(settings))
    check(accepted, settings, influx)


def test_two_attempts_offline_come_with_one_sync(influx: Influx, settings: Settings) -> None:
    accepted = []
    for seed, first in ((1, 0), (2, 333)):
        with start(settings, mode="offline") as run:
            accepted += train(run, seed, range(first, first + 400))
    code, out, _ = command("sync", **{**address(influx, settings.dir), **SMALL})
    assert code == 0, out
    check(accepted, settings, influx)


def test_four_ranks_go_on_from_themselves(influx: Influx, settings: Settings) -> None:
    accepted = []
    for attempt, first in ((1, 0), (2, 170)):
        ranks = [start(settings, rank=rank) for rank in range(4)]
        for rank, run in enumerate(ranks):
            accepted += train(run, 10 * attempt + rank, range(first, first + 200))
        for run in ranks:
            run.finish()
    ship(settings)
    check(accepted, settings, influx)


# -- servers, journals and acks -----------------------------------------------------------------------------------


def test_a_server_that_is_away_for_a_while_gets_all_of_them(
    influx: Influx, settings: Settings, proxy: FaultProxy
) -> None:
    behind = settings.model_copy(update={"url": proxy.url})
    with start(behind) as run:
        accepted = train(run, 1, range(300))
        assert run.flush(LIMIT_S)
        with proxy.refusing():
            accepted += train(run, 2, range(300, 900))
        accepted += train(run, 3, range(900, 1000))
        assert run.flush(LIMIT_S)
    check(accepted, behind, influx)


def test_an_ack_that_is_lost_in_the_middle_changes_nothing(influx: Influx, settings: Settings) -> None:
    with start(settings, mode="offline") as run:
        accepted = train(run, 1, range(700))
        ship(settings)
        (path,) = directory.process_directories(settings.dir)
        once = server_points(influx)
        forget_ack(path, Transport(settings).target)
        ship(settings)
        assert once.items() <= server_points(influx).items()
        accepted += train(run, 2, range(700, 800))
    ship(settings)
    check(accepted, settings, influx)


def test_what_is_delivered_may_be_deleted_while_the_run_is_resumed_again_and_again(
    influx: Influx, settings: Settings
) -> None:
    lean = settings.model_copy(update={"retain_bytes": 0})
    accepted = []
    for seed in range(3):
        run = start(lean)
        for first in range(3500 * seed, 3500 * (seed + 1), 500):
            accepted += train(run, first, range(first, first + 500))
            assert run.flush(LIMIT_S)
        run.finish()
    paths = directory.process_directories(settings.dir)
    assert all(not (path / "00000001.seg").exists() for path in paths)
    check(accepted, lean, influx)


def test_points_that_are_dropped_are_in_no_roll_up_and_all_others_are(
    influx: Influx, settings: Settings, proxy: FaultProxy
) -> None:
    tight = settings.model_copy(update={"url": proxy.url, "journal_max_bytes": 1 << 20, "batch_max_points": 5000})
    with start(tight) as run, proxy.refusing():
        for step in range(35_000):
            run.log({"loss": 1.0 / (step + 1)}, step)
        run.finish(timeout_s=0.0)
    dropped = run.stats()["dropped"]
    assert dropped > 5000
    with start(tight) as second:
        for step in range(34_995, 35_010):
            second.log({"loss": -1.0}, step)
    ship(tight)
    assert not list(unfinished(tight))
    logged = [(step, 1.0 / (step + 1)) for step in range(35_000)] + [(step, -1.0) for step in range(34_995, 35_010)]
    accepted = [Accepted("r", step, {"loss": value}, 0, FOR_EVER_NS) for step, value in logged]
    tally = check_conservation(accepted, tight, influx, dropped=dropped, lines=10)
    assert (tally.pending, tally.server) == (0, tally.journal)


# -- shippers -----------------------------------------------------------------------------------------------------


def test_syncs_beside_a_live_run_deliver_what_is_right_each_time(influx: Influx, settings: Settings) -> None:
    surroundings = {**address(influx, settings.dir), **SMALL}
    with start(settings, mode="offline") as run:
        accepted = []
        for seed in range(5):
            accepted += train(run, seed, range(260 * seed, 260 * (seed + 1)))
            code, out, _ = command("sync", **surroundings)
            assert code == 0, out
            assert check_conservation(accepted, settings, influx).pending == 0
    assert list(unfinished(settings))
    code, out, _ = command("sync", **surroundings)
    assert code == 0, out
    check(accepted, settings, influx)


SYNC_KILLED = """
    import os, signal, sys
    from metriclog import cli, files

    acks, replace = 0, files.replace

    def dies(path, body):
        global acks
        acks += path.name.startswith("ack-")
        if acks == {which}:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(path, body)

    files.replace = dies
    sys.argv = ["metriclog", "sync"]
    cli.main()
"""


@pytest.mark.parametrize("which", [1, 4])
def test_a_sync_that_is_killed_between_standing_and_ack_is_made_up_for(
    influx: Influx, settings: Settings, which: int
) -> None:
    with start(settings, mode="offline") as run:
        accepted = train(run, 1, range(4000))
    where = {**address(influx, settings.dir), **{name: str(value) for name, value in SMALL.items()}}
    killed = python(SYNC_KILLED.format(which=which), **{**where, "batch_max_points": "1000"})
    assert killed.returncode == -9, killed.stderr
    (path,) = directory.process_directories(settings.dir)
    assert (path / f"derived-{Transport(settings).target}.bin").exists()
    assert (load_ack(path, Transport(settings).target).position > 0) is (which > 1)
    check_conservation(accepted, settings, influx)
    ship(settings)
    check(accepted, settings, influx)


# -- what it is for -----------------------------------------------------------------------------------------------


def test_a_spike_of_one_step_in_a_long_run_is_seen_at_every_level_and_a_chart_stays_small(
    influx: Influx, settings: Settings
) -> None:
    steps, spike = 30_000, 17_654
    with start(settings.model_copy(update={"batch_max_points": 20_000}), mode="offline") as run:
        for step in range(steps):
            run.log({"loss": 1e6 if step == spike else math.sin(step)}, step)
    ship(settings.model_copy(update={"batch_max_points": 20_000}))
    for name in MEASUREMENTS:
        (row,) = influx.rows(f'SELECT max("max") AS "top", "step" FROM "{name}" WHERE "metric" = \'loss\'')
        size = int(name.removeprefix("metrics_"))
        assert (row["top"], row["step"]) == (1e6, spike // size * size + size // 2)
        (low,) = influx.rows(f'SELECT min("min") AS "low", max("value") AS "high" FROM "{name}"')
        assert low["low"] == pytest.approx(-1.0, abs=1e-4)
        assert low["high"] < 1e6
    (newest,) = influx.rows('SELECT last("max") AS "max", "max_step", "count" FROM "summary"')
    assert (newest["max"], newest["max_step"], newest["count"]) == (1e6, spike, steps)
    (state,) = influx.rows('SELECT last("resolution") AS "resolution" FROM "runs"')
    assert state["resolution"] == "metrics_100"
    (chart,) = influx.rows(f'SELECT count("max") AS "points" FROM "{state["resolution"]}"')
    assert steps / 100 <= chart["points"] <= 2000
