"""A program with its children, seen from a test: it runs a script, and finds what all of them logged and where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from metriclog import directory, testing
from metriclog.acks import load_ack
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.faults.loads import ROOT, address
from tests.faults.oracle import Accepted
from tests.faults.shipping import check_all_delivered, settings_of, ship
from tests.faults.workers import noted
from tests.servers.api import Influx

PRELUDE = "from tests.faults.workers import *\n"
LIMIT_S = 240.0
QUICK = {"segment_bytes": str(64 << 10), "batch_max_points": "100", "flush_interval_s": "0.01"}


class Family:
    """All of it logs into one folder and notes its calls in one file; see tests/faults/workers.py."""

    def __init__(self, influx: Influx, tmp_path: Path) -> None:
        self.influx, self.folder, self.calls = influx, tmp_path / "journal", tmp_path / "calls"
        self.settings: Settings = settings_of(influx, self.folder, read_timeout_s=30.0)
        self.calls.touch()

    def run(self, source: str, **settings: str) -> str:
        """Run a script to its good end; what it printed."""
        with self.start(source, **settings) as process:
            try:
                printed, complained = process.communicate(timeout=LIMIT_S)
            finally:
                process.kill()
        assert process.returncode == 0, complained
        assert not re.search(r"metriclog/\w+\.py|Exception ignored", complained), complained  # swallowed by somebody
        return printed

    def start(self, source: str, **settings: str) -> subprocess.Popen[str]:
        """Start a script, with pipes from and to it."""
        given = {**address(self.influx, self.folder), **QUICK, "test_calls": str(self.calls), **settings}
        surroundings = {f"METRICLOG_{name.upper()}": value for name, value in given.items()}
        # From 3.12 on Python warns of any fork beside threads; what we do about that is under test.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + textwrap.dedent(source)]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **surroundings}, text=True, **pipes)

    @property
    def accepted(self) -> list[Accepted]:
        """The calls that returned."""
        return noted(self.calls)

    @property
    def folders(self) -> list[Path]:
        """The directories of the processes that logged."""
        return directory.process_directories(self.folder)

    def steps(self) -> list[set[int]]:
        """The steps in each of these directories."""
        every = [[point for point in testing.read_points(path) if "step" in point.fields] for path in self.folders]
        return [{int(point.fields["step"]) for point in one if point.measurement == "metrics"} for one in every]

    def pending(self) -> list[set[int]]:
        """The steps in each that the server has not."""
        target = Transport(self.settings).target
        return [
            {int(point.fields["step"]) for point in points if point.measurement == "metrics"}
            for path in self.folders
            for points in [testing.read_points(path, load_ack(path, target).position)]
        ]

    def check(self) -> None:
        """Ship what is left: then each point is on the server, once."""
        ship(self.settings)
        check_all_delivered(self.accepted, self.settings, self.influx)
