"""Run: what it says of delivery (receipts, stats, the address in Grafana), and what it does where nothing is kept."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import metriclog
from metriclog import journal, testing
from metriclog.settings import Settings

# Nothing listens on the first port: every attempt is refused at once.
NOWHERE = Settings(url="http://127.0.0.1:1", token="t", flush_interval_s=0.05)  # type: ignore[arg-type]
LIMIT_S = 10.0


@pytest.fixture
def captured() -> Iterator[testing.Captured]:
    with testing.capture() as found:
        yield found


# -- offline and disabled ---------------------------------------------------------------------------------------


def test_a_receipt_of_an_offline_run_says_at_once_that_nothing_ships_it(captured: testing.Captured) -> None:
    with metriclog.init("exp") as run:
        receipt = run.log({"loss": 1.0})
        assert receipt.wait() is False
        assert not receipt.delivered
        assert isinstance(receipt.exception(), metriclog.NotDeliveredError)
        with pytest.raises(metriclog.NotDeliveredError, match="offline; ship it with: metriclog sync"):
            receipt.result()
        with pytest.raises(metriclog.NotDeliveredError):
            asyncio.run(awaited(receipt))
    assert captured.values("loss") == [1.0]


async def awaited(receipt: metriclog.Receipt) -> None:
    await receipt


def test_a_disabled_run_keeps_nothing_and_its_receipts_promise_nothing(tmp_path: Path) -> None:
    with metriclog.init("exp", mode="disabled", params={"lr": 0.1}) as run:
        receipts = [run.log({"loss": 1.0}), run.log_params({"lr": 0.2}), run.event("note", "x")]
        assert [receipt.wait() for receipt in receipts] == [False] * 3
        assert [receipt.exception() for receipt in receipts] == [None] * 3
        for receipt in receipts:
            receipt.result()
            asyncio.run(awaited(receipt))
        assert run.flush(0) is True
        assert [run.stats()[name] for name in ("accepted", "delivered", "pending", "quarantined", "dropped")] == [0] * 5
        assert run.url is None
    assert list(tmp_path.iterdir()) == []


def test_a_disabled_run_still_refuses_misuse() -> None:
    with metriclog.init("exp", mode="disabled") as run, pytest.raises(metriclog.MetricValueError):
        run.log({"loss": "high"})  # type: ignore[dict-item]
    with pytest.raises(metriclog.RunFinishedError):
        run.log({"loss": 1.0})


def test_mode_disabled_in_the_environment_needs_no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METRICLOG_MODE", "disabled")
    monkeypatch.setenv("METRICLOG_URL", "not even an address")
    with metriclog.init("exp") as run:
        run.log({"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


# -- online, but the server is away -----------------------------------------------------------------------------


def test_while_the_server_is_away_points_are_pending_and_the_counts_add_up(tmp_path: Path) -> None:
    run = metriclog.init("exp", settings=NOWHERE)
    receipt = run.log({"loss": 1.0, "accuracy": 0.5})
    assert receipt.wait(0.0) is False
    assert receipt.exception() is None  # on its way
    with pytest.raises(metriclog.NotDeliveredError, match=r"after 0\.0 s; the point is safe"):
        receipt.result(0.0)
    assert run.flush(0.0) is False
    stats = run.stats()
    assert stats["accepted"] == stats["pending"] == 4  # the two, and `runs` and `events` from the start
    assert (stats["delivered"], stats["quarantined"], stats["dropped"]) == (0, 0, 0)
    run.finish(timeout_s=0.0)
    assert run.stats()["accepted"] == run.stats()["pending"] > 4
    (folder,) = (tmp_path / ".metriclog" / run.run_id).glob("0*")
    assert run.stats()["pending"] == len(list(testing.read_points(folder)))


def test_once_the_run_has_ended_nobody_waits_for_what_it_left_behind(tmp_path: Path) -> None:
    run = metriclog.init("exp", settings=NOWHERE)
    receipt = run.log({"loss": 1.0})
    run.finish(timeout_s=0.0)
    assert receipt.wait() is False
    with pytest.raises(metriclog.NotDeliveredError, match="has ended; ship it with: metriclog sync"):
        receipt.result()
    with pytest.raises(metriclog.NotDeliveredError, match="has ended"):
        asyncio.run(awaited(receipt))
    begin_s = time.monotonic()
    assert run.flush(LIMIT_S) is False
    assert time.monotonic() - begin_s < LIMIT_S / 2


def test_finish_waits_no_longer_than_told_and_says_in_one_line_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = metriclog.init("exp", settings=NOWHERE)
    run.log({"loss": 1.0})
    begin_s = time.monotonic()
    run.finish(timeout_s=0.2)
    assert time.monotonic() - begin_s < 0.2 + 1.0
    left = [record.getMessage() for record in caplog.records if "Ship them with" in record.getMessage()]
    assert len(left) == 1
    count = run.stats()["pending"]
    assert left[0].startswith(f"metriclog: {count} points of run {run.run_id} wait in {tmp_path}")
    assert left[0].endswith(f"metriclog sync {tmp_path / '.metriclog'}")


def test_an_awaited_receipt_may_time_out_without_harm(tmp_path: Path) -> None:
    async def impatient(receipt: metriclog.Receipt) -> None:
        await asyncio.wait_for(awaited(receipt), 0.01)

    run = metriclog.init("exp", settings=NOWHERE)
    with pytest.raises(TimeoutError):
        asyncio.run(impatient(run.log({"loss": 1.0})))
    run.finish(timeout_s=0.0)


# -- the address ------------------------------------------------------------------------------------------------


def test_the_address_in_grafana_names_run_and_experiment_and_only_exists_online(captured: testing.Captured) -> None:
    run = metriclog.init("digits & co", run_id="mlp-1", settings=NOWHERE)
    begin = "http://127.0.0.1:3000/d/metriclog-run?var-experiment=digits%20%26%20co&var-run=mlp-1&from="
    assert run.url is not None
    assert run.url.startswith(begin)
    run.finish(timeout_s=0.0)
    with metriclog.init("exp") as offline:
        assert offline.url is None


# -- a disk without room ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While its only element is true, the disk has no room for another segment."""
    full = [False]
    usual = os.posix_fallocate

    def allocate(fd: int, offset: int, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    monkeypatch.setattr(journal, "RETRY_FULL_S", 0.0)
    return full


def test_a_full_disk_stops_no_training_and_every_point_is_counted(
    captured: testing.Captured, small_disk: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(segment_bytes=64 << 10)
    run = metriclog.init("exp", settings=settings)
    small_disk[0] = True
    receipts = [run.log({"loss": float(index), "accuracy": 0.5}) for index in range(2000)]
    kept = captured.values("loss")
    lost = [receipt for receipt in receipts if isinstance(receipt.exception(), metriclog.JournalFullError)]
    assert kept == [float(index) for index in range(len(kept))]
    assert len(kept) + len(lost) == 2000
    assert lost
    assert not lost[0].wait()
    with pytest.raises(metriclog.JournalFullError):
        lost[0].result()
    assert run.stats()["dropped"] == 2 * len(lost)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "points dropped so far. Free some space" in caplog.text

    small_disk[0] = False
    run.log({"loss": -1.0, "accuracy": 0.5})
    run.finish()
    assert captured.values("loss") == [*kept, -1.0]
    assert run.stats()["dropped"] == 2 * len(lost)


def test_a_disk_that_is_full_at_the_start_is_an_error_that_names_the_folder(
    captured: testing.Captured, small_disk: list[bool]
) -> None:
    small_disk[0] = True
    with pytest.raises(metriclog.JournalError, match=r"cannot make a journal segment in .*exp-.*No space left"):
        metriclog.init("exp")
    with pytest.raises(metriclog.NoActiveRunError):
        metriclog.active_run()
