"""The server is away: at the start, in the middle, at the exit. Training goes on, and every point arrives later."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import metriclog
from metriclog import cli, directory, testing
from metriclog.acks import load_ack
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.conftest import PrivateInflux
from tests.faults.loads import EXPERIMENT, address, log_step, metrics_of, python
from tests.faults.oracle import Accepted, check_conservation
from tests.servers.api import Influx

LIMIT_S = 30.0
EXIT_TIMEOUT_S = 0.5


def settings_of(influx: Influx, tmp_path: Path) -> Settings:
    quick = {"flush_interval_s": 0.02, "batch_max_points": 500}
    return Settings(**{**address(influx, tmp_path / "journal"), **quick})  # type: ignore[arg-type]


def test_a_server_that_is_away_at_the_start_gets_everything_when_it_comes(
    private_influx: PrivateInflux, tmp_path: Path
) -> None:
    private_influx.stop()
    settings = settings_of(private_influx, tmp_path)
    begin_s = time.monotonic()
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = [log_step(run, step) for step in range(2000)]
    assert time.monotonic() - begin_s < 2.0, "neither init() nor log() waits for a server"
    assert not run.flush(0.1)
    assert run.stats()["delivered"] == 0
    check_conservation(accepted, settings, None)
    private_influx.start()
    assert run.flush(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    tally = check_conservation(accepted, settings, private_influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


def test_a_server_that_is_killed_in_the_middle_and_comes_back_misses_nothing(
    private_influx: PrivateInflux, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(private_influx, tmp_path)
    accepted: list[Accepted] = []
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        for step in range(9000):
            if step == 3000:
                assert run.flush(LIMIT_S)
            if step == 4000:
                private_influx.kill()
            if step == 6000:
                assert not run.flush(0.2)
                private_influx.start()
            accepted.append(log_step(run, step))
        assert run.flush(LIMIT_S)
    tally = check_conservation(accepted, settings, private_influx)
    assert (tally.pending, tally.server) == (0, tally.journal)
    assert "points wait in the journal" in caplog.text
    assert "takes points again" in caplog.text


LEAVES = """
    import time, metriclog
    from tests.faults.loads import log_step
    runs = [metriclog.init("faults", run_id=f"r{number}") for number in range(3)]
    for run in runs:
        for step in range(500):
            log_step(run, step)
    print(time.monotonic())
"""


@pytest.fixture
def left_behind(tmp_path: Path) -> tuple[str, float]:
    """Three runs of a process that ended while the server was away; what it complained, and how long its end took."""
    away = {"url": "http://127.0.0.1:1", "token": "t", "dir": str(tmp_path / "journal")}
    done = python(LEAVES, **away, exit_timeout_s=str(EXIT_TIMEOUT_S))
    ended_s = time.monotonic()
    assert done.returncode == 0, done.stderr
    return done.stderr, ended_s - float(done.stdout)


def accepted_of(runs: int) -> list[Accepted]:
    """What LEAVES logged; its clock is not known here."""
    return [Accepted(f"r{n}", step, metrics_of(step), 0, time.time_ns()) for n in range(runs) for step in range(500)]


def test_a_process_ends_in_time_and_says_in_one_line_a_run_what_is_left_and_how_to_ship_it(
    left_behind: tuple[str, float], tmp_path: Path
) -> None:
    complained, took_s = left_behind
    assert took_s < EXIT_TIMEOUT_S + 1.0
    assert "Traceback" not in complained
    line = r"^metriclog: (\d+) points of run (r\d) wait in (\S+?)(?: \(no answer from .*\))?\. Ship them with: (.*)$"
    left = re.findall(line, complained, re.M)
    assert [run for _, run, _, _ in left] == ["r0", "r1", "r2"]
    for count, run, place, command in left:
        assert int(count) == len(list(testing.read_points(Path(place))))
        assert Path(place).parent == tmp_path / "journal" / run
        assert command == f"metriclog sync {tmp_path / 'journal'}"


def test_what_is_left_is_shipped_by_the_next_run_in_that_directory(
    left_behind: tuple[str, float], influx: Influx, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path)
    accepted = accepted_of(3)
    before = check_conservation(accepted, settings, influx)
    assert (before.server, before.pending) == (0, before.journal)
    with metriclog.init(EXPERIMENT, run_id="next", settings=settings) as run:
        accepted.append(log_step(run, 0))
        deadline_s = time.monotonic() + LIMIT_S
        while left_over(settings) and time.monotonic() < deadline_s:
            run.flush(0.1)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


def left_over(settings: Settings) -> bool:
    """Whether anything of the runs of LEAVES is beyond its ack."""
    target = Transport(settings).target
    paths = [path for path in directory.process_directories(settings.dir) if path.parent.name != "next"]
    return any(next(testing.read_points(path, load_ack(path, target).position), None) for path in paths)


def test_what_is_left_is_shipped_by_sync(
    left_behind: tuple[str, float], influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in address(influx, tmp_path / "journal").items():
        monkeypatch.setenv(f"METRICLOG_{name.upper()}", value)
    done = CliRunner().invoke(cli.app, ["sync"])
    assert done.exit_code == 0, done.output
    tally = check_conservation(accepted_of(3), settings_of(influx, tmp_path), influx)
    assert (tally.pending, tally.server) == (0, tally.journal)
