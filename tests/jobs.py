"""Processes that show one run to Prometheus and do as a test says; stands in for a training job."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# A job exposes one run, says where, and goes on when it is told to.
JOB = """
    import atexit, os, signal, sys
    from dataclasses import replace
    from pathlib import Path
    from metriclog import exposition, live
    from metriclog.settings import Settings
    from tests.snapshots import RUNNING, Scripted
    live.add(run := Scripted(replace(RUNNING, run=sys.argv[1])))
    settings = Settings.load()
    exposed = exposition.expose(settings)
    atexit.register(exposition.shut_down)
    atexit.register(exposition.linger)
    def say(*words):
        print(*words, flush=True)
    say(exposed.address if exposed else None)
"""


@contextmanager
def job(name: str, then: str = "input()", **settings: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs JOB and what follows."""
    given = {"prometheus_port": 0, **settings}
    surroundings = {f"METRICLOG_{key.upper()}": str(value) for key, value in given.items()}
    source = textwrap.dedent(JOB) + textwrap.dedent(then)
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source, name],
        cwd=ROOT, env={**os.environ, **surroundings}, text=True, **pipes,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert process.stdout
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    """Lets `input()` return."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
