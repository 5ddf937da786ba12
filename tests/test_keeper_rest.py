"""What a killed process had laid out in advance is given back, and nothing else."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from metriclog.journal import Journal
from metriclog.keeper import recover
from metriclog.segments import segment_name, split_position
from tests.journals import META, Clock, read_back


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "0001-h1"
    made.mkdir()
    return made


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_what_a_killed_process_had_laid_out_but_not_used_is_given_back_and_no_point_is_cut(
    folder: Path, value: float
) -> None:
    journal = Journal.create(folder, META, segment_bytes=1 << 20, clock=Clock())
    for step in range(100):
        end = journal.append_values(journal.shape("m", ("loss",), ()), step, (value,))
    recover(folder)
    assert (folder / segment_name(1)).stat().st_size == 1 << 20, "its process lives"
    journal.abandon()  # as the kernel does
    recover(folder)
    assert (folder / segment_name(1)).stat().st_size == split_position(end)[1]
    recover(folder)
    assert read_back(folder).steps == list(range(100))
    assert read_back(folder).damage == []


def test_nothing_is_cut_where_the_file_system_cannot_tell_who_lives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store into a mapping beyond the end of its file would kill the training."""
    journal = Journal.create(folder, META, segment_bytes=1 << 20, clock=Clock())

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    recover(folder)
    assert (folder / segment_name(1)).stat().st_size == 1 << 20
    journal.close()
