"""The oracle itself: it must see a point that is lost, altered, invented or given twice, and a wrong roll-up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import metriclog
from metriclog import directory
from metriclog.acks import Ack, save_ack
from metriclog.segments import position_of
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.faults.loads import EXPERIMENT, address, log_step
from tests.faults.oracle import Accepted, check_conservation
from tests.servers.api import Influx


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return Settings(**address(influx, tmp_path / "journal"))  # type: ignore[arg-type]


@pytest.fixture
def accepted(settings: Settings) -> Iterator[list[Accepted]]:
    """Calls of a run whose points are all on the server."""
    with metriclog.init(EXPERIMENT, run_id="r", settings=settings) as run:
        calls = [log_step(run, step) for step in range(30)]
    assert run.stats()["pending"] == 0
    yield calls


def test_a_sound_run_passes(settings: Settings, influx: Influx, accepted: list[Accepted]) -> None:
    tally = check_conservation(accepted, settings, influx)
    assert (tally.pending, tally.quarantined) == (0, 0)
    assert tally.server == tally.journal > sum(len(call.metrics) for call in accepted)


def test_a_call_that_is_not_in_the_journal_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted]
) -> None:
    with pytest.raises(AssertionError, match="1 accepted points are missing"):
        check_conservation([*accepted, replace(accepted[0], step=99)], settings, influx)
    check_conservation([*accepted, replace(accepted[0], step=99)], settings, influx, dropped=1)


def test_a_point_in_the_journal_that_nobody_logged_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted]
) -> None:
    with pytest.raises(AssertionError, match="1 points were never logged"):
        check_conservation(accepted[1:], settings, influx)


def test_a_point_on_the_server_that_is_not_in_the_journal_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted]
) -> None:
    influx.write("metrics,experiment=e,run=r,metric=m value=1,step=1i,elapsed=1i 1")
    with pytest.raises(AssertionError, match="1 points on the server are not as they were logged"):
        check_conservation(accepted, settings, influx)


def test_an_ack_for_points_that_are_not_on_the_server_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted]
) -> None:
    with metriclog.init(EXPERIMENT, run_id="s", mode="offline", settings=settings) as run:
        more = [log_step(run, step) for step in range(3)]
    check_conservation([*accepted, *more], settings, influx)
    (path,) = directory.process_directories(settings.dir, "s")
    (segment,) = path.glob("*.seg")
    save_ack(path, Transport(settings).target, Ack(position=position_of(1, segment.stat().st_size)))
    with pytest.raises(AssertionError, match="points are acknowledged but nowhere"):
        check_conservation([*accepted, *more], settings, influx)


def test_a_time_stamp_that_is_not_the_moment_of_the_call_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted]
) -> None:
    late = replace(accepted[0], before_ns=accepted[1].before_ns, after_ns=accepted[1].after_ns)
    with pytest.raises(AssertionError, match="the time of"):
        check_conservation([late, *accepted[1:]], settings, influx)


# -- what was derived -----------------------------------------------------------------------------------------------


def one_of(influx: Influx, measurement: str) -> int:
    """The time stamp of a roll-up or summary of train/loss, the newest."""
    rows = influx.rows(f'SELECT * FROM "{measurement}" WHERE "metric" = \'train/loss\'')
    return int(rows[-1]["time"])


SERIES = "experiment=faults,metric=train/loss,run=r"


@pytest.mark.parametrize("field", ["max=7.5", "step=4i", "elapsed=99999i", "nonfinite=9i", "value=0.5"])
def test_a_roll_up_that_is_wrong_in_one_field_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted], field: str
) -> None:
    influx.write(f"metrics_10,{SERIES} {field} {one_of(influx, 'metrics_10')}")
    with pytest.raises(AssertionError, match=r"metrics_10 of .*, not "):
        check_conservation(accepted, settings, influx)


@pytest.mark.parametrize("field", ["last=7.5", "mean=0.5", "count=29i", "min_step=1i", "nonfinite=0i"])
def test_a_summary_that_is_wrong_in_one_field_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted], field: str
) -> None:
    influx.write(f"summary,{SERIES} {field} {one_of(influx, 'summary')}")
    with pytest.raises(AssertionError, match=r"summary of .*, not "):
        check_conservation(accepted, settings, influx)


@pytest.mark.parametrize("measurement", ["metrics_10", "metrics_1000000", "summary"])
def test_a_roll_up_that_is_missing_is_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted], measurement: str
) -> None:
    influx.delete_point(measurement, "metric", "train/loss", one_of(influx, measurement))
    with pytest.raises(AssertionError, match="missing"):
        check_conservation(accepted, settings, influx)


def test_a_roll_up_of_no_record_and_one_of_no_series_are_seen(
    settings: Settings, influx: Influx, accepted: list[Accepted]
) -> None:
    influx.write(f"metrics_100,{SERIES} value=1,min=1,max=1,step=50i,elapsed=1i {one_of(influx, 'metrics_100') + 1}")
    with pytest.raises(AssertionError, match="there is no record for metrics_100"):
        check_conservation(accepted, settings, influx)
    influx.write("summary,experiment=faults,metric=other,run=r count=1i 1")
    with pytest.raises(AssertionError, match="series that nobody logged"):
        check_conservation(accepted, settings, influx)
