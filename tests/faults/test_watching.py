"""Watching while things break: the server is away for the whole run, the process is killed right after a NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import metriclog
from metriclog import directory, testing
from metriclog.settings import Settings
from tests.conftest import PrivateInflux
from tests.faults.loads import EXPERIMENT, python
from tests.faults.shipping import ship
from tests.servers.api import Influx
from tests.servers.scripted import ScriptedServer, says, serving

KILLED = """
    import math, os, signal, threading, metriclog
    run = metriclog.init("faults", run_id="r", watch={watch})
    for step in range(100):
        run.log({{"train/loss": 1.0, "lr": 0.1}}, step)
    run.log({{"train/loss": math.nan, "lr": 0.1}}, 100)
    {moment}
    os.kill(os.getpid(), signal.SIGKILL)
"""
MOMENTS = {
    "at once": "",
    "when the event is in the journal": """
    pause = threading.Event()
    while not run.should_stop:
        pause.wait(0.01)
    """,
}


def settings_of(influx: Influx, root: Path, **more: Any) -> Settings:
    where = {"url": influx.url, "token": influx.token, "org": influx.org, "bucket": influx.bucket, "dir": root}
    return Settings(**{**where, "flush_interval_s": 0.02, **more})


def titles(server: ScriptedServer) -> list[str]:
    return [json.loads(body)["title"] for _, _, _, body in server.requests]


def test_while_the_server_is_away_for_the_whole_run_it_is_found_journaled_and_delivered_later(
    private_influx: PrivateInflux, tmp_path: Path
) -> None:
    private_influx.stop()
    settings = settings_of(private_influx, tmp_path, exit_timeout_s=0.3)
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        for step in range(500):
            run.log({"train/loss": 1.0 / (step + 1)}, step)
        run.log({"train/loss": math.nan}, 500)
    assert run.should_stop
    (folder,) = directory.process_directories(tmp_path)
    written = [point for point in testing.read_points(folder) if point.tags.get("kind") == "nonfinite"]
    assert [point.fields["step"] for point in written] == [500]
    private_influx.start()
    ship(settings)
    (row,) = private_influx.rows("SELECT * FROM \"events\" WHERE kind = 'nonfinite'")
    assert (row["metric"], row["level"], row["step"], row["count"]) == ("train/loss", "critical", 500, 1)
    assert (row["title"], row["rule"]) == ("train/loss is NaN", "nonfinite")


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_run_had_no_time_to_post_when_it_was_killed_is_posted_once_by_the_next_one(
    tmp_path: Path, moment: str
) -> None:
    root = str(tmp_path / "journal")
    away = {"dir": root, "mode": "offline", "alert_webhook": "http://127.0.0.1:1/x", "flush_interval_s": "0.05"}
    done = python(KILLED.format(moment=MOMENTS[moment], watch=True), **away)
    assert done.returncode == -9, done.stderr
    with serving(says(200)) as server:
        settings = Settings(mode="offline", dir=Path(root), alert_webhook=server.url)  # type: ignore[arg-type]
        for _ in range(2):
            metriclog.init(EXPERIMENT, settings=settings).finish(timeout_s=20)
        assert titles(server) == ["train/loss is NaN"]
        (content,) = [json.loads(body) for _, _, _, body in server.requests]
    assert (content["run"], content["step"], content["value"]) == ("r", 100, "NaN")


def test_a_killed_run_that_wanted_no_rules_leaves_nothing_to_post(tmp_path: Path) -> None:
    root = str(tmp_path / "journal")
    away = {"dir": root, "mode": "offline", "alert_webhook": "http://127.0.0.1:1/x"}
    assert python(KILLED.format(moment="", watch=False), **away).returncode == -9
    with serving(says(200)) as server:
        settings = Settings(mode="offline", dir=Path(root), alert_webhook=server.url)  # type: ignore[arg-type]
        metriclog.init(EXPERIMENT, settings=settings).finish(timeout_s=20)
        assert titles(server) == []


def test_a_directory_that_is_deleted_under_a_run_costs_neither_the_run_nor_its_alerts(tmp_path: Path) -> None:
    import shutil

    with serving(says(200)) as server:
        settings = Settings(mode="offline", dir=tmp_path / "j", alert_webhook=server.url, flush_interval_s=0.02)  # type: ignore[arg-type]
        with metriclog.init(EXPERIMENT, settings=settings) as run:
            run.log({"train/loss": 1.0}, 1)
            (tmp_path / "j").rename(tmp_path / "gone")  # at once: nobody writes a file in between
            shutil.rmtree(tmp_path / "gone")
            run.log({"train/loss": 1.0}, 2)
            run.log({"train/loss": math.nan}, 3)
        assert run.should_stop
        assert titles(server) == ["train/loss is NaN"]
