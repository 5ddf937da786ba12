"""A trainer in a process of its own for the soak: what it takes in memory, descriptors and threads is metriclog's.

    python -m tests.faults.trainer REPORTS_FD

Reads orders from stdin, a line of JSON each: {"run": …, "settings": {…}} trains until the next line comes, then
finishes the run and answers on stdout with its counts and what the process takes. Each call is reported on REPORTS_FD
after it has returned. End of input ends it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metriclog
from metriclog.settings import Settings
from tests.faults.loads import EXPERIMENT, REPORT, ROOT, log_step, metrics_of
from tests.faults.oracle import Accepted

STEP_S = 0.002
FINISH_S = 60.0
SETTLE_S = 10.0


class Trainer:
    """The process, seen from a test: `start`, then `stop`, as often as you like."""

    def __init__(self, log: Path) -> None:
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "tests.faults.trainer", str(write_fd)]
        with open(log, "wb") as stderr:
            self._process = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[write_fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        os.close(write_fd)
        self._reports, self._run = bytearray(), ""
        self._reader = threading.Thread(target=self._collect, args=(read_fd,), daemon=True)
        self._reader.start()

    def start(self, run_id: str, settings: dict[str, Any]) -> None:
        """Begin to train a run."""
        self._run = run_id
        self._say({"run": run_id, "settings": settings})

    def stop(self) -> tuple[list[Accepted], dict[str, Any]]:
        """End the run; its calls, and the answer."""
        self._say({})
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        while len(self._reports) < answer["calls"] * REPORT.size:
            assert self._reader.is_alive()
            self._reader.join(0.01)
        taken, self._reports = self._reports, bytearray()
        return list(_accepted(self._run, bytes(taken))), answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(FINISH_S)
        self._reader.join(FINISH_S)

    def _say(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def _collect(self, fd: int) -> None:
        with open(fd, "rb", buffering=0) as pipe:
            while piece := pipe.read(1 << 16):
                self._reports += piece


def _accepted(run: str, reports: bytes) -> Iterator[Accepted]:
    for _, step, before_ns, after_ns in REPORT.iter_unpack(reports):
        yield Accepted(run, step, metrics_of(step), before_ns, after_ns)


def footprint() -> dict[str, int]:
    """What this process takes: resident bytes that are its own, descriptors, threads."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))
    return {
        "rss_bytes": int(rss) << 10,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def _train(order: dict[str, Any], reports_fd: int) -> dict[str, Any]:
    """Train until there is something to read on stdin."""
    run = metriclog.init(EXPERIMENT, run_id=order["run"], settings=Settings(**order["settings"]))
    step, slowest_ns = 0, 0
    while not select.select([0], [], [], STEP_S)[0]:
        call = log_step(run, step)
        os.write(reports_fd, REPORT.pack(0, step, call.before_ns, call.after_ns))
        slowest_ns = max(slowest_ns, call.after_ns - call.before_ns)
        step += 1
    begin_s = time.monotonic()
    run.finish(timeout_s=FINISH_S)
    said = {"calls": step, "slowest_ms": slowest_ns / 1e6, "finish_s": time.monotonic() - begin_s}
    _settle()
    return {**said, "stats": run.stats(), **footprint()}


def _settle() -> None:
    """Threads end after the request under way: give them the time it may take."""
    end_s = time.monotonic() + SETTLE_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, end_s - time.monotonic()))


def _main() -> None:
    reports_fd = int(sys.argv[1])
    with open(0, "rb", buffering=0) as orders:  # unbuffered, so that select sees what comes
        while line := orders.readline():
            order = json.loads(line)
            if order:
                sys.stdout.write(json.dumps(_train(order, reports_fd)) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    _main()
