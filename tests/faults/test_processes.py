"""How a training process ends, and what becomes of its points (K3, K4, X1, X2). No end is altered by metriclog."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metriclog import cli
from metriclog.settings import Settings
from tests.faults.loads import MOST_METRICS, address, metrics_of, python
from tests.faults.oracle import Accepted, Tally, check_conservation
from tests.faults.proxy import Exchange, FaultProxy, black_hole
from tests.faults.shipping import check_all_delivered, settings_of, ship
from tests.servers.api import Influx

LIMIT_S = "30"  # for an exit that is to deliver everything

# How each script begins. `train` says of each call that it has returned, past Python's own buffers.
BEGINS = """
    import atexit, os, resource, signal, sys, threading, time
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    under_way = threading.Event()

    def hooks():
        handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
        return [*handlers, sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()]

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

    def in_thread(work, *args):
        thread = threading.Thread(target=work, args=args, daemon=True)
        thread.start()
        return thread

    def strike(number):
        under_way.wait()
        os.kill(os.getpid(), number)

    def train(steps, run="r"):
        for step in steps:
            say("call", run, step, *log(step, run))
            if step == 200:
                under_way.set()

    def for_ever(number=None):
        if number is not None:
            in_thread(strike, number)
        train(range(1 << 40))
"""
# With metriclog, and without.
STARTS = """
    before = hooks()
    import metriclog
    from tests.faults.loads import log_step
    runs = {name: metriclog.init("faults", run_id=name) for name in NAMES}
    assert hooks() == before
"""
LOGS = """
    def log(step, run):
        call = log_step(runs[run], step)
        return call.before_ns, call.after_ns
"""
BARE = """
    def log(step, run):
        return 0, 0
"""


def script(*parts: str, names: str = "r") -> str:
    """A whole script of these parts, `names` are those of its runs."""
    return "\n".join([f"NAMES = {names.split()}", *map(textwrap.dedent, (BEGINS, *parts))])


def calls_of(done: subprocess.CompletedProcess[str]) -> list[Accepted]:
    """The calls of `log()` that a script said had returned."""
    said = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("call ")]
    steps = [(run, int(step), int(before), int(after)) for run, step, before, after in said]
    return [Accepted(run, step, metrics_of(step), before, after) for run, step, before, after in steps]


def words_of(done: subprocess.CompletedProcess[str], kind: str) -> list[str]:
    """What a script said under this name."""
    return [line.removeprefix(kind).strip() for line in done.stdout.splitlines() if line.startswith(f"{kind} ")]


# -- with a server that works (K3, X1) ----------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """How a script ends; its exit code, or minus the signal; whether its last call may not have come back."""

    script: str
    code: int
    interrupted: bool = False

    @property
    def unreported(self) -> int:
        """How many points may be there that no call has reported."""
        return MOST_METRICS if self.interrupted else 0


TRAINED = "train(range(300))\n"
THREAD_FAILS = """
    def fail():
        train(range(300))
        raise ValueError("in a thread")
    in_thread(fail).join()
"""
# What others do to save a checkpoint when a cluster takes its machine back.
OWN_HANDLER = """
    def save_and_leave(number, frame):
        sys.exit(143)
    signal.signal(signal.SIGTERM, save_and_leave)
    for_ever(signal.SIGTERM)
"""
DELIVERS = {
    "the plain end of the script": End(TRAINED, 0),
    "sys.exit(0)": End(TRAINED + "sys.exit(0)", 0),
    "sys.exit(3)": End(TRAINED + "sys.exit(3)", 3),
    "sys.exit with words": End(TRAINED + "sys.exit('no data')", 1),
    "an uncaught exception": End(TRAINED + "raise ValueError('diverged')", 1),
    "an uncaught exception in a thread": End(THREAD_FAILS, 0),
    "SIGINT": End("for_ever(signal.SIGINT)", -2, interrupted=True),
    "SIGTERM with a handler of the script": End(OWN_HANDLER, 143, interrupted=True),
}
LEAVES = {
    "SIGTERM": End("for_ever(signal.SIGTERM)", -15, interrupted=True),
    "SIGHUP": End("for_ever(signal.SIGHUP)", -1, interrupted=True),
    "SIGSEGV from outside": End("for_ever(signal.SIGSEGV)", -11, interrupted=True),
    "a real segmentation fault": End(TRAINED + "import ctypes; ctypes.string_at(0)", -11),
    "SIGABRT from outside": End("for_ever(signal.SIGABRT)", -6, interrupted=True),
    "os.abort": End(TRAINED + "os.abort()", -6),
    "os._exit while another thread logs": End("in_thread(for_ever); under_way.wait(); os._exit(7)", 7, True),
}


def ended(end: End, settings: Settings) -> subprocess.CompletedProcess[str]:
    """The script's end with metriclog, once it has been seen that it is the same as without."""
    bare = python(script(BARE, end.script))
    surroundings = {"url": str(settings.url), "token": settings.read_token() or "", "org": settings.org}
    done = python(
        script(STARTS, LOGS, end.script),
        **surroundings,
        bucket=settings.bucket,
        dir=str(settings.dir),
        exit_timeout_s=LIMIT_S,
    )
    assert (bare.returncode, done.returncode) == (end.code, end.code), done.stderr
    assert "metriclog:" not in done.stderr
    assert last_line(done.stderr) == last_line(bare.stderr)
    return done


def last_line(words: str) -> str:
    """What a Python that ends by an exception says in the end."""
    return words.rstrip().rpartition("\n")[2]


def check_nothing_is_left(accepted: list[Accepted], settings: Settings, influx: Influx, unreported: int) -> Tally:
    tally = check_conservation(accepted, settings, influx, unreported=unreported)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)
    assert len(accepted) > 200
    return tally


@pytest.mark.parametrize("name", DELIVERS)
def test_this_end_delivers_everything_and_is_the_same_as_without_us(influx: Influx, tmp_path: Path, name: str) -> None:
    settings, end = settings_of(influx, tmp_path / "journal"), DELIVERS[name]
    done = ended(end, settings)
    check_nothing_is_left(calls_of(done), settings, influx, end.unreported)


@pytest.mark.parametrize("name", LEAVES)
def test_this_end_leaves_to_the_next_sync_what_it_had_no_time_for_and_is_the_same_as_without_us(
    influx: Influx, tmp_path: Path, name: str
) -> None:
    settings, end = settings_of(influx, tmp_path / "journal"), LEAVES[name]
    done = ended(end, settings)
    before = check_conservation(calls_of(done), settings, influx, unreported=end.unreported)
    ship(settings)
    after = check_nothing_is_left(calls_of(done), settings, influx, end.unreported)
    assert after.journal == before.journal


def test_no_handler_and_no_hook_of_ours_is_installed_at_any_time(influx: Influx, tmp_path: Path) -> None:
    at_work = """
        train(range(300))
        assert runs["r"].flush(30.0)  # so that all that is imported later is here too
        assert hooks() == before
        runs["r"].finish()
        assert hooks() == before
    """
    done = python(script(STARTS, LOGS, at_work), **address(influx, tmp_path / "journal"))
    assert (done.returncode, done.stderr) == (0, "")
    check_all_delivered(calls_of(done), settings_of(influx, tmp_path / "journal"), influx)


# -- with a server that is away (X2) ------------------------------------------------------------------------------

EXIT_TIMEOUT_S = 0.5
# What is registered first runs last: by then metriclog has ended.
LEAVES_THREE_RUNS = """
    for run in runs:
        train(range(300), run)
    say("leaves", time.monotonic())
"""
CLOCK = """
    import atexit, os, time
    atexit.register(lambda: os.write(1, f"left {time.monotonic()}".encode()))
"""
LEFT = r"^metriclog: (\d+) points of run (\S+) wait in (\S+)(?: \(.*\))?\. Ship them with: metriclog sync (\S+)$"


def drip_for_ever(exchange: Exchange) -> None:
    """The server stores it; an answer without end arrives byte by byte, so that no read ever times out."""
    assert exchange.forward().status == 204
    exchange.drip(b"HTTP/1.1 204 No Content\r\nX-Endless: " + bytes(60_000).replace(b"\0", b"x"))


@contextmanager
def away(proxy: FaultProxy, how: str) -> Iterator[None]:
    """Inside the block the server cannot be reached."""
    if how == "refuses":
        with proxy.refusing():
            yield
    else:
        proxy.always = {"is a black hole": black_hole, "drips for ever": drip_for_ever}[how]
        yield
        proxy.always = None


@pytest.mark.parametrize("how", ["refuses", "is a black hole", "drips for ever"])
def test_while_the_server_is_away_the_process_ends_in_time_says_what_is_left_and_loses_nothing(
    influx: Influx, tmp_path: Path, proxy: FaultProxy, how: str
) -> None:
    where = {**address(influx, tmp_path / "journal"), "url": proxy.url}
    with away(proxy, how):
        source = textwrap.dedent(CLOCK) + script(STARTS, LOGS, LEAVES_THREE_RUNS, names="a b c")
        done = python(source, **where, exit_timeout_s=str(EXIT_TIMEOUT_S), flush_interval_s="0.02")
        ended_s = time.monotonic()
    assert done.returncode == 0, done.stderr
    (leaves,), (left,) = words_of(done, "leaves"), words_of(done, "left")
    assert float(left) - float(leaves) < EXIT_TIMEOUT_S + 1.0
    assert ended_s - float(leaves) < EXIT_TIMEOUT_S + 10.0, "and no thread of ours keeps the interpreter"
    assert "Traceback" not in done.stderr
    lines = re.findall(LEFT, done.stderr, re.M)
    settings = settings_of(influx, tmp_path / "journal", url=proxy.url)
    tally = check_conservation(calls_of(done), settings, influx)
    assert [run for _, run, _, _ in lines] == ["a", "b", "c"]
    assert sum(int(count) for count, _, _, _ in lines) == tally.pending == tally.journal
    assert {place for _, _, _, place in lines} == {str(settings.dir)}
    ship(settings)
    check_all_delivered(calls_of(done), settings, influx)


# The second Ctrl-C of somebody who does not want to wait: when the end of the process waits for the server.
TWO_STRIKES = """
    def strike_again():
        ending.wait()
        main = threading.main_thread().ident
        while sys._current_frames()[main].f_code is not threading.Condition.wait.__code__:
            pause.wait(0.001)
        say("struck", time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    ending, pause = threading.Event(), threading.Event()
    atexit.register(ending.set)
    in_thread(strike_again)
    for run in runs:
        train(range(300), run)
    under_way.clear()
    for_ever(signal.SIGINT)
"""


@pytest.mark.parametrize("journal_io", ["mmap", "buffered"])
def test_a_second_ctrl_c_ends_the_wait_at_once_and_everything_is_left_to_the_next_sync(
    influx: Influx, tmp_path: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, journal_io: str
) -> None:
    where = {**address(influx, tmp_path / "journal"), "url": proxy.url}
    proxy.always = black_hole
    source = textwrap.dedent(CLOCK) + script(STARTS, LOGS, TWO_STRIKES, names="r s t")
    done = python(source, **where, exit_timeout_s="50", journal_io=journal_io)
    assert done.returncode == -2, done.stderr
    (struck,), (left,) = words_of(done, "struck"), words_of(done, "left")
    assert float(left) - float(struck) < 10.0, "and not 50"
    assert "atexit callback" not in done.stderr
    lines = re.findall(LEFT, done.stderr, re.M)
    assert [run for _, run, _, _ in lines] == ["r", "s", "t"]
    proxy.always = None
    for name, value in where.items():
        monkeypatch.setenv(f"METRICLOG_{name.upper()}", value)
    synced = CliRunner().invoke(cli.app, ["sync"])
    assert synced.exit_code == 0, synced.output
    settings = settings_of(influx, tmp_path / "journal", url=proxy.url)
    check_nothing_is_left(calls_of(done), settings, influx, MOST_METRICS)


# -- without memory (K4) --------------------------------------------------------------------------------------------

# A segment takes more than what is left, a call of log() and a post far less. Texts fill segments without many points.
BURSTS = """
    import json
    from metriclog import journal
    journal.RETRY_FULL_S = 0.02

    def leave(size_bytes):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + size_bytes, resource.RLIM_INFINITY))

    def burst(steps):
        for step in steps:
            train([step])
            runs["r"].event("note", "a long one", "x" * 8000)

    burst(range(100))
    assert runs["r"].flush(30.0)
    leave(4 << 20)
    burst(range(1000, 3500))
    leave(1 << 40)
    burst(range(6000, 6100))
    assert runs["r"].flush(30.0), runs["r"].stats()
    runs["r"].finish()
    say("stats", json.dumps(runs["r"].stats()))
"""
NOTES = 100 + 2500 + 100
OWN_LINES = 5  # of a run: its state and an event at the start, an event, its state and its delivery at the end


def test_a_burst_without_memory_costs_what_found_no_room_counted_and_training_sees_no_error(
    influx: Influx, tmp_path: Path
) -> None:
    tight = {"segment_bytes": str(8 << 20), "batch_max_points": "50", "connections": "1", "free_floor_bytes": "0"}
    where = address(influx, tmp_path / "journal")
    done = python(script(STARTS, LOGS, BURSTS), **where, **tight, heartbeat_s="3600", flush_interval_s="0.02")
    assert done.returncode == 0, done.stderr
    stats = json.loads(words_of(done, "stats")[0])
    assert 0 < stats["dropped"] < 2500 * 3
    assert "Cannot allocate memory" in done.stderr
    settings = settings_of(influx, tmp_path / "journal")
    known = {"dropped": stats["dropped"], "lines": NOTES + OWN_LINES}
    tally = check_conservation(calls_of(done), settings, influx, stats=[stats], **known)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)
