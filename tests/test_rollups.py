"""Roll-ups: the same points as a direct computation in plain Python, wherever batches are cut and processes end."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metriclog.levels import LEVELS, resolution
from metriclog.points import parse_line
from metriclog.rollups import Rollups
from metriclog.segments import Shape, Values
from tests.direct_rollups import (
    BASE,
    CUTS,
    SHAPES,
    START_NS,
    TOP,
    Direct,
    Logged,
    assert_due,
    assert_fields,
    bucket_fields,
    by_series,
    cut,
    entries_of,
    largest,
    named,
    rolled,
    streams,
    summary_fields,
)

# -- properties -------------------------------------------------------------------------------------------------


@given(rows=streams(), places=CUTS)
@settings(max_examples=60, deadline=None)
def test_after_every_batch_exactly_those_points_are_written_that_a_direct_computation_finds(
    rows: list[Logged], places: list[int]
) -> None:
    rollups, direct = Rollups(START_NS), Direct()
    size = max(largest(records) for records in by_series(rows).values())
    for batch in cut(rows, places):
        assert_due(rollups.add(entries_of(batch)), dict(direct.add(batch)), size)
    assert_due(rollups.finish(), dict(direct.finish()), size)
    assert rollups.finish() == []


@given(rows=streams(), places=CUTS)
@settings(max_examples=60, deadline=None)
def test_every_run_of_records_in_one_bucket_is_written_in_full_wherever_batches_are_cut(
    rows: list[Logged], places: list[int]
) -> None:
    points = named(rolled(cut(rows, places)))
    for series, records in by_series(rows).items():
        for size in LEVELS:
            for _, run in groupby(records, lambda record, size=size: record[1] // size):  # type: ignore[misc]
                whole = list(run)
                point = points[Direct.name(f"metrics_{size}", series, whole)]
                assert_fields(point, bucket_fields(whole, size), largest(whole))
        point = points[Direct.name("summary", series, records)]
        assert_fields(point, summary_fields(records), largest(records))


def reference(rows: Sequence[Logged]) -> dict[tuple[bytes, int], bytes]:
    """Every line that may ever come out of a stream: what stands in the buckets after each of its records."""
    lines = [line for end in range(1, len(rows) + 1) for line in rolled([rows[:end]])]
    return {identity(line): line for line in lines}


def identity(line: bytes) -> tuple[bytes, int]:
    """Measurement with tags, and time stamp."""
    fields_at = max(line.rfind(b" value="), line.rfind(b" nonfinite="), line.rfind(b" last"))
    return line[:fields_at], int(line[:-1].rsplit(b" ", 1)[1])


@given(rows=streams(max_size=15), places=CUTS)
@settings(max_examples=40, deadline=None)
def test_a_point_is_the_same_to_the_last_digit_wherever_batches_are_cut(rows: list[Logged], places: list[int]) -> None:
    known = reference(rows)
    for line in rolled(cut(rows, places)):
        assert line == known[identity(line)]
    for line in rolled([[row] for row in rows]):
        assert line == known[identity(line)]


@given(rows=streams(), places=CUTS, ends=st.sets(st.integers(0, 12)))
@settings(max_examples=60, deadline=None)
def test_a_state_that_goes_to_another_process_changes_nothing(
    rows: list[Logged], places: list[int], ends: set[int]
) -> None:
    straight, moved = Rollups(START_NS), Rollups(START_NS)
    for number, batch in enumerate(cut(rows, places)):
        if number in ends:
            moved = Rollups.restore(moved.state(), START_NS)
        assert moved.add(entries_of(batch)) == straight.add(entries_of(batch))
        assert moved.state() == straight.state()
    assert Rollups.restore(moved.state(), START_NS).finish() == straight.finish()


@given(rows=streams(), places=CUTS, again=CUTS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_added_again_after_a_crash_writes_the_same_points(
    rows: list[Logged], places: list[int], again: list[int], data: st.DataObject
) -> None:
    rollups, batches = Rollups(START_NS), cut(rows, places)
    saved_after = data.draw(st.integers(0, len(batches)))
    crash_after = data.draw(st.integers(saved_after, len(batches)))
    state, lines = rollups.state(), []
    for number, batch in enumerate(batches[:crash_after], 1):
        lines += rollups.add(entries_of(batch))
        if number == saved_after:
            state = rollups.state()
    left = [row for batch in batches[saved_after:] for row in batch]
    second = Rollups.restore(state, START_NS)
    for batch in cut(left, again):
        lines += second.add(entries_of(batch))
    lines += second.finish()
    points = {identity(line): line for line in lines}
    assert all(points[identity(line)] == line for line in lines)
    straight = rolled([rows])
    assert {identity(line): line for line in straight}.items() <= points.items()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_long_run_of_several_shapes_is_computed_right(seed: int) -> None:
    rng = random.Random(seed)
    rows: list[Logged] = []
    step, time_ns = 0, START_NS
    for _ in range(3000):
        step += rng.choice([0, 1, 1, 1, 5]) if rng.random() < 0.995 else rng.choice([-200, 5_000, 1_000_000])
        time_ns += rng.randrange(1, 10**8)
        shape = rng.choice(SHAPES[: 1 + seed])
        special = rng.random() < 0.01
        values = [rng.choice([math.nan, math.inf, -0.0]) if special else rng.gauss(0, 1) for _ in shape.metrics]
        rows.append((shape, (time_ns, step, *values)))
    rollups, direct = Rollups(START_NS), Direct()
    for batch in cut(rows, [rng.randrange(3000) for _ in range(20)]):
        assert_due(rollups.add(entries_of(batch)), dict(direct.add(batch)), 10.0)
    assert_due(rollups.finish(), dict(direct.finish()), 10.0)


STRETCHES = {
    "ten records a bucket": lambda index: index,
    "hundreds of records in one bucket": lambda index: index // 250 * 10,
    "to and fro, so that a bucket of a hundred holds hundreds of runs": lambda index: index % 2 * 10,
}


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("seed", [1, 2])
def test_sums_do_not_depend_on_where_batches_are_cut_in_their_last_digit_either(stretch: str, seed: int) -> None:
    rng = random.Random(seed)
    # Numbers whose sums have to be rounded, so that another order of adding shows.
    rows = logged(*[(STRETCHES[stretch](index), rng.gauss(0, 1)) for index in range(600)])
    whole = set(rolled([rows]))
    assert whole <= set(rolled([[row] for row in rows]))
    assert whole <= set(rolled(cut(rows, [rng.randrange(600) for _ in range(15)])))


# -- cases ------------------------------------------------------------------------------------------------------

ONE = Shape(16, ("m",), BASE)


def logged(*records: tuple[int, float], shape: Shape = ONE, since: int = 0) -> list[Logged]:
    """(step, value) of one metric, a millisecond apart."""
    return [(shape, (START_NS + (since + index) * 10**6, *record)) for index, record in enumerate(records)]


def fields_of(lines: Sequence[bytes], measurement: str) -> list[dict[str, Any]]:
    """The fields of the points of one measurement, in the order of their lines."""
    start = f"{measurement},".encode()
    return [parse_line(line[:-1].decode()).fields for line in lines if line.startswith(start)]


def test_a_spike_of_one_step_is_in_the_coarsest_roll_up() -> None:
    values = [(step, 1e6 if step == 4321 else 1.0) for step in range(10_000)]
    lines = rolled(cut(logged(*values), range(0, 10_000, 777)))
    (coarsest,) = fields_of(lines, "metrics_1000000")
    assert (coarsest["min"], coarsest["max"]) == (1.0, 1e6)
    assert coarsest["value"] == pytest.approx((9999 + 1e6) / 10_000)
    assert [len(fields_of(lines, f"metrics_{size}")) for size in (10, 100, 1000)] == [1000, 100, 10]
    assert fields_of(lines, "summary")[-1]["max_step"] == 4321


def test_a_line_is_what_influxdb_gets() -> None:
    shape = Shape(16, ("train/loss, all",), (*BASE, ("model", "a=b")))
    lines = rolled([logged((3, 0.5), (4, 1.5), (5, math.nan), shape=shape)])
    key = r"experiment=e,metric=train/loss\,\ all,model=a\=b,run=r"
    at = START_NS + 2 * 10**6
    assert lines[0].decode() == (
        f"summary,{key} last=1.5,min=0.5,max=1.5,mean=1.0,last_step=5i,min_step=3i,max_step=4i,"
        f"count=3i,nonfinite=1i {at}\n"
    )
    assert lines[1].decode() == f"metrics_10,{key} value=1.0,min=0.5,max=1.5,nonfinite=1i,step=5i,elapsed=2i {at}\n"
    assert len(lines) == 7


def test_a_bucket_and_a_series_without_a_finite_value_say_so() -> None:
    lines = rolled([logged((3, math.nan), (4, -math.inf))])
    assert fields_of(lines, "metrics_10") == [{"nonfinite": 2, "step": 5, "elapsed": 1}]
    assert fields_of(lines, "summary") == [{"last_step": 4, "count": 2, "nonfinite": 2}]


@pytest.mark.parametrize("places", [[], [1], [1, 2, 3, 4]])
def test_values_whose_sum_is_beyond_all_floats_have_their_mean(places: list[int]) -> None:
    lines = rolled(cut(logged((0, 1.0), (1, TOP), (2, TOP), (10, TOP), (11, -TOP), (12, 3.0)), places))
    first, second = fields_of(lines, "metrics_10")[-2:]
    assert first["value"] == pytest.approx(TOP / 3 * 2)
    assert (second["value"], second["min"], second["max"]) == (1.0, -TOP, TOP)


def test_a_constant_is_its_own_mean_and_minus_zero_is_zero_but_as_the_last_value() -> None:
    lines = rolled([logged(*[(step, 0.1) for step in range(10)], *[(step, -0.0) for step in range(10, 13)])])
    assert [fields["value"] for fields in fields_of(lines, "metrics_10")] == [0.1, 0.0]
    assert b"=-0.0" not in b"".join(line.replace(b" last=-0.0", b"") for line in lines)
    (summary,) = fields_of(lines, "summary")
    assert math.copysign(1, summary["last"]) == -1


def test_a_step_that_goes_back_opens_its_bucket_again_as_a_new_point() -> None:
    lines = rolled([logged((8, 1.0), (9, 2.0), (10, 3.0), (8, 5.0), (20, 0.0))])
    found = [(fields["step"], fields["value"]) for fields in fields_of(lines, "metrics_10")]
    assert found == [(5, 1.5), (15, 3.0), (5, 5.0), (25, 0.0)]


@pytest.mark.parametrize(
    ("step", "middle"),
    [(-1, -50), (-100, -50), (-101, -150), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (2**63 - 101, 2**63 - 58)],
)
def test_the_middle_of_a_bucket_below_zero_and_at_the_ends_of_64_bits(step: int, middle: int) -> None:
    (fields,) = fields_of(rolled([logged((step, 1.0))]), "metrics_100")
    assert fields["step"] == middle


def test_a_sparse_metric_is_shown_as_soon_as_the_run_has_moved_on_and_written_again_if_more_comes() -> None:
    sparse = Shape(17, ("eval",), BASE)
    rollups = Rollups(START_NS)
    assert (
        fields_of(rollups.add(entries_of(logged((3, 1.0), shape=sparse) + logged((9, 0.0), since=1))), "metrics_10")
        == []
    )
    passed = fields_of(rollups.add(entries_of(logged((10, 0.0), since=2))), "metrics_10")
    assert sorted((fields["step"], fields["value"]) for fields in passed) == [(5, 0.0), (5, 1.0)]
    late = rollups.add(entries_of(logged((4, 3.0), shape=sparse, since=3)))
    assert fields_of(late, "metrics_10") == []
    (again,) = fields_of(rollups.add(entries_of(logged((14, 0.0), since=4))), "metrics_10")
    assert (again["value"], again["min"], again["max"], again["elapsed"]) == (2.0, 1.0, 3.0, 3)
    assert fields_of(rollups.add(entries_of(logged((15, 0.0), since=5))), "metrics_10") == []


def test_summaries_come_at_once_then_every_ten_seconds_of_the_stream_for_what_has_changed() -> None:
    other = Shape(17, ("other",), BASE)
    rollups = Rollups(START_NS)
    assert len(fields_of(rollups.add(entries_of(logged((0, 1.0)) + logged((0, 1.0), shape=other))), "summary")) == 2
    assert fields_of(rollups.add(entries_of(logged((1, 1.0), since=9_999))), "summary") == []
    assert [
        fields["count"] for fields in fields_of(rollups.add(entries_of(logged((2, 1.0), since=10_000))), "summary")
    ] == [3]
    assert fields_of(rollups.add(entries_of(logged((3, 1.0), since=10_001))), "summary") == []
    assert [fields["count"] for fields in fields_of(rollups.finish(), "summary")] == [4]


def test_a_clock_that_was_set_back_does_not_silence_summaries() -> None:
    rollups = Rollups(START_NS)
    rollups.add(entries_of(logged((0, 1.0), since=10**8)))
    assert len(fields_of(rollups.add(entries_of(logged((1, 1.0)))), "summary")) == 1


def test_entries_of_equal_shapes_and_a_metric_named_twice_are_one_series() -> None:
    first, second = Shape(16, ("m", "m"), BASE), Shape(99, ("m",), BASE)
    rows: list[Logged] = [
        (first, (START_NS, 1, 1.0, 2.0)),
        (second, (START_NS + 1, 2, 3.0)),
        (first, (START_NS + 2, 3, 4.0, 5.0)),
    ]
    (summary,) = fields_of(rolled([rows]), "summary")
    assert (summary["count"], summary["mean"], summary["last"], summary["max_step"]) == (5, 3.0, 5.0, 3)


def test_nothing_comes_of_nothing() -> None:
    rollups = Rollups(START_NS)
    assert rollups.add([]) == rollups.add([Values(ONE, [], 0, 0)]) == rollups.finish() == []
    assert Rollups.restore(rollups.state(), START_NS).finish() == []


def test_a_program_that_logs_ever_other_sets_of_metrics_keeps_its_series() -> None:
    sets = 4200  # more than are remembered
    shapes = [Shape(16 + number, ("m", f"m{number % 3}"), (*BASE, ("fold", str(number)))) for number in range(sets)]
    shapes += [Shape(99_999, ("m",), (*BASE, ("fold", "0")))]
    rows: list[Logged] = [
        (shape, (START_NS + index, index, *[1.0] * len(shape.metrics))) for index, shape in enumerate(shapes)
    ]
    found = fields_of(rolled([rows[:-1], rows[-1:]]), "summary")
    assert len(found) == 2 * sets + 1
    assert (found[-1]["count"], found[-1]["min_step"], found[-1]["last_step"]) == (2, 0, sets)


# -- states -----------------------------------------------------------------------------------------------------


def some_state() -> bytes:
    rollups = Rollups(START_NS)
    rollups.add(entries_of(logged((3, 1.0), (14, math.nan))))
    return rollups.state()


@given(st.data())
@settings(deadline=None)
def test_a_state_with_any_bit_turned_or_any_end_cut_off_is_refused(data: st.DataObject) -> None:
    state = some_state()
    at, bit = data.draw(st.integers(0, len(state) - 1)), data.draw(st.integers(0, 7))
    turned = bytearray(state)
    turned[at] ^= 1 << bit
    for damaged in (bytes(turned), state[:at], state + b"\0"):
        with pytest.raises(ValueError, match="state"):
            Rollups.restore(damaged, START_NS)


def test_a_state_of_another_version_is_refused_with_its_number() -> None:
    state = bytearray(some_state())
    state[8] = 2
    with pytest.raises(ValueError, match="format 2"):
        Rollups.restore(bytes(state), START_NS)


@given(st.binary(max_size=60))
@example(b"")
@settings(deadline=None)
def test_bytes_that_are_no_state_are_refused(junk: bytes) -> None:
    with pytest.raises(ValueError, match="no state"):
        Rollups.restore(junk, START_NS)


# -- resolution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "measurement"),
    [
        *[(-5, "metrics"), (0, "metrics"), (1999, "metrics"), (2000, "metrics_10"), (19_999, "metrics_10")],
        *[(20_000, "metrics_100"), (10_000_000, "metrics_10000"), (2 * 10**9 - 1, "metrics_1000000")],
        *[(2 * 10**9, "metrics_1000000"), (2**63 - 1, "metrics_1000000")],
    ],
)
def test_the_resolution_is_the_finest_with_at_most_2000_buckets(steps: int, measurement: str) -> None:
    assert resolution(steps) == measurement
