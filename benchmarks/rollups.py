"""What roll-ups, summaries and their lines cost the background thread, in µs of CPU a point.

    python benchmarks/rollups.py [--quick]

Batches of 20,000 points, as the shipper reads them from a journal, one step a second:
- 1,000 metrics a call; ten; one, in long blocks.
- Two and ten shapes that take turns call by call, one metric each: 20,000 entries of one row.
- One metric in two shapes that take turns, so that records must be put in order.

Every batch spans more than ten seconds, so that each of them writes summaries too.
Beside it: how many lines come out for each that goes in, and the size of the state after it and what it costs to make.
Target: at most 1 µs a point with 1,000 metrics a call, 3 where shapes take turns. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from metriclog.rollups import Rollups
from metriclog.segments import Shape, Values

POINTS = 20_000
TAGS = (("experiment", "bench"), ("model", "mlp"), ("run", "mlp-lr0.1-k3f9q"))
START_NS = 1_700_000_000 * 10**9
SECOND_NS = 10**9


@dataclass(frozen=True)
class Layout:
    """How the points of a batch come: rows of `width` metrics; shapes take turns row by row."""

    name: str
    width: int
    shapes: int = 1
    shared: bool = False
    target_us: float | None = None

    def batches(self, count: int) -> Iterator[list[Values]]:
        """Seeded batches of one stream."""
        rng = random.Random(0)
        names = ["m" if self.shared else f"m{shape}" for shape in range(self.shapes)]
        shapes = [
            Shape(16 + index, tuple(f"train/{name}_{metric}" for metric in range(self.width)), TAGS)
            for index, name in enumerate(names)
        ]
        rows = POINTS // self.width
        for batch in range(count):
            steps = range(batch * rows, (batch + 1) * rows)
            table = [
                (START_NS + step * SECOND_NS, step // self.shapes, *[rng.random() for _ in range(self.width)])
                for step in steps
            ]
            if self.shapes == 1:
                yield [Values(shapes[0], table, 0, 0)]
            else:
                yield [Values(shapes[index % self.shapes], [row], 0, 0) for index, row in enumerate(table)]


LAYOUTS = (
    Layout("1,000 metrics x 20 rows", 1000, target_us=1.0),
    Layout("10 metrics x 2,000 rows", 10),
    Layout("1 metric x 20,000 rows", 1),
    Layout("2 shapes take turns", 1, shapes=2, target_us=3.0),
    Layout("10 shapes take turns", 1, shapes=10, target_us=3.0),
    Layout("2 shapes of one metric", 1, shapes=2, shared=True, target_us=3.0),
)


@dataclass
class Cost:
    """Of one layout: CPU time of the median batch, lines out, and the state."""

    us_a_point: float
    lines_a_point: float
    state_kb: float
    state_ms: float


def measure(layout: Layout, batches: int) -> Cost:
    """Add batches one after the other."""
    rollups = Rollups(START_NS)
    seconds, lines = [], 0
    for batch in layout.batches(batches):
        start_s = time.thread_time()  # what else the machine does takes no part in it
        made = rollups.add(batch)
        seconds.append(time.thread_time() - start_s)
        lines += len(made)
    start_s = time.thread_time()
    state = rollups.state()
    state_s = time.thread_time() - start_s
    return Cost(statistics.median(seconds) / POINTS * 1e6, lines / POINTS / batches, len(state) / 1000, state_s * 1e3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer batches")
    batches = 5 if parser.parse_args().quick else 30
    met = True
    print(f"{'batches of 20,000 points':<26} {'µs a point':>18} {'lines a point':>14} {'state kB':>9} {'state ms':>9}")
    for layout in LAYOUTS:
        cost = measure(layout, batches)
        goal = "" if layout.target_us is None else f" (<= {layout.target_us:g})"
        met = met and (layout.target_us is None or cost.us_a_point <= layout.target_us)
        print(
            f"{layout.name:<26} {f'{cost.us_a_point:.2f}{goal}':>18} {cost.lines_a_point:>14.3f} "
            f"{cost.state_kb:>9.1f} {cost.state_ms:>9.2f}"
        )
    print("all targets met" if met else "a target was MISSED")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
