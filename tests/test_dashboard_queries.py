"""The dashboards' query texts: portable InfluxQL, in the page's time range, without the traps of nulls and of ranks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog import dashboard_queries as queries
from metriclog import influxql
from tests.dashboard_files import every_query, every_target
from tests.grafana_interpolation import bare_variables, interpolate, variable_formats

RAW = {"x", "resolution", "best", "__to"}
"""Variables whose values are ours: parts of a query, not names."""
VARIABLES = {"experiment", "run", "model", "dataset"}


@every_query
def test_every_query_is_one_statement_of_portable_influxql(query: str) -> None:
    assert re.match(r"(SELECT|SHOW TAG VALUES FROM) ", query)
    assert ";" not in query and "\n" not in query
    assert "now()" not in query
    assert not re.search(r"SHOW (SERIES|DATABASES)|SLIMIT|SOFFSET|INTEGRAL|HOLT_WINTERS|SAMPLE|EXPONENTIAL", query)
    assert query.count("(") == query.count(")")


@every_query
def test_every_query_keeps_to_the_time_range_once(query: str) -> None:
    """Grafana replaces only the first one in a menu's query."""
    assert query.count("$timeFilter") == 1


@every_query
def test_a_time_range_around_a_subquery_stands_inside_it(query: str) -> None:
    if " FROM (SELECT" in query:
        assert "$timeFilter" in query[query.rindex("FROM (SELECT") : query.index(")", query.index("$timeFilter")) + 1]


@every_query
def test_no_select_has_a_limit_beside_a_group_by(query: str) -> None:
    """A limit counts for each series on one server and for all of them on another."""
    outer = re.sub(r"\(SELECT .*\)", "()", query)
    assert not ("LIMIT" in outer and "GROUP BY" in outer)


@every_query
def test_every_variable_in_a_query_has_a_format_that_escapes_it(query: str) -> None:
    """Without a format, a value that starts with a digit is put in unescaped."""
    assert bare_variables(query) == set()
    for name, chosen_format in variable_formats(query):
        assert chosen_format == ("raw" if name in RAW else "regex")


@every_query
def test_a_variable_matches_whole_names_only(query: str) -> None:
    for pattern in re.findall(r"=~ /(\S*?\$\{\w+:regex\}\S*?)/(?: |$|\))", query):
        assert re.fullmatch(r"(\(\?i\))?\^.*\$", pattern)


@every_target
def test_null_values_are_left_out_where_values_are_drawn(query: str) -> None:
    """A NaN point has no value; the null would be drawn as 0."""
    if re.search(r'SELECT [^(]*"value"[^(]* FROM /', query):
        assert '"value" = "value"' in query
    if re.search(r'SELECT [^(]*"min"[^(]* FROM /', query):
        assert '"min" < "max"' in query


@every_target
def test_where_values_are_drawn_it_is_of_one_rank_or_the_ranks_are_asked_for(query: str) -> None:
    if re.search(r'SELECT .*"(value|min|last|best)".* FROM (/|"summary")', query):
        assert "(\"rank\" = '0' OR \"rank\" = '')" in query or '"rank" =~ /./' in query


@every_target
def test_curves_are_read_from_the_resolution_that_is_chosen(query: str) -> None:
    """Raw points of a long run are too many for a page."""
    assert 'FROM "metrics"' not in query or query.startswith('SELECT count("nonfinite")')


@every_query
def test_no_pattern_of_ours_matches_the_empty_text(query: str) -> None:
    """What such a pattern means differs from server to server."""
    for pattern in re.findall(r"=~ /((?:\\/|[^/])+)/", query):
        assert "${" in pattern or re.search(pattern.replace(r"\/", "/"), "") is None


def test_every_x_axis_but_the_step_is_rounded() -> None:
    assert queries.X_AXES["step"] == '"step"'
    assert all(expression.startswith("round(") for label, expression in queries.X_AXES.items() if label != "step")


def test_of_an_empty_database_the_resolution_matches_no_measurement() -> None:
    pattern = interpolate("^" + queries.RESOLUTIONS["Auto"] + "$", {"auto": ""}, 0, 1, 1)
    assert re.fullmatch(pattern, "metrics") is None


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("train/loss", "loss"),
        ("val_loss", "loss"),
        ("Loss/test", "Loss"),
        ("eval/accuracy", "accuracy"),
        ("train/layer/loss", "layer/loss"),
        ("loss", "loss"),
        ("valid.top-5", "top-5"),
        ("trainer/lr", "trainer/lr"),
    ],
)
def test_a_metric_belongs_to_the_quantity_it_measures_on_whatever_split(name: str, quantity: str) -> None:
    pattern = queries.QUANTITY_IN_NAME.removeprefix("/").removesuffix("/i").replace("(?<value>", "(?P<value>")
    found = re.search(pattern, name, re.I)
    assert found and found["value"] == quantity
    text = interpolate(queries.QUANTITY_CURVES, dict.fromkeys(RAW | VARIABLES, "x") | {"quantity": quantity}, 0, 1, 1)
    ours = re.search(r'"metric" =~ /(\(\?i\)\S+)/ AND', text)
    assert ours and re.search(ours[1], name)


@pytest.mark.parametrize(
    ("text", "names", "others"),
    [
        (
            queries.LEARNING_RATE_CURVES,
            ["lr", "train/lr", "opt/lr-group.0", "learning_rate", "LearningRate"],
            ["color"],
        ),
        (queries.GRADIENT_NORM_CURVES, ["grad_norm", "train/grad norm", "gradient_norm", "GradNorm"], ["norm", "grad"]),
        (
            queries.THROUGHPUT_BY_TIME,
            ["samples_per_second", "tokens/s", "it/s", "steps_per_sec", "throughput", "perf/tokens per s"],
            ["loss", "steps", "train/steps"],
        ),
    ],
)
def test_well_known_metrics_are_found_by_their_usual_names(text: str, names: list[str], others: list[str]) -> None:
    found = re.search(r'"metric" =~ /((?:\\/|[^/])+)/', text)
    assert found
    pattern = found[1].replace(r"\/", "/")
    assert [name for name in names if not re.search(pattern, name)] == []
    assert [name for name in others if re.search(pattern, name)] == []


@given(st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_one_value_of_a_menu_is_escaped_as_our_own_literal(name: str) -> None:
    assert interpolate("/^${run:regex}$/", {"run": [name]}, 0, 1, 1) == influxql.match_regex(name)


def test_interpolation_follows_grafana() -> None:
    values = {"one": "a/b.c", "several": ["x+y", "z"], "text": "it's"}
    assert interpolate("${one:regex}", values, 0, 1, 1) == r"a\/b\.c"
    assert interpolate("${several:regex}", values, 0, 1, 1) == r"(x\+y|z)"
    assert interpolate("${several:raw}", values, 0, 1, 1) == "x+y,z"
    assert interpolate("${text:singlequote}", values, 0, 1, 1) == r"'it\'s'"
    assert interpolate("$timeFilter", values, 10, 20, 1) == "time >= 10ms and time <= 20ms"
    assert interpolate("time($__interval) $__interval_ms", values, 0, 1, 500) == "time(500ms) 500"
    with pytest.raises(KeyError):
        interpolate("${unknown:regex}", values, 0, 1, 1)
    with pytest.raises(ValueError, match="one of the formats"):
        interpolate("${one}", values, 0, 1, 1)
