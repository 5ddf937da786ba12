"""The quarantine: what is kept, `metriclog quarantine show|requeue|drop`, and that the account holds afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory, quarantine
from metriclog.acks import load_ack
from metriclog.points import parse_line
from metriclog.quarantine import Refused
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock
from metriclog.transport import Transport
from metriclog.verify import verify
from tests.commands import metriclog as command
from tests.commands import metriclog_json
from tests.servers.scripted import ScriptedServer, says, serving
from tests.shelf import Shelf

REASON = "the server said 422: partial write: field type conflict dropped=1"


def refused(number: int) -> Refused:
    return Refused(f'events,run=r text="[bold]ä, \\"{number}\\"" {number}', REASON, number)


# -- the file ---------------------------------------------------------------------------------------------------


def test_what_is_added_is_loaded_in_order_and_each_line_once(tmp_path: Path) -> None:
    assert quarantine.load(tmp_path, "t") == []
    quarantine.add(tmp_path, "t", [refused(1), refused(2)])
    path = quarantine.add(tmp_path, "t", [refused(2), refused(3)])
    assert path == tmp_path / "quarantine-t.jsonl"
    assert quarantine.load(tmp_path, "t") == [refused(1), refused(2), refused(3)]
    assert quarantine.load(tmp_path, "another") == []


@pytest.mark.parametrize("torn", [b'{"line": "x', b"\0\0\0", b"[1, 2]", b'{"line": "x"}'])
def test_a_line_torn_by_a_crash_is_left_out_and_the_next_one_is_whole(tmp_path: Path, torn: bytes) -> None:
    path = quarantine.add(tmp_path, "t", [refused(1)])
    with path.open("ab") as file:
        file.write(torn)
    quarantine.add(tmp_path, "t", [refused(2), refused(3)])
    assert quarantine.load(tmp_path, "t") == [refused(1), refused(2), refused(3)]


def test_replace_leaves_what_is_given_and_no_file_for_nothing(tmp_path: Path) -> None:
    quarantine.add(tmp_path, "t", [refused(1), refused(2)])
    quarantine.replace(tmp_path, "t", [refused(2)])
    assert quarantine.load(tmp_path, "t") == [refused(2)]
    quarantine.replace(tmp_path, "t", [])
    assert list(tmp_path.iterdir()) == []


# -- the command ------------------------------------------------------------------------------------------------


class Picky:
    """Answers 422 to every body with one of these words; what it says yes to is on a shelf."""

    def __init__(self, *words: bytes) -> None:
        self.words: tuple[bytes, ...] = words
        self.shelf = Shelf()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        server: Any = handler.server
        body: bytes = server.requests[-1][-1]
        if any(word in body for word in self.words):
            says(422, json.dumps({"message": "partial write: field type conflict dropped=1"}).encode())(handler)
            return
        self.shelf.put(parse_line(line) for line in body.decode().splitlines())
        says(204)(handler)


@pytest.fixture
def picky() -> Picky:
    return Picky(b"step=3i", b"step=5i")


@pytest.fixture
def server(picky: Picky) -> Iterator[ScriptedServer]:
    with ExitStack() as stack:
        yield stack.enter_context(serving(picky))


@pytest.fixture
def where(server: ScriptedServer, tmp_path: Path) -> dict[str, str]:
    """Settings of the commands: two runs of 10 steps are shipped, 2 points of each are in quarantine."""
    there = {"url": server.url, "token": "t", "gzip": "never", "dir": str(tmp_path)}
    for run_id in ("a", "b"):
        settings = Settings(dir=tmp_path, mode="offline")
        with metriclog.init("exp", run_id=run_id, settings=settings) as run:
            for step in range(10):
                run.log({"loss": step / 3}, step)
    assert command("sync", **there)[0] == 0
    return there


def target_of(where: dict[str, str]) -> str:
    return Transport(Settings(**where)).target  # type: ignore[arg-type]


def check_account(where: dict[str, str], picky: Picky, *, quarantined: int, dropped: int = 0) -> None:
    """`status`, `verify` and the ack tell the same story of run "a"."""
    picky.shelf.target = target_of(where)
    verdict = verify(Path(where["dir"]), "a", picky.shelf)
    assert verdict.holds, verdict.differences
    assert (verdict.quarantined, verdict.dropped, verdict.pending) == (quarantined, dropped, 0)
    state = next(one for one in metriclog_json("status", **where) if one["run"] == "a")
    assert {name: state[name] for name in ("accepted", "delivered", "pending", "quarantined", "dropped")} == {
        name: getattr(verdict, name) for name in ("accepted", "delivered", "pending", "quarantined", "dropped")
    }
    (folder,) = directory.process_directories(Path(where["dir"]), "a")
    ack = load_ack(folder, target_of(where))
    assert (ack.delivered, ack.quarantined) == (verdict.delivered, quarantined)


def test_show_prints_each_point_with_its_reason(where: dict[str, str], picky: Picky) -> None:
    check_account(where, picky, quarantined=2)
    code, out, _ = command("quarantine", "show", **where)
    assert code == 0
    assert out.count("metrics,experiment=exp,metric=loss,run=") == 4
    assert out.count("422: partial write: field type conflict dropped=1") == 4
    assert "4 points in quarantine" in out
    shown = metriclog_json("quarantine", "show", **where)
    assert len(shown) == 4
    assert {one["directory"] for one in shown} == {
        str(path) for path in directory.process_directories(Path(where["dir"]))
    }
    assert all({"line", "reason", "position"} <= one.keys() for one in shown)
    assert len(metriclog_json("quarantine", "show", "--run", "a", **where)) == 2


def test_requeue_delivers_what_the_server_takes_by_now_and_keeps_the_rest_with_the_new_reason(
    where: dict[str, str], picky: Picky
) -> None:
    picky.words = (b"step=5i",)
    code, out, _ = command("quarantine", "requeue", **where)
    assert (code, out) == (1, "delivered 2 points, 2 still in quarantine\n")
    check_account(where, picky, quarantined=1)
    picky.words = ()
    assert metriclog_json("quarantine", "requeue", **where) == {"delivered": 2, "quarantined": 0}
    check_account(where, picky, quarantined=0)
    assert command("quarantine", "requeue", **where)[:2] == (0, "delivered 0 points, 0 still in quarantine\n")


def test_requeue_of_one_run_leaves_the_others(where: dict[str, str], picky: Picky) -> None:
    picky.words = ()
    assert command("quarantine", "requeue", "--run", "b", **where)[0] == 0
    check_account(where, picky, quarantined=2)
    assert len(metriclog_json("quarantine", "show", **where)) == 2


def test_requeue_to_a_server_that_is_away_changes_nothing(
    where: dict[str, str], picky: Picky, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = says(401)
    monkeypatch.setattr("metriclog.cli.REQUEUE_PATIENCE_S", 0.0)
    code, _, err = command("quarantine", "requeue", **where)
    assert (code, err.startswith("metriclog: the server said 401")) == (1, True)
    server.answer = picky
    check_account(where, picky, quarantined=2)


def test_drop_gives_points_up_and_counts_them(where: dict[str, str], picky: Picky) -> None:
    assert command("quarantine", "drop", "--run", "a", **where)[:2] == (0, "dropped 2 points, 0 still in quarantine\n")
    check_account(where, picky, quarantined=0, dropped=2)
    assert metriclog_json("quarantine", "drop", **where) == {"dropped": 2, "quarantined": 0}
    assert metriclog_json("quarantine", "show", **where) == []
    check_account(where, picky, quarantined=0, dropped=2)


@pytest.mark.parametrize("action", ["requeue", "drop"])
def test_while_another_process_ships_the_quarantine_is_left_alone(
    where: dict[str, str], picky: Picky, action: str
) -> None:
    (folder,) = directory.process_directories(Path(where["dir"]), "a")
    picky.words = ()
    with shipping_lock(folder, target_of(where)):
        code, _, err = command("quarantine", action, "--run", "a", **where)
    assert (code, "a: a process is shipping it; try again when that has ended" in err) == (1, True)
    check_account(where, picky, quarantined=2)


def test_sync_again_judges_everything_anew(where: dict[str, str], picky: Picky) -> None:
    assert command("quarantine", "drop", "--run", "b", **where)[0] == 0
    picky.words = (b"step=5i",)
    assert command("sync", "--again", **where)[0] == 0
    check_account(where, picky, quarantined=1)
    assert {one["directory"].split("/")[-2] for one in metriclog_json("quarantine", "show", **where)} == {"a", "b"}


def test_an_unknown_action_names_the_known_ones(where: dict[str, str]) -> None:
    code, _, err = command("quarantine", "burn", **where)
    assert (code, err) == (1, "metriclog: quarantine burn: use show, requeue or drop\n")
