"""Jobs that push their state to a Pushgateway: when, what, under which key, and that nobody ever waits for it."""

from __future__ import annotations

import base64
import math
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from metriclog import exposition
from metriclog.errors import ServerError
from metriclog.exposition import expose
from metriclog.live import Latest, Snapshot
from metriclog.pushing import Key, Pusher
from metriclog.settings import Settings
from tests.jobs import go_on, job, line
from tests.servers.scripted import ScriptedServer, says, serving
from tests.snapshots import LIMIT_S, RUNNING, SPIKE, get, showing

NEVER_S = 3600.0
PUSHGATEWAY = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
KEY = ("digits", "r1", "")
ENDED = replace(RUNNING, status="finished")


class Gateway:
    """Keeps what it is asked; refuses, or waits, as it is told."""

    def __init__(self, refuses: ServerError | None = None) -> None:
        self.refuses = refuses
        self.asked: list[tuple[str, Any]] = []
        self.changed = threading.Condition()
        self.free = threading.Event()
        self.free.set()

    def put(self, snapshot: Snapshot) -> None:
        """A push."""
        self._ask("put", (snapshot.run, snapshot.status))

    def delete(self, key: Key) -> None:
        """The end."""
        self._ask("delete", key)

    def _ask(self, what: str, about: object) -> None:
        with self.changed:
            self.asked.append((what, about))
            self.changed.notify_all()
        self.free.wait(LIMIT_S)
        if self.refuses:
            raise self.refuses

    def until(self, count: int) -> list[tuple[str, Any]]:
        """What it was asked, once that is so much."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, LIMIT_S)
            return list(self.asked)


@contextmanager
def pushing(gateway: Gateway, *shown: Snapshot, every_s: float = NEVER_S) -> Iterator[tuple[Pusher, list[Snapshot]]]:
    """A thread that pushes these."""
    runs = list(shown)
    pusher = Pusher(gateway, lambda: list(runs), every_s)
    try:
        yield pusher, runs
    finally:
        gateway.free.set()
        pusher.close(LIMIT_S)


def soon() -> float:
    """A deadline that no test should see."""
    return time.monotonic() + LIMIT_S


# -- when -------------------------------------------------------------------------------------------------------------


def test_a_run_is_pushed_when_it_begins_and_again_and_again_while_it_runs() -> None:
    gateway = Gateway()
    with pushing(gateway, RUNNING, every_s=0.01):
        assert gateway.until(5)[:5] == [("put", ("r1", "running"))] * 5


def test_a_final_state_is_pushed_once_for_each_attempt_and_at_the_end_all_groups_go() -> None:
    gateway = Gateway()
    with pushing(gateway, RUNNING) as (pusher, runs):
        gateway.until(1)
        runs[:] = [ENDED, replace(RUNNING, run="r2", rank="0")]
        for _ in range(3):
            assert pusher.settle(soon())
        runs[0] = replace(ENDED, attempt=2)
        assert pusher.settle(soon())
        assert pusher.close(LIMIT_S)
    first = [("put", ("r1", "finished"))]
    other = [("put", ("r2", "running"))]
    ends = [("delete", KEY), ("delete", ("digits", "r2", "0"))]
    assert gateway.asked == [("put", ("r1", "running"))] + first + 3 * other + first + other + ends


def test_hurry_pushes_now() -> None:
    gateway = Gateway()
    with pushing(gateway, RUNNING) as (pusher, _):
        gateway.until(1)
        pusher.hurry()
        gateway.until(2)


@pytest.mark.parametrize(("status", "asked"), [(None, {"r1"}), (500, {"r1", "r2"})])
def test_what_goes_wrong_is_said_once_a_minute_and_a_gateway_that_is_away_is_asked_for_one_run(
    status: int | None, asked: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(ServerError("the Pushgateway is ill", status=status))
    with pushing(gateway, RUNNING, replace(RUNNING, run="r2")) as (pusher, _):
        for _ in range(3):
            assert not pusher.settle(soon())
        assert {run for _, (run, _) in gateway.asked} == asked
        gateway.refuses = None
        assert pusher.settle(soon())
    (record,) = caplog.records
    assert "the Pushgateway is ill" in record.getMessage()


def test_a_push_that_cannot_be_made_ends_no_thread() -> None:
    broken: Any = RuntimeError("broken")
    gateway = Gateway(broken)
    with pushing(gateway, RUNNING) as (pusher, _):
        assert not pusher.settle(soon())
        gateway.refuses = None
        assert pusher.settle(soon())


def test_a_gateway_that_hangs_keeps_nobody_waiting_beyond_his_deadline() -> None:
    gateway = Gateway()
    gateway.free.clear()
    with pushing(gateway, RUNNING) as (pusher, _):
        gateway.until(1)
        assert not pusher.settle(time.monotonic() + 0.01)
        assert not pusher.close(0.01)


# -- what, and where to -----------------------------------------------------------------------------------------------


def settings(url: str, **given: Any) -> Settings:
    """Settings that push there."""
    return Settings(pushgateway_url=url, **given)


def path(**group: str) -> str:
    """The path of a group: each value in base64."""
    parts = [f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode()}" for name, value in group.items()]
    return "/".join(["/metrics/job/metriclog", *parts])


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process or thread does."""
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)


def asked(server: ScriptedServer) -> list[tuple[str, str]]:
    """Method and path of each request."""
    return [(method, unquote(path)) for method, path, _, _ in server.requests]


def test_a_job_puts_its_state_under_its_own_key_and_deletes_it() -> None:
    odd = replace(RUNNING, experiment="a/b c+ü", rank="0", firing=(replace(SPIKE, rank="3"),))
    with serving(says(202)) as server, showing(odd) as (run,):
        assert expose(settings(server.url, prometheus_linger_s=0.05)) is None
        until(lambda: len(server.requests) == 1)
        run.change(status="failed")
        exposition.ended()
        until(lambda: len(server.requests) == 2)
        exposition.linger()
        exposition.shut_down()
        group = path(experiment="a/b c+ü", rank="0", run="r1")
        assert asked(server) == [("PUT", group), ("PUT", group), ("DELETE", group)]
        first, last, _ = (body.decode() for _, _, _, body in server.requests)
    assert 'metriclog_run_status{experiment="a/b c+ü",rank="0",run="r1",status="running"} 1.0\n' in first
    assert 'metriclog_run_status{experiment="a/b c+ü",rank="0",run="r1",status="failed"} 1.0\n' in last
    ranks = {sample.labels["rank"] for family in older(first) for sample in family.samples}
    assert ranks == {"0"}  # a Pushgateway takes one rank in one group
    assert {family.name for family in older(first)} >= {"metriclog_metric_value", "metriclog_alert_active"}


def older(text: str) -> list[Any]:
    """The families of a page in the older format, which is what is pushed."""
    from prometheus_client.parser import text_string_to_metric_families

    return list(text_string_to_metric_families(text))


def test_the_end_waits_for_what_was_pushed_to_be_seen() -> None:
    """A Pushgateway says nothing of scrapes: with METRICLOG_PROMETHEUS_LINGER_S it shows the end for so long."""
    with serving(says(202)) as server, showing(ENDED):
        expose(settings(server.url, prometheus_linger_s=0.2))
        began_s = time.monotonic()
        exposition.linger()
        assert time.monotonic() - began_s >= 0.2
        assert asked(server) == [("PUT", path(experiment="digits", run="r1"))]


def test_a_scrape_of_the_process_itself_ends_that_wait() -> None:
    with serving(says(202)) as server, showing(ENDED):
        exposed = expose(settings(server.url, prometheus_linger_s=NEVER_S, prometheus_port=0))
        assert exposed
        get(exposed.address)
        exposition.linger()


def test_the_same_settings_again_push_at_once_and_from_the_same_thread() -> None:
    with serving(says(202)) as server, showing(RUNNING):
        expose(settings(server.url))
        until(lambda: len(server.requests) == 1)
        expose(settings(server.url))
        until(lambda: len(server.requests) == 2)
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("metriclog-push") == 1


def test_what_a_gateway_refuses_is_said_in_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with serving(says(400, b"inconsistent help strings")) as server, showing(ENDED):
        expose(settings(server.url, prometheus_linger_s=NEVER_S))
        exposition.linger()  # nothing has arrived, so nothing is to be seen
    assert "says 400: inconsistent help strings" in caplog.text


def test_a_gateway_that_is_away_holds_up_neither_the_run_nor_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with showing(ENDED):
        expose(settings("http://127.0.0.1:1", prometheus_linger_s=NEVER_S))
        exposition.linger()
    assert "does not answer" in caplog.text


def test_a_gateway_that_hangs_holds_up_the_end_for_two_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "DELETE_S", 0.05)
    free = threading.Event()

    def hang(handler: object) -> None:
        free.wait(LIMIT_S)

    with serving(hang) as server, showing(RUNNING):
        expose(settings(server.url))
        until(lambda: len(server.requests) == 1)
        exposition.shut_down()
        free.set()
    assert "stays there" in caplog.text


FORKS = """
    if os.fork() == 0:
        live.remove(run)
        live.add(Scripted(replace(RUNNING, run="r1", steps=77)))
        exposition.expose(settings)
        os._exit(exposition.shut_down() or 0)
    os.wait()
    say("forked")
    input()
"""


def test_a_forked_child_leaves_the_group_to_its_parent() -> None:
    with serving(says(202)) as server, job("r1", FORKS, pushgateway_url=server.url) as parent:
        line(parent)
        assert line(parent) == "forked"
        until(lambda: len(server.requests) >= 1)
        go_on(parent)
        assert parent.wait(LIMIT_S) == 0
        group = path(experiment="digits", run="r1")
        assert set(asked(server)[:-1]) == {("PUT", group)}
        assert asked(server)[-1] == ("DELETE", group)
        assert not any(b"77" in body for *_, body in server.requests)


# -- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pushgateway() -> Iterator[str]:
    """The address of a fresh Pushgateway."""
    if PUSHGATEWAY is None:
        pytest.skip("no Pushgateway on PATH; Debian: apt-get install prometheus-pushgateway")
    command = [PUSHGATEWAY, "--web.listen-address=127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        found = (re.search(r"address=(127\.0\.0\.1:[1-9]\d*)", line) for line in process.stderr)
        try:
            yield next(match[1] for match in found if match)
        finally:
            process.terminate()


def test_a_real_pushgateway_shows_each_run_until_the_job_has_ended(pushgateway: str) -> None:
    odd = {'a/"b c\\d': Latest(math.nan, 3, 1, 1), "ü": Latest(-math.inf, 3, 1, 2)}
    runs = [
        replace(
            RUNNING, experiment="a/b c+ü", metrics=odd, firing=(replace(SPIKE, rank="3"), replace(SPIKE, rank="4"))
        ),
        replace(RUNNING, run="r2", rank="0"),
    ]
    with showing(*runs) as (first, _):
        expose(settings(f"http://{pushgateway}"))
        first.change(status="failed")
        assert all(pusher.settle(soon()) for pusher in exposition._exposed.pushers.values())
        seen = get_older(pushgateway)
        assert {(it["experiment"], it["run"], it["rank"]) for it, _ in seen["metriclog_run_running"]} == {
            ("a/b c+ü", "r1", ""),
            ("digits", "r2", "0"),
        }
        pushed = {it["metric"]: value for it, value in seen["metriclog_metric_value"] if it["run"] == "r1"}
        assert math.isnan(pushed['a/"b c\\d'])
        assert pushed["ü"] == -math.inf
        assert [it["status"] for it, value in seen["metriclog_run_status"] if value and it["run"] == "r1"] == ["failed"]
        (pusher,) = exposition._exposed.pushers.values()
        assert pusher.close(LIMIT_S)
        assert not [name for name in get_older(pushgateway) if name.startswith("metriclog")]


def get_older(address: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Sample name → labels and values of a page in the older format."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT_S) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in older(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found
