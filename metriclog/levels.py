"""The levels of the roll-ups, and which of them a chart of a run is to be drawn from."""

from __future__ import annotations

from typing import Final

LEVELS: Final = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
"""Steps in a bucket, level by level."""

MEASUREMENTS: Final = tuple(f"metrics_{size}" for size in LEVELS)
MAX_BUCKETS: Final = 2_000  # on a chart; more than it has pixels


def resolution(steps: int) -> str:
    """The measurement to chart for a run of this many steps: the finest with at most 2,000 buckets."""
    for size, name in zip((1, *LEVELS), ("metrics", *MEASUREMENTS), strict=True):
        if steps < size * MAX_BUCKETS:
            return name
    return MEASUREMENTS[-1]
