"""Acks: kept whole or not at all, one file a target, never back; what cannot be read means: send again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metriclog.acks import Ack, load_ack, save_ack

COUNTS = st.integers(0, 2**62)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=COUNTS, delivered=COUNTS, quarantined=COUNTS, damaged=COUNTS)
def test_what_is_saved_is_loaded(tmp_path: Path, position: int, delivered: int, quarantined: int, damaged: int) -> None:
    ack = Ack(position, delivered, quarantined, damaged)
    save_ack(tmp_path, "a1b2", ack)
    assert load_ack(tmp_path, "a1b2") == ack


def test_each_target_has_an_ack_of_its_own(tmp_path: Path) -> None:
    save_ack(tmp_path, "one", Ack(position=1))
    save_ack(tmp_path, "two", Ack(position=2))
    assert [load_ack(tmp_path, target).position for target in ("one", "two", "three")] == [1, 2, 0]


@given(moves=st.lists(st.tuples(COUNTS, st.integers(0, 100))))
def test_a_position_never_goes_back_and_counts_add_up(moves: list[tuple[int, int]]) -> None:
    ack = Ack()
    for position, count in moves:
        moved = ack.moved(position, delivered=count, quarantined=1)
        assert moved.position >= ack.position
        ack = moved
    assert ack.position == max((position for position, _ in moves), default=0)
    assert (ack.delivered, ack.quarantined) == (sum(count for _, count in moves), len(moves))


def test_a_missing_directory_or_file_means_nothing_yet(tmp_path: Path) -> None:
    assert load_ack(tmp_path, "a1b2") == Ack()
    assert load_ack(tmp_path / "missing", "a1b2") == Ack()


def test_cut_at_any_byte_an_ack_means_send_again(tmp_path: Path) -> None:
    save_ack(tmp_path, "a1b2", Ack(position=7 << 40, delivered=5))
    path = tmp_path / "ack-a1b2.json"
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert load_ack(tmp_path, "a1b2") == Ack()


@pytest.mark.parametrize(
    "content",
    [
        *[b"", bytes(200), b"\xff\xfe", b"null", b"[]", b"7", b'"x"', b"{}", b"[" * 100_000],
        *[b'{"position": 7}', b'{"position": null, "delivered": 0, "quarantined": 0, "damaged": 0}'],
        *[
            b'{"position": %s, "delivered": 0, "quarantined": 0, "damaged": 0}' % bad
            for bad in (b"1e999", b"NaN", b"{}")
        ],
    ],
    ids=lambda content: repr(content[:30]),
)
def test_garbage_in_an_ack_means_send_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ack-a1b2.json").write_bytes(content)
    assert load_ack(tmp_path, "a1b2") == Ack()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_in_an_ack_are_survived(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ack-a1b2.json").write_bytes(content)
    assert load_ack(tmp_path, "a1b2") == Ack()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_save_that_fails_half_way_leaves_the_ack_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    save_ack(tmp_path, "a1b2", Ack(position=1))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="Input/output error"):
        save_ack(tmp_path, "a1b2", Ack(position=2))
    monkeypatch.undo()
    assert load_ack(tmp_path, "a1b2") == Ack(position=1)
    save_ack(tmp_path, "a1b2", Ack(position=3))
    assert load_ack(tmp_path, "a1b2") == Ack(position=3)


def test_an_ack_is_on_disk_before_it_takes_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def call(*arguments: object) -> None:
            order.append(name)
            real(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    save_ack(tmp_path, "a1b2", Ack(position=1))
    assert order[:2] == ["fsync", "replace"]
    assert json.loads((tmp_path / "ack-a1b2.json").read_text())["position"] == 1
