"""Who logs: the META record, and the points of `runs` and `events`, field by field as the data model has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metriclog.identity import Identity, address_in_grafana
from metriclog.points import Field, parse_line

START_NS = 1_795_000_000_000_000_000


def identity(rank: int | None = None) -> Identity:
    tags = (("experiment", "exp, 1"), ("run", "r"))
    return Identity("exp, 1", "r", rank, tags, "online", Path("journal"), 2, START_NS)


@pytest.mark.parametrize(("rank", "leads"), [(None, True), (0, True), (1, False), (7, False)])
def test_of_several_ranks_only_the_first_leads(rank: int | None, leads: bool) -> None:
    assert identity(rank).leads is leads


def test_the_state_of_a_running_run_has_every_field_and_no_end() -> None:
    point = parse_line(identity().run_line(START_NS + 5_000_000_000, "running", 41))
    assert (point.measurement, point.tags) == ("runs", {"experiment": "exp, 1", "run": "r"})
    assert point.time_ns == START_NS + 5_000_000_000
    assert point.fields == {
        "running": 1,
        "status": "running",
        "started": START_NS // 1_000_000,
        "ended": START_NS // 1_000_000 + 5000,
        "to": "now",
        "steps": 41,
        "resolution": "metrics",
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "attempt": 2,
    }


@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_the_state_of_an_ended_run_has_a_range_that_holds_its_last_point(status: str) -> None:
    point = parse_line(identity().run_line(START_NS + 1_234_567, status, 41))
    assert (point.fields["running"], point.fields["status"]) == (0, status)
    assert int(str(point.fields["to"])) * 1_000_000 > point.time_ns


def test_an_event_tells_step_and_elapsed_time_beside_its_texts() -> None:
    texts = {"title": 'saved "best"', "text": "", "level": "info"}
    point = parse_line(identity().event_line(START_NS + 1_500_000_000, "checkpoint", texts, 7))
    assert point.measurement == "events"
    assert point.tags == {"experiment": "exp, 1", "run": "r", "kind": "checkpoint"}
    assert point.fields == {**texts, "step": 7, "elapsed": 1500, "count": 1}


def test_an_event_about_a_metric_bears_its_name_and_what_else_is_known() -> None:
    texts: dict[str, Field] = {"title": "Spike: loss", "text": "", "level": "warning"}
    fields = texts | {"count": 3, "value": 9.0, "window": 128}
    point = parse_line(identity().event_line(START_NS, "divergence", fields, 7, metric="train/loss"))
    assert point.tags == {"experiment": "exp, 1", "run": "r", "kind": "divergence", "metric": "train/loss"}
    assert point.fields == {**fields, "step": 7, "elapsed": 0}


def test_a_run_has_an_address_in_grafana_in_a_range_of_time() -> None:
    assert address_in_grafana("http://g:3000", "exp, 1", "r", 1000, "now") == (
        "http://g:3000/d/metriclog-run?var-experiment=exp%2C%201&var-run=r&from=1000&to=now"
    )


def test_the_journal_says_who_writes_it() -> None:
    assert identity(3).meta(child=True) == {
        "experiment": "exp, 1",
        "run": "r",
        "rank": 3,
        "mode": "online",
        "attempt": 2,
        "started_ns": START_NS,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "child": True,
    }
