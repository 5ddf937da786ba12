"""Load generators: they log as fast as they can and note each call after it has returned.

Run as a program this file is a warm parent: it imports metriclog once and forks a child for each order, so that a child
that lives for milliseconds spends them logging. A child reports its calls over a pipe, one record a call.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metriclog
from metriclog.settings import Settings
from tests.faults.oracle import Accepted
from tests.servers.api import Influx

ROOT = Path(__file__).resolve().parents[2]
REPORT = struct.Struct("<qqqq")  # number of the run, step, clock before and after the call
ORDER_BYTES = 1 << 16
PYTHON_LIMIT_S = 60.0
EXPERIMENT = "faults"
# What the rules say in the terminal of the values below that are not finite: a process may say it at any time.
FOUND = re.compile(r"^metriclog: run \S+: \S+ is (?:NaN|[+-]Inf): .*\n", re.M)
MOST_METRICS = 9  # of one call, see metrics_of: what a kill between writing and reporting may leave


def metrics_of(step: int) -> dict[str, float]:
    """What is logged at a step: the same for whoever asks, with NaN and infinities and several shapes."""
    loss = 1.0 / (step + 3)
    if step % 17 == 5:
        return {"train/loss": math.nan, "grad_norm": math.inf, "eval/loss": -math.inf}
    if step % 11 == 3:
        return {"train/loss": loss, **{f"layer{index}/norm": loss * index for index in range(8)}}
    return {"train/loss": loss}


def log_step(run: metriclog.Run, step: int) -> Accepted:
    """Log what belongs to a step; the note of it."""
    metrics = metrics_of(step)
    before_ns = time.time_ns()
    run.log(metrics, step)
    return Accepted(run.run_id, step, metrics, before_ns, time.time_ns())


def address(influx: Influx, folder: Path) -> dict[str, str]:
    """Settings that ship to this bucket from journals in `folder`."""
    where = {"url": influx.url, "token": influx.token, "org": influx.org, "bucket": influx.bucket}
    return {**where, "dir": str(folder)}


def python(source: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, with METRICLOG_ variables given as keywords in lower case."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    surroundings |= {f"METRICLOG_{name.upper()}": value for name, value in settings.items()}
    # From 3.12 on Python warns of any fork beside threads; what we do about that is under test.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=PYTHON_LIMIT_S)
    done.stderr = FOUND.sub("", done.stderr)
    return done


class Children:
    """The warm parent, seen from a test. One child at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.faults.loads", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()

    def close(self) -> None:
        """End the parent."""
        self._socket.close()
        self._process.wait(30.0)

    def live_and_die(self, name: str, settings: dict[str, Any], seed: int, life_s: float) -> list[Accepted]:
        """Let a child log until it is killed with `kill -9` after `life_s`; the calls it reported."""
        read_fd, write_fd = os.pipe()
        order = {"name": name, "settings": settings, "seed": seed}
        socket.send_fds(self._socket, [json.dumps(order).encode()], [write_fd])
        os.close(write_fd)
        pid = int(self._socket.recv(ORDER_BYTES))
        reports = bytearray()
        end_s = time.monotonic() + life_s
        while (left_s := end_s - time.monotonic()) > 0:
            if select.select([read_fd], [], [], left_s)[0]:
                reports += os.read(read_fd, 1 << 16)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while piece := os.read(read_fd, 1 << 16):
            reports += piece
        os.close(read_fd)
        status = int(self._socket.recv(ORDER_BYTES))
        assert status == -signal.SIGKILL, f"the child ended by itself with {status}"
        return list(_accepted(name, bytes(reports)))


def _accepted(name: str, reports: bytes) -> Iterator[Accepted]:
    for number, step, before_ns, after_ns in REPORT.iter_unpack(reports):
        yield Accepted(f"{name}-{number}", step, metrics_of(step), before_ns, after_ns)


def _log_for_ever(order: dict[str, Any], report_fd: int) -> None:
    """Runs one after the other, each with parameters, events and an end, so that death can come at every stage."""
    rng = random.Random(order["seed"])
    settings = Settings(**order["settings"])
    pace, pause_s = threading.Event(), rng.choice([0.0, 0.001])
    number = 0
    while True:
        run = metriclog.init(EXPERIMENT, run_id=f"{order['name']}-{number}", params={"lr": 0.1}, settings=settings)
        for step in range(rng.randrange(1, 1500)):
            call = log_step(run, step)
            os.write(report_fd, REPORT.pack(number, step, call.before_ns, call.after_ns))
            if pause_s:
                pace.wait(pause_s)  # as if training: the shipper gets its turn, and death may find it at any point
            if step % 100 == 50:
                run.event("checkpoint", f"step {step}")
        run.finish(timeout_s=rng.choice([0.0, 0.01]))
        number += 1


def _serve(orders: socket.socket) -> None:
    """Fork a child for each order; answer with its pid, and with its exit status once it is dead."""
    warm_up()
    while True:
        body, fds, _, _ = socket.recv_fds(orders, ORDER_BYTES, 1)
        if not body:
            return
        pid = os.fork()
        if pid == 0:
            orders.close()
            try:
                _log_for_ever(json.loads(body), fds[0])
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(fds[0])
        orders.send(str(pid).encode())
        orders.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def warm_up() -> None:
    """Import what an online run imports, without starting a run: its threads would not survive the fork."""
    import influxdb_client.service.write_service  # noqa: F401
    import orjson  # noqa: F401

    import metriclog.background
    import metriclog.derived
    import metriclog.transport  # noqa: F401


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
