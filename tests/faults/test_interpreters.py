"""Newer Pythons than the one that runs the tests: forks, exits and workers are where they differ. Each with the oracle.

Each interpreter that is found gets an environment of its own with metriclog's dependencies, once, in the user's cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.loads import FOUND, ROOT, address
from tests.faults.shipping import check_all_delivered, settings_of, ship
from tests.faults.workers import noted
from tests.servers.api import Influx

LIMIT_S = 120.0
INSTALL_LIMIT_S = 900.0
NEWEST_MINOR = 20  # looked for on PATH
EXIT_TIMEOUT_S = 0.5
ASK = "import sys, venv, ensurepip; print(*sys.version_info[:3], sys.implementation.name)"

pytestmark = pytest.mark.timeout(INSTALL_LIMIT_S + LIMIT_S)


# -- which there are ----------------------------------------------------------------------------------------------


def candidates() -> Iterator[Path]:
    """Interpreters on PATH, and those of pyenv, whose own ones on PATH are stubs."""
    for minor in range(sys.version_info.minor + 1, NEWEST_MINOR):
        found = shutil.which(f"python3.{minor}")
        if found and Path(found).parent.name != "shims":
            yield Path(found)
    for path in sorted(pyenv_root().glob("versions/3.*/bin/python")):
        named = re.match(r"3\.(\d+)", path.parts[-3])
        if named and int(named[1]) > sys.version_info.minor:
            yield path


def pyenv_root() -> Path:
    """Where pyenv keeps its versions, if there is pyenv."""
    if "PYENV_ROOT" not in os.environ and shutil.which("pyenv"):
        said = subprocess.run(["pyenv", "root"], capture_output=True, text=True, timeout=LIMIT_S).stdout.strip()
        return Path(said or "~/.pyenv").expanduser()
    return Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()


def newer_interpreters() -> dict[str, Path]:
    """Version → path of each that is newer than this one and can make environments."""
    found: dict[str, Path] = {}
    for path in candidates():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=LIMIT_S).stdout.split()
            if said[-1:] == ["cpython"] and (3, int(said[1])) > sys.version_info[:2]:
                found.setdefault(".".join(said[:3]), path)
    return found


INTERPRETERS = newer_interpreters()
NONE = pytest.param("", marks=pytest.mark.skip(reason="no newer Python is installed: python3.12 and up, or pyenv"))


# -- their environments -------------------------------------------------------------------------------------------


def dependencies() -> list[str]:
    """What metriclog itself needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["dependencies"])


@functools.cache
def environment(version: str) -> Path | str:
    """The interpreter with the dependencies, installed first where that is missing; or why there is none."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metriclog-interpreters"
    base.mkdir(parents=True, exist_ok=True)
    folder, wanted = base / version, hashlib.sha256("\n".join(dependencies()).encode()).hexdigest()
    with open(base / f"{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python, stamp = folder / "bin" / "python", folder / "installed"
        if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
            trouble = install(INTERPRETERS[version], folder)
            if trouble:
                return f"metriclog's dependencies cannot be installed for Python {version}: {trouble}"
            stamp.write_text(wanted)
    return python


def install(python: Path, folder: Path) -> str:
    """Make a fresh environment with the dependencies; the last line of what went wrong, empty if nothing did."""
    make = [str(python), "-m", "venv", "--clear", str(folder)]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (make, [*pip, "--only-binary", ":all:", *dependencies()]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode != 0:
            return (done.stderr.strip() or "not a word").splitlines()[-1]
    return ""


@dataclass(frozen=True)
class Program:
    """A script that another interpreter runs; its calls of `log()` are noted (see workers.py) and judged here."""

    python: Path
    influx: Influx
    folder: Path

    def run(self, source: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        script = self.folder / "train.py"
        script.write_text(
            f"import atexit, os, sys, time\nimport metriclog\nfrom tests.faults.workers import note\n{source}"
        )
        given = {**address(self.influx, self.folder / "journal"), "exit_timeout_s": str(LIMIT_S), **settings}
        given |= {"test_calls": str(self.folder / "calls"), "flush_interval_s": "0.02"}
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        surroundings |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        surroundings |= {f"METRICLOG_{name.upper()}": value for name, value in given.items()}
        # From 3.12 on Python warns of any fork beside threads; what we do about that is under test.
        command = [str(self.python), "-W", "ignore::DeprecationWarning", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=LIMIT_S)
        done.stderr = FOUND.sub("", done.stderr)
        return done

    def check(self, calls: int, *, ship_first: bool = False) -> None:
        """So many calls returned, and each of their points is on the server, without a sync if not said so."""
        settings = settings_of(self.influx, self.folder / "journal", read_timeout_s=30.0)
        if ship_first:
            ship(settings)
        accepted = noted(self.folder / "calls")
        assert len(accepted) == calls
        check_all_delivered(accepted, settings, self.influx)


@pytest.fixture(params=[*INTERPRETERS] if INTERPRETERS else [NONE])
def program(request: pytest.FixtureRequest, influx: Influx, tmp_path: Path) -> Program:
    python = environment(request.param)
    if isinstance(python, str):
        pytest.skip(python)
    return Program(python, influx, tmp_path)


# -- what they do -------------------------------------------------------------------------------------------------


def test_parent_and_child_of_a_fork_that_end_without_finish_have_delivered_everything(program: Program) -> None:
    done = program.run(
        """
run = metriclog.init("faults", run_id="r")
for step in range(500):
    note(run, step)
pid = os.fork()
for step in range(1000, 1300):
    note(run, step if pid else step + 1000)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    program.check(1100)


def test_with_the_server_away_a_process_ends_in_time_with_one_line(program: Program) -> None:
    done = program.run(
        """
run = metriclog.init("faults", run_id="r")
for step in range(500):
    note(run, step)
print(time.monotonic())
""",
        url="http://127.0.0.1:1",
        exit_timeout_s=str(EXIT_TIMEOUT_S),
    )
    assert time.monotonic() - float(done.stdout) < EXIT_TIMEOUT_S + 10.0
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if "still trying" not in line]
    assert len(said) == 1, done.stderr
    assert re.match(r"metriclog: \d+ points of run r wait in .* Ship them with: metriclog sync ", said[0])
    program.check(500, ship_first=True)


def test_at_exit_what_is_logged_before_our_own_handler_is_delivered_and_later_it_is_refused(program: Program) -> None:
    """With a backlog, for which a second connection would want a thread: none can be started any more."""
    done = program.run(
        """
def too_late():
    try:
        run.log({"loss": 1.0})
    except metriclog.RunFinishedError:
        print("refused")

atexit.register(too_late)
run = metriclog.init("faults", run_id="r")
atexit.register(lambda: [note(run, step) for step in range(3000)])
""",
        batch_max_points="100",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")
    program.check(3000)


def test_a_run_that_begins_at_exit_cannot_ship_but_is_kept_and_says_so(program: Program) -> None:
    done = program.run(
        """
@atexit.register
def begin():
    run = metriclog.init("faults", run_id="r")
    for step in range(100):
        note(run, step)
    run.finish()
"""
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "what run r logs stays in" in done.stderr
    program.check(100, ship_first=True)


def test_a_forked_child_that_logs_first_when_it_ends_delivers_or_says_that_it_cannot(program: Program) -> None:
    done = program.run(
        """
run = metriclog.init("faults", run_id="r")
note(run, 0)
pid = os.fork()
if pid == 0:
    atexit.register(lambda: [note(run, step) for step in range(1, 100)])
else:
    assert os.waitpid(pid, 0)[1] == 0
"""
    )
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert len(said) <= 1, done.stderr
    assert all("what run r logs stays in" in line for line in said)
    program.check(100, ship_first=bool(said))


def test_an_uncaught_exception_is_printed_once_and_the_run_has_failed_with_all_its_points(program: Program) -> None:
    done = program.run(
        """
run = metriclog.init("faults", run_id="r")
for step in range(500):
    note(run, step)
raise ValueError("diverged")
"""
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: diverged\n")
    assert done.stderr.count("Traceback") == 1
    program.check(500)
    assert program.influx.rows("SELECT status FROM runs")[-1]["status"] == "failed"


WORKERS = """
import multiprocessing

def work(number):
    run = metriclog.active_run() if METHOD == "fork" else metriclog.init("faults", run_id="r", rank=number + 1)
    for step in range(100):
        note(run, 1000 * number + step)
    if number == 2:
        raise ValueError("this worker fails")

METHOD = "the method"
if __name__ == "__main__":
    run = metriclog.init("faults", run_id="r", rank=0)
    context = multiprocessing.get_context(METHOD)
    workers = [context.Process(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print([worker.exitcode for worker in workers])
    note(run, 5000)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_have_delivered_everything_also_one_that_fails(
    program: Program, method: str
) -> None:
    done = program.run(WORKERS.replace("the method", method))
    assert (done.returncode, done.stdout) == (0, "[0, 0, 1]\n"), done.stderr
    assert done.stderr.count("Traceback") == done.stderr.count("ValueError: this worker fails") == 1, done.stderr
    program.check(301)
