"""The wall clock jumps, jitters, stands still, or is set back between two processes: as many points as calls, in order.

What a journal's time stamps do alone is in tests/test_journal_clock.py; here, runs ship to a real server.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import metriclog
from metriclog import cli, directory
from metriclog.settings import Settings
from tests.faults.loads import EXPERIMENT, address, metrics_of, python
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.proxy import FaultProxy, says
from tests.faults.shipping import check_all_delivered
from tests.journals import START_NS, read_back
from tests.servers.api import Influx

LIMIT_S = 60.0
SECOND_NS = 10**9
HOUR_NS, DAY_NS = 3_600 * SECOND_NS, 86_400 * SECOND_NS
SLACK_NS = SECOND_NS // 100


class WallClock:
    """The clock of this process, for whoever asks `time.time` or `time.time_ns`: the real one and an error.

    `spread_ns` is how far apart two looks at the same instant may be.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error_ns: Callable[[], int] = lambda: 0
        self.spread_ns = 0
        self._real_ns = time.time_ns
        self._lock = threading.Lock()
        self._top_ns = self._top_at_ns = self._set_forward_ns = self._still_ns = 0
        monkeypatch.setattr(time, "time_ns", self.now_ns)
        monkeypatch.setattr(time, "time", lambda: self.now_ns() / SECOND_NS)

    def now_ns(self) -> int:
        """What the clock says."""
        now_ns = self._still_ns or self._real_ns() + self.error_ns()
        with self._lock:
            if now_ns > self._top_ns:
                self._top_ns, self._top_at_ns = now_ns, time.monotonic_ns()
        return now_ns

    def set(self, error_ns: int) -> None:
        """From now on it is wrong by this."""
        self._set_forward_ns += max(0, error_ns - self.error_ns())
        self.error_ns = lambda: error_ns

    def stand_still(self, at_ns: int) -> None:
        """One tick of it takes for ever."""
        self._still_ns = at_ns

    def jitter(self, most_ns: int) -> None:
        """At each look it is wrong by another amount."""
        rng, self.spread_ns = random.Random(most_ns), 2 * most_ns
        self.error_ns = lambda: rng.randrange(-most_ns, most_ns)

    def first_ns(self) -> int:
        """The least time stamp that a call from now on may get."""
        return self.now_ns() - self.spread_ns

    def last_ns(self) -> int:
        """The greatest one that a call up to now may have got.

        After the latest time that this clock has said, time stamps run on at half the speed of the clock.
        """
        with self._lock:
            passed_ns = time.monotonic_ns() - self._top_at_ns + self._set_forward_ns // 2
            return self._top_ns + passed_ns + SLACK_NS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(influx, tmp_path)


def settings_of(influx: Influx, tmp_path: Path, **more: Any) -> Settings:
    quick = {"flush_interval_s": 0.01, "batch_max_points": 5000, "heartbeat_s": 0.05, "segment_bytes": 64 << 10}
    return Settings(**{**address(influx, tmp_path / "journal"), **quick, **more})


def log_step(run: metriclog.Run, step: int, clock: WallClock, metrics: Mapping[str, float] | None = None) -> Accepted:
    """As `loads.log_step`, on a clock that lies."""
    metrics = metrics or metrics_of(step)
    first_ns = clock.first_ns()
    run.log(metrics, step)
    return Accepted(run.run_id, step, metrics, first_ns, clock.last_ns())


def steps_on_the_server(influx: Influx) -> list[int]:
    """The steps of train/loss in the order of time."""
    found = influx.rows("SELECT step FROM metrics WHERE metric = 'train/loss'")
    return [row["step"] for row in found]


def check_verified(settings: Settings, influx: Influx) -> None:
    """`metriclog verify` says the same of run r."""
    surroundings = {f"METRICLOG_{name.upper()}": value for name, value in address(influx, settings.dir).items()}
    done = CliRunner().invoke(cli.app, ["verify", "r"], env=surroundings)
    assert done.exit_code == 0, done.output


# -- in the middle of a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "errors_ns",
    [
        [0, -HOUR_NS],
        [0, DAY_NS],
        [0, DAY_NS, 0],
        [0, -HOUR_NS, DAY_NS, -DAY_NS, HOUR_NS, 0],
        [0, -SECOND_NS, SECOND_NS, -1000, 1000, -1, 1],
    ],
    ids=["an hour back", "a day forward", "a day forward and back", "to and fro", "a little"],
)
def test_a_clock_that_is_set_in_the_middle_of_a_run_costs_no_point_and_keeps_their_order(
    influx: Influx, settings: Settings, clock: WallClock, errors_ns: list[int]
) -> None:
    accepted: list[Accepted] = []
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        for error_ns in errors_ns:
            clock.set(error_ns)
            accepted += [log_step(run, len(accepted) + step, clock) for step in range(500)]
            assert run.flush(LIMIT_S)
    check_all_delivered(accepted, settings, influx)
    assert steps_on_the_server(influx) == list(range(500 * len(errors_ns)))
    check_verified(settings, influx)


@pytest.mark.parametrize("most_ns", [500, 50_000, 5_000_000], ids=["500 ns", "50 µs", "5 ms"])
def test_a_clock_that_jitters_at_each_look_costs_no_point_and_keeps_their_order(
    influx: Influx, settings: Settings, clock: WallClock, most_ns: int
) -> None:
    clock.jitter(most_ns)
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = [log_step(run, step, clock) for step in range(3000)]
    check_all_delivered(accepted, settings, influx)
    assert steps_on_the_server(influx) == list(range(3000))


def test_100_000_calls_within_one_tick_of_the_clock_are_100_000_points(
    influx: Influx, settings: Settings, clock: WallClock
) -> None:
    clock.stand_still(clock.now_ns())
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = [log_step(run, step, clock, {"train/loss": step / 3}) for step in range(100_000)]
    run.finish(timeout_s=LIMIT_S)
    check_all_delivered(accepted, settings, influx)
    assert steps_on_the_server(influx) == list(range(100_000))


def test_threads_that_log_the_same_series_within_one_tick_overwrite_nothing(
    influx: Influx, settings: Settings, clock: WallClock
) -> None:
    clock.stand_still(clock.now_ns())
    accepted: list[Accepted] = []
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:

        def train() -> None:
            accepted.extend([log_step(run, step, clock) for step in range(1000)])

        threads = [threading.Thread(target=train) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert len(accepted) == 4000
    check_all_delivered(accepted, settings, influx)


# -- across processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_ns", [-HOUR_NS, 0], ids=["an hour earlier", "at the same instant"])
def test_a_run_that_is_resumed_at_an_earlier_time_overwrites_nothing(
    influx: Influx, settings: Settings, clock: WallClock, error_ns: int
) -> None:
    begun_ns = clock.now_ns()
    accepted: list[Accepted] = []
    for attempt in range(3):
        clock.stand_still(begun_ns + attempt * error_ns)
        with metriclog.init(EXPERIMENT, run_id="r", resume="allow", settings=settings) as run:
            accepted += [log_step(run, step, clock) for step in range(500)]
    check_all_delivered(accepted, settings, influx)
    assert sorted(steps_on_the_server(influx)) == sorted(3 * list(range(500)))
    check_verified(settings, influx)


IN_THE_SAME_TICKS = """
    import json, os, time
    time.time_ns = lambda: START + time.monotonic_ns() // TICK * TICK
    import metriclog
    from tests.faults.loads import log_step

    run = metriclog.init("faults", run_id="r")
    start_r, start_w = os.pipe()
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            break
        children.append(pid)
    for step in range(2000):
        call = log_step(run, step)
    run.finish(timeout_s=30.0)
    if pid:
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
"""


@pytest.mark.parametrize("tick_ns", [DAY_NS, 16_000_000], ids=["one tick", "16 ms"])
def test_processes_of_one_run_that_log_the_same_series_in_the_same_ticks_overwrite_nothing(
    influx: Influx, settings: Settings, tick_ns: int
) -> None:
    where = {**address(influx, settings.dir), "segment_bytes": str(64 << 10)}
    done = python(IN_THE_SAME_TICKS.replace("START", str(START_NS)).replace("TICK", str(tick_ns)), **where)
    assert (done.returncode, done.stderr) == (0, "")
    accepted = [Accepted("r", step, metrics_of(step), 0, 0) for _ in range(4) for step in range(2000)]
    check_all_delivered(accepted, settings, influx)
    assert len(directory.process_directories(settings.dir)) == 4
    check_verified(settings, influx)


# -- waiting ------------------------------------------------------------------------------------------------------


@pytest.fixture
def wild(clock: WallClock) -> WallClock:
    """A clock that is right, an hour behind, or a day ahead, at each look another one."""
    rng = random.Random(1)
    clock.error_ns = lambda: rng.choice([-HOUR_NS, 0, DAY_NS])
    return clock


def log_on(run: metriclog.Run, steps: range) -> list[Accepted]:
    """On a wild clock: nobody knows when."""
    for step in steps:
        run.log(metrics_of(step), step)
    return [Accepted(run.run_id, step, metrics_of(step), 0, 1 << 63) for step in steps]


def test_shipping_backs_off_and_goes_on_in_real_time_while_the_clock_jumps(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, wild: WallClock
) -> None:
    settings = settings_of(influx, tmp_path, url=proxy.url)
    begin_s = time.monotonic()
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = log_on(run, range(500))
        assert run.flush(LIMIT_S)
        with proxy.refusing():
            accepted += log_on(run, range(500, 1000))
            asked_s = time.monotonic()
            assert not run.flush(0.5)
            assert time.monotonic() - asked_s >= 0.5, "it did not wait for as long as it was told"
        proxy.play(says(503), says(429, retry_after="1"), says(503))
        assert run.flush(LIMIT_S)
        assert run.stats()["retried"] >= 3
    assert time.monotonic() - begin_s < LIMIT_S
    check_all_delivered(accepted, settings, influx)


def test_the_end_of_a_run_waits_in_real_time_while_the_clock_jumps(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, wild: WallClock
) -> None:
    settings = settings_of(influx, tmp_path, url=proxy.url)
    with proxy.refusing():
        run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
        accepted = log_on(run, range(500))
        begin_s = time.monotonic()
        run.finish(timeout_s=0.5)
        assert 0.5 <= time.monotonic() - begin_s < LIMIT_S / 2
    check_conservation(accepted, settings, influx)


def test_heartbeats_go_on_in_real_time_after_the_clock_was_set_back(settings: Settings, clock: WallClock) -> None:
    offline = settings.model_copy(update={"mode": "offline"})
    with metriclog.init(EXPERIMENT, run_id="r", settings=offline) as run:
        (path,) = directory.process_directories(settings.dir)
        for error_ns in (-HOUR_NS, DAY_NS, -DAY_NS):
            clock.set(error_ns)
            before, deadline_s = len(read_back(path).records), time.monotonic() + LIMIT_S
            while len(read_back(path).records) < before + 3:
                assert time.monotonic() < deadline_s, "no sign of life"
        run.log({"loss": 1.0})
