"""Columns: what a journal holds and what a server answers are equal as arrays exactly where they are equal."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from metriclog.columns import Columns, of_answer
from metriclog.points import nonfinite_code
from metriclog.segments import Shape
from tests.accepted import FLOATS, INT64, TIMES_NS

TAGS = (("experiment", "e"), ("run", "r"))
SERIES = ("metrics", (("experiment", "e"), ("metric", "m"), ("run", "r")))
START_NS = 1_700_000_000_000_000_000
ROWS = st.lists(st.tuples(TIMES_NS, INT64.filter(lambda step: step > -(2**63)), FLOATS), unique_by=lambda row: row[0])


def answer_of(row: tuple[int, int, float]) -> list[Any]:
    """A row as a server answers it, after the way through JSON: whole floats come back as ints."""
    time_ns, step, value = row
    code = nonfinite_code(value)
    number = None if code else int(value) if value.is_integer() and math.copysign(1.0, value) > 0 else value
    return [time_ns, number, step, (time_ns - START_NS) // 1_000_000, code or None]


def held(rows: list[tuple[int, int, float]]) -> Columns:
    """These rows in a journal, two metrics each."""
    columns = Columns()
    shape = Shape(16, ("m", "other"), TAGS)
    columns.add(shape, [(time_ns, step, value, -value) for time_ns, step, value in rows], len(rows) // 2, START_NS)
    return columns


@given(ROWS)
def test_what_was_logged_equals_what_a_server_answers_of_it(rows: list[tuple[int, int, float]]) -> None:
    block = held(rows).block(SERIES)
    there = of_answer(json.loads(json.dumps([answer_of(row) for row in sorted(rows)])))
    assert block.times_ns.tolist() == there.times_ns.tolist() == sorted(row[0] for row in rows)
    assert block.equals(there).all()
    acked = {row[0] for row in rows[: len(rows) // 2]}
    assert [bool(one) for one in block.acked] == [time_ns in acked for time_ns in block.times_ns.tolist()]


@given(ROWS.filter(bool), st.data())
def test_one_other_value_step_or_elapsed_makes_a_point_unequal(
    rows: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    rows.sort()
    index = data.draw(st.integers(0, len(rows) - 1))
    answers = [answer_of(row) for row in rows]
    kinds = {
        "step": (2, INT64),
        "elapsed": (3, INT64),
        "value": (1, FLOATS.filter(math.isfinite)),
        "code": (4, st.just(9)),
    }
    place, other = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    changed = data.draw(other.filter(lambda new: repr(new) != repr(answers[index][place])))
    if place == 1 and answers[index][1] is not None and float(changed).hex() == float(answers[index][1]).hex():
        return  # 2 and 2.0 are one value
    answers[index][place] = changed
    equal = held(rows).block(SERIES).equals(of_answer(answers))
    assert [bool(one) for one in equal] == [number != index for number in range(len(rows))]


def test_a_point_without_a_value_equals_none_and_is_shown_as_what_it_is() -> None:
    there = of_answer([[1, None, 3, None, None], [2, 0.5, None, 4, 1]])
    assert there.show(0) == "value=none, or more than that, step=3"
    assert there.show(1) == "value=none, or more than that, elapsed=4"
    logged = held([(1, 3, math.nan), (2, 3, 0.5)]).block(SERIES)
    assert not logged.equals(there).any()
    assert logged.show(0).startswith("value=nan, step=3, elapsed=-")


def test_shapes_that_share_a_metric_make_one_series_in_the_order_of_time() -> None:
    columns = Columns()
    for index in range(10_000):
        metrics = ("m", "other") if index % 2 else ("m",)
        columns.add(Shape(16, metrics, TAGS), [(index, index, 0.5, 0.25)[: 2 + len(metrics)]], 0, 0)
    block = columns.block(SERIES)
    assert block.times_ns.tolist() == block.steps.tolist() == list(range(10_000))
    assert columns.series() == {SERIES, ("metrics", (("experiment", "e"), ("metric", "other"), ("run", "r")))}
    assert columns.block(("metrics", ())).times_ns.tolist() == []
