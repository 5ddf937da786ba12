"""How much the roll-ups and summaries add to what InfluxDB stores: bytes on its disk, with all files compacted.

    python benchmarks/storage.py [--quick]

One run of five metrics, a point of each at every step, ten steps a second. What was logged goes into one bucket, what
is derived from it (`metrics_10`, `metrics_100`, ... and `summary`) into another, on one InfluxDB that the benchmark
starts (as the tests do) and that compacts as soon as it can. Then the files of both are counted.
Target: the derived at most a quarter of the logged. Exit code 1 if that is missed. --quick: a tenth of the steps.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from metriclog.journal import SLOTS
from metriclog.points import encode_rows, metric_prefixes
from metriclog.rollups import Rollups
from metriclog.segments import Row, Shape, Values

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.servers import influxdb
from tests.servers.api import Influx

METRICS = ("train/loss", "train/accuracy", "eval/loss", "lr", "grad_norm")
TAGS = (("experiment", "bench"), ("model", "mlp"), ("run", "mlp-lr0.1-k3f9q"))
STEPS, BATCH_ROWS = 1_000_000, 20_000
STEP_NS, STEP_SPREAD = 100_000_000, 0.05  # no step takes as long as another
TARGET = 0.25
SETTLED_S, PATIENCE_S = 6.0, 300.0  # no file changed for so long: compacted; waited for at most


class Compacting(influxdb.ProcessInstance):
    """An influxd that puts aside and compacts what has not been written to for a second."""

    def _command(self) -> list[str]:
        cold = ("--storage-cache-snapshot-write-cold-duration=1s", "--storage-compact-full-write-cold-duration=1s")
        return [*super()._command(), *cold]


def batches(steps: int) -> Iterator[list[Row]]:
    """Noise of full precision around curves that fall or rise: what costs most to store."""
    rng = random.Random(0)
    now_ns = time.time_ns() - steps * STEP_NS
    for first in range(0, steps, BATCH_ROWS):
        yield [
            (
                now_ns := now_ns + int(STEP_NS * rng.lognormvariate(0, STEP_SPREAD)) & -SLOTS,
                step,
                2 * (step + 1) ** -0.3 + rng.gauss(0, 0.05),
                1 - (step + 1) ** -0.2 + rng.gauss(0, 0.02),
                2.1 * (step + 1) ** -0.28 + rng.gauss(0, 0.02),
                1e-3 * (1 - step / steps),
                rng.lognormvariate(0, 0.3),
            )
            for step in range(first, min(first + BATCH_ROWS, steps))
        ]


def fill(logged: Influx, derived: Influx, steps: int) -> Counter[str]:
    """Write both; returns the lines by measurement."""
    lines: Counter[str] = Counter()
    shape, prefixes = Shape(16, METRICS, TAGS), metric_prefixes(TAGS, METRICS)
    rollups: Rollups | None = None
    for rows in batches(steps):
        rollups = rollups or Rollups(rows[0][0])
        raw = encode_rows(prefixes, rows[0][0], rows, orjson.dumps)
        made = rollups.add([Values(shape, rows, 0, 0)])
        lines.update(line.partition(b",")[0].decode() for line in raw + made)
        logged.write(b"".join(raw))
        derived.write(b"".join(made))
    last = rollups.finish() if rollups else []
    lines.update(line.partition(b",")[0].decode() for line in last)
    derived.write(b"".join(last))
    return lines


def stored_bytes(folder: Path, bucket: Influx) -> int:
    """Bytes of a bucket's compacted files."""
    return sum(path.stat().st_size for path in (folder / "engine" / "data" / bucket.id).rglob("*.tsm"))


def settle(folder: Path, *buckets: Influx) -> list[int]:
    """The bytes of each bucket once nothing changes any more and nothing waits to be put aside."""
    before: list[int] = []
    since_s = begun_s = time.monotonic()
    while time.monotonic() - since_s < SETTLED_S:
        if time.monotonic() - begun_s > PATIENCE_S:
            sys.exit(f"InfluxDB had not compacted its files after {PATIENCE_S:.0f} s")
        waiting = sum(path.stat().st_size for path in (folder / "engine" / "wal").rglob("*.wal"))
        found = [stored_bytes(folder, bucket) for bucket in buckets]
        if found != before or waiting or not all(found):
            before, since_s = found, time.monotonic()
        time.sleep(0.2)
    return before


def main() -> None:
    """Fill, wait, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    steps = STEPS // 10 if parser.parse_args().quick else STEPS
    source = influxdb.find_own(print)
    if not isinstance(source, influxdb.Binary):
        sys.exit("this looks at InfluxDB's files, so it needs the program: put influxd on PATH")
    with tempfile.TemporaryDirectory() as name:
        instance = Compacting(source.path, Path(name), influxdb.free_port())
        try:
            instance.start()
            influxdb.wait_until_ready(instance)
            instance.server.set_up(influxdb.BUCKET)
            logged, derived = Influx(instance.server, "logged"), Influx(instance.server, "derived")
            logged.create_bucket()
            derived.create_bucket()
            lines = fill(logged, derived, steps)
            raw_bytes, derived_bytes = settle(Path(name), logged, derived)
        finally:
            instance.close()
    sys.exit(0 if report(steps, lines, raw_bytes, derived_bytes) else 1)


def report(steps: int, lines: Counter[str], raw_bytes: int, derived_bytes: int) -> bool:
    """Print the table; whether the target is met."""
    print(f"{len(METRICS)} metrics x {steps:,} steps, a point each")
    for measurement, count in sorted(lines.items()):
        print(f"  {measurement:16} {count:>12,} points")
    raw_points = lines["metrics"]
    print(f"logged   {raw_bytes:>12,} bytes, {raw_bytes / raw_points:.1f} a point")
    print(f"derived  {derived_bytes:>12,} bytes, {derived_bytes / raw_points:.1f} for each point logged")
    share = derived_bytes / raw_bytes
    print(f"derived / logged {share:.3f} (target <= {TARGET}): {'met' if share <= TARGET else 'MISSED'}")
    return share <= TARGET


if __name__ == "__main__":
    main()
