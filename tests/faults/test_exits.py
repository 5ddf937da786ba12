"""log() while the interpreter goes down (X3): a point is accepted, or refused in so many words. Nothing hangs."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

import metriclog
from tests.faults.loads import EXPERIMENT, MOST_METRICS, address, log_step, python
from tests.faults.oracle import check_conservation
from tests.faults.shipping import check_all_delivered, settings_of, ship
from tests.faults.test_processes import LIMIT_S, LOGS, STARTS, calls_of, script, words_of
from tests.servers.api import Influx

# Before anything else. What is registered first runs last. As from Python 3.12 on, no thread starts at the end.
FIRST = """
    import atexit, os, threading
    tried, ending, start = [], threading.Event(), threading.Thread.start

    def start_unless_ending(thread):
        if ending.is_set():
            tried.append(thread.name)
            raise RuntimeError("can't start new thread at interpreter shutdown")
        start(thread)

    threading.Thread.start = start_unless_ending
    atexit.register(lambda: os.write(1, f"threads {' '.join(tried)}{chr(10)}".encode()))
"""
# What logs late says what became of it. It holds all that it needs: names may be gone by then.
LATE = """
    atexit.register(ending.set)

    def try_to_log(where, run=runs["r"], refused=metriclog.RunFinishedError, write=os.write):
        try:
            run.log({"train/loss": 1.0 / 1003}, 1000)
        except refused:
            write(1, f"refused {where}\\n".encode())
        else:
            write(1, f"accepted {where}\\n".encode())

    class Last:
        def __init__(self, where, try_to_log=try_to_log):
            self.where, self.try_to_log = where, try_to_log

        def __del__(self):
            self.try_to_log(self.where)

    train(range(300))
"""


def run_late(
    late: str, first: str, influx: Influx, tmp_path: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end: `first` before metriclog is there, `late` after it has logged a little."""
    source = "\n".join([textwrap.dedent(FIRST), first, script(STARTS, LOGS, LATE, late)])
    done = python(source, **address(influx, tmp_path / "journal"), exit_timeout_s=LIMIT_S, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return done


ACCEPTED_LATE = {
    "an atexit handler that comes before ours": "atexit.register(train, range(1000, 1300))",
    "a thread that outlives the script": """
        def outlive():
            threading.main_thread().join()
            train(range(1000, 1300))
        threading.Thread(target=outlive).start()
    """,
    "the workers of an executor": """
        from concurrent.futures import ThreadPoolExecutor
        executor = ThreadPoolExecutor(2)
        for number in range(4):
            executor.submit(train, range(1000 * number, 1000 * number + 300))
    """,
    "what is called before threads are joined": "threading._register_atexit(train, range(1000, 1300))",
}


@pytest.mark.parametrize("late", ACCEPTED_LATE)
def test_what_this_logs_at_the_end_is_delivered_before_the_process_is_gone(
    influx: Influx, tmp_path: Path, late: str
) -> None:
    done = run_late(ACCEPTED_LATE[late], "", influx, tmp_path)
    assert (words_of(done, "refused"), words_of(done, "threads")) == ([], [""])
    assert len(calls_of(done)) > 300
    check_all_delivered(calls_of(done), settings_of(influx, tmp_path / "journal"), influx)


AFTER_OURS = "atexit.register(lambda: try_to_log('atexit'))"
REFUSED_LATE = {
    "an atexit handler that comes after ours": (AFTER_OURS, "", "atexit"),
    "__del__ of a global": ("", "last = Last('global')", "global"),
    "__del__ of what builtins hold": ("", "import builtins; builtins.last = Last('builtins')", "builtins"),
    "__del__ in a cycle": ("", "last = Last('cycle'); last.me = last; del last", "cycle"),
}


@pytest.mark.parametrize("late", REFUSED_LATE)
def test_what_this_logs_at_the_end_is_refused_and_what_came_before_is_delivered(
    influx: Influx, tmp_path: Path, late: str
) -> None:
    first, last, where = REFUSED_LATE[late]
    done = run_late(last, first, influx, tmp_path)
    # Python may call __del__ when what it needs is gone already: then it fails in silence.
    assert words_of(done, "refused") in ([where], [] if where == "global" else [where])
    assert (words_of(done, "accepted"), words_of(done, "threads")) == ([], [""])
    check_all_delivered(calls_of(done), settings_of(influx, tmp_path / "journal"), influx)


# It goes on to the very end of the interpreter, however often it is refused.
LOGS_ON = """
    def log_on(steps):
        for step in steps:
            try:
                train([step])
                at_it.add(threading.get_ident())
            except metriclog.RunFinishedError:
                pause.wait(0.001)

    at_it, pause = set(), threading.Event()
    for number in range(3):
        in_thread(log_on, range(1000 + number, 1 << 40, 3))
    while len(at_it) < 3:
        pause.wait(0.001)
"""


def test_daemon_threads_that_log_to_the_very_end_lose_nothing_that_was_accepted(influx: Influx, tmp_path: Path) -> None:
    done = run_late(LOGS_ON, "", influx, tmp_path)
    assert words_of(done, "threads") == [""]
    settings = settings_of(influx, tmp_path / "journal")
    tally = check_conservation(calls_of(done), settings, influx, unreported=3 * MOST_METRICS)
    assert (tally.pending, tally.quarantined, tally.server) == (0, 0, tally.journal)


def test_a_backlog_would_have_more_connections_at_the_end_too_and_is_delivered_where_they_get_no_thread(
    influx: Influx, tmp_path: Path
) -> None:
    done = run_late("train(range(1000, 4000))", "", influx, tmp_path, batch_max_points="100", connections="4")
    (tried,) = words_of(done, "threads")
    assert set(tried.split()) <= {"metriclog-lane"}
    check_all_delivered(calls_of(done), settings_of(influx, tmp_path / "journal"), influx)


# -- a first run at the very end ----------------------------------------------------------------------------------

FIRST_RUN_AT_THE_END = f"""
    def late():
        exec({textwrap.dedent(STARTS)!r}, globals())
        train(range(300))

    atexit.register(late)
"""


@pytest.mark.parametrize("imported", [True, False], ids=["metriclog imported before", "imported then"])
def test_a_run_that_begins_in_an_atexit_handler_is_left_to_the_next_sync(
    influx: Influx, tmp_path: Path, imported: bool
) -> None:
    ahead = "import metriclog, metriclog.background" if imported else ""
    done = python(script(ahead, LOGS, FIRST_RUN_AT_THE_END), **address(influx, tmp_path / "journal"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(calls_of(done)) == 300
    settings = settings_of(influx, tmp_path / "journal")
    check_conservation(calls_of(done), settings, influx)
    ship(settings)
    check_all_delivered(calls_of(done), settings, influx)


# -- in between ---------------------------------------------------------------------------------------------------


class EndsTheRun:
    """A metric whose reading ends the run, as another thread might between the first look and the journal."""

    def __init__(self, run: metriclog.Run) -> None:
        self._run = run

    def __float__(self) -> float:
        self._run.finish()
        return 1.0


def test_a_run_that_ends_while_log_is_under_way_refuses_the_call_and_counts_nothing(
    influx: Influx, tmp_path: Path
) -> None:
    settings = settings_of(influx, tmp_path / "journal")
    run = metriclog.init(EXPERIMENT, run_id="r", settings=settings)
    accepted = [log_step(run, step) for step in range(100)]
    with pytest.raises(metriclog.RunFinishedError, match="run r has been finished"):
        run.log({"loss": EndsTheRun(run)}, 100)
    check_conservation(accepted, settings, influx, stats=[run.stats()])
    check_all_delivered(accepted, settings, influx)


# Ctrl-C comes ever later: at first when finish() begins, at last when it is over. It is caught, as by a notebook.
EVER_LATER = """
    def strike(number, frame):
        struck.append(number)
        raise KeyboardInterrupt

    struck = [True]
    signal.signal(signal.SIGALRM, strike)
    while struck and len(runs) < 400:
        struck.clear()
        name = f"r{len(runs)}"
        run = runs[name] = metriclog.init("faults", run_id=name, mode="offline")
        train(range(10), name)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 * len(runs))
            run.finish()
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        except KeyboardInterrupt:
            run.finish()
        say("finished", run.finished)
"""


def test_ctrl_c_at_any_moment_of_finish_loses_nothing_and_leaves_a_finished_run(influx: Influx, tmp_path: Path) -> None:
    done = python(
        script(STARTS, LOGS, EVER_LATER, names=""), **address(influx, tmp_path / "journal"), segment_bytes=str(64 << 10)
    )
    assert done.returncode == 0, done.stderr
    finished = words_of(done, "finished")
    assert len(finished) > 20
    assert set(finished) == {"True"}
    settings = settings_of(influx, tmp_path / "journal")
    ship(settings)
    check_all_delivered(calls_of(done), settings, influx)
