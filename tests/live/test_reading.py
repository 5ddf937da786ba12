"""A journal and a server answer alike: the same frames, whatever was logged, in whatever way it got there."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import metriclog
from metriclog import cli, reader
from metriclog.settings import Settings
from tests.faults.loads import address
from tests.servers.api import Influx

LIMIT_S = 20.0


@pytest.fixture
def settings(influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    where = address(influx, tmp_path / "journal")
    for name, value in where.items():
        monkeypatch.setenv(f"METRICLOG_{name.upper()}", value)
    return Settings.load()


def log_all_kinds() -> None:
    """Runs of all kinds, delivered when this returns."""
    with metriclog.init("first", run_id="plain", params={"lr": 0.1, "layers": 3, "act": "relu", "amp": True}) as run:
        for step, value in enumerate([0.1, math.nan, math.inf, -math.inf, 1e-300, -1.5e300, 0.0, 1 / 3]):
            run.log({"train/loss": value, "it's": float(step)}, step, dataset=("digits", "1f"))
        run.log({"other, metric": 1.0}, 3, model="mlp")
        run.log_params({"lr": 0.01, "act": 7})
        run.event("note", "hello")
    ranks = [metriclog.init("second", run_id="ranks", rank=rank) for rank in range(3)]
    for step in range(5):
        for rank, run in enumerate(ranks):
            run.log({"loss": step + rank / 10}, step)
    for run in ranks:
        run.finish("failed", timeout_s=LIMIT_S)
    for attempt in range(3):
        with metriclog.init("second", run_id="resumed", resume="allow", params={"attempt": attempt}) as run:
            run.log({"loss": float(attempt)})
            run.log({"loss": float(attempt)})
    with metriclog.init("second", run_id="synced", mode="offline") as run:
        run.log({"loss": 1.0}, 2**62)
    assert CliRunner().invoke(cli.app, ["sync"]).exit_code == 0


def assert_equal(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_journal_and_server_return_equal_frames(settings: Settings) -> None:
    log_all_kinds()
    journal, server = reader.open_journal(), reader.open_server()
    assert_equal(journal.runs(), server.runs())
    assert_equal(journal.runs("second"), server.runs("second"))
    frame = journal.runs().set_index("run")
    assert dict(frame["status"]) == {
        "plain": "finished", "ranks": "failed", "resumed": "finished", "synced": "finished",
    }  # fmt: skip
    assert frame.loc["resumed", "attempt"] == 3
    assert frame.loc["plain", "params"] == {"lr": 0.01, "layers": 3.0, "act": 7.0, "amp": "true"}
    for run in frame.index:
        assert journal.metrics(run) == server.metrics(run)
        for metric in journal.metrics(run):
            assert_equal(journal.curve(run, metric), server.curve(run, metric))
    assert len(server.curve("ranks", "loss")) == 15
    assert list(server.curve("resumed", "loss")["step"]) == list(range(6))


def test_a_run_that_goes_on_looks_the_same_from_both_sides(settings: Settings) -> None:
    with metriclog.init("first", run_id="r") as run:
        run.log({"loss": 1.0})
        assert run.flush(LIMIT_S)
        journal, server = reader.open_journal(), reader.open_server()
        assert list(server.runs()["status"]) == ["running"]
        assert_equal(journal.runs(), server.runs())


def test_long_curves_are_read_page_by_page_also_where_ranks_share_an_instant(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = [metriclog.init("first", run_id="r", rank=rank) for rank in range(3)]
    for step in range(20):
        for run in ranks:
            run.log({"loss": float(step)}, step, timestamp=1_700_000_000 + step)
    for run in ranks:
        run.finish(timeout_s=LIMIT_S)
    monkeypatch.setattr(reader, "_PAGE_ROWS", 7)
    paged = reader.open_server().curve("r", "loss")
    assert len(paged) == 60
    assert list(paged["step"]) == [step for step in range(20) for _ in range(3)]
    assert set(zip(paged["step"], paged["rank"], strict=True)) == {(s, r) for s in range(20) for r in "012"}


def test_what_is_not_there_is_said_alike(settings: Settings) -> None:
    metriclog.init("first", run_id="r").finish(timeout_s=LIMIT_S)
    for stored in (reader.open_journal(), reader.open_server()):
        assert stored.metrics("r") == []
        assert len(stored.curve("r", "loss")) == 0
        assert len(stored.runs("no such experiment")) == 0
        with pytest.raises(metriclog.RunNotFoundError):
            stored.curve("s", "loss")
        with pytest.raises(metriclog.RunNotFoundError):
            stored.metrics("s")


def test_an_empty_bucket_has_no_runs_but_the_columns(settings: Settings) -> None:
    frame = reader.open_server().runs()
    assert list(frame.columns) == list(reader.RUN_COLUMNS)
    assert len(frame) == 0


def test_with_a_wrong_token_the_reader_says_which_setting_is_wrong(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICLOG_TOKEN", "wrong")
    with pytest.raises(metriclog.ServerError, match="Check METRICLOG_TOKEN"):
        reader.open_server().runs()
