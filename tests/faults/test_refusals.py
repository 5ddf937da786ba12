"""Points that the server can never take, or says so: each is found, kept with its reason, and holds up nothing else.

A journal that was made offline is shipped through a FaultProxy, on a virtual clock, into a real InfluxDB.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from pathlib import Path

import pytest

import metriclog
from metriclog.errors import BadRequestError, ServerError
from metriclog.settings import Settings
from tests.faults import proxy as faults
from tests.faults.loads import EXPERIMENT, log_step
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.proxy import Exchange, FaultProxy, fails_on, says
from tests.faults.shipping import (
    check_all_delivered,
    kept_reasons,
    log_offline,
    log_raw,
    settings_of,
    ship,
    try_to_ship,
)
from tests.servers.api import Influx

LIMIT_S = 30.0
DAY_NS = 86_400 * 10**9
SERIES = f"events,experiment={EXPERIMENT},kind=note,run=raw"


@pytest.fixture
def settings(influx: Influx, proxy: FaultProxy, tmp_path: Path) -> Settings:
    """Ships 5,000 points a post through the proxy."""
    return settings_of(influx, tmp_path / "journal", proxy.url, batch_max_points=5000, read_timeout_s=LIMIT_S)


# -- points that the server cannot take, told by the real server ------------------------------------------------


def test_of_5000_lines_the_unparsable_one_goes_into_quarantine_and_the_others_cost_one_more_post(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    bad = f"{SERIES},time=now step=1i,elapsed=1i {time.time_ns()}"
    accepted = log_raw(settings, 4999, {2500: bad})
    ship(settings)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.journal, tally.server, tally.quarantined, tally.pending) == (5000, 4999, 1, 0)
    first, second, end = (post.lines for post in proxy.posts)
    assert (first - second, first > 5000, end < 10) == (1, True, True), "with roll-ups, and those of the end"
    assert kept_reasons(settings) == {bad: 'cannot use reserved tag key "time"'}


def day_at(days: int) -> dt.datetime:
    """Noon (UTC) of a day: InfluxDB's shards begin at midnight."""
    today = dt.datetime.now(dt.UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return today + dt.timedelta(days=days)


def test_conflicts_of_type_in_three_shards_and_points_too_old_are_each_kept_with_their_own_reason_the_rest_is_proven(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    influx.delete_bucket()
    influx.create_bucket(retention_s=30 * 86_400)  # one shard a day
    spoilt, too_old = (-2, -4, -6), (-40, -50)
    for days in spoilt:
        influx.write(f"metrics,experiment=x,run=foreign,metric=m value=1i {int(day_at(days).timestamp())}000000000")
    accepted = []
    with metriclog.init(EXPERIMENT, run_id="r", mode="offline", settings=settings) as run:
        for index, days in enumerate([*range(-1, -9, -1), *too_old] * 20):
            moment = day_at(days) + dt.timedelta(seconds=index)
            moment_ns = int(moment.timestamp()) * 10**9
            run.log({"loss": float(index)}, index, timestamp=moment)
            accepted.append(Accepted("r", index, {"loss": float(index)}, moment_ns, moment_ns))
    ship(settings)
    tally = check_conservation(accepted, settings, influx, foreign_run="foreign")
    assert (tally.pending, tally.quarantined) == (0, 100)
    assert tally.server == tally.journal - 100
    reasons = {int(line.rsplit(" ", 1)[1]) // DAY_NS: why for line, why in kept_reasons(settings).items()}
    today = time.time_ns() // DAY_NS
    assert sorted(day - today for day in reasons) == sorted([*spoilt, *too_old])
    for day, reason in reasons.items():
        assert ("field type conflict" if day - today in spoilt else "retention policy") in reason


def test_a_conflict_of_type_in_thousands_of_points_costs_a_few_posts_and_spares_the_others(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    influx.write(f"metrics,experiment=x,run=foreign,metric=m value=1i {time.time_ns()}")
    accepted = log_offline(settings, range(5000))
    ship(settings)
    tally = check_conservation(accepted, settings, influx, foreign_run="foreign")
    assert tally.pending == 0
    assert 7000 < tally.quarantined < tally.journal
    assert tally.server == tally.journal - tally.quarantined
    assert all(
        'input field \\"value\\"' in why or 'input field "value"' in why for why in kept_reasons(settings).values()
    )
    assert len(proxy.posts) < 30


def test_a_point_that_the_server_stores_without_a_field_named_time_is_acknowledged_with_a_warning(
    influx: Influx, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = log_raw(settings, 200, {77: f"{SERIES} step=1i,elapsed=1i,time=3i {time.time_ns()}"})
    ship(settings)
    tally = check_conservation(accepted, settings, influx, left_out=frozenset({"time"}))
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, 201)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "left a field out of a point" in said
    assert "has been stripped from point" in said


def test_a_line_on_which_the_real_server_always_fails_with_500_is_found_and_the_others_are_delivered(
    influx: Influx, settings: Settings
) -> None:
    """A second type of the field `time` within one series breaks InfluxDB 2.9.1's engine: 500, each time."""
    now_ns = time.time_ns()
    stripped = f"{SERIES} step=1i,elapsed=1i,time=3i {now_ns}"
    bad = f'{SERIES} step=1i,elapsed=1i,time="x" {now_ns + 1}'
    accepted = log_raw(settings, 300, {50: stripped}, "raw") + log_raw(settings, 300, {150: bad}, "raw2")
    ship(settings)
    tally = check_conservation(accepted, settings, influx, left_out=frozenset({"time"}))
    assert (tally.pending, tally.quarantined) == (0, 1)
    assert tally.server == tally.journal, "the server stored the rest of that point before it failed"
    assert "engine: field type conflict" in kept_reasons(settings)[bad]


def test_thousands_of_lines_called_unparsable_in_an_answer_that_is_cut_are_found_all_the_same(
    influx: Influx, settings: Settings, proxy: FaultProxy
) -> None:
    now_ns = time.time_ns()
    bad = {step: f"{SERIES},time=now step={step}i,elapsed=1i {now_ns + step}" for step in range(1200)}
    accepted = log_raw(settings, 1200, bad)
    ship(settings)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.quarantined, tally.pending) == (1200, 1200, 0)
    assert set(kept_reasons(settings).values()) == {'cannot use reserved tag key "time"'}
    assert len(proxy.posts) < 20


# -- a no that is not to be believed ------------------------------------------------------------------------------


def test_a_400_for_everything_that_names_no_line_gives_up_no_line(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    accepted = log_offline(settings, range(300))
    proxy.always = says(400, b"<html>400 Bad Request</html>")
    error, _ = try_to_ship(settings)
    assert isinstance(error, BadRequestError)
    assert len(proxy.posts) < 100
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.quarantined, tally.pending) == (0, 0, tally.journal)


def forgets_that_it_is_gzip(exchange: Exchange) -> None:
    """A proxy that loses a header, so that the real server calls compressed bytes an unparsable line."""
    del exchange.headers["content-encoding"]
    faults.passes(exchange)


def test_compressed_bodies_that_arrive_garbled_give_up_no_line(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    settings = settings.model_copy(update={"gzip": "always"})
    accepted = log_offline(settings, range(300))
    proxy.always = forgets_that_it_is_gzip
    error, _ = try_to_ship(settings)
    assert "400" in str(error)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.quarantined, tally.pending) == (0, 0, tally.journal)
    proxy.always = None
    ship(settings)
    check_all_delivered(accepted, settings, influx)


def test_a_413_for_every_single_point_gives_up_none(influx: Influx, proxy: FaultProxy, settings: Settings) -> None:
    accepted = log_offline(settings, range(300))
    proxy.always = says(413)
    error, _ = try_to_ship(settings)
    assert "413" in str(error)
    assert len(proxy.posts) < 100
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.quarantined, tally.pending) == (0, 0, tally.journal)


def test_a_400_that_names_no_line_is_narrowed_down_to_the_line_it_means(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    accepted = log_offline(settings, range(300))
    proxy.always = fails_on(b"step=200i,", says(400, b'{"error":"line protocol parse failed: strange"}'))
    ship(settings)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined) == (0, len(accepted[200].metrics))
    assert tally.server == tally.journal - tally.quarantined
    assert all("strange" in reason for reason in kept_reasons(settings).values())


# -- bodies that something before the server cannot take --------------------------------------------------------


def too_large(exchange: Exchange) -> None:
    """A proxy that takes bodies of up to 1 MiB."""
    if exchange.length > 1 << 20:
        exchange.say(413, b"<html>413 Request Entity Too Large</html>")
    else:
        faults.passes(exchange)


def test_where_bodies_end_at_1_mib_batches_are_halved_until_they_fit_and_one_line_beyond_it_goes_into_quarantine(
    influx: Influx, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url, batch_max_points=20_000, read_timeout_s=LIMIT_S)
    with metriclog.init(EXPERIMENT, run_id="r", mode="offline", settings=settings) as run:
        accepted = [log_step(run, step) for step in range(16_000)]
        run.event("note", "too long for a proxy", text="x" * (1_200_000))
        run.event("note", "long, but not too long", text="x" * 50_000)
    proxy.always = too_large
    ship(settings)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 1, tally.journal - 1)
    (reason,) = kept_reasons(settings).values()
    assert "413: <html>413 Request Entity Too Large</html>" in reason


PANIC = says(500, b'{"code":"internal error","message":"panic: runtime error"}')


@pytest.mark.parametrize("connections", [1, 3])
def test_one_line_that_always_gets_500_from_a_server_that_is_well_is_found_and_everything_else_delivered(
    influx: Influx, proxy: FaultProxy, settings: Settings, connections: int
) -> None:
    settings = settings.model_copy(update={"batch_max_points": 200, "connections": connections})
    accepted = log_offline(settings, range(500))
    proxy.always = fails_on(b"step=123i,", PANIC)
    ship(settings)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.server) == (0, tally.journal - tally.quarantined)
    assert tally.quarantined == len(accepted[123].metrics)
    assert all("step=123i," in line and "panic" in reason for line, reason in kept_reasons(settings).items())
    assert len(proxy.posts) < 5 * 2 * 8 * tally.quarantined + 20


def test_a_server_that_is_ill_and_says_it_is_well_gets_nothing_quarantined_when_it_recovers(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    accepted = log_offline(settings, range(2))
    proxy.play(*[PANIC] * 32)  # five tries at the whole, five at each smaller part, and some lines are suspects already
    ship(settings)
    assert len(proxy.posts) > 32
    check_all_delivered(accepted, settings, influx)


def test_a_server_that_fails_on_everything_and_says_it_is_well_gets_nothing_quarantined(
    influx: Influx, proxy: FaultProxy, settings: Settings
) -> None:
    accepted = log_offline(settings, range(100))
    proxy.always = PANIC
    error, _ = try_to_ship(settings)
    assert isinstance(error, ServerError)
    tally = check_conservation(accepted, settings, influx)
    assert (tally.server, tally.quarantined, tally.pending) == (0, 0, tally.journal)
    proxy.always = None
    ship(settings)
    check_all_delivered(accepted, settings, influx)
