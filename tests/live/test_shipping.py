"""What was logged is on a real InfluxDB, point by point; and what happens when it says no."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import math
import re
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import metriclog
from metriclog import cli
from metriclog.settings import Settings
from tests.faults.loads import EXPERIMENT, address, log_step, metrics_of, python
from tests.faults.oracle import Accepted, check_conservation
from tests.servers.api import Influx

LIMIT_S = 20.0
SECRET = "wrong-token-of-this-test"


def settings_of(influx: Influx, tmp_path: Path, **more: object) -> Settings:
    """Ships to the test's bucket, with small batches and pauses."""
    quick = {"flush_interval_s": 0.05, "batch_max_points": 500}
    return Settings(**{**address(influx, tmp_path / "journal"), **quick, **more})  # type: ignore[arg-type]


def start(settings: Settings, **options: object) -> metriclog.Run:
    return metriclog.init(EXPERIMENT, run_id="r", settings=settings, **options)  # type: ignore[arg-type]


def test_what_was_logged_is_on_the_server_exactly(influx: Influx, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path)
    with start(settings, params={"lr": 0.1, "note": 'a "quoted", \\ text'}, tags={"team": "a b,c=d"}) as run:
        accepted = [log_step(run, step) for step in range(3000)]
        run.event("note", "half-time", text="line 1\nline 2")
        last = run.log({"last": 1.0}, 3000)
        assert run.flush(LIMIT_S)
        assert last.delivered
        accepted.append(Accepted("r", 3000, {"last": 1.0}, 0, time.time_ns()))
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined) == (0, 0)
    assert tally.server == tally.journal == run.stats()["delivered"] == run.stats()["accepted"]
    assert run.stats()["dropped"] == 0


def test_eight_threads_and_three_ranks_arrive_whole(influx: Influx, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path)
    ranks = [start(settings, rank=rank) for rank in range(3)]
    accepted: list[Accepted] = []

    def work(first: int) -> None:
        for step in range(first, first + 200):
            accepted.append(log_step(ranks[first // 1000 % 3], step))

    threads = [threading.Thread(target=work, args=(number * 1000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in ranks:
        run.finish(timeout_s=LIMIT_S)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


def test_explicit_time_stamps_arrive_to_the_nanosecond_and_equal_ones_apart(influx: Influx, tmp_path: Path) -> None:
    moment = dt.datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=dt.UTC)
    with start(settings_of(influx, tmp_path)) as run:
        for value in range(1500):
            run.log({"loss": float(value)}, timestamp=moment)
        assert run.flush(LIMIT_S)
    rows = influx.rows('SELECT "value" FROM "metrics" WHERE "metric" = \'loss\'')
    begin_ns = 1_772_366_400_123_456_000
    assert [(row["time"], row["value"]) for row in rows] == [(begin_ns + index, index) for index in range(1500)]


def test_a_receipt_can_be_awaited(influx: Influx, tmp_path: Path) -> None:
    async def train(run: metriclog.Run) -> list[bool]:
        receipts = [run.log({"loss": 1.0}) for _ in range(10)]
        await asyncio.wait_for(asyncio.gather(*map(delivered, receipts)), LIMIT_S)
        return [receipt.delivered for receipt in receipts]

    async def delivered(receipt: metriclog.Receipt) -> None:
        await receipt

    with start(settings_of(influx, tmp_path)) as run:
        assert asyncio.run(train(run)) == [True] * 10


def test_a_script_of_a_few_milliseconds_that_finishes_nothing_is_delivered_before_it_ends(
    influx: Influx, tmp_path: Path
) -> None:
    script = """
    import metriclog
    from tests.faults.loads import log_step
    for number in range(3):
        run = metriclog.init("faults", run_id=f"r{number}")
        for step in range(100):
            log_step(run, step)
    """
    done = python(script, **address(influx, tmp_path / "journal"))
    assert (done.returncode, done.stderr) == (0, "")
    accepted = [
        Accepted(f"r{number}", step, metrics_of(step), 0, time.time_ns()) for number in range(3) for step in range(100)
    ]
    tally = check_conservation(accepted, settings_of(influx, tmp_path), influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_children_of_multiprocessing_logged_is_delivered_when_they_end(
    influx: Influx, tmp_path: Path, method: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import multiprocessing, metriclog
from tests.faults.loads import log_step

def work(number):
    run = metriclog.active_run() if {method == "fork"} else metriclog.init("faults", run_id="r", rank=number + 1)
    for step in range(number * 100, number * 100 + 50):
        log_step(run, step)

if __name__ == "__main__":
    run = metriclog.init("faults", run_id="r", rank=0)
    context = multiprocessing.get_context("{method}")
    children = [context.Process(target=work, args=(number,)) for number in range(2)]
    for child in children: child.start()
    for child in children: child.join()
    assert [child.exitcode for child in children] == [0, 0]
"""
    )
    source = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    done = python(source, **address(influx, tmp_path / "journal"))
    assert (done.returncode, done.stderr) == (0, "")
    steps = [*range(50), *range(100, 150)]
    accepted = [Accepted("r", step, metrics_of(step), 0, time.time_ns()) for step in steps]
    tally = check_conservation(accepted, settings_of(influx, tmp_path), influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


def test_with_a_wrong_token_nothing_is_lost_and_all_is_delivered_once_the_token_file_is_right(
    influx: Influx, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    settings = settings_of(influx, tmp_path, token_file=file)
    with start(settings) as run:
        accepted = [log_step(run, step) for step in range(100)]
        assert not run.flush(0.5)
        assert run.stats()["delivered"] == 0
        assert "401" in str(run.stats()["last_error"])
        check_conservation(accepted, settings, influx)
        file.write_text(influx.token + "\n")
        assert run.flush(LIMIT_S)
    check_conservation(accepted, settings, influx)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([words for words in said if "Check METRICLOG_TOKEN" in words]) == 1
    assert SECRET not in caplog.text
    assert influx.token not in caplog.text


def test_a_token_that_may_only_read_keeps_everything_and_says_so(
    influx: Influx, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(influx, tmp_path, token=influx.create_token(write=False))
    run = start(settings)
    accepted = [log_step(run, step) for step in range(10)]
    assert not run.flush(0.5)
    run.finish(timeout_s=0.0)
    assert check_conservation(accepted, settings, influx).server == 0
    assert re.search(r"points wait in the journal.*40[134]", caplog.text)


def test_a_bucket_that_is_missing_is_waited_for(
    influx: Influx, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    influx.delete_bucket()
    settings = settings_of(influx, tmp_path)
    with start(settings) as run:
        accepted = [log_step(run, step) for step in range(100)]
        assert not run.flush(0.5)
        assert "Check METRICLOG_BUCKET and METRICLOG_ORG, or create the bucket" in caplog.text
        influx.create_bucket()
        assert run.flush(LIMIT_S)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.server) == (0, tally.journal)


@pytest.mark.parametrize(("poison", "finite"), [("value=1i", True), ("nonfinite=0.5", False)])
def test_a_point_that_conflicts_in_type_is_kept_with_the_servers_reason_and_the_rest_delivered(
    influx: Influx, tmp_path: Path, caplog: pytest.LogCaptureFixture, poison: str, finite: bool
) -> None:
    influx.write(f"metrics,experiment=x,run=foreign,metric=m {poison} {time.time_ns()}")
    settings = settings_of(influx, tmp_path)
    run = start(settings)
    accepted = [log_step(run, step) for step in range(40)]
    receipts = {value: run.log({"last": value}, 40) for value in (0.5, math.inf)}
    accepted += [Accepted("r", 40, {"last": value}, 0, time.time_ns()) for value in receipts]
    run.finish(timeout_s=LIMIT_S)

    wanted = [value for call in accepted for value in call.metrics.values() if math.isfinite(value) is finite]
    tally = check_conservation(accepted, settings, influx, foreign_run="foreign")
    assert (tally.pending, tally.quarantined) == (0, len(wanted))
    assert tally.server + tally.quarantined == tally.journal
    assert run.stats()["quarantined"] == len(wanted)
    for value, receipt in receipts.items():
        refused = math.isfinite(value) is finite
        assert receipt.delivered is not refused
        assert isinstance(receipt.exception(), metriclog.QuarantinedError) is refused
        assert ("type conflict" in str(receipt.exception())) is refused
    (file,) = (tmp_path / "journal").rglob("quarantine-*.jsonl")
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert all("field type conflict" in entry["reason"] for entry in kept)
    assert f"kept with its reason in {file}" in caplog.text


def test_an_offline_run_is_shipped_by_sync_and_shown_by_status_and_runs(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(influx, tmp_path)
    with start(settings, mode="offline", params={"lr": 0.1}) as run:
        accepted = [log_step(run, step) for step in range(100)]
    for name, value in {**address(influx, settings.dir), "COLUMNS": "200"}.items():
        monkeypatch.setenv(name if name.isupper() else f"METRICLOG_{name.upper()}", value)

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    count = run.stats()["accepted"]
    assert count > sum(len(call.metrics) for call in accepted)
    assert re.search(rf"r +\S+ +no +{count} +0 +{count} +0 +0 +since .*: not shipped yet", command("status"))
    assert f"delivered {count} points" in command("sync")
    assert "delivered 0 points" in command("sync")
    assert re.search(rf"r +\S+ +no +{count} +{count} +0 +0 +0 ", command("status"))
    assert re.search(r"faults +r +finished .* 99 +lr=0.1", command("runs", "--server"))
    assert check_conservation(accepted, settings, influx).server == count
