"""init() and the active run, resuming, ranks, and what happens to runs when the process forks or ends."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import reader, testing
from metriclog.points import Point
from metriclog.settings import Settings
from metriclog.testing import Captured
from tests.faults.loads import python


def states(captured: Captured, run: str) -> list[Point]:
    return [point for point in captured.points() if point.measurement == "runs" and point.tags["run"] == run]


# -- the active run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["log", "log_metric", "log_metrics", "finish", "active_run"])
def test_without_a_run_the_module_says_how_to_start_one(call: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"log_metric": ("loss", 1.0), "finish": (), "active_run": ()}
    with pytest.raises(metriclog.NoActiveRunError, match=re.escape('metriclog.init(experiment="…")')):
        getattr(metriclog, call)(*arguments.get(call, ({"loss": 1.0},)))


def test_the_module_logs_to_the_run_started_last_and_goes_back_when_it_ends() -> None:
    with testing.capture() as captured, metriclog.init("exp", name="outer") as outer:
        with metriclog.init("exp", name="inner") as inner:
            metriclog.log({"a": 1.0})
            metriclog.log_metric("b", 2.0, step=4)
            outer.log({"a": 3.0})
        metriclog.log_metrics({"a": 4.0})
        assert metriclog.active_run() is outer
        metriclog.finish("failed")
        assert outer.finished
    found = {(point.tags["run"], point.fields["value"]) for point in captured.points() if point.tags.get("metric")}
    assert found == {(inner.run_id, 1.0), (inner.run_id, 2.0), (outer.run_id, 3.0), (outer.run_id, 4.0)}
    assert states(captured, outer.run_id)[-1].fields["status"] == "failed"


def test_many_runs_at_once_keep_apart() -> None:
    with testing.capture() as captured:
        runs = [metriclog.init("exp", name=f"run {number}") for number in range(5)]
        for step in range(20):
            for number, run in enumerate(runs):
                run.log({"loss": float(number)}, step)
        for run in runs:
            run.finish()
    for number, run in enumerate(runs):
        assert re.fullmatch(rf"run-{number}-[a-z2-9]{{5}}", run.run_id)
        mine = [point for point in captured.points() if point.tags["run"] == run.run_id and "metric" in point.tags]
        assert [(point.fields["step"], point.fields["value"]) for point in mine] == [(s, number) for s in range(20)]


# -- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"experiment": ""}, metriclog.MetricNameError, "experiment"),
        ({"run_id": "a/b"}, metriclog.MetricNameError, "run_id 'a/b'"),
        ({"run_id": ".."}, metriclog.MetricNameError, "run_id"),
        ({"tags": {"run": "x"}}, metriclog.MetricNameError, "tag name 'run' is reserved"),
        ({"tags": {"_x": "x"}}, metriclog.MetricNameError, "reserved"),
        ({"params": {"a\nb": 1}}, metriclog.MetricNameError, "parameter name"),
        ({"params": {"a": {"b": 1}, "a/b": 2}}, metriclog.MetricNameError, "occurs twice"),
        ({"model": ""}, metriclog.MetricNameError, "model"),
        ({"dataset": ("a", 1)}, metriclog.MetricNameError, "a dataset is a name"),
        ({"rank": -1}, metriclog.UsageError, "rank must be an int from 0"),
        ({"rank": True}, metriclog.UsageError, "rank must be an int from 0"),
        ({"resume": "maybe"}, metriclog.UsageError, '"never", "allow" or "must"'),
        ({"mode": "on"}, metriclog.SettingsError, '"online", "offline" or "disabled"'),
        ({"mode": "online"}, metriclog.SettingsError, "METRICLOG_URL"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_started(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        metriclog.init(**{"experiment": "exp", **arguments})
    with pytest.raises(metriclog.NoActiveRunError):
        metriclog.active_run()
    assert list(tmp_path.rglob("*.seg")) == []


def test_tags_model_and_data_set_are_on_every_metric() -> None:
    with testing.capture() as captured:
        options: dict[str, Any] = {"tags": {"team": "a", "fold": 3}, "model": "mlp", "dataset": ("digits", "1f")}
        with metriclog.init("exp", run_id="r", rank=0, **options) as run:
            run.log({"loss": 1.0})
    (point,) = [point for point in captured.points() if point.measurement == "metrics"]
    own = {"model": "mlp", "dataset": "digits@1f", "rank": "0", "team": "a", "fold": "3"}
    assert point.tags == {"experiment": "exp", "run": "r", "metric": "loss", **own}


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(metriclog.JournalError, match="Set METRICLOG_DIR to a folder that can be written"):
        metriclog.init("exp", settings=Settings(dir=tmp_path / "file" / "journal"))


# -- resuming ---------------------------------------------------------------------------------------------------


def test_a_resumed_run_counts_steps_time_and_attempts_on() -> None:
    with testing.capture() as captured:
        with metriclog.init("exp", run_id="r") as first:
            first.log({"loss": 1.0}, 41)
        with metriclog.init("exp", run_id="r", resume="must") as second:
            second.log({"loss": 2.0})
        with metriclog.init("exp", run_id="r", resume="allow") as third:
            third.log({"loss": 3.0})
    assert captured.curve("loss") == [(41, 1.0), (42, 2.0), (43, 3.0)]
    written = states(captured, "r")
    assert len({point.fields["started"] for point in written}) == 1
    assert [point.fields["attempt"] for point in written] == [1, 1, 2, 2, 3, 3]
    assert [event.tags["kind"] for event in captured.events()] == [
        "start", "finish", "resume", "finish", "resume", "finish",
    ]  # fmt: skip
    assert captured.events("resume")[1].fields["title"] == "Run resumed (attempt 3)"
    elapsed = [int(point.fields["elapsed"]) for point in captured.points() if point.measurement == "metrics"]
    assert elapsed == sorted(elapsed)


def test_a_run_id_is_used_once_unless_resuming_is_allowed() -> None:
    with testing.capture():
        metriclog.init("exp", run_id="r").finish()
        with pytest.raises(metriclog.RunExistsError, match='Use resume="allow" to continue it'):
            metriclog.init("exp", run_id="r")
        with pytest.raises(metriclog.RunExistsError, match="belongs to experiment 'exp'"):
            metriclog.init("other", run_id="r", resume="allow")
        with pytest.raises(metriclog.RunNotFoundError, match='Use resume="allow" to start it'):
            metriclog.init("exp", run_id="new", resume="must")
        metriclog.init("exp", run_id="new", resume="allow").finish()


def test_a_run_that_is_alive_cannot_be_resumed() -> None:
    active = pytest.raises(metriclog.RunActiveError, match="is being written by process")
    with testing.capture(), metriclog.init("exp", run_id="r"), active:
        metriclog.init("exp", run_id="r", resume="allow")


# -- ranks ------------------------------------------------------------------------------------------------------


def test_ranks_share_a_run_and_only_the_first_tells_its_state() -> None:
    with testing.capture() as captured:
        ranks = [metriclog.init("exp", run_id="r", rank=rank, params={"lr": 0.1}) for rank in range(3)]
        for rank, run in enumerate(ranks):
            run.log({"loss": float(rank)}, 0)
        with pytest.raises(metriclog.RunActiveError, match="rank="):
            metriclog.init("exp", run_id="r", rank=1, resume="allow")
        for run in ranks:
            run.finish()
    metrics = [point for point in captured.points() if point.measurement == "metrics"]
    assert [(point.tags["rank"], point.fields["value"]) for point in metrics] == [("0", 0.0), ("1", 1.0), ("2", 2.0)]
    assert len({point.time_ns % 64 for point in metrics}) == 3, "two ranks could share a nanosecond"
    assert len(states(captured, "r")) == 2
    assert len([point for point in captured.points() if point.measurement == "params"]) == 1
    assert [event.tags["kind"] for event in captured.events()] == ["start", "finish"]


# -- the end of the process -------------------------------------------------------------------------------------

STARTS = """
    import metriclog
    run = metriclog.init("exp", run_id="r")
    run.log({"loss": 1.0}, 5)
"""


@pytest.mark.parametrize(
    ("ends", "status", "code"),
    [
        ("", "finished", 0),
        ("raise SystemExit(0)", "finished", 0),
        ("raise ValueError('diverged')", "failed", 1),
        ("raise KeyboardInterrupt", "killed", -2),
        ("import os; os.kill(os.getpid(), 9)", "killed", -9),
        ("import os; os._exit(3)", "killed", 3),
    ],
)
def test_a_run_that_nobody_finished_is_marked_as_the_process_ended(
    tmp_path: Path, ends: str, status: str, code: int
) -> None:
    done = python(f"{STARTS}    {ends}\n", dir=str(tmp_path))
    assert done.returncode == code, done.stderr
    stored = reader.open_journal(tmp_path)
    assert list(stored.runs()["status"]) == [status]
    assert list(stored.curve("r", "loss")["value"]) == [1.0]
    assert "metriclog" not in re.sub(r"File .*", "", done.stderr), "offline, it ends without a word"


def test_the_exception_that_ended_the_process_is_still_printed(tmp_path: Path) -> None:
    done = python(f"{STARTS}    raise ValueError('diverged')\n", dir=str(tmp_path))
    assert done.stderr.rstrip().endswith("ValueError: diverged")


# -- forked and spawned children --------------------------------------------------------------------------------


def test_a_forked_child_logs_into_a_directory_of_its_own_and_never_ends_the_run(tmp_path: Path) -> None:
    done = python(
        f"""{STARTS}
    import os, sys
    receipt = run.log({{"loss": 2.0}}, 6)
    pid = os.fork()
    if pid == 0:
        assert not receipt.wait()
        for step in range(100):
            run.log({{"child": float(step)}})
        run.finish()
        sys.exit(0)
    for step in range(100):
        run.log({{"parent": float(step)}})
    assert os.waitpid(pid, 0)[1] == 0
    run.log({{"loss": 3.0}}, 7)
    print(run.stats()["accepted"])
    """,
        dir=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == 105
    captured = Captured(tmp_path)
    assert captured.values("child") == captured.values("parent") == [float(step) for step in range(100)]
    assert captured.values("loss") == [1.0, 2.0, 3.0]
    assert [point.fields["status"] for point in states(captured, "r")] == ["running", "finished"]
    assert len({point.time_ns for point in captured.points() if "metric" in point.tags}) == 203
    assert len(list((tmp_path / "r").glob("0*"))) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_log_too(tmp_path: Path, method: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import multiprocessing, metriclog

def work(number):
    run = metriclog.active_run() if {method == "fork"} else metriclog.init("exp", run_id="r", rank=number + 1)
    for step in range(50):
        run.log({{f"child{{number}}": float(step)}}, step)

if __name__ == "__main__":
    run = metriclog.init("exp", run_id="r", rank=0)
    context = multiprocessing.get_context("{method}")
    children = [context.Process(target=work, args=(number,)) for number in range(2)]
    for child in children: child.start()
    for child in children: child.join()
    assert [child.exitcode for child in children] == [0, 0]
    run.log({{"loss": 1.0}})
"""
    )
    done = python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", dir=str(tmp_path / "journal"))
    assert (done.returncode, done.stderr) == (0, "")
    captured = Captured(tmp_path / "journal")
    assert captured.values("child0") == captured.values("child1") == [float(step) for step in range(50)]
    assert captured.values("loss") == [1.0]
    assert [point.fields["status"] for point in states(captured, "r")] == ["running", "finished"]
    assert [path for path in (tmp_path / "journal").rglob("*.seg") if path.stat().st_size > 1 << 20] == [], (
        "a child that ends in good order seals its segment"
    )


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="multiprocessing has caught the error before its exit begins")
def test_a_spawned_child_that_fails_marks_its_own_run_as_failed(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        """
import multiprocessing, metriclog

def work():
    metriclog.init("exp", run_id="r").log({"loss": 1.0})
    raise ValueError("diverged")

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 1
"""
    )
    done = python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", dir=str(tmp_path / "journal"))
    assert done.returncode == 0, done.stderr
    assert [point.fields["status"] for point in states(Captured(tmp_path / "journal"), "r")] == ["running", "failed"]
