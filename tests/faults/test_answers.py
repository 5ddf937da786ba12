"""The server, or something before it, answers no: what happens to the points, answer by answer (H1 to H12).

A journal that was made offline is shipped through a FaultProxy, on a virtual clock, into a real InfluxDB.
"""

from __future__ import annotations

import email.utils
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import metriclog
from metriclog.errors import TransientError
from metriclog.settings import Settings
from tests.faults.loads import EXPERIMENT, log_step
from tests.faults.oracle import check_conservation
from tests.faults.proxy import Exchange, Fault, FaultProxy, says
from tests.faults.shipping import (
    check_all_delivered,
    log_offline,
    settings_of,
    ship,
    try_to_ship,
)
from tests.servers.api import Influx

LIMIT_S = 30.0


@pytest.fixture
def settings(influx: Influx, proxy: FaultProxy, tmp_path: Path) -> Settings:
    """Ships 5,000 points a post through the proxy."""
    return settings_of(influx, tmp_path / "journal", proxy.url, batch_max_points=5000, read_timeout_s=LIMIT_S)


# -- a server that asks for a pause -----------------------------------------------------------------------------

# Retry-After; the shortest and the longest pause that may follow.
PAUSES: dict[str, tuple[Callable[[], str], float, float]] = {
    "seconds: obeyed": (lambda: "7", 7.0, 7.0),
    "an-hour: clipped to five minutes": (lambda: "3600", 300.0, 300.0),
    "huge: clipped to five minutes": (lambda: "9" * 40, 300.0, 300.0),
    "a-date: waited for": (lambda: email.utils.formatdate(time.time() + 100, usegmt=True), 98.0, 101.0),
    "a-date-that-has-passed: the usual pause": (lambda: "Thu, 01 Jan 1970 00:00:00 GMT", 0.05, 1.0),
    "negative: the usual pause": (lambda: "-5", 0.05, 1.0),
    "zero: the usual pause": (lambda: "0", 0.05, 1.0),
    "garbage: the usual pause": (lambda: "soon, perhaps", 0.05, 1.0),
    "none: the usual pause": (lambda: "", 0.05, 1.0),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("wish", "least_s", "most_s"), PAUSES.values(), ids=[*PAUSES])
def test_a_wish_for_a_pause_is_obeyed_within_bounds_and_everything_is_delivered_after_it(
    influx: Influx,
    proxy: FaultProxy,
    settings: Settings,
    status: int,
    wish: Callable[[], str],
    least_s: float,
    most_s: float,
) -> None:
    accepted = log_offline(settings, range(50))
    proxy.play(says(status, retry_after=wish()))
    control = ship(settings)
    assert len(control.slept) == 1
    assert least_s <= control.slept[0] <= most_s
    check_all_delivered(accepted, settings, influx)


def test_a_server_that_always_asks_for_no_pause_is_asked_ever_more_rarely_all_the_same(
    proxy: FaultProxy, settings: Settings
) -> None:
    log_offline(settings, range(50))
    proxy.always = says(503, retry_after="0")
    _, control = try_to_ship(settings, patience_s=3600.0)
    assert control.retried < 3600 / 20


def test_a_wish_for_minutes_holds_up_neither_the_end_of_a_run_nor_somebody_who_waits(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    proxy.always = says(503, retry_after="300")
    first = metriclog.init(EXPERIMENT, run_id="a", settings=settings)
    second = metriclog.init(EXPERIMENT, run_id="b", settings=settings)
    accepted = [log_step(run, step) for step in range(100) for run in (first, second)]
    assert not second.flush(0.3)
    begin_s = time.monotonic()
    first.finish(timeout_s=0.2)
    assert time.monotonic() - begin_s < 1.2
    assert first.stats()["pending"] > 0
    proxy.always = None
    assert second.flush(LIMIT_S), "told to wait for five minutes, but somebody waits"
    second.finish(timeout_s=LIMIT_S)
    ship(settings)
    check_all_delivered(accepted, settings, influx)


# -- answers that mean something else than they say -------------------------------------------------------------

PASSING = {
    "influxdb-3-wal-shutdown: retried, all delivered": says(
        400, b'{"error":"wal is shutdown and not accepting writes"}'
    ),
    "influxdb-3-wal-full: retried, all delivered": says(400, b'{"error":"wal buffer full with 100000 ops"}'),
    "influxdb-3-request-limit: retried, all delivered": says(400, b'{"error":"request limit exceeded"}'),
    "opengemini-readonly: retried, all delivered": says(400, b'{"error":"readonly now and writing is not allowed"}'),
    "cut-off-by-the-server-499: retried, all delivered": says(499),
    "bad-gateway: retried, all delivered": says(502, b"<html>502 Bad Gateway</html>"),
    "no-text: retried, all delivered": says(503, bytes(range(256))),
    "nothing-but-nul: retried, all delivered": says(500, bytes(5000)),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=[*PASSING])
def test_a_passing_trouble_is_not_taken_for_a_final_no(
    influx: Influx, proxy: FaultProxy, settings: Settings, fault: Fault
) -> None:
    accepted = log_offline(settings, range(50))
    proxy.play(*[fault] * 4)
    control = ship(settings)
    assert control.retried == 4
    check_all_delivered(accepted, settings, influx)


def endless(exchange: Exchange) -> None:
    """500, and an error of 50 MB."""
    exchange.read()
    exchange.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 50000000\r\nContent-Type: text/html\r\n\r\n")
    for _ in range(50):
        exchange.send(b"\x00\x1b[31m<b>oops</b> " * 58_823 + b"x" * 9)
    exchange.hang_up()


def lies_about_its_length(exchange: Exchange) -> None:
    """500, and less than it promised."""
    exchange.read()
    exchange.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 50000000\r\n\r\noops")
    exchange.hang_up()


def peak_bytes() -> int:
    """The most memory that this process has ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.mark.parametrize("fault", [endless, lies_about_its_length])
def test_an_error_of_any_length_takes_little_memory_and_one_line_of_log_and_everything_is_delivered(
    influx: Influx, proxy: FaultProxy, settings: Settings, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = log_offline(settings, range(50))
    proxy.play(fault)
    ship(settings)
    check_all_delivered(accepted, settings, influx)
    before = peak_bytes()
    more = log_offline(settings, range(50), "more")
    proxy.play(*[fault] * 3)
    ship(settings)
    check_all_delivered([*accepted, *more], settings, influx)
    assert peak_bytes() - before < 8 << 20
    for record in caplog.records:
        assert len(record.getMessage()) < 1000
        assert record.getMessage().isprintable()


def test_a_yes_without_any_header_of_influxdb_is_a_yes(influx: Influx, proxy: FaultProxy, settings: Settings) -> None:
    accepted = log_offline(settings, range(50))
    proxy.always = lambda exchange: exchange.say(204) if exchange.forward().status == 204 else exchange.hang_up()
    assert ship(settings).retried == 0
    check_all_delivered(accepted, settings, influx)


def test_nothing_else_than_204_is_a_yes(influx: Influx, proxy: FaultProxy, settings: Settings) -> None:
    accepted = log_offline(settings, range(50))
    for status in (200, 201, 202, 206):
        proxy.always = says(status, b"{}", content_type="application/json")
        error, _ = try_to_ship(settings, patience_s=10.0)
        assert f"answered {status} (application/json), not InfluxDB's 204" in str(error)
    assert not isinstance(error, TransientError)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.pending) == (0, tally.journal)
