"""Query texts: quoting never lets a name out of its quotes, and no text leaves the portable part of InfluxQL."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog import influxql

NAMES = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]))
READER_TEXTS = [
    influxql.runs(),
    influxql.runs("digits"),
    influxql.params(),
    influxql.params("r1", experiment="digits"),
    influxql.metric_names("r1"),
    influxql.curve("r1", "train/loss"),
    influxql.curve("r1", "train/loss", experiment="digits", after_time_ns=17, limit=100),
    influxql.nonfinite_counts(),
    influxql.nonfinite_counts("r1", experiment="digits"),
    influxql.count_values(),
]


def scan(quoted: str) -> str:
    """What InfluxQL's scanner makes of a quoted text: it must end at the last character, not before."""
    quote, text, position = quoted[0], "", 1
    while quoted[position] != quote:
        if quoted[position] == "\\":
            position += 1
            assert quoted[position] in "\\'\"", "InfluxQL knows no such escape"
        text += quoted[position]
        position += 1
    assert position == len(quoted) - 1
    return text


@given(NAMES)
def test_a_quoted_name_is_one_token_and_reads_back_as_itself(name: str) -> None:
    assert scan(influxql.quote_identifier(name)) == name
    assert scan(influxql.quote_string(name)) == name


@given(NAMES.filter(bool), NAMES)
def test_a_literal_regex_matches_its_text_and_nothing_else(name: str, other: str) -> None:
    literal = influxql.match_regex(name)
    assert literal.startswith("/") and literal.endswith("/")
    assert re.search(r"(?<!\\)(?:\\\\)*/", literal[1:-1]) is None, "an unescaped / would end the literal early"
    pattern = re.compile(literal[1:-1])
    assert pattern.search(name)
    assert (pattern.search(other) is not None) == (other == name)


@pytest.mark.parametrize("quote", [influxql.quote_identifier, influxql.quote_string, influxql.match_regex])
@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b"])
def test_a_name_with_a_line_end_is_refused_and_named(quote: Callable[[str], str], name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        quote(name)


def test_the_empty_text_has_no_portable_regex() -> None:
    with pytest.raises(ValueError, match="not portable"):
        influxql.match_regex("")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "'plain'"),
        ("it's", r"'it\'s'"),
        (r"a\b", r"'a\\b'"),
        (r"trailing\\"[:-1], r"'trailing\\'"),
        ("' OR '1'='1", r"'\' OR \'1\'=\'1'"),
    ],
)
def test_string_literals_as_text(text: str, expected: str) -> None:
    assert influxql.quote_string(text) == expected


def test_a_hostile_run_name_stays_inside_its_quotes() -> None:
    hostile = "x' ; DROP MEASUREMENT metrics --"
    assert influxql.quote_string(hostile) in influxql.curve(hostile, "loss")
    assert hostile not in influxql.curve(hostile, "loss")


def test_without_an_experiment_all_runs_are_asked_for() -> None:
    assert "WHERE" not in influxql.runs()
    assert "\"experiment\" = 'digits'" in influxql.runs("digits")


def test_a_page_of_a_curve_starts_after_a_time_and_is_limited() -> None:
    text = influxql.curve("r", "m", after_time_ns=1_795_000_000_000_000_001, limit=5000)
    assert text.endswith("AND time > 1795000000000000001 ORDER BY time ASC LIMIT 5000")


@pytest.mark.parametrize("text", READER_TEXTS)
def test_every_text_is_one_statement_of_portable_influxql(text: str) -> None:
    assert re.match(r"(SELECT|SHOW TAG VALUES FROM) ", text)
    assert ";" not in text and "\n" not in text
    assert not ("LIMIT" in text and "GROUP BY" in text), "a limit counts per series here and in all there"
    assert "now()" not in text
    assert not re.search(r"SHOW (SERIES|DATABASES)|SLIMIT|SOFFSET|INTEGRAL|HOLT_WINTERS|SAMPLE|EXPONENTIAL", text)


@pytest.mark.parametrize("text", READER_TEXTS)
def test_tag_values_are_asked_for_with_measurement_and_time(text: str) -> None:
    if text.startswith("SHOW"):
        assert " FROM " in text and "time >=" in text
