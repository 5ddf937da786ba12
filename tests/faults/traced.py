"""Processes that live under strace: killed, or failed, at the n-th system call of a kind.

    lives = Lives(tmp_path)
    life = lives.live(place, "rename", "signal=KILL:when=3")

Run as a program this file is a warm parent, as that of loads.py: it forks a child for each life, and strace attaches to
the child before it begins. SIGKILL comes before the call takes effect. SIGSTOP stops the child right after it, and the
parent kills it there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import journal
from metriclog.settings import Mode, Settings
from tests.faults.loads import EXPERIMENT, REPORT, ROOT, address, log_step, metrics_of
from tests.faults.oracle import Accepted
from tests.faults.shipping import ship
from tests.servers.api import Influx

LIMIT_S = 60.0
MESSAGE_BYTES = 1 << 16
PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)  # so that strace may attach, which is no parent of the child
TINY: dict[str, Any] = {
    "segment_bytes": 8 << 10, "free_floor_bytes": 0, "heartbeat_s": 3600.0, "flush_interval_s": 0.005, "connections": 1,
    "watch": False,  # every point is counted here, and what the rules find are points too
}  # fmt: skip
KINDS = {
    "open": "/^open(at)?$", "allocate": "fallocate", "map": "mmap", "rename": "/^rename", "cut": "/^truncate",
    "flush": "/^(msync|fdatasync)$", "delete": "/^unlink", "write": "write", "fsync": "fsync",
}  # fmt: skip
# What a call is about, and what shows that in a path.
ROLES = {"ack": "/ack-", "standing": "/derived-", "gone": ".gone", "spare": ".spare", "segment": ".seg"}
_CALL = re.compile(r"^(\d+) +\w+\(.*$", re.M)


# -- in the child -------------------------------------------------------------------------------------------------

Log = Callable[[metriclog.Run, int], None]


@dataclass(frozen=True)
class Load:
    """What a child does: a run of so many steps, offline where it never flushes; of none: what `sync` does."""

    steps: int
    flush_every: int = 0
    bounds: Mapping[str, int] = field(default_factory=dict)


LOADS = {
    "rolls": Load(1000),
    "drops": Load(1400, bounds={"journal_max_bytes": 48 << 10}),
    "acks": Load(500, flush_every=20),
    "retains": Load(1400, flush_every=350, bounds={"retain_bytes": 0, "flush_interval_s": 1}),  # few acks in between
    "syncs": Load(0),
}


def work(load: Load, run_id: str, settings: Settings, log: Log) -> dict[str, Any]:
    """Do it; the counts of the run."""
    if not load.steps:
        ship(settings)
        return {}
    mode: Mode = "online" if load.flush_every else "offline"
    run = metriclog.init(EXPERIMENT, run_id=run_id, settings=settings, mode=mode)
    for step in range(load.steps):
        log(run, step)
        if load.flush_every and (step + 1) % load.flush_every == 0:
            run.flush(LIMIT_S)
    run.finish(timeout_s=LIMIT_S)
    return run.stats()


def settings_of(where: Mapping[str, str], load: Load) -> Settings:
    """Bounds far below what `Settings` allows: a short life has many segments, and a check few points."""
    return Settings(**where).model_copy(update={**TINY, **load.bounds})  # type: ignore[arg-type]


def _live(order: dict[str, Any], reports: socket.socket) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
    assert reports.recv(1), "nobody wants this child"
    journal.RETRY_FULL_S = 0.0

    def log(run: metriclog.Run, step: int) -> None:
        call = log_step(run, step)
        reports.send(REPORT.pack(0, step, call.before_ns, call.after_ns))

    load = LOADS[order["load"]]
    stats = work(load, order["run"], settings_of(order["where"], load), log)
    reports.send(json.dumps(stats).encode())


def _serve(orders: socket.socket) -> None:
    """Fork a child for each order; answer with its pid, and with its exit status. One that stops is killed there."""
    import influxdb_client.service.write_service  # noqa: F401 - warm, as the next
    import orjson  # noqa: F401

    import metriclog.derived
    import metriclog.transport  # noqa: F401

    while True:
        body, fds, _, _ = socket.recv_fds(orders, MESSAGE_BYTES, 1)
        if not body:
            return
        pid = os.fork()
        if pid == 0:
            orders.close()
            try:
                _live(json.loads(body), socket.socket(fileno=fds[0]))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(fds[0])
        orders.send(str(pid).encode())
        status = os.waitpid(pid, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        orders.send(str(os.waitstatus_to_exitcode(status)).encode())


# -- seen from the test -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A bucket and a journal directory of one life's own, so that the oracle has little to read."""

    load: str
    influx: Influx
    folder: Path

    @property
    def where(self) -> dict[str, str]:
        """Settings as an order has them."""
        return address(self.influx, self.folder)

    @property
    def settings(self) -> Settings:
        """The same for the test itself."""
        return settings_of(self.where, LOADS[self.load])


@dataclass(frozen=True)
class Life:
    """One child: its calls of `log()`, its counts if it came to its end, how it ended, what strace saw."""

    accepted: list[Accepted]
    stats: dict[str, Any] | None
    code: int
    traced: list[tuple[int, str]]

    def at(self, number: int) -> set[str]:
        """What the calls of this number were about, of whatever thread; nothing where it came to none."""
        return {role_of(line) for count, line in self.traced if count == number}


def role_of(line: str) -> str:
    """Which file a call is about."""
    return next((role for role, name in ROLES.items() if name in line), "other")


class Lives:
    """The warm parent; one child at a time."""

    def __init__(self, folder: Path) -> None:
        self._trace = folder / "trace"
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(LIMIT_S)
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()

    def close(self) -> None:
        """End the parent."""
        self._socket.close()
        self._process.wait(LIMIT_S)

    def live(self, place: Place, kind: str, harm: str = "", run: str = "r") -> Life:
        """Let a child live under strace, which looks at calls of a kind, and does harm at them."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.settimeout(LIMIT_S)
            order = {"load": place.load, "where": place.where, "run": run}
            socket.send_fds(self._socket, [json.dumps(order).encode()], [theirs.fileno()])
            theirs.close()
            with self._strace(int(self._socket.recv(MESSAGE_BYTES)), KINDS[kind], harm):
                ours.send(b"!")
                heard = list(_messages(ours))
                code = int(self._socket.recv(MESSAGE_BYTES))
        stats = json.loads(heard.pop()) if code == 0 else None
        rows = [REPORT.unpack(message) for message in heard]
        accepted = [Accepted(run, step, metrics_of(step), before, after) for _, step, before, after in rows]
        return Life(accepted, stats, code, _numbered(self._trace.read_text(errors="replace")))

    @contextlib.contextmanager
    def _strace(self, pid: int, calls: str, harm: str) -> Iterator[None]:
        inject = ["-e", f"inject={calls}:{harm}"] if harm else []
        command = ["strace", "-f", "-y", "-o", str(self._trace), "-e", f"trace={calls}", *inject, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            try:
                if "attached" not in said:
                    pytest.skip(f"strace may not look at other processes here: {said.strip()}")
                yield
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                raise


def _messages(reports: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(ConnectionResetError):
        while message := reports.recv(MESSAGE_BYTES):
            yield message


def _numbered(trace: str) -> list[tuple[int, str]]:
    """Each call, and the how many-th of its thread it is."""
    counts: Counter[str] = Counter()
    numbered = []
    for found in _CALL.finditer(trace):
        counts[found[1]] += 1
        numbered.append((counts[found[1]], found[0]))
    return numbered


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
