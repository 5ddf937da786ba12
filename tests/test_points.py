"""Points: every accepted name, tag, text and number survives line protocol; what cannot be stored is refused."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metriclog import points
from metriclog.errors import MetricNameError
from metriclog.points import Field, Point
from tests import accepted
from tests.accepted import bits

FIELDS = st.dictionaries(accepted.names(), accepted.FINITE | accepted.INT64 | accepted.texts(), min_size=1, max_size=5)


def visible(text: str) -> str:
    """A text as it is stored: line breaks and what else no line can hold, as escapes one can read."""
    held = {char: char.encode("unicode_escape", "surrogatepass").decode() for char in text}
    unholdable = {
        char for char in text if ord(char) < 32 or char in "\x7f\x85\u2028\u2029" or 0xD800 <= ord(char) < 0xE000
    }
    return "".join(held[char] if char in unholdable else char for char in text)


# -- names and tags ---------------------------------------------------------------------------------------------


@given(name=accepted.names())
@example(name="it's")
@example(name=r"C:\runs\new")
@example(name='say "yes"')
@example(name="a,b=c d#e/f")
def test_every_name_that_can_be_stored_is_accepted_as_it_is(name: str) -> None:
    assert points.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "x" * 513, "line\nbreak", "a\r", "\0", "tab\t", "\x7f", "\x1b[0m", "\x85", "\u2028", "\u2029", "\ud800"],
        *["ends\\", "a\\,b", "a\\ b", "a\\=b", 'a\\"b', "a\\\\b", "\\", "a\\\n"],
        *[None, 1, b"bytes", ("a",), True],
    ],
)
def test_a_name_that_cannot_be_stored_is_refused_with_our_error(name: object) -> None:
    with pytest.raises(MetricNameError, match=r"metric name"):
        points.check_name(name)


@given(name=st.text(st.characters(), max_size=20))
def test_whatever_is_accepted_comes_back_and_whatever_is_not_says_so(name: str) -> None:
    try:
        points.check_name(name)
    except MetricNameError as error:
        assert "\n" not in str(error)
        return
    assert points.parse_line(points.encode_line("m", [("k", name), (name + "k", "v")], {name: 1}, 0)) == Point(
        "m", {"k": name, name + "k": "v"}, {name: 1}, 0
    )


@pytest.mark.parametrize("key", [*sorted(points.RESERVED_TAGS), "_field", "_measurement", "", "a\nb", 7])
def test_a_tag_name_that_is_metriclogs_or_influxdbs_own_is_refused(key: Any) -> None:
    with pytest.raises(MetricNameError, match="tag name"):
        points.check_tags({key: "x"})


@pytest.mark.parametrize("value", ["", "a\nb", "ends\\"])
def test_a_tag_value_that_cannot_be_stored_is_refused_with_the_tags_name(value: str) -> None:
    with pytest.raises(MetricNameError, match="value of tag 'team'"):
        points.check_tags({"team": value})


def test_tag_values_are_stored_as_text() -> None:
    assert points.check_tags({"fold": 3, "amp": True}) == {"fold": "3", "amp": "True"}
    assert points.check_tags(None) == {}


def test_more_tags_than_a_key_of_influxdb_can_hold_are_refused() -> None:
    with pytest.raises(MetricNameError, match="bytes"):
        points.check_tags({f"tag{number}": "損" * 500 for number in range(60)})


@pytest.mark.parametrize(("given_as", "tag"), [(None, None), ("digits", "digits"), (("digits", "1f3a"), "digits@1f3a")])
def test_a_dataset_is_a_name_or_a_pair_of_name_and_digest(given_as: Any, tag: str | None) -> None:
    assert points.dataset_tag(given_as) == tag


@pytest.mark.parametrize("given_as", ["", "a\n", ("digits",), ("digits", None), ("a", "b", "c"), ["a", "b"], 7])
def test_anything_else_as_a_dataset_is_refused(given_as: Any) -> None:
    with pytest.raises(MetricNameError, match="dataset"):
        points.dataset_tag(given_as)


# -- line protocol ----------------------------------------------------------------------------------------------


@given(tags=accepted.tags(), fields=FIELDS, time_ns=accepted.TIMES_NS)
def test_an_encoded_line_is_one_line_and_parses_to_the_same_point(
    tags: dict[str, str], fields: dict[str, Field], time_ns: int
) -> None:
    line = points.encode_line("events", tags.items(), fields, time_ns)
    assert len(line.splitlines()) == 1
    back = points.parse_line(line)
    stored = {key: visible(value) if isinstance(value, str) else value for key, value in fields.items()}
    assert back == Point("events", tags, stored, time_ns)
    assert [type(value) for value in back.fields.values()] == [type(value) for value in fields.values()]
    floats = [(value, fields[key]) for key, value in back.fields.items() if isinstance(value, float)]
    assert all(bits(value) == bits(float(wanted)) for value, wanted in floats)


@given(text=accepted.texts())
def test_text_without_control_characters_is_stored_as_it_is(text: str) -> None:
    back = points.parse_line(points.encode_line("events", [], {"text": text}, 0)).fields["text"]
    assert back == visible(text)
    if text.isprintable():
        assert back == text


@given(
    metrics=st.lists(accepted.names(), min_size=1, max_size=5, unique=True),
    tags=accepted.tags(),
    rows=st.integers(1, 4),
    data=st.data(),
)
def test_rows_are_encoded_to_the_exact_numbers(
    metrics: list[str], tags: dict[str, str], rows: int, data: st.DataObject
) -> None:
    drawn = st.tuples(accepted.TIMES_NS, accepted.INT64, *[accepted.FLOATS for _ in metrics])
    table = data.draw(st.lists(drawn, min_size=rows, max_size=rows))
    prefixes = points.metric_prefixes(tuple(tags.items()), metrics)
    lines = points.encode_rows(prefixes, 5, table, orjson.dumps)
    assert len(lines) == len(table) * len(metrics)
    back = iter(lines)
    for time_ns, step, *values in table:
        for metric, value in zip(metrics, values, strict=True):
            line = next(back)
            assert line.endswith(b"\n")
            assert_is_metric_point(line[:-1].decode(), {**tags, "metric": metric}, (time_ns, step, value))


def assert_is_metric_point(line: str, tags: Mapping[str, str], row: tuple[int, int, float]) -> None:
    time_ns, step, value = row
    point = points.parse_line(line)
    assert (point.measurement, point.tags, point.time_ns) == ("metrics", tags, time_ns)
    fields = dict(point.fields)
    assert (fields.pop("step"), fields.pop("elapsed")) == (step, (time_ns - 5) // 1_000_000)
    if math.isfinite(value):
        assert {key: bits(float(it)) for key, it in fields.items()} == {"value": bits(value)}
    else:
        code = 1 if math.isnan(value) else 2 if value > 0 else 3
        assert fields == {"nonfinite": code}
        assert bits(points.from_nonfinite_code(code)) == bits(value)


@pytest.mark.parametrize(("value", "code"), [(math.nan, 1), (math.inf, 2), (-math.inf, 3)])
@pytest.mark.parametrize("neighbours", [0, 2])
def test_what_is_not_finite_has_a_code_and_no_value(value: float, code: int, neighbours: int) -> None:
    metrics = [f"m{number}" for number in range(1 + neighbours)]
    prefixes = points.metric_prefixes((), metrics)
    lines = points.encode_rows(prefixes, 0, [(10, 1, value, *[0.5] * neighbours)], orjson.dumps)
    assert lines[0] == b"metrics,metric=m0 nonfinite=%di,step=1i,elapsed=0i 10\n" % code
    assert all(b" value=0.5," in line for line in lines[1:])


# -- parameters and nested names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (0.1, ("number", 0.1)),
        (3, ("number", 3.0)),
        (Decimal("0.1"), ("number", 0.1)),
        (Fraction(1, 4), ("number", 0.25)),
        (np.float32(0.5), ("number", 0.5)),
        (np.array(2), ("number", 2.0)),
        (True, ("text", "true")),
        (np.False_, ("text", "false")),
        (np.array(True), ("text", "true")),
        (math.nan, ("text", "nan")),
        (np.float32(-np.inf), ("text", "-inf")),
        (10**400, ("text", str(10**400))),
        ("adam", ("text", "adam")),
        (np.str_("adam"), ("text", "adam")),
        (np.array("adam"), ("text", "adam")),
        (b"raw", ("text", "b'raw'")),
        (None, ("text", "None")),
        ([1, 2], ("text", "[1, 2]")),
        (np.array([True, False]), ("text", "[ True False]")),
        (1 + 2j, ("text", "(1+2j)")),
        (np.complex64(1 + 2j), ("text", "(1+2j)")),
        (np.datetime64("2026-01-02"), ("text", "2026-01-02")),
        (dt.date(2026, 1, 2), ("text", "2026-01-02")),
    ],
)
def test_a_parameter_is_a_finite_number_or_else_text(value: object, field: tuple[str, Field]) -> None:
    kind, stored = points.as_field(value)
    assert (kind, stored) == field
    assert type(stored) is type(field[1])


@given(name=accepted.names(), value=accepted.FINITE | accepted.texts())
def test_a_parameters_line_holds_its_name_and_its_one_field(name: str, value: float | str) -> None:
    point = points.parse_line(points.param_line("e", "r", name, value, 7))
    field: dict[str, Field] = {"text": visible(value)} if isinstance(value, str) else {"number": value}
    assert point == Point("params", {"experiment": "e", "run": "r", "param": name}, field, 7)


def test_nested_mappings_are_joined_with_a_slash() -> None:
    nested = {"train": {"loss": 1, "acc": {"top1": 2, "top5": 3}}, "lr": 4, "none": {}}
    assert points.flatten(nested) == {"train/loss": 1, "train/acc/top1": 2, "train/acc/top5": 3, "lr": 4}


@pytest.mark.parametrize(
    "clash", [{"a": {"b": 1}, "a/b": 2}, {"a/b": 1, "a": {"b": 2}}, {"a": {"b/c": 1, "b": {"c": 2}}}]
)
def test_two_names_that_fall_together_are_refused(clash: dict[str, Any]) -> None:
    with pytest.raises(MetricNameError, match="occurs twice"):
        points.flatten(clash)


@pytest.mark.parametrize("key", [1, None, True, ("a", "b"), b"a"])
def test_a_name_that_is_no_string_is_refused_at_every_depth(key: Any) -> None:
    for nested in ({key: 1}, {key: {"a": 1}}, {"a": {key: 1}}):
        with pytest.raises(MetricNameError, match="must be a string"):
            points.flatten(nested)


LEAVES = st.dictionaries(st.text("ab", min_size=1), st.integers(), max_size=3)
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(st.text("ab", min_size=1), inner, max_size=3), max_leaves=8)


@given(tree=TREES)
def test_flattening_keeps_every_leaf_once(tree: dict[str, Any]) -> None:
    def leaves(node: Any) -> list[Any]:
        return [leaf for item in node.values() for leaf in leaves(item)] if isinstance(node, dict) else [node]

    assert sorted(points.flatten(tree).values()) == sorted(leaves(tree))
