"""Several shippers on one journal, or one that is killed: a second sending has no effect, and nothing is missed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import metriclog
from metriclog import background, cli, directory
from metriclog.acks import load_ack
from metriclog.settings import Settings
from metriclog.shipper import Shipper, shipping_lock
from metriclog.transport import Transport
from tests.conftest import PrivateInflux
from tests.faults.loads import EXPERIMENT, ROOT, address, log_step, python
from tests.faults.oracle import Accepted, check_conservation, server_points
from tests.faults.shipping import check_all_delivered, log_offline, settings_of, ship
from tests.servers.api import Influx
from tests.test_sender import VirtualControl

LIMIT_S = 60.0
SMALL: dict[str, Any] = {"segment_bytes": 64 << 10, "batch_max_points": 200}


def surroundings(influx: Influx, folder: Path, **more: object) -> dict[str, str]:
    """The environment of a command that ships `folder` to this bucket."""
    given = {**address(influx, folder), **SMALL, **more}
    return {f"METRICLOG_{name.upper()}": str(value) for name, value in given.items()}


def command(arguments: str, influx: Influx, folder: Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli.app, arguments.split(), env=surroundings(influx, folder))


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(influx, tmp_path / "journal", read_timeout_s=LIMIT_S, **SMALL)


def test_two_syncs_at_once_deliver_everything_and_the_one_that_comes_too_late_says_so(
    influx: Influx, settings: Settings
) -> None:
    accepted = [call for number in range(3) for call in log_offline(settings, range(2000), f"r{number}")]
    surely = {**os.environ, **surroundings(influx, settings.dir), "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-m", "metriclog", "sync"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(start, env=surely, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in both:
        said, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0 or "another process is shipping it" in said, said
    assert command("sync", influx, settings.dir).exit_code == 0
    check_all_delivered(accepted, settings, influx)


def test_two_shippers_without_a_lock_between_them_do_no_harm(influx: Influx, settings: Settings) -> None:
    """As on a file system without flock."""
    accepted = log_offline(settings, range(3000))
    (folder,) = directory.process_directories(settings.dir)
    errors: list[BaseException] = []

    def drain(points: int) -> None:
        shipper = Shipper(folder, Transport(settings), VirtualControl(), max_points=points)
        try:
            while shipper.ship_batch():
                pass
        except BaseException as error:
            errors.append(error)
        finally:
            shipper.close()

    threads = [threading.Thread(target=drain, args=(points,)) for points in (150, 200, 370)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert errors == []
    check_all_delivered(accepted, settings, influx)


def test_sync_beside_a_live_offline_run_ships_what_is_there_each_time(influx: Influx, settings: Settings) -> None:
    accepted: list[Accepted] = []
    with metriclog.init(EXPERIMENT, run_id="r", mode="offline", settings=settings) as run:
        for begin in range(0, 3000, 500):
            accepted += [log_step(run, step) for step in range(begin, begin + 500)]
            done = command("sync", influx, settings.dir)
            assert done.exit_code == 0, done.output
            check_all_delivered(accepted, settings, influx)
    assert command("sync", influx, settings.dir).exit_code == 0
    check_all_delivered(accepted, settings, influx)


def test_sync_beside_a_live_online_run_leaves_it_alone(influx: Influx, settings: Settings) -> None:
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = []
        for step in range(4000):
            accepted.append(log_step(run, step))
            if step % 1000 == 500:
                done = command("sync", influx, settings.dir)
                assert done.exit_code == 0 or "another process is shipping it" in done.output
        assert run.flush(LIMIT_S)
    check_all_delivered(accepted, settings, influx)


def test_a_run_that_starts_while_a_sync_is_at_its_journal_ships_when_the_sync_has_ended(
    influx: Influx, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, ship_loop = threading.Event(), background.Ship._loop

    def later(ship: background.Ship) -> None:
        go_on.wait(LIMIT_S)
        ship_loop(ship)

    monkeypatch.setattr(background.Ship, "_loop", later)
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        (folder,) = directory.process_directories(settings.dir)
        with shipping_lock(folder, Transport(settings).target) as mine:
            assert mine
            go_on.set()
            accepted = [log_step(run, step) for step in range(500)]
            assert not run.flush(0.3)
            assert server_points(influx) == {}
        assert run.flush(LIMIT_S)
    check_all_delivered(accepted, settings, influx)


def test_a_run_whose_points_a_sync_has_shipped_knows_that_they_are_delivered(
    influx: Influx, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, ship_loop = threading.Event(), background.Ship._loop

    def later(ship: background.Ship) -> None:
        go_on.wait(LIMIT_S)
        ship_loop(ship)

    monkeypatch.setattr(background.Ship, "_loop", later)
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = [log_step(run, step) for step in range(500)]
        ship(settings)
        go_on.set()
        assert run.flush(LIMIT_S)
        assert run.stats()["pending"] == 0
    check_all_delivered(accepted, settings, influx)


@pytest.mark.parametrize("shipped_before", [0, 3], ids=["fresh", "half-shipped"])
def test_a_journal_that_is_copied_and_shipped_from_both_places_is_on_the_server_once(
    influx: Influx, settings: Settings, tmp_path: Path, shipped_before: int
) -> None:
    accepted = log_offline(settings, range(2000))
    (folder,) = directory.process_directories(settings.dir)
    with contextlib.closing(Shipper(folder, Transport(settings), VirtualControl(), max_points=200)) as shipper:
        for _ in range(shipped_before):
            shipper.ship_batch()
    copied = settings.model_copy(update={"dir": tmp_path / "elsewhere"})
    shutil.copytree(settings.dir, copied.dir)
    ship(copied)
    check_all_delivered(accepted, copied, influx)
    once = server_points(influx)
    ship(settings)
    check_all_delivered(accepted, settings, influx)
    assert server_points(influx) == once


KILLED = """
    import os, signal, sys
    from metriclog import cli, files

    acks, replace = 0, files.replace

    def dies(path, body):
        global acks
        acks += path.name.startswith("ack-")
        if acks == 3 and {stage!r} == "in it":
            path.with_suffix(".1.tmp").write_bytes(body[: len(body) // 2])
        if acks == 3 and {stage!r} == "after it":
            replace(path, body)
        if acks == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(path, body)

    files.replace = dies
    sys.argv = ["metriclog", "sync"]
    cli.main()
"""


@pytest.mark.parametrize("stage", ["before it", "in it", "after it"])
def test_a_sync_killed_at_an_ack_goes_on_there_the_next_time(influx: Influx, settings: Settings, stage: str) -> None:
    accepted = log_offline(settings, range(2000))
    where = {**address(influx, settings.dir), **{name: str(value) for name, value in SMALL.items()}}
    killed = python(KILLED.format(stage=stage), **where)
    assert killed.returncode == -9, killed.stderr
    tally = check_conservation(accepted, settings, influx)
    acked = tally.journal - tally.pending
    assert (acked > 500) is (stage == "after it")
    assert tally.server > 500
    done = command("sync", influx, settings.dir)
    assert done.exit_code == 0
    assert f"delivered {tally.pending} points" in done.output
    check_all_delivered(accepted, settings, influx)


# -- a server that has lost what it said yes to -----------------------------------------------------------------


def test_a_server_that_was_wiped_gets_everything_again_with_sync_again(
    private_influx: PrivateInflux, tmp_path: Path
) -> None:
    settings = settings_of(private_influx, tmp_path / "journal", read_timeout_s=LIMIT_S, **SMALL)
    accepted = [call for number in range(2) for call in log_offline(settings, range(1000), f"r{number}")]
    assert command("sync", private_influx, settings.dir).exit_code == 0
    check_all_delivered(accepted, settings, private_influx)
    private_influx.wipe()
    done = command("sync", private_influx, settings.dir)
    assert (done.exit_code, "delivered 0 points" in done.output) == (0, True), "by itself it cannot know"
    done = command("verify r0", private_influx, settings.dir)
    assert (done.exit_code, "missing on the server" in done.output) == (1, True)
    done = command("sync --again", private_influx, settings.dir)
    assert done.exit_code == 0, done.output
    check_all_delivered(accepted, settings, private_influx)
    assert [command(f"verify r{number}", private_influx, settings.dir).exit_code for number in range(2)] == [0, 0]
    once = server_points(private_influx)
    assert command("sync --again", private_influx, settings.dir).exit_code == 0
    assert server_points(private_influx) == once


def test_sync_again_leaves_a_journal_alone_that_another_process_ships(influx: Influx, settings: Settings) -> None:
    log_offline(settings)
    ship(settings)
    (folder,) = directory.process_directories(settings.dir)
    target = Transport(settings).target
    before = load_ack(folder, target)
    with shipping_lock(folder, target):
        done = command("sync --again", influx, settings.dir)
    assert (done.exit_code, "nothing of it was sent again" in done.output) == (1, True)
    assert load_ack(folder, target) == before
