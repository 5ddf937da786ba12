"""The fixtures themselves, against the real server: what other tests rely on without looking."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.api import Influx, InfluxError, Server

if TYPE_CHECKING:
    from tests.conftest import PrivateInflux


def test_what_is_written_is_read_back_flat_with_times_in_ns(influx: Influx) -> None:
    influx.write("m,run=a value=1.5,step=3i 1700000000000000001\nm,run=b value=2 1700000000000000002")
    influx.write(b"m,run=a value=2.5 1700000000000000003")
    assert influx.rows('SELECT "value" FROM "m" GROUP BY "run"') == [
        {"run": "a", "time": 1700000000000000001, "value": 1.5},
        {"run": "a", "time": 1700000000000000003, "value": 2.5},
        {"run": "b", "time": 1700000000000000002, "value": 2},
    ]


@pytest.mark.parametrize("_", range(2))
def test_every_test_has_an_empty_bucket(influx: Influx, _: int) -> None:
    assert influx.rows('SELECT * FROM "m"') == []
    influx.write("m value=1 1700000000000000001")


def test_a_refused_line_and_a_broken_query_raise(influx: Influx) -> None:
    with pytest.raises(InfluxError, match="unable to parse") as refused:
        influx.write("m value=NaN 1")
    assert refused.value.status == 400
    with pytest.raises(InfluxError, match="failed to parse query"):
        influx.query("SELEC")


def test_a_read_only_token_reads_and_may_not_write(influx: Influx) -> None:
    reader = Influx(Server(influx.url, influx.create_token(write=False), influx.org), influx.bucket)
    assert reader.rows('SELECT * FROM "m"') == []
    with pytest.raises(InfluxError) as refused:
        reader.write("m value=1 1")
    assert refused.value.status == 403


def test_a_deleted_bucket_is_not_found_until_it_is_made_again(influx: Influx) -> None:
    influx.delete_bucket()
    with pytest.raises(InfluxError) as refused:
        influx.write("m value=1 1")
    assert refused.value.status == 404
    influx.create_bucket()
    influx.write("m value=1 1700000000000000001")


def test_a_private_server_keeps_its_port_and_its_points_over_stop_and_kill(private_influx: PrivateInflux) -> None:
    for time_ns, end in enumerate((private_influx.stop, private_influx.kill), start=1_700_000_000_000_000_000):
        private_influx.write(f"m value=1 {time_ns}")
        end()
        with pytest.raises(OSError):
            private_influx.write("m value=1 1")
        private_influx.start()
    assert len(private_influx.rows('SELECT "value" FROM "m"')) == 2


def test_no_setting_of_the_developer_reaches_a_test_and_it_runs_in_a_folder_of_its_own(tmp_path: Path) -> None:
    ours = [name for name in os.environ if name.startswith("METRICLOG_") and not name.startswith("METRICLOG_TEST_")]
    assert ours == []
    assert Path.cwd() == tmp_path
