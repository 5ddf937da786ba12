"""Numbers, steps and time stamps: what log() takes as one, exactly, and what it refuses with an error that helps."""

from __future__ import annotations

import datetime as dt
import math
import struct
from array import array
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog import points
from metriclog.errors import MetricValueError, StepError
from metriclog.points import Stamps
from tests import accepted
from tests.accepted import bits

REAL_DTYPES = [*"?bBhHiIlLqQefdg"]
NOT_ONE_NUMBER: list[object] = [
    None,
    "0.5",
    b"1",
    bytearray(b"1"),
    1 + 2j,
    [1.0],
    (1.0,),
    {1.0},
    array("B", b"1"),
    memoryview(b"1"),
    object(),
    Decimal("sNaN"),
    10**400,
    dt.timedelta(seconds=1),
    np.array([1.0]),
    np.array([[1.0]]),
    np.array([]),
    np.array("0.5"),
    np.array(b"1"),
    np.array("1", dtype=object),
    np.str_("1"),
    np.bytes_(b"1"),
    np.void(b"1"),
    np.complex64(1),
    np.array(1 + 0j),
    np.timedelta64(1, "s"),
    np.datetime64(1, "s"),
    np.array(np.datetime64(1, "s")),
]


# -- numbers ----------------------------------------------------------------------------------------------------


@given(value=accepted.FLOATS)
def test_a_float_is_taken_bit_by_bit(value: float) -> None:
    assert bits(points.as_number(value, "m")) == bits(value)
    assert bits(points.as_number(np.float64(value), "m")) == bits(value)


@pytest.mark.parametrize("value", [1, True, Decimal(1), Fraction(1), 2**900, Decimal("0.1"), Fraction(1, 3)])
def test_pythons_real_numbers_are_numbers(value: Any) -> None:
    assert points.as_number(value, "m") == float(value)


@pytest.mark.parametrize("kind", REAL_DTYPES)
def test_numpys_real_scalars_and_0d_arrays_are_numbers(kind: str) -> None:
    array_0d = np.array(1, dtype=kind)
    assert points.as_number(array_0d[()], "m") == 1.0
    assert points.as_number(array_0d, "m") == 1.0


@pytest.mark.parametrize("kind", REAL_DTYPES)
def test_once_seen_a_numpy_scalar_packs_without_a_question(kind: str) -> None:
    scalar = np.array(1, dtype=kind)[()]
    points.as_number(scalar, "m")
    assert type(scalar) in points.PLAIN_NUMBERS
    assert struct.pack("<d", scalar) == struct.pack("<d", 1.0)


@pytest.mark.parametrize(
    "value", NOT_ONE_NUMBER, ids=[f"{type(value).__name__}-{i}" for i, value in enumerate(NOT_ONE_NUMBER)]
)
def test_what_is_not_one_real_number_is_refused_by_name(value: object) -> None:
    before = set(points.PLAIN_NUMBERS)
    with pytest.raises(MetricValueError, match="metric 'train/loss'") as caught:
        points.as_number(value, "train/loss")
    assert isinstance(caught.value, TypeError)
    assert before == points.PLAIN_NUMBERS


def test_a_vector_is_told_how_to_become_a_number() -> None:
    with pytest.raises(MetricValueError, match=r"shape \(2, 3\); log its \.mean\(\)"):
        points.as_number(np.zeros((2, 3)), "m")


class Tensor:
    """Warns when it is read inside a graph, as torch's tensors do."""

    shape = ()

    def __float__(self) -> float:
        raise AssertionError("read without detach()")

    def detach(self) -> float:
        return 0.25


def test_a_tensor_is_detached_before_it_is_read() -> None:
    assert points.as_number(Tensor(), "m") == 0.25


# -- steps and times --------------------------------------------------------------------------------------------


@given(step=accepted.INT64)
def test_any_int64_is_a_step(step: int) -> None:
    assert points.as_step(step) == step
    assert points.as_step(np.int64(step)) == step


@pytest.mark.parametrize(
    "step",
    [True, np.True_, 1.0, np.float32(1), "1", None, 2**63, -(2**63) - 1, 1 << 20_000, Decimal(1), [1]],
    ids=lambda step: type(step).__name__,
)
def test_anything_else_as_a_step_is_refused(step: object) -> None:
    with pytest.raises(StepError, match="step must"):
        points.as_step(step)


def test_a_time_stamp_is_seconds_or_an_aware_datetime() -> None:
    assert points.as_time_ns(1.5) == 1_500_000_000
    assert points.as_time_ns(1_790_000_000) == 1_790_000_000 * 10**9
    assert points.as_time_ns(1_790_000_000.123456) == 1_790_000_000_123_456_000
    tokyo = dt.timezone(dt.timedelta(hours=9))
    assert points.as_time_ns(dt.datetime(1970, 1, 1, 9, 0, 1, 7, tzinfo=tokyo)) == 1_000_007_000


@given(moment=st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2262, 1, 1), timezones=st.just(dt.UTC)))
def test_a_datetime_is_exact_to_the_microsecond(moment: dt.datetime) -> None:
    assert (
        points.as_time_ns(moment)
        == (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1) * 1000
    )


@pytest.mark.parametrize(
    "stamp",
    [
        *[1.79e12, 1_790_000_000_000, 1.79e15, 1.79e18, 1_790_000_000_000_000_000],  # ms, us and ns
        *[-1, -0.001, 1e305, 10**400, math.nan, math.inf, -math.inf, True],
        *["1790000000", None, dt.datetime(2026, 1, 1), dt.datetime.max.replace(tzinfo=dt.UTC), dt.date(2026, 1, 1)],
        dt.datetime(1969, 12, 31, tzinfo=dt.UTC),
    ],
)
def test_anything_else_as_a_time_stamp_is_refused(stamp: object) -> None:
    with pytest.raises(StepError, match="timestamp"):
        points.as_time_ns(stamp)


# -- equal time stamps ------------------------------------------------------------------------------------------

MOMENTS = st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.sampled_from(["train", "test"]), st.integers(0, 5))


@given(calls=st.lists(MOMENTS, max_size=40))
def test_no_two_points_of_a_series_get_the_same_explicit_instant(calls: list[tuple[set[str], str, int]]) -> None:
    stamps = Stamps()
    given_out = []
    for metrics, phase, time_ns in calls:
        apart_ns = stamps.apart(metrics, (("phase", phase),), time_ns)
        assert time_ns <= apart_ns <= time_ns + len(calls)
        given_out += [(metric, phase, apart_ns) for metric in metrics]
    assert len(given_out) == len(set(given_out))


def test_different_series_may_share_an_explicit_instant() -> None:
    stamps = Stamps()
    assert [stamps.apart([metric], (), 7) for metric in ("a", "b", "a", "b", "a")] == [7, 7, 8, 8, 9]


def test_the_memory_of_explicit_instants_is_bounded_and_forgets_the_oldest_first() -> None:
    stamps = Stamps(limit=100)
    for time_ns in range(0, 10_000, 10):
        stamps.apart(["a"], (), time_ns)
        assert stamps.apart(["a"], (), time_ns) == time_ns + 1
