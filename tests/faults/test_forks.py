"""Processes that fork or execute another: each point once, nobody hangs, and nobody holds what belongs to another."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

import metriclog
from tests.faults.families import Family
from tests.faults.loads import EXPERIMENT
from tests.faults.oracle import check_conservation
from tests.faults.proxy import Exchange, FaultProxy
from tests.faults.shipping import check_all_delivered, ship
from tests.live.test_security import certificate, tls  # noqa: F401 - a fixture

AWAY = {"url": "http://127.0.0.1:1", "exit_timeout_s": "0.3"}
UP = {"exit_timeout_s": "60"}
has_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to look into")


# -- os.fork ------------------------------------------------------------------------------------------------------

ENDINGS = {
    "sys.exit(0)": 0,
    "run.finish(); sys.exit(0)": 0,
    "raise ValueError('this child fails')": 1,
    "os._exit(3)": 3,
    "os.kill(os.getpid(), signal.SIGKILL)": -9,
    "fork_to_log(run, range(9000, 9010)); os.wait(); os._exit(0)": 0,
}
FORKS = """
    import sys
    run = metriclog.init("faults", run_id="r")
    for step in range(300):
        note(run, step)
    for number, ends in enumerate({endings}, 1):
        pid = os.fork()
        for step in range(1000 * number, 1000 * number + 100):
            note(run, step)
        if pid == 0:
            exec(ends)
        print(exit_code(pid), flush=True)  # or the next child prints it again
"""


def test_a_fork_with_points_pending_has_each_point_once_however_the_child_ends(family: Family) -> None:
    codes = family.run(FORKS.format(endings=list(ENDINGS)), **AWAY)
    assert [int(code) for code in codes.split()] == list(ENDINGS.values())
    before = check_conservation(family.accepted, family.settings, family.influx)
    assert (before.server, before.pending) == (0, before.journal)
    alone = [set(range(1000 * number, 1000 * number + 100)) for number in range(1, len(ENDINGS) + 1)]
    parent, *children = family.steps()
    assert parent == set(range(300)).union(*alone)
    assert sorted(children, key=min) == [*alone, set(range(9000, 9010))]
    family.check()


@pytest.mark.parametrize("journal_io", ["mmap", "buffered"])
def test_a_child_that_ends_in_good_order_has_delivered_what_it_logged(family: Family, journal_io: str) -> None:
    family.run(FORKS.format(endings=list(ENDINGS)[:2]), **UP, journal_io=journal_io)
    assert len(family.folders) == 3
    check_all_delivered(family.accepted, family.settings, family.influx)


def test_threads_log_on_while_the_process_forks_again_and_again(family: Family) -> None:
    family.run(
        """
        import threading
        run = metriclog.init("faults", run_id="r")
        done = threading.Event()

        def train(number):
            for step in range(number * 100_000, number * 100_000 + 1000):
                note(run, step)
                if done.is_set():
                    return

        threads = [threading.Thread(target=train, args=(number,)) for number in range(1, 4)]
        for thread in threads:
            thread.start()
        for number in range(20):
            steps = range(number * 10, number * 10 + 10)
            pids = [fork_to_log(run, steps) for _ in range(2)]
            for step in steps:
                note(run, step)
            assert [exit_code(pid) for pid in pids] == [0, 0]
        done.set()
        for thread in threads:
            thread.join()
        """,
        **UP,
    )
    assert len(family.folders) == 41
    family.check()


# The journal asks its clock under its lock, and the heart beats under the run's: who stops the clock of a thread stops
# it with its locks held.
HAMMERED = """
    import sys, threading, time
    sys.setswitchinterval(1e-5)
    go, held, free, done = (threading.Event() for _ in range(4))
    calls, enough, wanted, time_ns = [], 10, None, time.time_ns

    def clock():
        global wanted
        if wanted == threading.current_thread().name:
            wanted = None
            held.set()
            free.wait()
        return time_ns()

    def hammer():
        while not done.is_set():
            if len(calls) >= enough:
                go.wait()
                go.clear()
            calls.append(log_step(run, len(calls)))

    time.time_ns = clock
    run = metriclog.init("faults", run_id="r")
    time.time_ns = time_ns
    thread = threading.Thread(target=hammer, name="hammer", daemon=True)
    thread.start()
    for number in range({forks}):
        for event in (held, free):
            event.clear()
        wanted = stopped = "metriclog-heart" if number % 10 == 0 else "hammer" if number % 2 else None
        before = len(calls)
        enough = before + 10
        go.set()
        while not (held.is_set() if stopped else len(calls) > before):
            time.sleep(0)
        begin_ns = time_ns()
        pid = os.fork()
        if pid == 0:
            signal.alarm(WATCHDOG_S)
            log_step(run, 1_000_000 + number)
            os._exit(0)
        free.set()
        assert exit_code(pid) == 0, f"fork {{number}}"
        write_note("r", 1_000_000 + number, begin_ns, time_ns())
    done.set()
    go.set()
    thread.join()
    for call in calls:
        write_note(call.run, call.step, call.before_ns, call.after_ns)
"""
FORKS_AT_ONCE = 1000


def test_1000_forks_beside_threads_that_hold_our_locks_hang_nobody(family: Family) -> None:
    family.run(HAMMERED.format(forks=FORKS_AT_ONCE), mode="offline", heartbeat_s="0.02")
    assert len(family.folders) == 1 + FORKS_AT_ONCE
    family.check()


# -- what a child inherits ----------------------------------------------------------------------------------------


@has_proc
def test_a_child_that_outlives_its_parent_holds_back_nothing_of_what_the_parent_left(family: Family) -> None:
    source = """
        run = metriclog.init("faults", run_id="r")
        note(run, 0)
        assert run.flush(60.0)  # the shipper is at work
        (parents,) = Path(os.environ["METRICLOG_DIR"], "r").glob("0001-*")
        if os.fork():
            note(run, 1)
            os.kill(os.getpid(), signal.SIGKILL)
        note(run, 2)
        print(still_held(parents), flush=True)
        input()
        note(run, 3)
    """
    with family.start(source, **UP) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "[]\n"
        assert process.wait(60.0) == -signal.SIGKILL
        ship(family.settings)
        assert family.pending()[0] == set()
        metriclog.init(EXPERIMENT, run_id="r", resume="must", mode="offline", settings=family.settings).finish()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.read() == ""  # once the child has ended
    assert {call.step for call in family.accepted} == set(range(4))
    family.check()


# A run begins with a look at the clock while the run's folder is claimed, then one while its journal is locked.
BEGINS = """
    import threading, time
    held, free, time_ns = threading.Event(), threading.Event(), time.time_ns

    def clock():
        if threading.current_thread() is not threading.main_thread():
            looks.append("at the clock")
            if len(looks) == stop_at:
                held.set()
                free.wait()
        return time_ns()

    def begin(run_id):
        runs.append(metriclog.init("faults", run_id=run_id))

    signal.alarm(WATCHDOG_S)
    for stop_at in (1, 2):
        looks, runs = [], []
        time.time_ns = clock
        thread = threading.Thread(target=begin, args=(f"r{stop_at}",))
        thread.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(WATCHDOG_S)
            signal.pause()
        time.time_ns = time_ns
        free.set()
        thread.join()
        note(runs[0], 0)
        runs[0].finish()
        with metriclog.init("faults", run_id=f"r{stop_at}", resume="allow") as run:
            note(run, 1)
        os.kill(pid, signal.SIGKILL)
        held.clear()
        free.clear()
"""


def test_a_child_that_was_forked_while_a_run_began_holds_no_lock_of_it(family: Family) -> None:
    family.run(BEGINS, mode="offline")
    family.check()


EXECS = """
    import subprocess, sys
    again = "METRICLOG_TEST_AGAIN" in os.environ
    run = metriclog.init("faults", run_id="r", resume="allow")
    for step in range(1000 * again, 1000 * again + 100):
        note(run, step)
    assert run.flush(60.0)
    if again:
        sys.exit(0)
    show = ["ls", "-l", "/proc/self/fd"]
    subprocess.run(show, close_fds=False, check=True)
    assert exit_code(os.posix_spawnp("ls", show, os.environ)) == 0
    pid = os.fork()
    if pid == 0:
        os.execvp("ls", show)
    assert exit_code(pid) == 0
    note(run, 500)
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "METRICLOG_TEST_AGAIN": "yes"})
"""


@has_proc
def test_a_program_that_is_executed_inherits_nothing_and_may_resume_the_run(family: Family) -> None:
    printed = family.run(EXECS, **UP)
    listed = re.findall(r" (\d+) -> (\S+)", printed)
    assert len([path for _, path in listed if path.startswith("/proc/")]) == 3
    assert [path for number, path in listed if int(number) > 2 and not path.startswith("/proc/")] == []
    assert len(family.folders) == 2
    family.check()


DIFFERENT = """
    import sys
    run = metriclog.init("faults", run_id="r")
    for number in range(1, 4):
        for step in range(100 * number, 100 * number + 100):
            note(run, step)
        pid = os.fork()
        if pid == 0:
            for step in range(1000 * number, 1000 * number + 300):
                note(run, step)
            sys.exit(0)
        note(run, number)
        assert exit_code(pid) == 0
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_connection_carries_points_of_two_processes(
    family: Family, scheme: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("certificate") if scheme == "https" else None
    senders: dict[int, set[int]] = {}

    def watch(exchange: Exchange) -> None:
        """Slow enough that a fork finds a request under way."""
        steps = map(int, re.findall(rb"^metrics,.*\bstep=(\d+)i", exchange.read(), re.M))
        senders.setdefault(exchange._client.getpeername()[1], set()).update(step // 1000 for step in steps)
        proxy.closing.wait(0.03)
        exchange.send(exchange.forward().whole)

    with FaultProxy(family.influx.url, watch, tls=tls(folder, "here") if folder else None) as proxy:
        trusted = {"ca_file": str(folder / "here.crt")} if folder else {}
        family.run(DIFFERENT, **UP, **trusted, url=proxy.url)
    assert all(len(processes) <= 1 for processes in senders.values()), senders
    assert set().union(*senders.values()) == {0, 1, 2, 3}
    tally = check_conservation(family.accepted, family.settings, family.influx)
    assert tally.server == tally.journal
