"""Small files: replaced as a whole or not at all, private, and nothing is left lying about."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from metriclog import files


def test_a_file_is_replaced_and_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for body in (b"first", b"second"):
            files.replace(tmp_path / "ack-t.json", body)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    files.replace(tmp_path / "ack-t.json", b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path if call == "replace" else os, call, full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            files.replace(tmp_path / "ack-t.json", b"second")
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b"first"
