"""A soak: a seeded mix of faults for METRICLOG_SOAK_MINUTES (default 2), the oracle after each epoch, nothing growing.

    METRICLOG_SOAK_MINUTES=30 python -m pytest tests/faults/test_soak.py -m soak -s

One process trains without a pause, a run an epoch, while the real server is killed, stopped, frozen and started again,
while other trainers in the same directory are killed with `kill -9`, and while ack files are lost or torn. What the
process takes is measured in it, after each run. METRICLOG_SOAK_SEED repeats a mix.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metriclog import cli, directory
from metriclog.settings import Settings
from tests.conftest import PrivateInflux
from tests.faults.loads import MOST_METRICS, Children, address
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.trainer import Trainer

MINUTES = float(os.environ.get("METRICLOG_SOAK_MINUTES", "2"))
EPOCH_S = 45.0
LIMIT_S = 60.0
MAX_GROWTH_BYTES = 30 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(int(MINUTES * 60 * 2 + 300))]


class Mix:
    """The faults, drawn from one seeded stream."""

    def __init__(self, rng: random.Random, server: PrivateInflux, children: Children, where: dict[str, str]) -> None:
        self._rng, self._server, self._children, self._where = rng, server, children, where
        self.counts: Counter[str] = Counter()
        self.accepted: list[Accepted] = []
        self._kills = 0

    def one(self, wait: threading.Event) -> None:
        """Let one fault happen and pass."""
        faults = [self.kill_server, self.stop_server, self.freeze_server, self.kill_trainer, self.hurt_ack]
        fault = self._rng.choice(faults)
        self.counts[fault.__name__] += 1
        fault(wait)
        wait.wait(self._rng.uniform(0.0, 2.0))

    def kill_server(self, wait: threading.Event) -> None:
        """kill -9, and back after a while."""
        self._server.kill()
        wait.wait(self._rng.uniform(0.0, 3.0))
        self._server.start()

    def stop_server(self, wait: threading.Event) -> None:
        """An orderly stop, and back after a while."""
        self._server.stop()
        wait.wait(self._rng.uniform(0.0, 3.0))
        self._server.start()

    def freeze_server(self, wait: threading.Event) -> None:
        """SIGSTOP beyond the read timeout: every post under way is sent again."""
        pid = self._server.pid()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
            wait.wait(self._rng.uniform(0.5, 4.0))
            os.kill(pid, signal.SIGCONT)

    def kill_trainer(self, _: threading.Event) -> None:
        """Another trainer in the same directory, killed with kill -9."""
        self._kills += 1
        mode = self._rng.choice(["online", "offline"])
        small = {"segment_bytes": 64 << 10, "batch_max_points": 300, "flush_interval_s": 0.01, "heartbeat_s": 0.05}
        order = {**self._where, **small, "mode": mode}
        life_s = self._rng.uniform(0.0, 0.4)
        self.accepted += self._children.live_and_die(f"k{self._kills}", order, self._rng.randrange(1 << 30), life_s)

    def hurt_ack(self, _: threading.Event) -> None:
        """An ack file lost or torn: its directory is sent again, which changes nothing."""
        acks = sorted(Path(self._where["dir"]).glob("*/*/ack-*.json"))
        if acks:
            victim = self._rng.choice(acks)
            victim.unlink() if self._rng.random() < 0.5 else os.truncate(victim, self._rng.randrange(20))

    @property
    def unreported(self) -> int:
        """What the killed trainers may have written without having been able to say so."""
        return self._kills * MOST_METRICS


@pytest.fixture
def children() -> Iterator[Children]:
    parent = Children()
    yield parent
    parent.close()


def check_apart(accepted: list[Accepted], settings: Settings, server: PrivateInflux, unreported: int) -> int:
    """The oracle, in a child process: so the memory that its dictionaries take is given back."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            tally = check_conservation(accepted, settings, server, unreported=unreported)
            assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)
            os.write(write_fd, str(tally.server).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write_fd)
    with os.fdopen(read_fd) as answer:
        stored = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the oracle does not hold; see its output above"
    return int(stored)


def epoch(
    rng: random.Random, server: PrivateInflux, children: Children, trainer: Trainer, root: Path
) -> tuple[int, Counter[str], dict[str, Any]]:
    """One epoch in a directory of its own; (points on the server, faults, what the trainer said)."""
    where = address(server, root)
    quick = {"flush_interval_s": 0.05, "batch_max_points": 2000, "read_timeout_s": 2.0, "segment_bytes": 256 << 10}
    settings = Settings(**{**where, **quick, "heartbeat_s": 0.5})  # type: ignore[arg-type]
    mix, wait = Mix(rng, server, children, where), threading.Event()
    trainer.start(f"main-{root.name}", {**where, **quick, "heartbeat_s": 0.5})
    end_s = time.monotonic() + EPOCH_S
    while time.monotonic() < end_s:
        mix.one(wait)
    accepted, said = trainer.stop()
    surroundings = {f"METRICLOG_{name.upper()}": value for name, value in where.items()}
    done = CliRunner().invoke(cli.app, ["sync", "--give-up-after-s", str(LIMIT_S)], env=surroundings)
    assert done.exit_code == 0, done.output
    assert directory.process_directories(root)
    stored = check_apart([*accepted, *mix.accepted], settings, server, mix.unreported)
    return stored, mix.counts, said


def test_a_mix_of_faults_loses_nothing_and_nothing_grows(
    private_influx: PrivateInflux, children: Children, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("METRICLOG_SOAK_SEED", time.time_ns() % 1_000_000))
    rng, faults, points = random.Random(seed), Counter[str](), 0
    marks: list[dict[str, Any]] = []
    trainer = Trainer(tmp_path / "trainer.log")
    end_s = time.monotonic() + MINUTES * 60
    while time.monotonic() < end_s:
        root = tmp_path / f"epoch{len(marks)}"
        stored, counts, said = epoch(rng, private_influx, children, trainer, root)
        points, faults = points + stored, faults + counts
        shutil.rmtree(root)
        private_influx.delete_bucket()
        private_influx.create_bucket()
        marks.append({name: said[name] for name in ("rss_bytes", "descriptors", "threads", "slowest_ms")})
        with capsys.disabled():
            sys.stdout.write(f"\nsoak seed {seed}: {len(marks)} epochs, {points} points, {dict(faults)}, {marks[-1]}\n")
    trainer.close()
    early, late = marks[min(2, len(marks) - 1)], marks[-1]
    with capsys.disabled():
        slowest_ms = max(mark["slowest_ms"] for mark in marks)
        sys.stdout.write(f"soak seed {seed}: slowest call {slowest_ms:.1f} ms, {early} -> {late}\n")
    assert late["rss_bytes"] - early["rss_bytes"] <= MAX_GROWTH_BYTES, f"memory grew: {marks}"
    assert late["descriptors"] <= early["descriptors"] + 2, f"descriptors grew: {marks}"
    assert late["threads"] <= early["threads"], f"threads grew: {marks}"
