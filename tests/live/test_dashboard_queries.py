"""Every query of every dashboard on a real InfluxDB, after what Grafana does to it: which columns, how many rows."""

from __future__ import annotations

from typing import Any

import pytest

from metriclog import influxql
from metriclog.grafana.dashboards import all_dashboards
from tests.grafana_interpolation import Value, interpolate
from tests.live.lines import SECOND_NS, START_NS, metric, run_state
from tests.servers.api import Influx

EXPERIMENT = 'digits/v1.2 - it\'s "new" +aug'
PLAIN, RESUMED, RANKED = "lr0.1-k3f9", "2026-11-23_lr0.1", "ranks.r3-x"
LOSS, ACCURACY = "train/loss", 'val acc. (top-5) + it\'s "best"'
FROM_MS = START_NS // 1_000_000 - 60_000
TO_MS = FROM_MS + 600_000

DASHBOARDS = {name: made.to_dict() for name, made in all_dashboards().items()}
TARGETS = {
    (name, panel["title"], target["refId"]): target["query"]
    for name, made in DASHBOARDS.items()
    for panel in made["panels"]
    for target in panel["targets"]
}
MENUS = {
    (name, variable["name"]): variable["query"]["query"]
    for name, made in DASHBOARDS.items()
    for variable in made["templating"]["list"]
    if variable["type"] == "query"
}
every_query = pytest.mark.parametrize(
    "query", [pytest.param(query, id=":".join(key)) for key, query in (*TARGETS.items(), *MENUS.items())]
)


@pytest.fixture
def filled(influx: Influx) -> Influx:
    """Three runs of one experiment, one with a NaN, one resumed, one of three ranks; and another experiment."""
    lines = [*_plain_run(), *_resumed_run(), *_ranked_run(), *_other_experiment()]
    influx.write("\n".join(lines))
    return influx


def _tags(run: str, name: str, **more: str) -> dict[str, str]:
    return {"experiment": EXPERIMENT, "run": run, "metric": name, **more}


def _plain_run() -> list[str]:
    losses = [2.0, 1.0, None, 0.5]
    times = [START_NS + step * SECOND_NS for step in range(4)]
    return [
        *(metric(_tags(PLAIN, LOSS), step, losses[step], times[step]) for step in range(4)),
        *(metric(_tags(PLAIN, ACCURACY), step, 0.25 * step, times[step]) for step in range(4)),
        run_state({"experiment": EXPERIMENT, "run": PLAIN}, "running", 2, times[1]),
        run_state({"experiment": EXPERIMENT, "run": PLAIN}, "finished", 4, times[3]),
    ]


def _resumed_run() -> list[str]:
    """Steps 0 to 3, then 2 to 5 once more with other values."""
    steps = [0, 1, 2, 3, 2, 3, 4, 5]
    return [
        *(metric(_tags(RESUMED, LOSS), step, 10.0 + i, START_NS + i * SECOND_NS) for i, step in enumerate(steps)),
        run_state({"experiment": EXPERIMENT, "run": RESUMED}, "running", 6, START_NS + 8 * SECOND_NS),
    ]


def _ranked_run() -> list[str]:
    points = [
        metric(_tags(RANKED, LOSS, rank=str(rank)), step, 100.0 * rank + step, START_NS + step * SECOND_NS)
        for rank in range(3)
        for step in range(3)
    ]
    return [*points, run_state({"experiment": EXPERIMENT, "run": RANKED}, "failed", 3, START_NS + 3 * SECOND_NS)]


def _other_experiment() -> list[str]:
    tags = {"experiment": "digits", "run": "foreign"}
    return [metric({**tags, "metric": "other"}, 0, 1.0, START_NS), run_state(tags, "finished", 1, START_NS)]


def ask(influx: Influx, query: str, **variables: Value) -> list[dict[str, Any]]:
    """The rows of a query as Grafana would send it; `time` in ms as Grafana asks for it."""
    chosen: dict[str, Value] = {"experiment": EXPERIMENT, "run": [PLAIN, RESUMED, RANKED], "x": influxql.X_AXES["step"]}
    text = interpolate(query, {**chosen, **variables}, FROM_MS, TO_MS, 15_000)
    series = influx.query(text, epoch="ms")["results"][0].get("series", [])
    return [
        {**one.get("tags", {}), **dict(zip(one["columns"], row, strict=True))}
        for one in series
        for row in one["values"]
    ]


def points_of(rows: list[dict[str, Any]], run: str) -> list[tuple[float, float | None]]:
    return [(row["x"], row["value"]) for row in rows if row["run"] == run]


def test_curves_have_the_columns_that_the_transformations_name(filled: Influx) -> None:
    rows = ask(filled, influxql.CURVES_BY_RUN, metric=LOSS)
    assert {frozenset(row) for row in rows} == {frozenset({"time", "run", "x", "value"})}
    assert {row["run"] for row in rows} == {PLAIN, RESUMED, RANKED}


def test_a_nan_step_is_no_row_so_that_it_is_not_drawn_as_zero(filled: Influx) -> None:
    rows = ask(filled, influxql.CURVES_BY_RUN, metric=LOSS)
    assert points_of(rows, PLAIN) == [(0, 2.0), (1, 1.0), (3, 0.5)]


def test_without_the_guard_the_nan_step_would_be_a_row_of_null(filled: Influx) -> None:
    """The reason for the guard: if this fails, `"value" = "value"` may not be needed any more."""
    unguarded = influxql.CURVES_BY_RUN.replace('AND "value" = "value" ', "")
    assert points_of(ask(filled, unguarded, metric=LOSS), PLAIN)[2] == (2, None)


def test_a_resumed_run_gives_each_row_and_the_newest_of_a_step_last(filled: Influx) -> None:
    rows = points_of(ask(filled, influxql.CURVES_BY_RUN, metric=LOSS), RESUMED)
    assert [x for x, _ in rows] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert dict(rows) == {0: 10.0, 1: 11.0, 2: 14.0, 3: 15.0, 4: 16.0, 5: 17.0}


def test_of_several_ranks_rank_0_is_drawn(filled: Influx) -> None:
    assert points_of(ask(filled, influxql.CURVES_BY_RUN, metric=LOSS), RANKED) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_one_chosen_run_gives_that_run_alone(filled: Influx) -> None:
    rows = ask(filled, influxql.CURVES_BY_RUN, metric=LOSS, run=[RESUMED])
    assert {row["run"] for row in rows} == {RESUMED}


def test_a_metric_with_signs_in_its_name_gives_its_own_rows(filled: Influx) -> None:
    rows = ask(filled, influxql.CURVES_BY_RUN, metric=ACCURACY)
    assert points_of(rows, PLAIN) == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("step", [0, 1, 3]),
        ("seconds since start", [0, 1, 3]),
        ("minutes since start", [0, 0, 0.1]),
        ("hours since start", [0, 0, 0]),
    ],
)
def test_every_x_axis_gives_numbers_that_are_rounded(filled: Influx, label: str, expected: list[float]) -> None:
    rows = ask(filled, influxql.CURVES_BY_RUN, metric=LOSS, run=[PLAIN], x=influxql.X_AXES[label])
    assert [row["x"] for row in rows] == expected


def test_the_table_has_one_row_a_run_with_its_newest_state(filled: Influx) -> None:
    rows = {row["run"]: row for row in ask(filled, influxql.RUNS_TABLE)}
    assert {frozenset(row) for row in rows.values()} == {frozenset({"time", "run", "status", "started", "steps", "to"})}
    assert {run: (row["status"], row["steps"]) for run, row in rows.items()} == {
        PLAIN: ("finished", 4),
        RESUMED: ("running", 6),
        RANKED: ("failed", 3),
    }
    assert rows[PLAIN]["started"] == START_NS // 1_000_000
    assert rows[PLAIN]["to"] == str(START_NS // 1_000_000 + 3001)
    assert rows[RESUMED]["to"] == "now"


def test_the_table_counts_the_nan_of_every_run_that_has_one(filled: Influx) -> None:
    rows = ask(filled, influxql.NONFINITE_BY_RUN)
    assert [(row["run"], row["nonfinite"]) for row in rows] == [(PLAIN, 1)]


def test_in_the_range_that_a_runs_link_opens_its_last_state_is_still_there(filled: Influx) -> None:
    row = next(row for row in ask(filled, influxql.RUNS_TABLE) if row["run"] == PLAIN)
    text = interpolate(influxql.RUNS_TABLE, {"experiment": EXPERIMENT}, row["started"], int(row["to"]), 1)
    states = {found["run"]: found["status"] for found in filled.rows(text)}
    assert states[PLAIN] == "finished"


@pytest.mark.parametrize(
    ("menu", "expected"),
    [
        (influxql.EXPERIMENT_MENU, {EXPERIMENT, "digits"}),
        (influxql.RUN_MENU, {PLAIN, RESUMED, RANKED}),
        (influxql.METRIC_MENU, {LOSS, ACCURACY}),
    ],
)
def test_a_menu_offers_the_names_of_the_chosen_experiment(filled: Influx, menu: str, expected: set[str]) -> None:
    assert {row["value"] for row in ask(filled, menu)} == expected


@every_query
def test_every_query_finds_something_in_a_filled_bucket(filled: Influx, query: str) -> None:
    assert ask(filled, query, metric=LOSS)


@every_query
@pytest.mark.parametrize("nothing", ["", []], ids=["no choice", "all of none"])
def test_an_empty_bucket_is_no_error(influx: Influx, query: str, nothing: Value) -> None:
    """With empty menus the variables are empty: All of no values is the pattern `()`."""
    assert ask(influx, query, experiment="", run=nothing, metric=nothing) == []


@every_query
def test_a_time_range_without_points_is_empty(filled: Influx, query: str) -> None:
    """Menus may know more: the server looks for names a whole shard at a time."""
    values: dict[str, Value] = {"experiment": EXPERIMENT, "run": [PLAIN], "metric": LOSS, "x": influxql.X_AXES["step"]}
    text = interpolate(query, values, FROM_MS - 86_400_000 * 60, FROM_MS - 86_400_000 * 50, 15_000)
    assert filled.rows(text) == []
