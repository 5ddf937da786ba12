"""Segments and acks with damage: the records that are hit are lost, and nothing is passed over (D4, D5)."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from metriclog import directory, testing
from metriclog.acks import load_ack, save_ack
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.faults.loads import MOST_METRICS
from tests.faults.oracle import Accepted, check_conservation
from tests.faults.shipping import check_all_delivered, log_offline, settings_of, ship
from tests.journals import read_back
from tests.servers.api import Influx


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(influx, tmp_path / "journal", segment_bytes=64 << 10, read_timeout_s=30.0)


def lost_metrics(accepted: list[Accepted], settings: Settings) -> int:
    """How many of these points are in no journal."""
    paths = directory.process_directories(settings.dir)
    found = sum(point.measurement == "metrics" for path in paths for point in testing.read_points(path))
    return sum(len(call.metrics) for call in accepted) - found


# -- segments -----------------------------------------------------------------------------------------------------


def test_flipped_bits_cost_the_records_they_hit_and_the_rest_is_delivered(influx: Influx, settings: Settings) -> None:
    accepted = log_offline(settings, range(5000))
    (path,) = directory.process_directories(settings.dir)
    segments, rng = sorted(path.glob("*.seg")), random.Random(5)
    for segment in segments:
        content = bytearray(segment.read_bytes())
        for _ in range(5):
            content[rng.randrange(2000, len(content) - 500)] ^= 1 << rng.randrange(8)
        segment.write_bytes(content)
    ship(settings)
    lost = lost_metrics(accepted, settings)
    assert len(segments) < lost <= 5 * MOST_METRICS * len(segments)
    tally = check_conservation(accepted, settings, influx, dropped=lost)
    assert (tally.pending, tally.server) == (0, tally.journal)
    kept = list(path.glob("damaged-*.bin"))
    assert len(kept) == load_ack(path, Transport(settings).target).damaged > 0


def test_garbage_in_the_middle_costs_what_it_covers_and_is_kept_aside(influx: Influx, settings: Settings) -> None:
    accepted = log_offline(settings, range(3000))
    (path,) = directory.process_directories(settings.dir)
    segment = min(path.glob("*.seg"))
    content = segment.read_bytes()
    garbage = random.Random(7).randbytes(4000)
    segment.write_bytes(content[:30_000] + garbage + content[34_000:])
    ship(settings)
    lost = lost_metrics(accepted, settings)
    tally = check_conservation(accepted, settings, influx, dropped=lost)
    assert (tally.pending, tally.server) == (0, tally.journal)
    assert 4000 / 104 < lost < 4000 / 20
    (kept,) = path.glob("damaged-*.bin")
    assert garbage in kept.read_bytes()


@pytest.mark.parametrize("tail", [b"", bytes(5000), b"\x30\0\0\0garbage" * 50], ids=["cut", "zeros", "garbage"])
def test_a_torn_end_costs_what_was_in_it_and_nothing_before(influx: Influx, settings: Settings, tail: bytes) -> None:
    """As a power cut may leave it: whatever had not reached the disk."""
    accepted = log_offline(settings, range(3000))
    (path,) = directory.process_directories(settings.dir)
    last = max(path.glob("*.seg"))
    last.write_bytes(last.read_bytes()[:-3001] + tail)
    steps = read_back(path).steps
    assert 20 < 3000 - len(steps) < 100
    assert steps == list(range(len(steps)))
    ship(settings)
    check_all_delivered(accepted[: len(steps)], settings, influx)


@pytest.mark.parametrize("size", [0, 10, 64])
def test_a_last_segment_that_was_never_begun_costs_nothing(influx: Influx, settings: Settings, size: int) -> None:
    accepted = log_offline(settings, range(3000))
    (path,) = directory.process_directories(settings.dir)
    number = int(max(path.glob("*.seg")).stem)
    (path / f"{number + 1:08d}.seg").write_bytes(bytes(size))
    ship(settings)
    check_all_delivered(accepted, settings, influx)


# -- acks ---------------------------------------------------------------------------------------------------------

Hurt = Callable[[Path], object]


def _ahead(path: Path) -> None:
    target = path.stem.removeprefix("ack-")
    save_ack(path.parent, target, load_ack(path.parent, target).moved(1 << 60))


def _more_delivered(path: Path) -> None:
    path.write_text(re.sub(r'"delivered": (\d+)', r'"delivered": 1\1', path.read_text()), encoding="ascii")


def _one_digit(path: Path) -> None:
    ack = json.loads(path.read_text())
    path.write_text(json.dumps({**ack, "position": ack["position"] + 8}), encoding="ascii")


ACK_FAULTS: dict[str, Hurt] = {
    "lost": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zero-filled": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a digit altered": _one_digit,
    "another count": _more_delivered,
    "ahead of the data": _ahead,
}


@pytest.mark.parametrize("hurt", ACK_FAULTS.values(), ids=[*ACK_FAULTS])
def test_an_ack_that_is_lost_torn_or_lies_is_not_believed_and_everything_is_sent_again(
    influx: Influx, settings: Settings, hurt: Hurt
) -> None:
    accepted = log_offline(settings, range(1000))
    ship(settings)
    (path,) = directory.process_directories(settings.dir)
    delivered = load_ack(path, Transport(settings).target)
    assert delivered.position > 0
    influx.delete_bucket()
    influx.create_bucket()  # so that what is not sent again is missed
    hurt(path / f"ack-{Transport(settings).target}.json")
    ship(settings)
    check_all_delivered(accepted, settings, influx)
    assert load_ack(path, Transport(settings).target) == delivered
