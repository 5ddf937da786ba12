"""Real runs that Prometheus scrapes: from the first value to the end of the process, and in forked children."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import exposition, live
from metriclog.settings import Settings
from tests.jobs import ROOT, go_on, line
from tests.snapshots import LIMIT_S, get, parse, showing, values

PRELUDE = """
    import os, sys
    import metriclog
    from metriclog import exposition
    def say(*words):
        print(*words, flush=True)
    settings = metriclog.Settings.load()
    def address():
        exposed = exposition.expose(settings)
        return exposed.address if exposed else None
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An offline folder, a free port; no run is shown before and after."""
    with showing():
        yield Settings(dir=tmp_path, prometheus_port=0)
    for source in live.sources():
        live.remove(source)


@contextmanager
def script(source: str, folder: Path, **given: object) -> Iterator[subprocess.Popen[str]]:
    """A script that logs into this folder."""
    chosen = {"dir": folder / "journal", "prometheus_port": 0, "prometheus_sd_dir": folder / "sd", **given}
    surroundings = {f"METRICLOG_{name.upper()}": str(value) for name, value in chosen.items()}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        textwrap.dedent(PRELUDE) + textwrap.dedent(source),
    ]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **surroundings}, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def address(settings: Settings) -> str:
    """Where the runs of this process can be scraped."""
    exposed = exposition.expose(settings)
    assert exposed
    return exposed.address


def test_a_scrape_sees_what_was_logged_and_how_the_run_ends(settings: Settings) -> None:
    run = metriclog.init("digits", run_id="r", model="mlp", rank=0, settings=settings)
    for step in range(10):
        run.log({"train/loss": 1.0 / (step + 1), "odd": math.nan if step % 2 else 1.0}, step=step)
    text = get(address(settings))
    assert values(text, "metriclog_metric_value", "metric")[("train/loss",)] == pytest.approx(0.1)
    assert math.isnan(values(text, "metriclog_metric_value", "metric")[("odd",)])
    assert values(text, "metriclog_metric_step", "metric") == {("train/loss",): 9, ("odd",): 9}
    assert values(text, "metriclog_nonfinite_total", "metric") == {("train/loss",): 0, ("odd",): 5}
    assert values(text, "metriclog_run_info", "experiment", "run", "rank", "model") == {("digits", "r", "0", "mlp"): 1}
    assert values(text, "metriclog_run_steps") == {(): 9}
    assert values(text, "metriclog_points_accepted_total")[()] >= 20
    run.finish("failed")
    text = get(address(settings))
    assert values(text, "metriclog_run_running") == {(): 0}
    assert values(text, "metriclog_run_status", "status")[("failed",)] == 1
    assert values(text, "metriclog_metric_step", "metric") == {("train/loss",): 9, ("odd",): 9}


def test_a_run_resumed_in_the_same_process_is_one_run_and_another_a_second(settings: Settings) -> None:
    for attempt in range(1, 4):
        with metriclog.init("digits", run_id="r", resume="allow", settings=settings) as run:
            run.log({"loss": float(attempt)})
            text = get(address(settings))
            assert values(text, "metriclog_run_info", "attempt") == {(str(attempt),): 1}
            assert values(text, "metriclog_metric_value") == {(): attempt}
    with metriclog.init("digits", run_id="other", settings=settings):
        running = values(get(address(settings)), "metriclog_run_running", "run")
        assert running == {("r",): 0, ("other",): 1}


def test_a_run_that_asks_for_nothing_loads_no_prometheus_client(tmp_path: Path) -> None:
    source = """
        for name in ("METRICLOG_PROMETHEUS_PORT", "METRICLOG_PROMETHEUS_SD_DIR"):
            del os.environ[name]
        for name in [name for name in sys.modules if "prometheus" in name or name == "metriclog.exposition"]:
            del sys.modules[name]
        with metriclog.init("digits") as run:
            run.log({"loss": 1.0})
        say([name for name in sys.modules if "prometheus" in name or name == "metriclog.exposition"])
    """
    with script(source, tmp_path) as process:
        assert line(process) == "[]"
        assert process.wait(LIMIT_S) == 0


def test_the_last_scrape_sees_how_a_script_ended_and_the_process_waits_for_it(tmp_path: Path) -> None:
    source = """
        run = metriclog.init("digits", run_id="r")
        run.log({"loss": 1.0})
        say(address())
        raise ValueError("out of ideas")
    """
    with script(source, tmp_path, prometheus_linger_s=60) as process:
        where = line(process)
        status: dict[tuple[str, ...], float] = {}
        while status.get(("running",), 1.0):  # it may be at its last words still
            status = values(get(where), "metriclog_run_status", "status")
        assert status[("failed",)] == 1.0
        assert process.wait(LIMIT_S) == 1
    assert list((tmp_path / "sd").iterdir()) == []


FORKS = """
    run = metriclog.init("digits", run_id="r")
    other = metriclog.init("digits", run_id="idle")
    run.log({"loss": 1.0}, step=1)
    say(address())
    pid = os.fork()
    if pid == 0:
        run.log({"loss": 2.0}, step=2)
        say(address())
        input()
        sys.exit(0)
    os.waitpid(pid, 0)
    say("over")
    input()
"""


def test_a_forked_child_that_logs_shows_its_own_values_at_a_port_of_its_own(tmp_path: Path) -> None:
    with script(FORKS, tmp_path) as process:
        parents, childs = line(process), line(process)
        assert parents != childs
        assert values(get(parents), "metriclog_metric_value", "run") == {("r",): 1.0}
        assert values(get(parents), "metriclog_run_running", "run") == {("r",): 1.0, ("idle",): 1.0}
        assert values(get(childs), "metriclog_metric_value", "run") == {("r",): 2.0}
        assert values(get(childs), "metriclog_run_running", "run") == {("r",): 1.0}  # the other is the parent's
        assert len(list((tmp_path / "sd").glob("*.json"))) == 2
        go_on(process)
        assert line(process) == "over"
        assert len(list((tmp_path / "sd").glob("*.json"))) == 1
        go_on(process)
        assert process.wait(LIMIT_S) == 0
    assert list((tmp_path / "sd").iterdir()) == []


def test_a_child_that_was_forked_while_somebody_looked_is_not_stuck(tmp_path: Path) -> None:
    source = """
        import signal, threading, urllib.request
        run = metriclog.init("digits", run_id="r")
        where = address()
        done = threading.Event()
        def look():
            while not done.is_set():
                urllib.request.urlopen(f"http://{where}/metrics").read()
        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(30):
            run.log({"loss": 1.0})
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                run.log({"loss": 2.0})
                assert address()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0, number
        done.set()
        for thread in threads:
            thread.join()
        say("done")
    """
    with script(source, tmp_path) as process:
        said, complained = process.communicate(timeout=LIMIT_S * 4)
    assert (said, process.returncode) == ("done\n", 0), complained


def test_what_is_shown_stays_valid_whatever_was_logged(settings: Settings) -> None:
    with metriclog.init('a "b" \\c', settings=settings) as run:
        run.log({'x/"y"': 1, "ü {z=1}": -math.inf, "a\\b": 2})
        assert len([it for it in parse(get(address(settings))) if it.name == "metriclog_metric_value"]) == 3
