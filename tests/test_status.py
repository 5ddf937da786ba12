"""`metriclog status`: what is pending, since when and why, what is in quarantine and where, what was dropped."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory, testing
from metriclog.background import ship_directory
from metriclog.journal import Journal
from metriclog.segments import pack_header, segment_name
from metriclog.settings import Settings
from metriclog.shipper import Shipper
from metriclog.status import collect, count_pending
from metriclog.transport import Transport
from tests.commands import metriclog as command
from tests.commands import metriclog_json
from tests.journals import META, Clock, log
from tests.servers.scripted import says, serving
from tests.test_sender import VirtualControl

TARGET = Transport(Settings()).target  # the target of whoever has no server


def offline_run(folder: Path, run_id: str = "r", steps: int = 10) -> Path:
    """The process directory of a run that has ended."""
    with metriclog.init("exp", run_id=run_id, settings=Settings(dir=folder)) as run:
        for step in range(steps):
            run.log({"loss": 0.5}, step)
    return directory.process_directories(folder, run_id)[0]


def the_only(folder: Path, **settings: object) -> dict[str, Any]:
    """The state of the one process in a folder, as `status --json` tells it."""
    (state,) = metriclog_json("status", str(folder), **settings)
    found: dict[str, Any] = state
    return found


def test_a_run_that_nothing_ships_is_pending_since_its_first_point(tmp_path: Path) -> None:
    before_ns = time.time_ns()
    path = offline_run(tmp_path)
    state = the_only(tmp_path)
    total = len(list(testing.read_points(path)))
    first_ns = min(point.time_ns for point in testing.read_points(path))
    assert (state["run"], state["directory"], state["alive"]) == ("r", str(path), False)
    assert (state["accepted"], state["pending"], state["delivered"]) == (total, total, 0)
    assert (state["quarantined"], state["dropped"], state["damaged"]) == (0, 0, 0)
    assert before_ns - 1000 <= state["pending_since_ns"] == first_ns
    assert state["pid"] is not None


def test_a_run_that_goes_on_is_alive(tmp_path: Path) -> None:
    with metriclog.init("exp", run_id="r", settings=Settings(dir=tmp_path)):
        assert the_only(tmp_path)["alive"]
    assert not the_only(tmp_path)["alive"]


def test_after_an_ack_in_the_middle_the_rest_is_pending_since_the_first_point_of_the_rest(tmp_path: Path) -> None:
    path = offline_run(tmp_path, steps=100)
    shipper = Shipper(path, testing.ScriptedTarget(), VirtualControl(), max_points=30)
    shipper.ship_batch()
    shipper.close()
    rest = list(testing.read_points(path, shipper.ack.position))
    (state,) = collect(tmp_path, "scripted")
    assert (state.pending, state.delivered) == (len(rest), shipper.ack.delivered)
    assert state.pending_since_ns == min(point.time_ns for point in rest)
    assert count_pending(path, "scripted") == len(rest)
    assert count_pending(path, "another") == state.accepted, "acks are per target"


def test_the_reason_is_the_servers_last_words_also_when_another_process_asks(tmp_path: Path) -> None:
    refusal = says(401, b'{"message":"unauthorized access"}')
    with serving(refusal) as server:
        settings = Settings(url=server.url, token="t0ken-of-this-test", dir=tmp_path, flush_interval_s=0.01)  # type: ignore[arg-type]
        run = metriclog.init("exp", run_id="r", settings=settings)
        deadline_s = time.monotonic() + 20.0
        while run.stats()["last_error"] is None and time.monotonic() < deadline_s:
            assert not run.flush(0.05)
        live = the_only(tmp_path, url=server.url)
        assert (live["alive"], live["trouble"]) == (True, run.stats()["last_error"])
        assert "401: unauthorized access. Check METRICLOG_TOKEN" in live["trouble"]
        run.finish(timeout_s=0.0)
        code, out, _ = command("status", str(tmp_path), url=server.url)
        assert code == 0
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: the server said 401: unauthorized access", out)

        server.answer = says(204)
        assert command("sync", str(tmp_path), url=server.url, token="t0ken-of-this-test")[0] == 0
        state = the_only(tmp_path, url=server.url)
        assert (state["pending"], state["trouble"], state["delivered"]) == (0, None, state["accepted"])


def test_a_sync_that_fails_leaves_its_reason_for_every_run_it_did_not_ship(tmp_path: Path) -> None:
    for run_id in ("a", "b"):
        offline_run(tmp_path, run_id)
    away = {"url": "http://127.0.0.1:1", "token": "t"}
    assert command("sync", str(tmp_path), "--give-up-after-s", "0", **away)[0] == 1
    for state in metriclog_json("status", str(tmp_path), **away):
        assert "no answer from http://127.0.0.1:1" in state["trouble"]


def test_one_run_that_a_server_refuses_does_not_keep_sync_from_the_others(tmp_path: Path) -> None:
    for run_id in ("a", "bad", "c"):
        offline_run(tmp_path, run_id)

    def answer(handler: Any) -> None:
        _, _, _, body = handler.server.requests[-1]
        says(400, b'{"error":"strange"}')(handler) if b"run=bad" in body else says(204)(handler)

    with serving(answer) as server:
        code, out, _ = command("sync", str(tmp_path), url=server.url, token="t", gzip="never")
        states = {state["run"]: state for state in metriclog_json("status", str(tmp_path), url=server.url)}
    assert code == 1
    assert "bad: the server said 400: strange" in out
    assert {run: state["pending"] == 0 for run, state in states.items()} == {"a": True, "bad": False, "c": True}
    assert "strange" in states["bad"]["trouble"]


def test_quarantine_is_counted_and_its_file_named(tmp_path: Path) -> None:
    path = offline_run(tmp_path)

    def answer(handler: Any) -> None:
        _, _, _, body = handler.server.requests[-1]
        hit = b"step=3i" in body and b"metric=loss" in body
        says(422, b'{"message":"partial write: no dropped=1"}')(handler) if hit else says(204)(handler)

    with serving(answer) as server:
        settings = Settings(url=server.url, token="t", gzip="never", dir=tmp_path)  # type: ignore[arg-type]
        assert ship_directory(path, Transport(settings), VirtualControl(), settings)
        state = the_only(tmp_path, url=server.url)
        _, out, _ = command("status", str(tmp_path), url=server.url)
    file = path / f"quarantine-{Transport(settings).target}.jsonl"
    assert (state["quarantined"], state["pending"]) == (1, 0)
    assert state["quarantine_file"] == str(file)
    assert file.exists()
    assert f"quarantine of r: {file}" in out
    assert state["accepted"] == state["delivered"] + 1


def test_what_found_no_room_is_dropped_and_what_is_damaged_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "r" / "0001-h1"
    path.mkdir(parents=True)
    journal = Journal.create(path, META, segment_bytes=4096, clock=Clock())
    for step in range(200):
        log(journal, {"loss": 1.0}, step)
        if step == 50:
            journal.lose(17)
    journal.close()
    state = the_only(tmp_path)
    assert (state["accepted"], state["pending"], state["dropped"]) == (217, 200, 17)

    segment = path / segment_name(1)
    body = bytearray(segment.read_bytes())
    body[len(body) // 2] ^= 1
    segment.write_bytes(bytes(body))
    state = the_only(tmp_path)
    assert state["damaged"] == 1
    assert 190 <= state["pending"] < 200


def test_a_journal_that_cannot_be_read_says_so_and_the_others_are_shown(tmp_path: Path) -> None:
    offline_run(tmp_path)
    newer = tmp_path / "newer" / "0001-h1"
    newer.mkdir(parents=True)
    (newer / segment_name(1)).write_bytes(pack_header(1, 0, version=99))
    states = {state["run"]: state for state in metriclog_json("status", str(tmp_path))}
    assert states["r"]["pending"] > 0
    assert "newer metriclog" in states["newer"]["trouble"]
    code, out, _ = command("status", str(tmp_path))
    assert code == 0
    assert re.search(r"newer .*cannot be read: .*newer metriclog", out)


def test_a_line_that_is_no_line_protocol_does_not_keep_status_from_counting_it(tmp_path: Path) -> None:
    path = tmp_path / "r" / "0001-h1"
    path.mkdir(parents=True)
    journal = Journal.create(path, META, segment_bytes=4096, clock=Clock())
    journal.append_lines(["not a line", ""])
    journal.close()
    assert (the_only(tmp_path)["pending"], the_only(tmp_path)["pending_since_ns"]) == (2, None)


def test_a_buffered_journal_is_named_with_what_kill_9_may_cost(tmp_path: Path) -> None:
    settings = Settings(dir=tmp_path, journal_io="buffered")
    with metriclog.init("exp", run_id="r", settings=settings) as run:
        run.log({"loss": 0.5})
    _, out, _ = command("status", str(tmp_path))
    assert "r: network file system, buffered: kill -9 may cost the last 0.25 s" in out


def test_nothing_there_is_said_in_words_and_in_json(tmp_path: Path) -> None:
    assert f"no journals in {tmp_path}" in command("status", str(tmp_path))[1].replace("\n", "")
    assert metriclog_json("status", str(tmp_path)) == []


@pytest.mark.parametrize("words", ["[red]boo[/red]", ":warning: [link=file:///etc]x[/link]"])
def test_a_servers_words_are_shown_as_they_are(tmp_path: Path, words: str) -> None:
    offline_run(tmp_path)
    with serving(says(404, words.encode())) as server:
        where = {"url": server.url, "token": "t"}
        command("sync", str(tmp_path), "--give-up-after-s", "0", **where)
        assert words in command("status", str(tmp_path), **where)[1]
