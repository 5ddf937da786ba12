"""The way to the server is bad: what happens to the points, connection fault by connection fault (N1 to N7).

Most of these ship a journal that was made offline through a FaultProxy, on a virtual clock, into a real InfluxDB.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import metriclog
from metriclog.errors import RejectedError, ServerError, TransientError
from tests.conftest import PrivateInflux
from tests.faults import proxy as faults
from tests.faults.loads import EXPERIMENT, log_step
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.proxy import Exchange, Fault, FaultProxy, says
from tests.faults.shipping import check_all_delivered, log_offline, settings_of, ship, try_to_ship
from tests.servers.api import Influx
from tests.servers.scripted import serving
from tests.test_sender import VirtualControl

LIMIT_S = 30.0
DAY_S = 86_400.0


# The fault of a write; the error that tells of it; what the server has while the fault lasts: nothing or the batch.
CONNECTION_FAULTS: dict[str, tuple[Fault, type[ServerError], str]] = {
    "reset-before-the-body: nothing stored, sent again": (faults.reset_at_once, TransientError, "nothing"),
    "reset-in-the-body: nothing stored, sent again": (faults.reset_mid_body, TransientError, "nothing"),
    "request-cut-short: nothing of it stored, sent again": (faults.cut_request, TransientError, "nothing"),
    "black-hole: given up at the read timeout, sent again": (faults.black_hole, TransientError, "nothing"),
    "stored-but-silent: sent twice, stored once": (faults.silent_ack, TransientError, "batch"),
    "ack-lost: sent twice, stored once": (faults.lose_ack, TransientError, "batch"),
    "answer-cut-short: sent twice, stored once": (faults.truncate_answer, TransientError, "batch"),
    "answer-drips-and-ends: sent twice, stored once": (faults.drip_and_hang_up, TransientError, "batch"),
    "captive-portal: its 200 is no ack, all kept": (faults.portal, RejectedError, "nothing"),
    "redirect: not followed, all kept": (says(302, location="http://127.0.0.1:1/"), RejectedError, "nothing"),
}


@pytest.fixture(params=CONNECTION_FAULTS.values(), ids=[*CONNECTION_FAULTS])
def case(request: pytest.FixtureRequest) -> tuple[Fault, type[ServerError], str]:
    found: tuple[Fault, type[ServerError], str] = request.param
    return found


def test_while_it_lasts_everything_stays_pending_and_once_it_ends_everything_is_delivered(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, case: tuple[Fault, type[ServerError], str]
) -> None:
    fault, kind, stored = case
    settings = settings_of(influx, tmp_path / "journal", proxy.url)
    accepted = log_offline(settings)
    proxy.always = fault
    error, _ = try_to_ship(settings, patience_s=30.0)
    assert type(error) is kind
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined) == (tally.journal, 0), "without a yes there is no ack"
    assert (tally.server > 0) == (stored == "batch")
    proxy.always = None
    ship(settings)
    check_all_delivered(accepted, settings, influx)


def test_when_it_hits_every_other_write_everything_is_delivered_and_what_was_sent_twice_is_there_once(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, case: tuple[Fault, type[ServerError], str]
) -> None:
    fault, _, stored = case
    settings = settings_of(influx, tmp_path / "journal", proxy.url)
    accepted = log_offline(settings)
    proxy.play(*[fault, faults.passes] * 20)
    control = ship(settings)
    check_all_delivered(accepted, settings, influx)
    assert control.retried >= 3
    sent = sum(post.lines for post in proxy.posts if post.fault in ("passes", fault.__name__))
    delivered = check_conservation(accepted, settings, influx).server
    assert sent > delivered if stored == "batch" else sent >= delivered


def test_an_answer_that_drips_is_waited_for_and_nothing_is_sent_twice(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url, read_timeout_s=5.0)
    accepted = log_offline(settings)
    proxy.always = faults.drip_answer
    control = ship(settings)
    check_all_delivered(accepted, settings, influx)
    assert control.retried == 0


def test_a_server_that_refuses_for_a_day_is_asked_ever_more_rarely_and_complained_about_less_than_once_a_minute(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url)
    accepted = log_offline(settings)
    descriptors, threads = len(os.listdir("/dev/fd")), threading.active_count()
    with proxy.refusing():
        error, control = try_to_ship(settings, patience_s=DAY_S)
    assert isinstance(error, TransientError)
    assert max(control.slept) <= 60.0
    assert control.retried < DAY_S / 20.0, "on average half a minute between two attempts"
    assert sum(control.slept[:4]) < 20.0, "a short trouble is over soon"
    assert len(caplog.records) <= DAY_S / 60.0
    assert len(os.listdir("/dev/fd")) <= descriptors + 1
    assert threading.active_count() <= threads + 1
    check_conservation(accepted, settings, None)
    ship(settings)
    check_all_delivered(accepted, settings, influx)


def test_a_redirect_gets_neither_the_points_nor_the_token(influx: Influx, proxy: FaultProxy, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url)
    accepted = log_offline(settings)
    with serving(lambda handler: handler.send_error(500)) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            proxy.always = says(status, location=f"{elsewhere.url}/api/v2/write")
            error, _ = try_to_ship(settings, patience_s=10.0)
            assert isinstance(error, RejectedError)
    assert elsewhere.requests == []
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.pending) == (0, tally.journal)


def test_points_are_logged_without_delay_into_a_black_hole_and_delivered_when_it_closes(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url, connections=2)
    proxy.always = faults.black_hole
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted, slowest_s = [], 0.0
        for step in range(3000):
            begin_s = time.perf_counter()
            accepted.append(log_step(run, step))
            slowest_s = max(slowest_s, time.perf_counter() - begin_s)
        assert slowest_s < 0.25, "log() waited for the network"
        assert not run.flush(0.5)
        assert run.stats()["delivered"] == 0
        proxy.always = None
        assert run.flush(LIMIT_S)
    check_all_delivered(accepted, settings, influx)


def test_a_connection_that_breaks_beside_others_under_way_loses_nothing(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url, connections=4, batch_max_points=100)
    accepted = log_offline(settings, range(2000))
    hits = [faults.lose_ack, faults.passes, faults.reset_mid_body, faults.truncate_answer, faults.passes]
    proxy.play(*hits * 20)
    ship(settings)
    check_all_delivered(accepted, settings, influx)


# -- the server itself ------------------------------------------------------------------------------------------


class RestartingControl(VirtualControl):
    """Starts the server again at the first pause."""

    def __init__(self, server: PrivateInflux) -> None:
        super().__init__()
        self._server = server

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._server.start()


def test_a_server_killed_while_it_writes_a_batch_gets_the_batch_again_and_has_kept_all_it_said_yes_to(
    private_influx: PrivateInflux, tmp_path: Path
) -> None:
    def kill_in_the_middle(exchange: Exchange) -> None:
        asked = threading.Thread(target=forward_to_the_dying, args=(exchange,))
        asked.start()
        private_influx.kill()
        asked.join(LIMIT_S)
        exchange.hang_up()

    def forward_to_the_dying(exchange: Exchange) -> None:
        try:
            exchange.forward()
        except Exception:
            assert not private_influx.healthy()

    with FaultProxy(private_influx.url) as proxy:
        settings = settings_of(private_influx, tmp_path / "journal", proxy.url, read_timeout_s=LIMIT_S)
        accepted = log_offline(settings, range(3000))
        proxy.play(*[faults.passes, kill_in_the_middle, faults.passes] * 2)
        control = ship(settings, RestartingControl(private_influx))
    assert control.retried >= 2
    check_all_delivered(accepted, settings, private_influx)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_a_server_that_is_stopped_in_its_tracks_gets_the_batch_again_without_a_double_effect(
    private_influx: PrivateInflux, tmp_path: Path, seconds: float
) -> None:
    settings = settings_of(private_influx, tmp_path / "journal", read_timeout_s=0.5)
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = [log_step(run, step) for step in range(1000)]
        assert run.flush(LIMIT_S)
        private_influx.pause()
        try:
            accepted += [log_step(run, step) for step in range(1000, 3000)]
            assert not run.flush(seconds)
            assert run.stats()["retried"] > 0
        finally:
            private_influx.resume()
        assert run.flush(LIMIT_S)
    check_all_delivered(accepted, settings, private_influx)


# What is done to the server in the middle of a run; how it is undone; what the run says of it meanwhile.
Trouble = Callable[[Influx, str], None]
REFUSALS: dict[str, tuple[Trouble, Trouble, str]] = {
    "token-revoked-and-given-back: all kept, then delivered": (
        lambda influx, token: influx.revoke(token),
        lambda influx, token: influx.give_back(token),
        "token is inactive",
    ),
    "bucket-deleted-and-made-again: what came later is delivered": (
        lambda influx, _: influx.delete_bucket(),
        lambda influx, _: influx.create_bucket(),
        "create the bucket",
    ),
}


@pytest.mark.parametrize(("harm", "heal", "words"), REFUSALS.values(), ids=[*REFUSALS])
def test_a_server_that_says_no_in_the_middle_of_a_run(
    influx: Influx, tmp_path: Path, harm: Trouble, heal: Trouble, words: str
) -> None:
    token = influx.create_token() if "token" in words else influx.token  # one of its own ends with its bucket
    settings = settings_of(influx, tmp_path / "journal", token=token, read_timeout_s=LIMIT_S)
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        accepted = [log_step(run, step) for step in range(1000)]
        assert run.flush(LIMIT_S)
        gone = check_conservation(accepted, settings, influx).server if "bucket" in words else 0
        harm(influx, token)
        accepted += [log_step(run, step) for step in range(1000, 2000)]
        assert not run.flush(0.7)
        assert words in str(run.stats()["last_error"])
        heal(influx, token)
        assert run.flush(LIMIT_S)
    tally = check_conservation(accepted, settings, influx, wiped=gone)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal - gone)


def test_month_old_points_for_a_bucket_that_keeps_an_hour_cost_one_post_a_batch_and_go_into_quarantine(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    influx.delete_bucket()
    influx.create_bucket(retention_s=3600)
    settings = settings_of(influx, tmp_path / "journal", proxy.url, batch_max_points=1000, read_timeout_s=LIMIT_S)
    accepted = []
    with metriclog.init(EXPERIMENT, run_id="r", mode="offline", settings=settings) as run:
        old_s = time.time() - 30 * DAY_S
        for step in range(5000):
            run.log({"loss": 0.5}, step, timestamp=old_s + step)
            moment_ns = round((old_s + step) * 1e6) * 1000
            accepted.append(Accepted("r", step, {"loss": 0.5}, moment_ns, moment_ns))
        accepted += [log_step(run, step) for step in range(5000, 5100)]
    ship(settings)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 5000, tally.journal - 5000)
    assert len(proxy.posts) <= 2 * (tally.journal // 1000 + 1)
