"""How test servers that are processes come up and end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

STOP_DEADLINE_S = 30.0


class StartError(Exception):
    """A server did not come up; the message ends with what it printed last."""


def wait_until_ready(
    name: str, ready: Callable[[], bool], alive: Callable[[], bool], output: Callable[[], str], deadline_s: float
) -> None:
    """Return once it is ready. Raises StartError if it ends, or so many seconds pass, before."""
    end_s = time.monotonic() + deadline_s
    while not ready():
        if not alive():
            raise StartError(f"{name} ended while starting; it printed:\n{output()}")
        if time.monotonic() > end_s:
            raise StartError(f"{name} was not ready within {deadline_s} s; it printed:\n{output()}")
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Leave it no choice."""
    process.kill()
    process.wait(STOP_DEADLINE_S)
