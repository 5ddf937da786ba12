"""`metriclog verify` against a real InfluxDB: every state of a point, and every way in which the two can differ."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import metriclog
from metriclog import cli, directory
from metriclog import verify as verify_room
from metriclog.background import ship_directory
from metriclog.segments import segment_numbers
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.conftest import PrivateInflux
from tests.faults.loads import EXPERIMENT, address, log_step
from tests.faults.oracle import check_conservation
from tests.faults.shipping import log_offline, settings_of, ship
from tests.servers.api import Influx
from tests.test_sender import VirtualControl

LIMIT_S = 60.0
Command = Callable[..., Result]


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(influx, tmp_path / "journal", read_timeout_s=LIMIT_S)


@pytest.fixture
def command(influx: Influx, settings: Settings) -> Command:
    """Runs the command in this process, in the surroundings of the test's journal and bucket."""
    return lambda *arguments: run_command(influx, settings.dir, *arguments)


def run_command(influx: Influx, folder: Path, *arguments: str) -> Result:
    surroundings = {f"METRICLOG_{name.upper()}": value for name, value in address(influx, folder).items()}
    return CliRunner().invoke(cli.app, arguments, env={**surroundings, "COLUMNS": "200"})


def proof(command: Command, run: str = "r") -> dict[str, Any]:
    """What `verify --json` says; its exit code agrees."""
    done = command("verify", run, "--json")
    verdict: dict[str, Any] = json.loads(done.output)
    assert done.exit_code == (0 if verdict["holds"] else 1)
    return verdict


def counts(verdict: dict[str, Any]) -> list[int]:
    return [verdict[name] for name in ("accepted", "delivered", "pending", "quarantined", "dropped")]


def test_before_during_and_after_shipping_every_point_is_accounted_for(command: Command, settings: Settings) -> None:
    log_offline(settings, range(2000))
    before = proof(command)
    total = before["accepted"]
    assert counts(before) == [total, 0, total, 0, 0]

    (folder,) = directory.process_directories(settings.dir)
    batches = iter(range(3))
    ship_directory(folder, Transport(settings), VirtualControl(), settings, pause=lambda: next(batches) == 2)
    during = proof(command)
    assert during["holds"]
    assert 0 < during["pending"] < total
    assert during["delivered"] == total - during["pending"]

    ship(settings)
    after = proof(command)
    assert (after["holds"], counts(after)) == (True, [total, total, 0, 0, 0])
    done = command("verify", "r")
    assert done.exit_code == 0
    assert f"{total:,}" in done.output
    assert "every point is accounted for" in done.output


def test_a_run_that_is_training_is_accounted_for_while_it_ships(command: Command, settings: Settings) -> None:
    go_on, steps = threading.Event(), iter(range(10**9))
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:

        def train() -> None:
            while not go_on.wait(0.0005):
                log_step(run, next(steps))

        trainer = threading.Thread(target=train)
        trainer.start()
        try:
            verdicts = [proof(command) for _ in range(5)]
        finally:
            go_on.set()
            trainer.join(LIMIT_S)
    for verdict in verdicts:
        assert verdict["holds"], verdict
    assert verdicts[-1]["accepted"] > verdicts[0]["accepted"]


def test_ranks_tags_and_odd_names_are_kept_apart_and_read_page_by_page(
    command: Command, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_room, "PAGE_POINTS", 50)
    odd = {"team": "a b,c=d", "ключ": "v'al\"ue"}
    for rank, tags in ((0, None), (1, None), (None, odd)):
        with metriclog.init(EXPERIMENT, run_id="r", rank=rank, tags=tags, mode="offline", settings=settings) as run:
            for step in range(300):
                run.log({"loss": step / 7, 'it\'s/"odd", a=b': float(step)}, step)
                if step % 3 == 0:
                    run.log({"loss": step / 9}, step, model="another", dataset=("digits", "1f3a"))
    ship(settings)
    verdict = proof(command)
    assert verdict["holds"], verdict["differences"]
    assert verdict["delivered"] == verdict["accepted"] > 3 * 700


def test_quarantined_points_and_those_dropped_by_hand_are_accounted_for(
    command: Command, influx: Influx, settings: Settings
) -> None:
    influx.write(f"metrics,experiment=x,run=foreign,metric=m nonfinite=0.5 {time.time_ns()}")
    log_offline(settings, range(400))
    ship(settings)
    kept = proof(command)
    assert kept["holds"]
    assert kept["quarantined"] > 50
    assert command("quarantine", "drop").exit_code == 0
    given_up = proof(command)
    assert given_up["holds"]
    assert counts(given_up) == [kept["accepted"], kept["delivered"], 0, 0, kept["quarantined"]]


@pytest.mark.parametrize("poisoned", [False, True], ids=["all-delivered", "some-in-quarantine"])
def test_segments_that_were_delivered_and_deleted_are_accounted_for(
    command: Command, influx: Influx, settings: Settings, poisoned: bool
) -> None:
    if poisoned:
        influx.write(f"metrics,experiment=x,run=foreign,metric=m nonfinite=0.5 {time.time_ns()}")
    few = settings.model_copy(update={"segment_bytes": 64 << 10, "retain_bytes": 100_000})
    with metriclog.init(EXPERIMENT, run_id="r", settings=few) as run:
        for step in range(12_000):
            log_step(run, step)
            if step % 1000 == 999:
                assert run.flush(LIMIT_S)
    (folder,) = directory.process_directories(settings.dir)
    assert segment_numbers(folder)[0] > 3, "nothing was deleted"
    verdict = proof(command)
    assert verdict["holds"], verdict
    assert verdict["forgotten"] > 5000
    assert (verdict["quarantined"] > 1000) is poisoned
    assert verdict["accepted"] == verdict["delivered"] + verdict["quarantined"] == run.stats()["accepted"]
    if poisoned:
        assert command("quarantine", "drop").exit_code == 0
        after = proof(command)
        assert (after["holds"], after["dropped"], after["quarantined"]) == (True, verdict["quarantined"], 0)

    influx.write("metrics,experiment=faults,run=r,metric=forged value=1 17")
    forged = proof(command)
    assert (forged["holds"], forged["unknown"]) == (False, 1)


def test_after_the_server_has_lost_deleted_segments_the_proof_fails_and_says_so(
    private_influx: PrivateInflux, tmp_path: Path
) -> None:
    settings = settings_of(private_influx, tmp_path / "journal", read_timeout_s=LIMIT_S)
    few = settings.model_copy(update={"segment_bytes": 64 << 10, "retain_bytes": 100_000})
    with metriclog.init(EXPERIMENT, run_id="r", settings=few) as run:
        for step in range(8000):
            log_step(run, step)
            if step % 1000 == 999:
                assert run.flush(LIMIT_S)
    private_influx.wipe()
    assert run_command(private_influx, settings.dir, "sync", "--again").exit_code == 0
    done = run_command(private_influx, settings.dir, "verify", "r")
    assert done.exit_code == 1
    assert "points that are in the journal no more" in done.output


# -- differences ------------------------------------------------------------------------------------------------


@pytest.fixture
def delivered(settings: Settings) -> int:
    """A run of which everything is on the server; how many points."""
    log_offline(settings, range(500))
    ship(settings)
    return len(list(metriclog.testing.read_points(directory.process_directories(settings.dir)[0])))


def some_point(influx: Influx) -> tuple[int, float]:
    """Time stamp and value of a point of train/loss."""
    rows = influx.rows('SELECT "value" FROM "metrics" WHERE "metric" = \'train/loss\'')
    return rows[123]["time"], rows[123]["value"]


def test_a_point_altered_on_the_server_is_named(command: Command, influx: Influx, delivered: int) -> None:
    time_ns, value = some_point(influx)
    influx.write(f"metrics,experiment=faults,metric=train/loss,run=r value={value * (1 + 2**-50)!r} {time_ns}")
    verdict = proof(command)
    assert (verdict["holds"], verdict["altered"], verdict["delivered"]) == (False, 1, delivered - 1)
    assert f"altered: metrics train/loss at {time_ns}: logged" in verdict["differences"][0]
    done = command("verify", "r")
    assert (done.exit_code, "the counts do not hold" in done.output) == (1, True)
    assert f"train/loss at {time_ns}" in done.output


def test_a_point_deleted_on_the_server_is_named(command: Command, influx: Influx, delivered: int) -> None:
    time_ns, _ = some_point(influx)
    influx.delete_point("metrics", "metric", "train/loss", time_ns)
    verdict = proof(command)
    assert (verdict["holds"], verdict["missing"], verdict["delivered"]) == (False, 1, delivered - 1)
    assert f"missing on the server: metrics train/loss at {time_ns}" in verdict["differences"][0]


@pytest.mark.parametrize(
    "line",
    [
        "metrics,experiment=faults,metric=train/loss,run=r value=1.5,step=1i,elapsed=1i 1700000000000000001",
        "metrics,experiment=faults,metric=forged,run=r value=1.5 1700000000000000001",
        "metrics,experiment=faults,metric=train/loss,rank=1,run=r value=1.5,step=1i 1700000000000000001",
        'events,experiment=faults,kind=note,run=r title="forged" 1700000000000000001',
        "params,experiment=faults,param=lr,run=r number=0.5 1700000000000000001",
    ],
    ids=["in-a-series", "new-metric", "new-rank", "event", "parameter"],
)
def test_a_point_added_on_the_server_is_named(command: Command, influx: Influx, delivered: int, line: str) -> None:
    influx.write(line)
    verdict = proof(command)
    assert (verdict["holds"], verdict["unknown"], verdict["delivered"]) == (False, 1, delivered)
    assert "on the server, not in the journal" in verdict["differences"][0]
    assert "1700000000000000001" in verdict["differences"][0]


def test_a_byte_altered_in_a_segment_is_named_with_the_segment_and_the_bytes(
    command: Command, settings: Settings, delivered: int
) -> None:
    (folder,) = directory.process_directories(settings.dir)
    path = folder / "00000001.seg"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))
    verdict = proof(command)
    assert (verdict["holds"], verdict["damaged"]) == (False, 1)
    start, end = map(int, verdict["differences"][0].removeprefix(f"damaged record: {path}, bytes ").split(" to "))
    assert start <= len(body) // 2 < end
    assert command("verify", "r").exit_code == 1


def test_a_run_that_is_nowhere_and_a_server_that_is_away_end_with_exit_code_1(
    command: Command, influx: Influx, settings: Settings, delivered: int
) -> None:
    assert command("verify", "another").exit_code == 1
    assert command("verify", "r", "--url", "http://127.0.0.1:1").exit_code == 1


# -- the demo, with the server restarted in the middle ----------------------------------------------------------


def test_the_demos_runs_are_all_equal_after_the_server_was_killed_and_started_again_in_the_middle(
    private_influx: PrivateInflux, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    from metriclog.demo import run_demo

    ended, restarted = threading.Event(), threading.Event()

    def restart() -> None:
        while not ended.wait(0.02):
            if private_influx.rows('SELECT count("value") FROM "metrics"'):
                private_influx.kill()
                ended.wait(0.5)
                private_influx.start()
                restarted.set()
                return

    settings = Settings(**address(private_influx, tmp_path / "journal"), flush_interval_s=0.05)  # type: ignore[arg-type]
    killer = threading.Thread(target=restart)
    killer.start()
    try:
        assert run_demo(settings=settings, steps=300) == 0
    finally:
        ended.set()
        killer.join(LIMIT_S)
    assert restarted.is_set()
    assert run_command(private_influx, settings.dir, "sync").exit_code == 0
    runs = sorted({path.parent.name for path in directory.process_directories(settings.dir)})
    assert len(runs) >= 4
    for run in runs:
        done = run_command(private_influx, settings.dir, "verify", run)
        assert (done.exit_code, "every point is accounted for" in done.output) == (0, True), done.output
    tally_of_everything(settings, private_influx)


def tally_of_everything(settings: Settings, influx: Influx) -> None:
    """The oracle agrees with the command, over all runs; what was accepted is what the journals hold."""
    tally = check_conservation([], settings, influx, unreported=10**9)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)
