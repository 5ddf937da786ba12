"""The standing: written at once, read back as it was, and never believed when it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metriclog import standing
from metriclog.standing import Standing

WHOLE = Standing(position=(3 << 40) + 512, state=b"state\n\0of roll-ups", finished=True)
HEAD = b"[3298534883840, true, false, "


@pytest.mark.parametrize("one", [WHOLE, Standing(0, b""), Standing(1, b"{}", behind=True)])
def test_what_is_saved_is_read_back_for_its_target_alone(tmp_path: Path, one: Standing) -> None:
    standing.save(tmp_path, "a", one)
    assert standing.load(tmp_path, "a") == one
    assert standing.load(tmp_path, "b") is None
    assert [path.name for path in tmp_path.iterdir()] == ["derived-a.bin"]


@pytest.mark.parametrize(
    "hurt",
    [
        lambda body: b"",
        lambda body: body[:10],
        lambda body: b"\0" * len(body),
        lambda body: body.replace(b"3298534883840", b"3298534883848"),
        lambda body: body.replace(b"true", b"false"),
        lambda body: b"[1]\n",
        lambda body: b'{"position": 1}\n',
        lambda body: b"9" * 5000,
    ],
)
def test_a_head_that_is_torn_or_altered_is_none(tmp_path: Path, hurt: Callable[[bytes], bytes]) -> None:
    standing.save(tmp_path, "a", WHOLE)
    path = tmp_path / "derived-a.bin"
    assert path.read_bytes().startswith(HEAD)
    path.write_bytes(hurt(path.read_bytes()))
    assert standing.load(tmp_path, "a") is None
    assert not standing.is_finished(tmp_path, "a", 0)


def test_the_end_is_delivered_if_the_standing_says_so_and_nothing_was_acknowledged_since(tmp_path: Path) -> None:
    standing.save(tmp_path, "a", WHOLE)
    assert standing.is_finished(tmp_path, "a", WHOLE.position)
    assert standing.is_finished(tmp_path, "a", 0), "a lost ack is no news of the roll-ups"
    assert not standing.is_finished(tmp_path, "a", WHOLE.position + 8)
    standing.save(tmp_path, "a", Standing(WHOLE.position, b""))
    assert not standing.is_finished(tmp_path, "a", 0)
