"""What processes do in the tests of forks and ranks: they log, note each call that returned, and end in some way.

A note is a line in the file that METRICLOG_TEST_CALLS names: one `write(2)` at its end, so that processes may share it.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from multiprocessing.synchronize import Event
from pathlib import Path

import metriclog
from tests.faults.loads import EXPERIMENT, log_step, metrics_of, warm_up
from tests.faults.oracle import Accepted

WATCHDOG_S = 120  # a child that hangs is ended by SIGALRM, and its exit status tells


def note(run: metriclog.Run, step: int) -> None:
    """Log what belongs to a step; note it once `log()` has returned."""
    call = log_step(run, step)
    write_note(call.run, call.step, call.before_ns, call.after_ns)


def write_note(run: str, step: int, before_ns: int, after_ns: int) -> None:
    """Say that a call has returned."""
    with open(os.environ["METRICLOG_TEST_CALLS"], "ab", buffering=0) as file:
        file.write(f"{run} {step} {before_ns} {after_ns}\n".encode())


def noted(file: Path) -> list[Accepted]:
    """The calls that all processes noted."""
    calls = [line.split() for line in file.read_text().splitlines()]
    return [Accepted(run, int(step), metrics_of(int(step)), int(a), int(b)) for run, step, a, b in calls]


def fork_to_log(run: metriclog.Run, steps: Iterable[int]) -> int:
    """A forked child that logs and ends without a word; its pid."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(WATCHDOG_S)
        for step in steps:
            note(run, step)
        os._exit(0)
    return pid


def together(act: Callable[[int], None], numbers: Iterable[int] = range(8)) -> list[int]:
    """Fork a process for each number; they wait until all are there, do it, and end in good order. Their pids."""
    warm_up()
    start, let_go = os.pipe()
    pids = []
    for number in numbers:
        pids.append(os.fork())
        if pids[-1] == 0:
            signal.alarm(WATCHDOG_S)
            os.close(let_go)
            os.read(start, 1)  # the end of the pipe
            act(number)
            sys.exit(0)
    os.close(let_go)
    os.close(start)
    return pids


def exit_code(pid: int) -> int:
    """Wait for a child to end."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def work(ends: str, rank: int | None, logged: Event) -> None:
    """A worker of multiprocessing, with the inherited run, or with one of its own if it has a rank."""
    signal.alarm(WATCHDOG_S)
    run = metriclog.active_run() if rank is None else metriclog.init(EXPERIMENT, run_id="r", rank=rank)
    begin = 1000 * len(ends)
    for step in range(begin, begin + 100):
        note(run, step)
    if ends == "fails":
        raise ValueError("this worker fails")
    if ends == "is terminated":
        logged.set()
        signal.pause()


def log_one(step: int) -> int:
    """A task for a pool."""
    note(metriclog.active_run(), step)
    return os.getpid()


def load(steps: range, batches: multiprocessing.connection.Connection) -> None:
    """A worker of a data loader: a point for each batch, until it is killed."""
    signal.alarm(WATCHDOG_S)
    for step in steps:
        note(metriclog.active_run(), step)
        batches.send(step)
    signal.pause()


def still_held(folder: Path) -> list[str]:
    """What of a process directory this process has mapped, holds a lock on, or could write to."""
    held = [line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    for link in Path("/proc/self/fd").iterdir():
        try:
            path, about = str(link.readlink()), Path(f"/proc/self/fdinfo/{link.name}").read_text()
        except FileNotFoundError:  # the one that lists
            continue
        flags = re.search(r"flags:\s*(\d+)", about)
        assert flags
        writable = int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY
        if path.startswith(str(folder)) and (writable or path.endswith(".lock")):
            held.append(path)
    return held
