"""kill -9 right before and right after each system call that changes a journal, and calls that fail; under strace.

A first life without harm tells which calls there are; then one is killed at each, or at some, evenly spread.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory
from metriclog.settings import Settings
from metriclog.testing import Captured
from tests.faults.loads import EXPERIMENT, MOST_METRICS, log_step
from tests.faults.oracle import Accepted, Tally, check_conservation
from tests.faults.shipping import ship
from tests.faults.traced import Life, Lives, Place, role_of
from tests.journals import read_back
from tests.servers.api import Influx, Server

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(600),
]

MOST_PAIRS = 3  # of kills of one load at one kind of call, but for roles that none of them hit
LINES = 2  # points beside metrics that an offline run writes at its start, and at its end


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    parent = Lives(tmp_path_factory.mktemp("trace"))
    yield parent
    parent.close()


Places = Callable[[str], AbstractContextManager[Place]]
Prepared = tuple[Place, list[Accepted]]  # and the calls of what is in it


@pytest.fixture
def a_place(influxdb_server: Server, tmp_path: Path) -> Places:
    @contextlib.contextmanager
    def make(load: str) -> Iterator[Place]:
        influx = Influx(influxdb_server, f"test-{secrets.token_hex(6)}")
        influx.create_bucket()
        yield Place(load, influx, tmp_path / influx.bucket)
        influx.delete_bucket()

    return make


def check_all_delivered(accepted: list[Accepted], place: Place, lines: int, **known: Any) -> Tally:
    """Everything is on the server, but for what the journal says was dropped, of calls and of so many other points."""
    settings = place.settings
    dropped = sum(read_back(path).lost for path in directory.process_directories(settings.dir))
    known |= {"dropped": dropped, "lines": lines} if dropped else {}
    tally = check_conservation(accepted, settings, place.influx, **known)
    assert (tally.pending, tally.quarantined, tally.dropped) == (0, 0, dropped)
    assert tally.server == tally.journal + tally.gone
    return tally


def go_on(settings: Settings) -> list[Accepted]:
    """The next run in that directory, of the same id."""
    with metriclog.init(EXPERIMENT, run_id="r", resume="allow", mode="offline", settings=settings) as run:
        return [log_step(run, step) for step in range(5000, 5010)]


# -- killed -------------------------------------------------------------------------------------------------------


def worth_it(life: Life, folder: Path) -> list[int]:
    """Numbers of calls that are about the journal; at first some of each role, evenly spread."""
    first: dict[int, str] = {}  # the call by which a thread is the first to come to a number
    for number, line in life.traced:
        first.setdefault(number, line)
    numbers: dict[str, list[int]] = {}
    for number, line in first.items():
        if str(folder) in line or "msync(" in line:
            numbers.setdefault(role_of(line), []).append(number)
    chosen = {number for found in numbers.values() for number in spread(found, math.ceil(MOST_PAIRS / len(numbers)))}
    return [*sorted(chosen), *sorted({number for found in numbers.values() for number in found} - chosen)]


def spread(numbers: list[int], pairs: int) -> list[int]:
    """At most so many pairs of neighbours, the first and the last among these."""
    last = max(len(numbers) - 2, 0)
    starts = {index * last // max(pairs - 1, 1) for index in range(pairs)}
    return [number for start in starts for number in numbers[start : start + 2]]


def kill_at_each(
    lives: Lives, kind: str, roles: set[str], prepared: Callable[[], AbstractContextManager[Prepared]]
) -> None:
    """Kill a life at calls of a kind, right before or right after it takes effect; some of each role.

    What each leaves can be shipped, and a run goes on in its directory, whatever comes first.
    """
    with prepared() as (place, _):
        life = lives.live(place, kind)
        assert life.code == 0
        numbers = worth_it(life, place.folder)
    hit: set[str] = set()
    for index, number in enumerate(numbers):
        if index >= 2 * MOST_PAIRS and roles <= hit:
            break
        with prepared() as (place, before):
            life = lives.live(place, kind, f"signal={('KILL', 'STOP')[(index + number) % 2]}:when={number}")
            assert life.code in (0, -signal.SIGKILL), f"{kind} {number}: it ended with {life.code}"
            hit |= life.at(number)
            check_recovers(before + life.accepted, place, resumes_first=index % 4 > 1)
    assert roles <= hit


def check_recovers(accepted: list[Accepted], place: Place, *, resumes_first: bool) -> None:
    settings = place.settings
    if not resumes_first:
        ship(settings)
    later = go_on(settings)
    ship(settings)
    begun, ended = len({call.run for call in accepted}) + 1, len(Captured(settings.dir).events("finish"))
    check_all_delivered(accepted + later, place, (begun + ended) * LINES, unreported=MOST_METRICS)
    left = [path for pattern in ("*.gone", "*.spare") for path in settings.dir.rglob(pattern)]
    assert left == [], "what was under way has been finished"


@pytest.mark.parametrize(
    ("load", "kind", "roles"),
    [
        ("rolls", "open", {"spare"}),
        ("rolls", "allocate", {"spare"}),
        ("rolls", "map", {"spare"}),
        ("rolls", "rename", {"spare"}),
        ("rolls", "flush", {"segment"}),
        ("rolls", "cut", {"segment"}),
        ("drops", "rename", {"spare", "gone"}),
        ("drops", "delete", {"gone"}),
        ("acks", "open", {"ack", "standing"}),
        ("acks", "write", {"ack", "standing"}),
        ("acks", "fsync", {"ack", "standing"}),
        ("acks", "rename", {"ack", "standing"}),
        ("retains", "rename", {"spare", "gone"}),
        ("retains", "delete", {"gone"}),
    ],
)
def test_killed_at_a_call_a_run_leaves_a_journal_that_is_shipped_whole_and_written_on(
    lives: Lives, a_place: Places, load: str, kind: str, roles: set[str]
) -> None:
    @contextlib.contextmanager
    def prepared() -> Iterator[Prepared]:
        with a_place(load) as place:
            yield place, []

    kill_at_each(lives, kind, roles, prepared)


@pytest.mark.parametrize(
    ("kind", "roles"), [("rename", {"gone", "ack"}), ("delete", {"gone", "spare"}), ("fsync", {"ack"})]
)
def test_a_sync_killed_while_it_finishes_what_the_dead_have_left_is_finished_by_the_next(
    lives: Lives, a_place: Places, kind: str, roles: set[str]
) -> None:
    with a_place("drops") as wreck:
        accepted = wrecked(lives, wreck)

        @contextlib.contextmanager
        def prepared() -> Iterator[Prepared]:
            with a_place("syncs") as place:
                shutil.copytree(wreck.folder, place.folder)
                yield place, accepted

        kill_at_each(lives, kind, roles, prepared)


def wrecked(lives: Lives, place: Place) -> list[Accepted]:
    """Two runs killed while they gave up segments: one has said what is lost with them, one has not."""
    said = lives.live(place, "delete", "signal=KILL:when=2", "r")
    traced = lives.live(place, "rename", run="whole").traced
    number = next(number for number, line in traced if role_of(line) == "gone")
    unsaid = lives.live(place, "rename", f"signal=STOP:when={number}", "s")
    shutil.rmtree(place.folder / "whole")
    assert len([*place.folder.rglob("*.gone")]) == 2
    return said.accepted + unsaid.accepted


# -- failing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "kind", "error", "drops"),
    [
        ("rolls", "allocate", "ENOSPC:when=3+", True),
        ("rolls", "allocate", "ENOSPC:when=2..4", True),
        ("rolls", "flush", "EIO:when=1..3", False),
        ("acks", "fsync", "EIO:when=2..4", False),
        ("acks", "rename", "EIO:when=20..22", False),
        ("retains", "delete", "EIO:when=1..4", False),
    ],
)
def test_calls_that_fail_cost_what_found_no_room_at_most_and_that_is_counted(
    lives: Lives, a_place: Places, load: str, kind: str, error: str, drops: bool
) -> None:
    with a_place(load) as place:
        life = lives.live(place, kind, f"error={error}")
        assert life.code == 0
        assert any("INJECTED" in line for _, line in life.traced)
        assert life.stats is not None
        assert (life.stats["dropped"] > 0) == drops
        ship(place.settings)
        tally = check_all_delivered(life.accepted, place, 2 * LINES)
        assert tally.dropped == life.stats["dropped"]
        assert life.stats["accepted"] == tally.journal + tally.gone + tally.dropped
