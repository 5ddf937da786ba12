"""What Prometheus sees of a process: names, types and formats, the server it scrapes, and how the end waits for it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.parser import text_string_to_metric_families as older_families

from metriclog import exposition
from metriclog.errors import MetricNameError
from metriclog.exposition import Collector, Exposure, expose
from metriclog.live import Latest, Snapshot
from metriclog.points import check_name
from metriclog.samples import SHOWN
from metriclog.settings import Settings
from tests.snapshots import LIMIT_S, RUNNING, SPIKE, families, get, parse, render, showing, values

WHOSE = ["experiment", "run", "rank"]
FIRING = replace(RUNNING, firing=(SPIKE,))

# Promised to whoever writes queries: sample, type, labels, and its value for FIRING.
PROMISED = [
    ("metriclog_metric_value", "gauge", [*WHOSE, "metric"], 0.25),
    ("metriclog_metric_step", "gauge", [*WHOSE, "metric"], 9),
    ("metriclog_nonfinite_total", "counter", [*WHOSE, "metric"], 2),
    ("metriclog_metrics_hidden", "gauge", WHOSE, 0),
    ("metriclog_last_log_timestamp_seconds", "gauge", WHOSE, 1_700_000_029.5),
    ("metriclog_run_info", "info", [*WHOSE, "model", "dataset", "host", "attempt"], 1),
    ("metriclog_run_running", "gauge", WHOSE, 1),
    ("metriclog_run_status", "gauge", [*WHOSE, "status"], 1),
    ("metriclog_run_started_timestamp_seconds", "gauge", WHOSE, 1_700_000_000),
    ("metriclog_run_steps", "gauge", WHOSE, 9),
    ("metriclog_heartbeat_timestamp_seconds", "gauge", WHOSE, 1_700_000_030.5),
    ("metriclog_points_accepted_total", "counter", WHOSE, 17),
    ("metriclog_points_delivered_total", "counter", WHOSE, 10),
    ("metriclog_points_dropped_total", "counter", WHOSE, 1),
    ("metriclog_points_quarantined_total", "counter", WHOSE, 2),
    ("metriclog_points_pending", "gauge", WHOSE, 4),
    ("metriclog_posts_retried_total", "counter", WHOSE, 3),
    ("metriclog_delivery_lag_seconds", "gauge", WHOSE, 1.5),
    ("metriclog_alert_active", "gauge", [*WHOSE, "metric", "rule", "level"], 1),
]


def settings(**given: Any) -> Settings:
    """Settings that ask for a free port."""
    return Settings(**{"prometheus_port": 0, **given})


def page(*snapshots: Snapshot, most: int = 1000) -> str:
    """What a scrape would see of these."""
    return render(Collector(most, lambda: snapshots))


@pytest.fixture
def exposed() -> Iterator[Exposure]:
    """One run, running, at a free port."""
    with showing(RUNNING):
        found = expose(settings())
        assert found is not None
        yield found


# -- names, types, formats --------------------------------------------------------------------------------------------


def test_the_names_types_and_labels_are_the_promised_ones() -> None:
    seen = {
        sample.name: (family.type, set(sample.labels), sample.value)
        for family in families(page(FIRING))
        for sample in reversed(family.samples)  # of the statuses "running" is the first
    }
    assert seen == {name: (kind, set(labels), value) for name, kind, labels, value in PROMISED}


def test_every_family_says_what_it_is_and_in_which_unit() -> None:
    for family in families(page(FIRING)):
        assert family.documentation.endswith(".") or "rank is whom" in family.documentation
        assert family.unit == ("seconds" if family.name.endswith("_seconds") else "")
    assert "# UNIT metriclog_delivery_lag_seconds seconds" in page(FIRING)


def test_the_bound_of_the_labels_is_stated_where_it_is_seen() -> None:
    bounded = [shown.name for shown in SHOWN if "METRICLOG_PROMETHEUS_MAX_METRICS" in shown.help]
    assert bounded == ["metriclog_metric_value", "metriclog_metrics_hidden"]


def test_openmetrics_and_the_older_format_say_the_same(exposed: Exposure) -> None:
    openly = {(it.name, *sorted(it.labels.items())): it.value for it in parse(get(exposed.address))}
    older_page = exposition._page("text/plain;version=0.0.4", 1000)
    assert older_page.content_type.startswith("text/plain; version=0.0.4")
    older = [sample for family in older_families(older_page.body.decode()) for sample in family.samples]
    assert {(it.name, *sorted(it.labels.items())): it.value for it in older} == openly


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-300, -2.5, 2**53])
def test_a_value_is_shown_as_it_is(value: float) -> None:
    seen = values(page(replace(RUNNING, metrics={"loss": Latest(value, 0, 0, 0)})), "metriclog_metric_value")
    assert seen[()] == pytest.approx(value, rel=0, abs=0, nan_ok=True)


def _storable(name: str) -> bool:
    try:
        return bool(check_name(name))
    except MetricNameError:
        return False


@given(name=st.text(min_size=1, max_size=20).filter(_storable) | st.sampled_from(['a/"b"', "a\\b", "ü {x=1,} 2", "#"]))
def test_any_name_that_can_be_logged_can_be_scraped(name: str) -> None:
    shown = replace(RUNNING, experiment=name, model=name, metrics={name: Latest(1.0, 0, 0, 0)})
    assert values(page(shown), "metriclog_metric_value", "experiment", "metric") == {(name, name): 1.0}
    assert values(page(shown), "metriclog_run_info", "model") == {(name,): 1.0}


def test_before_the_first_metric_there_is_no_time_of_the_last_one() -> None:
    text = page(replace(RUNNING, metrics={}, last_log_ns=None))
    assert values(text, "metriclog_last_log_timestamp_seconds") == {}
    assert values(text, "metriclog_metric_value") == {}
    assert values(text, "metriclog_run_running") == {(): 1.0}


@pytest.mark.parametrize("status", ["running", "finished", "failed", "killed"])
def test_exactly_one_status_is_1(status: str) -> None:
    text = page(replace(RUNNING, status=status))
    seen = values(text, "metriclog_run_status", "status")
    assert {name for (name,), value in seen.items() if value == 1.0} == {status}
    assert sum(seen.values()) == 1.0
    assert len(seen) == 4
    assert values(text, "metriclog_run_running") == {(): float(status == "running")}


# -- several runs -----------------------------------------------------------------------------------------------------


def test_two_runs_and_two_ranks_of_one_process_stand_side_by_side() -> None:
    ranks = [replace(RUNNING, run="r2", rank=rank, steps=int(rank)) for rank in ("0", "1")]
    seen = values(page(RUNNING, *ranks), "metriclog_run_steps", "run", "rank")
    assert seen == {("r1", ""): 9.0, ("r2", "0"): 0.0, ("r2", "1"): 1.0}


def test_of_a_run_resumed_in_this_process_the_newest_attempt_is_shown() -> None:
    first = replace(RUNNING, status="failed")
    again = replace(RUNNING, attempt=2, metrics={"other": Latest(1.0, 1, 1, 0)})
    for shows in ([first, again], [again, first], [first, first, again]):
        with showing(*shows):
            text = render(exposition.collector(10))
            assert values(text, "metriclog_run_info", "attempt") == {("2",): 1.0}
            assert values(text, "metriclog_metric_value", "metric") == {("other",): 1.0}


def test_no_more_metrics_of_a_run_are_shown_than_the_bound_and_the_rest_is_counted() -> None:
    metrics = {f"m{number}": Latest(1.0, 0, 0, 0) for number in (3, 1, 2, 0)}
    hidden_fires = replace(SPIKE, metric="m0")
    text = page(replace(RUNNING, metrics=metrics, firing=(hidden_fires,)), replace(RUNNING, run="r2"), most=2)
    for name in ("metriclog_metric_value", "metriclog_metric_step", "metriclog_nonfinite_total"):
        assert [metric for run, metric in values(text, name, "run", "metric") if run == "r1"] == ["m3", "m1"]
    assert values(text, "metriclog_metrics_hidden", "run") == {("r1",): 2.0, ("r2",): 0.0}
    assert values(text, "metriclog_alert_active", "metric") == {("m0",): 1.0}


def test_an_alert_names_the_rank_it_is_about_and_goes_when_it_has_recovered() -> None:
    firing = (SPIKE, replace(SPIKE, rank="3"), replace(SPIKE, rank="3"), replace(SPIKE, rule="plateau", recovered=True))
    seen = values(page(replace(RUNNING, rank="0", firing=firing)), "metriclog_alert_active", "rank", "rule")
    assert seen == {("0", "spike"): 1.0, ("3", "spike"): 1.0}


@pytest.mark.parametrize(
    "broken",
    [RuntimeError("no"), replace(RUNNING, stats={}), replace(RUNNING, firing=(None,))],  # type: ignore[arg-type]
)
def test_a_run_that_cannot_be_shown_does_not_hide_the_others(
    broken: Snapshot | Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "_warned", {})
    with showing(broken, replace(RUNNING, run="sound")):
        collector = exposition.collector(10)
        for _ in range(3):
            text = render(collector)
    assert list(values(text, "metriclog_run_running", "run")) == [("sound",)]
    assert len(caplog.records) == 1


# -- an application that has a server of its own ----------------------------------------------------------------------


def test_the_collector_goes_into_any_registry_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_PROMETHEUS_MAX_METRICS", "1")
    registry = CollectorRegistry()
    registry.register(exposition.collector())
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(exposition.collector())
    two = {name: Latest(1.0, 0, 0, 0) for name in ("a", "b")}
    with showing(replace(RUNNING, metrics=two)):
        assert registry.get_sample_value("metriclog_metrics_hidden", {"experiment": "digits", "run": "r1", "rank": ""})


def test_an_asgi_application_shows_it() -> None:
    registry = CollectorRegistry()
    registry.register(exposition.collector(10))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}
    with showing(RUNNING):
        asyncio.run(make_asgi_app(registry)(scope, receive, send))
    assert b'metriclog_run_steps{experiment="digits",rank="",run="r1"} 9.0' in sent[-1]["body"]


# -- the server -------------------------------------------------------------------------------------------------------


def test_a_scrape_sees_the_run_as_it_is_at_that_moment() -> None:
    with showing(RUNNING) as (run,):
        exposed = expose(settings())
        assert exposed is not None
        for steps in (9, 10):
            run.change(steps=steps)
            assert values(get(exposed.address), "metriclog_run_steps") == {(): steps}


def test_scrapes_are_counted_and_other_paths_are_none(exposed: Exposure) -> None:
    threads = [threading.Thread(target=get, args=(exposed.address,)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    with pytest.raises(OSError, match="404"):
        get(exposed.address, "/")
    with pytest.raises(OSError, match="501"):
        _ask(exposed, b"POST /metrics HTTP/1.0\r\n\r\n")
    assert exposed.scrapes == 10


def _ask(exposed: Exposure, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", exposed.port), LIMIT_S) as client:
        client.sendall(request)
        status = client.makefile("rb").readline()
    if b" 200 " not in status:
        raise OSError(status.decode())


def test_clients_that_say_nothing_or_nonsense_keep_nobody_else_waiting(exposed: Exposure) -> None:
    with (
        socket.create_connection(("127.0.0.1", exposed.port), LIMIT_S),
        pytest.raises(OSError, match=r"Error|400|DOCTYPE"),
    ):
        _ask(exposed, b"nonsense\xff\r\n\r\n")
    with socket.create_connection(("127.0.0.1", exposed.port), LIMIT_S):
        assert parse(get(exposed.address))


def test_it_listens_on_loopback_and_there_only() -> None:
    with showing(RUNNING):
        exposed = expose(settings())
        assert exposed is not None
        assert exposed.address == f"127.0.0.1:{exposed.port}"
        with pytest.raises(ConnectionRefusedError):  # another address of this machine
            socket.create_connection(("127.0.0.2", exposed.port), LIMIT_S).close()


def test_an_address_for_everybody_is_announced_by_the_name_of_the_machine(exposed: Exposure) -> None:
    name = socket.gethostname()
    for host, address in (("0.0.0.0", name), ("::", name), ("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")):
        assert Exposure(exposed._server, host).address == f"{address}:{exposed.port}"


def test_the_same_settings_again_open_no_second_port_and_a_closed_one_opens_anew(exposed: Exposure) -> None:
    assert expose(settings()) is exposed
    assert expose(settings(prometheus_linger_s=0.0, heartbeat_s=3.0)) is exposed
    exposed.close()
    exposed.close()
    again = expose(settings())
    assert again is not None
    assert again is not exposed
    assert parse(get(again.address))


def test_without_a_port_nothing_is_exposed() -> None:
    with showing(RUNNING):
        assert expose(Settings()) is None
        exposition.linger()


def test_a_taken_port_is_said_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, showing(RUNNING):
        port = other.getsockname()[1]
        assert [expose(settings(prometheus_port=port)) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert f"port {port} of 127.0.0.1 is taken" in record.getMessage()
    assert "METRICLOG_PROMETHEUS_PORT=0" in record.getMessage()
    assert "METRICLOG_PROMETHEUS_SD_DIR" in record.getMessage()


def test_an_address_that_is_none_of_this_machine_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with showing(RUNNING):
        assert expose(settings(prometheus_host="192.0.2.1")) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_scrape_while_the_run_logs_is_whole() -> None:
    done = threading.Event()
    metrics: dict[str, Latest] = {}

    def train() -> None:
        number = 0
        while not done.is_set():
            metrics[f"m{number % 500}"] = Latest(float(number), number, number, 0)
            number += 1

    with showing(replace(RUNNING, metrics=metrics)):
        exposed = expose(settings())
        assert exposed is not None
        thread = threading.Thread(target=train)
        thread.start()
        try:
            for _ in range(10):
                seen = values(get(exposed.address), "metriclog_metric_value", "metric")
                assert list(seen) == [(f"m{number}",) for number in range(len(seen))]
        finally:
            done.set()
            thread.join()


# -- the end ----------------------------------------------------------------------------------------------------------


def lingering(settled: list[str]) -> threading.Thread:
    """A thread that lingers and says when it is over."""

    def linger() -> None:
        exposition.linger()
        settled.append("over")

    thread = threading.Thread(target=linger)
    thread.start()
    return thread


def test_the_end_waits_until_a_scrape_has_shown_it() -> None:
    with showing(RUNNING, replace(RUNNING, run="r2", status="finished")) as (run, _):
        exposed = expose(settings(prometheus_linger_s=LIMIT_S))
        assert exposed is not None
        get(exposed.address)
        exposition.linger()  # the end of r2 has been seen, and r1 has none
        run.change(status="failed")
        settled: list[str] = []
        thread = lingering(settled)
        assert settled == []
        assert values(get(exposed.address), "metriclog_run_running", "run") == {("r1",): 0.0, ("r2",): 0.0}
        thread.join(LIMIT_S / 2)
        assert settled == ["over"]


@pytest.mark.parametrize("linger_s", [0.0, 0.05])
def test_the_end_waits_no_longer_than_it_is_told(linger_s: float) -> None:
    with showing(replace(RUNNING, status="finished")):
        assert expose(settings(prometheus_linger_s=linger_s))
        exposition.linger()


def test_the_end_has_a_deadline_of_the_caller_too() -> None:
    with showing(replace(RUNNING, status="finished")):
        assert expose(settings(prometheus_linger_s=3600.0))
        exposition.linger(deadline_s=0.0)


def test_a_port_that_was_closed_keeps_nobody_waiting() -> None:
    with showing(replace(RUNNING, status="finished")):
        exposed = expose(settings(prometheus_linger_s=3600.0))
        assert exposed is not None
        exposed.close()
        exposition.linger()


def test_after_the_end_nobody_answers_and_a_second_end_does_nothing(exposed: Exposure) -> None:
    exposition.shut_down()
    exposition.shut_down()
    with pytest.raises(OSError, match="refused"):
        get(exposed.address)
