"""METRICLOG_ALERT_WEBHOOK: what is posted in which shape, retried, given up, left for later; the address is secret."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import metriclog
from metriclog import cli, posting, webhook
from metriclog.directory import process_directories
from metriclog.follower import Event
from metriclog.leftover_alerts import post_leftovers
from metriclog.messages import Alert
from metriclog.points import Point
from metriclog.posting import Cursor, Webhook, load_cursor, save_cursor
from metriclog.sender import Control
from metriclog.settings import Settings
from metriclog.webhook import Hook
from tests.servers.scripted import ScriptedServer, hangs_up, says, serving

LIMIT_S = 20.0
SECRET = "/services/T000/B000/s3cr3t"


def settings_for(server: ScriptedServer, root: Path, **more: Any) -> Settings:
    quick = {"flush_interval_s": 0.02, "exit_timeout_s": LIMIT_S, "mode": "offline", "dir": root}
    return Settings(**{**quick, "alert_webhook": server.url + SECRET, **more})


@pytest.fixture
def receiver() -> Iterator[ScriptedServer]:
    with serving(says(200)) as server:
        yield server


def posted(server: ScriptedServer) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, _, body in server.requests]


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as it holds; fail after LIMIT_S."""
    deadline_s, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        pause.wait(0.01)


# -- what is posted -----------------------------------------------------------------------------------------------


def test_what_is_critical_is_posted_with_all_there_is_to_know_and_nothing_else(
    receiver: ScriptedServer, tmp_path: Path
) -> None:
    with metriclog.init("exp", run_id="r", rank=3, settings=settings_for(receiver, tmp_path)) as run:
        run.log({"train/loss": 1.0}, 6)
        run.log({"train/loss": float("nan")}, 7)
        run.event("note", "harmless")
        run.alert("disk is slow", level="warning")
        run.alert("disk is full", "no checkpoints any more", level="ERROR")
        run.event("phase", "the lights went out", level="critical")
    by_kind = {content["kind"]: content for content in posted(receiver)}
    assert sorted(by_kind) == ["alert", "nonfinite", "phase"]
    assert len(receiver.requests) == 3
    found = by_kind["nonfinite"]
    assert found["title"] == "train/loss is NaN"
    assert "rank 3" in found.pop("text")
    time_s = found.pop("time")
    assert abs(time_s - time.time()) < 3600
    assert found == {
        "run": "r", "experiment": "exp", "metric": "train/loss", "rank": "3", "kind": "nonfinite", "rule": "nonfinite",
        "level": "critical", "title": "train/loss is NaN", "step": 7, "value": "NaN", "baseline": None, "window": 1,
        "count": 1, "url": None,
    }  # fmt: skip
    assert by_kind["alert"]["title"] == "disk is full"
    assert {method + path for method, path, _, _ in receiver.requests} == {"POST" + SECRET}
    assert {headers["Content-Type"] for _, _, headers, _ in receiver.requests} == {"application/json"}


def test_an_event_is_in_the_journal_before_it_is_posted(tmp_path: Path) -> None:
    from metriclog import testing

    found: list[list[str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        points = [point for path in process_directories(tmp_path) for point in testing.read_points(path)]
        found.append([point.tags["kind"] for point in points if point.measurement == "events"])
        says(200)(handler)

    with serving(answer) as server, metriclog.init("exp", settings=settings_for(server, tmp_path)) as run:
        run.log({"loss": float("inf")})
    assert ["nonfinite" in kinds for kinds in found] == [True]


# -- shapes -------------------------------------------------------------------------------------------------------


def alert(title: str = "a <b> & c", text: str = "step 7", mode: str = "online") -> Alert:
    tags = {"experiment": "exp", "run": "r", "kind": "divergence", "metric": "loss"}
    fields: dict[str, Any] = {"title": title, "text": text, "level": "critical", "step": 7, "value": 3.0}
    return Alert(Point("events", tags, fields, 1_795_000_000 * 10**9), {"mode": mode}, "http://grafana:3000")


def test_slack_gets_its_three_characters_escaped_and_a_link_to_that_place_on_the_dashboard() -> None:
    text = json.loads(alert().body("slack"))["text"]
    assert "*a &lt;b&gt; &amp; c*" in text
    link = "http://grafana:3000/d/metriclog-run?var-experiment=exp&var-run=r&from=1794999100000&to=1795000300000"
    assert f"<{link}|" in text


def test_discord_gets_at_most_2000_characters_the_link_among_them_and_pings_nobody() -> None:
    content = json.loads(alert(text="@everyone " * 500).body("discord"))
    assert len(content["content"]) <= 2000
    assert content["content"].endswith("to=1795000300000")
    assert content["allowed_mentions"] == {"parse": []}


def test_an_offline_run_has_no_link() -> None:
    assert alert(mode="offline").content()["url"] is None
    assert "|Look at it>" not in json.loads(alert(mode="offline").body("slack"))["text"]


@pytest.mark.parametrize(
    ("url", "kind", "shape"),
    [
        ("https://hooks.slack.com/services/x", "auto", "slack"),
        ("https://discord.com/api/webhooks/x", "auto", "discord"),
        ("https://example.org/hook", "auto", "json"),
        ("https://chat.example.org/hooks/x", "slack", "slack"),
        ("https://hooks.slack.com/services/x", "json", "json"),
    ],
)
def test_the_address_says_which_shape_unless_the_user_does(url: str, kind: str, shape: str) -> None:
    assert Webhook(url, kind).kind == shape


# -- trouble ------------------------------------------------------------------------------------------------------


class Script:
    """Answers one after the other, then yes."""

    def __init__(self, *answers: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self._answers = iter(answers)

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        next(self._answers, says(200))(handler)


def test_passing_trouble_is_retried_until_it_has_passed(tmp_path: Path) -> None:
    with serving(Script(says(503), hangs_up, says(429, retry_after="0.1"), says(408))) as server:
        with metriclog.init("exp", settings=settings_for(server, tmp_path)) as run:
            run.alert("once", level="critical")
        assert [content["title"] for content in posted(server)] == ["once"] * 5
    assert load_cursor(*process_directories(tmp_path)) is None, "all is posted"


def test_a_final_no_is_given_up_with_one_warning_that_says_what_to_do_and_the_next_alert_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Script(says(404, b"no_service"))) as server:
        with metriclog.init("exp", settings=settings_for(server, tmp_path)) as run:
            run.alert("first", level="critical")
            run.alert("second", level="critical")
        assert [content["title"] for content in posted(server)] == ["first", "second"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "metriclog: an alert is not posted, the webhook at 127.0.0.1 said 404. "
        "Make a new webhook there, and set METRICLOG_ALERT_WEBHOOK"
    )


def test_a_redirect_is_not_followed(receiver: ScriptedServer, tmp_path: Path) -> None:
    with serving(says(307, location=receiver.url + "/elsewhere")) as server:
        with metriclog.init("exp", settings=settings_for(server, tmp_path)) as run:
            run.alert("x", level="critical")
        assert len(server.requests) == 1
    assert receiver.requests == []


def test_the_address_is_in_no_log_whatever_happens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = (says(500, SECRET.encode()), hangs_up, says(404, SECRET.encode()), says(301, location=SECRET))
    with serving(Script(*answers)) as server:
        settings = settings_for(server, tmp_path)
        with metriclog.init("exp", settings=settings) as run:
            for number in range(4):
                run.alert(f"{number}", level="critical")
        assert len(server.requests) >= 5
    assert "s3cr3t" not in caplog.text + repr(settings) + repr(run)
    away = Settings(alert_webhook="http://127.0.0.1:1" + SECRET, mode="offline", dir=tmp_path, exit_timeout_s=0.5)  # type: ignore[arg-type]
    with metriclog.init("exp", settings=away) as run:
        run.alert("x", level="critical")
    assert "no answer from the webhook at 127.0.0.1" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


@pytest.mark.parametrize(
    "url", ["hooks.slack.com/x", "ftp://x/y", "http://", "http://h:0/", "http://h/ x", "http://ü/"]
)
def test_what_is_no_address_is_said_and_training_goes_on(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(alert_webhook=url, mode="offline", dir=tmp_path)  # type: ignore[arg-type]
    with metriclog.init("exp", settings=settings) as run:
        run.alert("x", level="critical")
    assert [record.getMessage() for record in caplog.records] == [
        "metriclog: METRICLOG_ALERT_WEBHOOK is no http:// or https:// address; nothing is posted"
    ]


def test_more_alerts_than_the_limit_are_not_posted(receiver: ScriptedServer, tmp_path: Path) -> None:
    with metriclog.init("exp", settings=settings_for(receiver, tmp_path, alert_max=5)) as run:
        for number in range(20):
            run.alert(f"{number}", level="critical")
    assert len(receiver.requests) == 5


# -- what is left -------------------------------------------------------------------------------------------------


def leave(root: Path, *titles: str) -> None:
    """A run that could post nothing."""
    away = Settings(alert_webhook="http://127.0.0.1:1/x", mode="offline", dir=root, exit_timeout_s=0.0)  # type: ignore[arg-type]
    run = metriclog.init("exp", settings=away)
    for title in titles:
        run.alert(title, level="critical")
    run.finish()


def test_the_end_of_the_run_waits_for_the_webhook_no_longer_than_told_and_says_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin_s = time.monotonic()
    leave(tmp_path, "x")
    assert time.monotonic() - begin_s < 5.0
    last = caplog.records[-1].getMessage()
    assert "have not been posted" in last
    assert last.endswith(f"metriclog sync {tmp_path}")


def test_what_is_left_is_posted_by_the_next_run_in_that_directory_once(
    receiver: ScriptedServer, tmp_path: Path
) -> None:
    leave(tmp_path, "left 1", "left 2")
    for _ in range(2):
        metriclog.init("exp", settings=settings_for(receiver, tmp_path)).finish()
    assert [content["title"] for content in posted(receiver)] == ["left 1", "left 2"]


def test_a_run_that_never_had_a_webhook_leaves_nothing_to_post(receiver: ScriptedServer, tmp_path: Path) -> None:
    with metriclog.init("exp", settings=Settings(mode="offline", dir=tmp_path)) as run:
        run.alert("nobody asked", level="critical")
    metriclog.init("exp", settings=settings_for(receiver, tmp_path)).finish()
    assert receiver.requests == []


def test_sync_posts_what_is_left_and_says_if_it_cannot(
    receiver: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "j", "left")
    with serving(says(204)) as influx:
        names = {"URL": influx.url, "TOKEN": "t", "DIR": str(tmp_path / "j"), "ALERT_WEBHOOK": "http://127.0.0.1:1/x"}
        for name, value in names.items():
            monkeypatch.setenv(f"METRICLOG_{name}", value)
        monkeypatch.setattr(cli, "POST_PATIENCE_S", 0.2)
        done = CliRunner().invoke(cli.app, ["sync"])
        assert (done.exit_code, "alerts: no answer from the webhook at 127.0.0.1" in done.output) == (1, True)
        monkeypatch.setenv("METRICLOG_ALERT_WEBHOOK", receiver.url + SECRET)
        assert CliRunner().invoke(cli.app, ["sync"]).exit_code == 0
    assert [content["title"] for content in posted(receiver)] == ["left"]


def test_what_is_older_than_an_hour_is_not_posted_and_that_is_said(
    receiver: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, "old 1", "old 2")
    caplog.clear()
    settings = settings_for(receiver, tmp_path)
    hook = Webhook.of(settings)
    assert hook is not None
    monkeypatch.setattr(posting, "OLDEST_S", -1.0)
    assert post_leftovers(tmp_path, hook, Control(), settings) == 0
    assert receiver.requests == []
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("metriclog: alerts older than an hour are not posted: old 1")


def test_a_live_process_posts_its_own(receiver: ScriptedServer, tmp_path: Path) -> None:
    settings = settings_for(receiver, tmp_path)
    run = metriclog.init("exp", run_id="r", settings=Settings(mode="offline", dir=tmp_path))
    (folder,) = process_directories(tmp_path)
    save_cursor(folder, Cursor())
    run.alert("mine", level="critical")
    hook = Webhook.of(settings)
    assert hook is not None
    post_leftovers(tmp_path, hook, Control(), settings)
    assert receiver.requests == []
    run.finish()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"position": "x"}', b"\xff"])
def test_a_damaged_cursor_is_the_start_so_that_nothing_is_passed_over(
    receiver: ScriptedServer, tmp_path: Path, content: bytes
) -> None:
    leave(tmp_path, "left")
    (folder,) = process_directories(tmp_path)
    (folder / "alerts.json").write_bytes(content)
    assert load_cursor(folder) == Cursor()
    metriclog.init("exp", settings=settings_for(receiver, tmp_path)).finish()
    assert [content["title"] for content in posted(receiver)] == ["left"]


# -- ranks --------------------------------------------------------------------------------------------------------


def test_the_same_trouble_at_every_rank_is_one_post(receiver: ScriptedServer, tmp_path: Path) -> None:
    settings = settings_for(receiver, tmp_path)
    runs = [metriclog.init("exp", run_id="r", rank=rank, settings=settings) for rank in range(4)]
    for run in runs:
        run.log({"train/loss": float("nan")}, 7)
    for run in runs:
        run.finish()
    assert [content["title"] for content in posted(receiver)] == ["train/loss is NaN"]


def test_what_one_process_says_twice_is_posted_twice(receiver: ScriptedServer, tmp_path: Path) -> None:
    with metriclog.init("exp", settings=settings_for(receiver, tmp_path)) as run:
        run.alert("again", level="critical")
        run.alert("again", level="critical")
    assert len(receiver.requests) == 2


# -- never in the way ---------------------------------------------------------------------------------------------


def test_a_webhook_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    release = threading.Event()

    def hangs(handler: BaseHTTPRequestHandler) -> None:
        release.wait(LIMIT_S)

    with serving(hangs) as server:
        settings = settings_for(server, tmp_path, exit_timeout_s=0.2)
        begin_s = time.monotonic()
        with metriclog.init("exp", settings=settings) as run:
            run.alert("x", level="critical")
            until(lambda: bool(server.requests))
            for _ in range(1000):
                run.log({"loss": 1.0})
        assert time.monotonic() - begin_s < LIMIT_S / 2
        release.set()


def test_what_does_not_fit_into_the_queue_stays_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "MOST_WAITING", 3)
    folder = tmp_path / "r" / "0001-host"
    folder.mkdir(parents=True)
    hook = Hook(folder, tmp_path, Webhook("http://127.0.0.1:1/x", "json"), Settings(dir=tmp_path))
    line = 'events,kind=x,run=r title="t",level="critical",step=1i 1795000000000000000'
    hook.put([Event(position, line) for position in range(1, 9)], 9)
    assert not hook.end(time.monotonic(), complete=True)
    assert load_cursor(folder) == Cursor()
