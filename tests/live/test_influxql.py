"""The reader's queries on a real InfluxDB: what they return, and that no name breaks out of its quotes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metriclog import influxql
from tests.live.lines import START_NS, line, metric, run_state
from tests.servers.api import Influx

NASTY = [
    "train/loss",
    "loss with spaces",
    "it's",
    'say "yes"',
    "a.b-c+d",
    "(a|b)*[c]{2}^$?",
    r"C:\runs\new",
    r"\'",
    "x' OR '1'='1",
    "comma,equals=",
    "naïve 損失",
    "2026-11-23_lr0.1",
    "$1 ${run:regex}",
]
# What a tag value can hold: no line end, no NUL, and no backslash at its end, which would escape what follows.
NAMES = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: not name.endswith("\\")
)


@pytest.mark.parametrize("name", NASTY)
def test_a_name_of_any_kind_finds_its_own_points_only(influx: Influx, name: str) -> None:
    tags = {"experiment": name, "run": name, "metric": name}
    other = {"experiment": "other", "run": "other", "metric": "other"}
    influx.write("\n".join([metric(tags, 1, 0.5, START_NS), metric(other, 1, 0.75, START_NS)]))

    assert [row["value"] for row in influx.rows(influxql.curve(name, name, experiment=name))] == [0.5]
    assert [row["value"] for row in influx.rows(influxql.metric_names(name, experiment=name))] == [name]
    by_regex = f'SELECT "value" FROM "metrics" WHERE "metric" =~ {influxql.match_regex(name)}'
    assert [row["value"] for row in influx.rows(by_regex)] == [0.5]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=2, max_size=8, unique=True))
def test_whatever_a_metric_is_called_it_is_found_by_that_name(influx: Influx, names: list[str]) -> None:
    points = [metric({"experiment": "e", "run": "r", "metric": name}, i, 0.5, START_NS) for i, name in enumerate(names)]
    influx.write("\n".join(points))
    for step, name in enumerate(names):
        by_regex = f'SELECT "step" FROM "metrics" WHERE "metric" =~ {influxql.match_regex(name)}'
        for query in (influxql.curve("r", name), by_regex):
            # Points of earlier examples may share the name, never the query.
            assert step in {row["step"] for row in influx.rows(query)}
        assert {row["value"] for row in influx.rows(influxql.metric_names("r"))} >= {name}
    assert len(influx.rows(influxql.curve("r", names[0] + "?"))) == 0


def test_the_newest_state_of_every_run_comes_back_with_all_its_columns(influx: Influx) -> None:
    one, two = {"experiment": "a", "run": "r1"}, {"experiment": "b", "run": "r2"}
    states = [
        run_state(one, "running", 10, START_NS),
        run_state(one, "finished", 20, START_NS + 5_000_000_000),
        run_state(two, "running", 7, START_NS),
    ]
    influx.write("\n".join(states))

    rows = {row["run"]: row for row in influx.rows(influxql.runs())}
    assert set(rows) == {"r1", "r2"}
    ended = START_NS // 1_000_000 + 5000
    expected = {"status": "finished", "steps": 20, "running": 0, "ended": ended, "to": str(ended + 1), "attempt": 1}
    assert {**rows["r1"], **expected} == rows["r1"]
    assert (rows["r1"]["experiment"], rows["r1"]["host"], rows["r1"]["pid"]) == ("a", "h1", 17)
    assert (rows["r2"]["status"], rows["r2"]["to"]) == ("running", "now")
    assert [row["run"] for row in influx.rows(influxql.runs("b"))] == ["r2"]


def test_the_last_value_of_a_parameter_wins_even_when_its_kind_changed(influx: Influx) -> None:
    def param(name: str, fields: str, offset_ns: int) -> str:
        return line("params", {"experiment": "e", "run": "r", "param": name}, fields, START_NS + offset_ns)

    influx.write(
        "\n".join([param("lr", "number=0.1", 0), param("warmup", "number=5", 0), param("warmup", 'text="5%"', 9)])
    )
    newest = {row["param"]: row for row in influx.rows(influxql.params("r"))}
    assert (newest["lr"]["number"], newest["lr"]["text"]) == (0.1, None)
    assert (newest["warmup"]["number"], newest["warmup"]["text"]) == (None, "5%")
    assert influx.rows(influxql.params(experiment="elsewhere")) == []


def test_a_curve_has_every_point_in_the_order_of_time_with_its_tags(influx: Influx) -> None:
    tags = {"experiment": "e", "run": "r", "metric": "loss"}
    points = [
        metric({**tags, "dataset": "mnist@1f", "model": "mlp"}, 2, 0.25, START_NS + 2),
        metric(tags, 1, None, START_NS + 1),
        metric({**tags, "rank": "1"}, 3, 1e-300, START_NS + 3),
    ]
    influx.write("\n".join(points))
    rows = influx.rows(influxql.curve("r", "loss"))
    assert [row["time"] - START_NS for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["value"] for row in rows] == [None, 0.25, 1e-300]
    assert [row["nonfinite"] for row in rows] == [1, None, None]
    assert [row["elapsed"] for row in rows] == [1040, 2040, 3040]
    assert [(row["model"], row["dataset"], row["rank"]) for row in rows] == [
        (None, None, None),
        ("mlp", "mnist@1f", None),
        (None, None, "1"),
    ]


def test_the_pages_of_a_curve_hold_each_point_once(influx: Influx) -> None:
    tags = {"experiment": "e", "run": "r", "metric": "loss"}
    influx.write("\n".join(metric(tags, step, float(step), START_NS + step) for step in range(1000)))
    seen: list[int] = []
    after = None
    while page := influx.rows(influxql.curve("r", "loss", after_time_ns=after, limit=300)):
        seen += [row["step"] for row in page]
        after = page[-1]["time"]
    assert seen == list(range(1000))


def test_a_page_that_ends_inside_one_instant_can_be_read_again_from_before_it(influx: Influx) -> None:
    tags = {"experiment": "e", "run": "r", "metric": "loss"}
    ranks = [{**tags, "rank": str(rank)} for rank in range(4)]
    influx.write("\n".join(metric(rank, t, 0.5, START_NS + t) for t in range(3) for rank in ranks))
    seen: list[tuple[int, str]] = []
    after, limit = None, 6
    while True:
        page = influx.rows(influxql.curve("r", "loss", after_time_ns=after, limit=limit))
        last = page[-1]["time"] if len(page) == limit else None
        seen += [(row["time"] - START_NS, row["rank"]) for row in page if row["time"] != last]
        if last is None:
            break
        after = last - 1
    assert sorted(seen) == sorted((t, str(rank)) for t in range(3) for rank in range(4))
    assert [time for time, _ in seen] == sorted(time for time, _ in seen)


def test_counts_tell_finite_values_from_the_others(influx: Influx) -> None:
    one = {"experiment": "e", "run": "r1", "metric": "loss"}
    two = {"experiment": "e", "run": "r2", "metric": "loss"}
    points = [metric(one, step, None if step > 7 else 0.5, START_NS + step) for step in range(10)]
    influx.write("\n".join([*points, metric(two, 0, 1.0, START_NS)]))

    counts = {row["run"]: (row["value"], row["nonfinite"]) for row in influx.rows(influxql.count_values())}
    assert counts == {"r1": (8, 2), "r2": (1, None)}
    assert [(row["run"], row["metric"], row["nonfinite"]) for row in influx.rows(influxql.nonfinite_counts())] == [
        ("r1", "loss", 2)
    ]
    assert influx.rows(influxql.nonfinite_counts("r2")) == []


@pytest.mark.parametrize(
    "query",
    [
        influxql.runs(),
        influxql.params("r"),
        influxql.metric_names("r"),
        influxql.curve("r", "m"),
        influxql.nonfinite_counts(),
        influxql.count_values(),
    ],
)
def test_an_empty_bucket_answers_with_nothing(influx: Influx, query: str) -> None:
    assert influx.rows(query) == []
