"""kill -9 at random moments: whatever `log()` had returned for is delivered afterwards, and nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metriclog import cli
from metriclog.settings import Settings
from tests.faults.loads import MOST_METRICS, Children, address
from tests.faults.oracle import Accepted, check_conservation
from tests.servers.api import Influx

KILLS = 200
LONGEST_LIFE_S = {"online": 0.25, "offline": 0.03}  # an online child needs longer until it ships


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    parent = Children()
    yield parent
    parent.close()


def test_after_200_kills_at_random_moments_every_accepted_point_is_delivered_and_none_invented(
    children: Children, influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    rng = random.Random(seed)
    where = address(influx, tmp_path / "journal")
    settings = Settings(**where)  # type: ignore[arg-type]
    # Small segments, batches and pauses: so that rolls, acks and heartbeats happen within a life of milliseconds.
    small = {"segment_bytes": 64 << 10, "batch_max_points": 300, "flush_interval_s": 0.002, "heartbeat_s": 0.005}
    accepted: list[Accepted] = []
    for number in range(KILLS):
        mode = rng.choice(["online", "offline"])
        life_s = rng.uniform(0.0, LONGEST_LIFE_S[mode])
        accepted += children.live_and_die(
            f"k{number}", {**where, **small, "mode": mode}, rng.randrange(1 << 30), life_s
        )

    before = check_conservation(accepted, settings, influx, unreported=KILLS * MOST_METRICS)
    assert before.pending > 0
    for name, value in where.items():
        monkeypatch.setenv(f"METRICLOG_{name.upper()}", value)
    done = CliRunner().invoke(cli.app, ["sync"])
    assert done.exit_code == 0, done.output
    after = check_conservation(accepted, settings, influx, unreported=KILLS * MOST_METRICS)
    assert (after.pending, after.quarantined) == (0, 0)
    assert after.server == after.journal == before.journal
